//! The files service by message, with a disk and a thread of its own for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netloom_actor_services::files::{
    FilesActor, FilesDeps, FilesEvent, FilesSource, FilesState, Fresh, NameFiles, RemoveFiles, SettleFiles,
    SweepFiles,
};
use netloom_dns::io::{Asked, Wanted};
use netloom_dns::resolv::EMBEDDED_SERVER;
use netloom_model::{ErrorKind, SandboxId, SandboxSpec};
use netloom_runtime::{Addr, Cause, EventSink, OpCtx, TaskGroup, spawn};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    dir: tempfile::TempDir,
    files: Addr<FilesActor>,
    state: FilesState,
    told: mpsc::UnboundedReceiver<Vec<String>>,
    tell: mpsc::UnboundedSender<Vec<String>>,
}

fn actor(state: FilesState, tell: &mpsc::UnboundedSender<Vec<String>>) -> Addr<FilesActor> {
    let tell = tell.clone();
    let events = EventSink::new(move |_: &OpCtx, FilesEvent::HostChanged(says): FilesEvent| {
        let servers = says.conf.name_servers.iter().map(ToString::to_string).collect();
        tell.send(servers).expect("the test listens");
    });
    spawn(FilesActor::new(FilesDeps { state, events, tasks: TaskGroup::default() }), |_| {}).0
}

impl Stage {
    fn set() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 192.0.2.53\n").expect("written");
        let source = FilesSource { run_dir: dir.path().join("run"), resolv_conf, on_a_thread: true };
        let state = FilesState::start(source).expect("it starts");
        let (tell, told) = mpsc::unbounded_channel();
        let files = actor(state.clone(), &tell);
        Self { dir, files, state, told, tell }
    }

    fn host(&self, text: &str) {
        fs::write(self.dir.path().join("resolv.conf"), text).expect("written");
    }

    async fn told(&mut self) -> Vec<String> {
        tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("it is told").expect("it lives")
    }

    fn settle(&self, number: u128, server: bool) -> impl Future<Output = Option<Asked>> + use<> {
        let wanted = Wanted {
            spec: spec(number),
            addresses: Vec::new(),
            ipv6: false,
            server: server.then_some(EMBEDDED_SERVER),
        };
        let settle = SettleFiles { sandbox: sandbox(number), wanted: Box::new(wanted), fresh: Fresh::GoesOn };
        let asked = self.files.ask(&op(), settle);
        async move { asked.await.expect("answered").expect("settled") }
    }

    fn resolv(&self, number: u128) -> String {
        fs::read_to_string(self.path(number)).expect("it is there")
    }

    fn path(&self, number: u128) -> PathBuf {
        let files = NameFiles::below(Some(self.dir.path().join("run")));
        files.of(sandbox(number), None).expect("files are kept").1
    }
}

fn op() -> OpCtx {
    OpCtx::new(Cause::Request, PATIENCE)
}

fn sandbox(number: u128) -> SandboxId {
    SandboxId::from_uuids(Uuid::from_u128(number << 96), Uuid::nil())
}

fn spec(number: u128) -> Arc<SandboxSpec> {
    Arc::new(SandboxSpec::new(format!("c{number}")))
}

fn on_stage(test: impl AsyncFnOnce(Stage)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async { test(Stage::set()).await });
}

fn names(upstreams: &Asked) -> Vec<String> {
    upstreams.upstreams.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sandbox_with_a_name_server_asks_that_one_which_asks_the_hosts_of_today() {
    on_stage(async |mut stage| {
        assert_eq!(stage.settle(1, false).await, None);
        assert!(stage.resolv(1).starts_with("nameserver 192.0.2.53\n"));
        let asked = stage.settle(1, true).await.expect("it has a server");
        assert_eq!(names(&asked), ["192.0.2.53 (from the host)"]);
        assert!(stage.resolv(1).starts_with("nameserver 127.0.0.11\n"));
        stage.host("nameserver 192.0.2.54\n");
        assert_eq!(stage.told().await, ["192.0.2.54"]);
        let asked = stage.settle(1, true).await.expect("it has a server");
        assert_eq!(names(&asked), ["192.0.2.54 (from the host)"], "whoever serves it asks again");
        assert_eq!(stage.settle(1, false).await, None);
        assert!(stage.resolv(1).starts_with("nameserver 192.0.2.54\n"), "the server has ended");
    });
}

#[test]
fn many_follow_the_host_and_what_others_want_comes_in_their_order() {
    on_stage(async |mut stage| {
        let made: Vec<_> = (1..=200).map(|number| stage.settle(number, false)).collect();
        futures::future::join_all(made).await;
        stage.host("nameserver 192.0.2.54\n");
        // Some go while the others follow.
        let gone: Vec<_> = (1..=50)
            .map(|number| {
                let (sandbox, spec) = (sandbox(number), spec(number));
                stage.files.ask(&op(), RemoveFiles { sandbox, spec })
            })
            .collect();
        for gone in gone {
            gone.await.expect("answered").expect("removed");
        }
        assert_eq!(stage.told().await, ["192.0.2.54"]);
        for number in 1..=200 {
            let there = stage.path(number).exists();
            assert_eq!(there, number > 50, "{number}");
            assert!(!there || stage.resolv(number).starts_with("nameserver 192.0.2.54\n"), "{number}");
        }
        let known = (1..=199).map(sandbox).collect();
        let swept = stage.files.ask(&op(), SweepFiles(known)).await.expect("answered").expect("swept");
        assert_eq!(swept, [sandbox(200)]);
    });
}

#[test]
fn an_actor_that_comes_after_another_knows_what_that_one_knew() {
    on_stage(async |mut stage| {
        stage.settle(1, true).await.expect("it has a server");
        stage.host("nameserver 192.0.2.54\n");
        assert_eq!(stage.told().await, ["192.0.2.54"]);
        stage.files = actor(stage.state.clone(), &stage.tell);
        stage.host("nameserver 192.0.2.55\n");
        assert_eq!(stage.told().await, ["192.0.2.55"], "and nothing is told twice");
        let asked = stage.settle(1, true).await.expect("it has a server");
        assert_eq!(names(&asked), ["192.0.2.55 (from the host)"]);
    });
}

#[test]
fn what_the_disk_refuses_is_the_answer() {
    on_stage(async |stage| {
        let run = stage.dir.path().join("run");
        fs::create_dir(&run).expect("made");
        fs::write(run.join("files"), "in the way").expect("written");
        let wanted = Wanted { spec: spec(1), addresses: Vec::new(), ipv6: false, server: None };
        let settle = SettleFiles { sandbox: sandbox(1), wanted: Box::new(wanted), fresh: Fresh::Anew };
        let refused = stage.files.ask(&op(), settle).await.expect("answered").expect_err("no directory");
        let is_about = |path: &Path| refused.to_string().contains(path.to_str().expect("text"));
        assert!(is_about(&run.join("files")), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::InvalidParameter);
    });
}
