//! A place where a test may change the kernel: a thread with network and mount namespaces of its own.
//!
//! Threads inherit namespaces from the thread that starts them, so a kernel started here lives here.
//! Without root the test runs itself again as root of a new user namespace. It never skips.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use netloom_kernel::{Kernel, KernelError, LinkTag, LinkView, LinuxConfig, LinuxKernel, Netns, Op};
use netloom_model::{IfName, NetnsName};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

/// Set for the second run of a test.
const INSIDE: &str = "NETLOOM_KERNEL_TEST_INSIDE";

/// A kernel to experiment on.
pub(crate) struct Lab {
    pub(crate) kernel: LinuxKernel,
    pub(crate) run_dir: PathBuf,
}

/// Runs a test in fresh namespaces.
pub(crate) fn isolated(test: impl FnOnce(Lab) + Send + 'static) {
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    if !geteuid().is_root() {
        assert!(std::env::var_os(INSIDE).is_none(), "not root in the user namespace either");
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount"])
            .arg(std::env::current_exe().expect("known"))
            .args([&name, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare must be installed");
        assert!(status.success(), "failed in its user namespace: {status}");
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("needs CAP_SYS_ADMIN");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts can be made private");
        let dir = tempfile::tempdir().expect("a directory");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        let run_dir = dir.path().join("run");
        let kernel = start(&run_dir);
        test(Lab { kernel, run_dir });
        // The mount ends with this thread's namespace; the directory below it is empty and goes later.
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).expect("unmounts");
    };
    let thread = std::thread::Builder::new().name(name).spawn(body).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn start(run_dir: &Path) -> LinuxKernel {
    LinuxKernel::start(LinuxConfig { run_dir: run_dir.to_owned() }).expect("starts")
}

/// Far enough for anything that works.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    block_on(future)
}

pub(crate) fn ifname(text: &str) -> IfName {
    text.parse().expect("a link's name")
}

pub(crate) fn netns_name(text: &str) -> NetnsName {
    text.parse().expect("a namespace's name")
}

pub(crate) fn inside(text: &str) -> Netns {
    Netns::Named(netns_name(text))
}

pub(crate) fn tag(id: &str) -> LinkTag {
    LinkTag::new("test", "endpoint", id)
}

pub(crate) fn create_netns(name: &str) -> Op {
    Op::CreateNetns { name: netns_name(name), ipv6: true }
}

pub(crate) fn bridge(name: &str) -> Op {
    Op::CreateBridge { name: ifname(name), mac: None, mtu: None, tag: tag(name) }
}

pub(crate) fn veth(host: &str, peer: &str, netns: Netns, master: Option<&str>) -> Op {
    Op::CreateVeth {
        host: ifname(host),
        peer: ifname(peer),
        netns,
        master: master.map(ifname),
        mac: None,
        mtu: None,
        tag: tag(host),
    }
}

pub(crate) fn up(netns: Netns, name: &str) -> Op {
    Op::SetLink { netns, name: ifname(name), up: true }
}

pub(crate) fn add_address(netns: Netns, link: &str, address: &str) -> Op {
    Op::AddAddress { netns, link: ifname(link), address: address.parse().expect("an address") }
}

pub(crate) fn delete_link(name: &str) -> Op {
    Op::DeleteLink { name: ifname(name), tag: Some(tag(name)) }
}

/// Runs a tool that is not ours in this thread's namespace.
pub(crate) fn foreign(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().expect("a tool")).args(words).status().expect("installed");
    assert!(status.success(), "{command}: {status}");
}

impl Lab {
    pub(crate) fn execute(&self, ops: Vec<Op>) -> Vec<Result<(), KernelError>> {
        wait(self.kernel.execute(ops, soon()))
    }

    /// Carries out operations that must all succeed.
    pub(crate) fn must(&self, ops: Vec<Op>) {
        for result in self.execute(ops) {
            result.expect("succeeds");
        }
    }

    /// The error number of an operation that must fail, having had no effect.
    pub(crate) fn errno(&self, op: Op) -> i32 {
        let text = op.to_string();
        let error = self.execute(vec![op]).pop().expect("one answer").expect_err(&text);
        assert_eq!(error.operation.to_string(), text);
        assert_eq!(error.certainty, netloom_model::Certainty::Aborted, "{error}");
        assert!(!error.message.is_empty(), "{error:?}");
        error.errno
    }

    pub(crate) fn links(&self, netns: Netns) -> Vec<LinkView> {
        wait(self.kernel.links(netns, soon())).expect("listed")
    }

    pub(crate) fn link(&self, netns: Netns, name: &str) -> Option<LinkView> {
        self.links(netns).into_iter().find(|link| link.name.as_str() == name)
    }

    /// Runs a job inside a namespace and brings back its result.
    pub(crate) fn run<T: Send + 'static>(&self, netns: Netns, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = std::sync::mpsc::channel();
        let job = Box::new(move || sender.send(job()).expect("the test waits"));
        wait(self.kernel.run_in(netns, job, soon())).expect("the job runs");
        receiver.recv().expect("the job has run")
    }
}
