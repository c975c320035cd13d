//! A network namespace of a test's own, where it may redirect what it likes.
//!
//! A namespace belongs to the thread that made it, and to those that it starts. Without root the test runs itself again
//! as root of a new user namespace. It never skips.

use std::future::Future;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tokio::runtime::Builder;

/// Set for the second run of a test.
const INSIDE: &str = "NETLOOM_PROXY_TEST_ALONE";

/// Runs a test in a fresh namespace, whose loopback interface is up, with everything on one thread.
pub(crate) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    alone_on(Builder::new_current_thread, test);
}

/// The same on a runtime of any kind; the test itself has its own thread.
pub(crate) fn alone_on<F: Future<Output = ()>>(
    runtime: impl FnOnce() -> Builder + Send + 'static,
    test: impl FnOnce() -> F + Send + 'static,
) {
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    if !geteuid().is_root() {
        assert!(std::env::var_os(INSIDE).is_none(), "not root in the user namespace either");
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().expect("known"))
            .args([&name, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare (util-linux) must be installed");
        assert!(status.success(), "failed in its user namespace: {status}");
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
        run("ip", &["link", "set", "lo", "up"], "");
        let runtime = runtime().enable_all().build().expect("a runtime");
        let in_time = async { tokio::time::timeout(Duration::from_secs(60), test()).await };
        runtime.block_on(in_time).expect("stuck for a minute");
    };
    let thread = std::thread::Builder::new().name(name).spawn(body).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Gives rules to nftables.
pub(crate) fn nft(rules: &str) {
    run("nft", &["-f", "-"], rules);
}

fn run(tool: &str, arguments: &[&str], input: &str) {
    let child = Command::new(tool).args(arguments).stdin(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{tool} must be installed: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{tool} {arguments:?}: {status}\n{input}");
}
