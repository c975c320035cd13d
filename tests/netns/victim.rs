//! A process of its own that runs an engine in a test's lab, until the test kills it.

// It talks to its killer.
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netloom::Engine;

use crate::lab::Lab;

/// Set for the process that is to be killed: the directory it works in.
const VICTIM: &str = "NETLOOM_TEST_VICTIM";
/// What it says when whatever the test waits for is there.
const READY: &str = "the victim is ready";

/// The process, seen from its test.
pub(crate) struct Victim(Child);

impl Victim {
    /// Runs the test of this name once more in this lab, where it finds [itself](victim) a victim, until it is
    /// [ready](ready).
    pub(crate) async fn of(lab: &Lab, test: &str) -> Self {
        let mut victim = Command::new(std::env::current_exe().expect("known"))
            .args([test, "--exact", "--nocapture"])
            .env(VICTIM, lab.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it starts");
        let output = victim.stdout.take().expect("piped");
        let is_ready = tokio::task::spawn_blocking(move || {
            BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains(READY))
        });
        assert!(is_ready.await.expect("it ends"), "the victim ended by itself");
        Self(victim)
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it is killed");
        self.0.wait().expect("it ends");
    }
}

/// The lab's directory, in a process that is to be killed.
pub(crate) fn victim() -> Option<PathBuf> {
    std::env::var_os(VICTIM).map(PathBuf::from)
}

/// Runs an engine in the lab until the process is killed.
pub(crate) fn run_until_killed<F: Future<Output = ()>>(dir: &Path, work: impl FnOnce(Engine) -> F) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let builder = Engine::builder().data_dir(dir.join("data")).run_dir(dir.join("run"));
        let engine = builder.start().await.expect("the engine starts");
        work(engine.clone()).await;
        std::future::pending::<()>().await;
        drop(engine);
    });
    unreachable!("nothing ends it but its killer")
}

/// Tells the killer that what it waits for is there.
pub(crate) fn ready() {
    println!("{READY}");
}
