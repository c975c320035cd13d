//! The hosts file and the resolv.conf of each sandbox: they say what is plugged in, whatever fails, dies or is killed.

use std::collections::BTreeSet;
use std::fs;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom::{
    Controller, Endpoint, EndpointSpec, EngineConfig, ErrorKind, EventKind, EventStream, JoinSpec,
    NetworkSpec, Repair, Result, Sandbox, SandboxId, SandboxSpec, Victim,
};

use crate::support::files::{Paths, Places, directories};
use crate::support::{World, bounded, check_truth, note, until};
use crate::sweep::{Picture, Step, Story};

// === Whatever fails ===

fn c1(controller: &Controller) -> Result<Sandbox> {
    controller.sandbox_by_container("c1")
}

async fn web(controller: &Controller, network: &str) -> Result<Endpoint> {
    controller.network_by_name(network)?.endpoint_by_name("web").await
}

async fn join(controller: Controller, network: &str) -> Result<()> {
    web(&controller, network).await?.join(&c1(&controller)?, JoinSpec::default()).await.map(drop)
}

fn setting(controller: Controller) -> LocalBoxFuture<'static, ()> {
    async move {
        for spec in [NetworkSpec::new("blue"), NetworkSpec::new("red").ipv6(true)] {
            let network = controller.create_network(spec).await.expect("a network");
            network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
        }
        // Another one, whose files nobody touches.
        let other = SandboxSpec::new("other").hostname("other");
        controller.create_sandbox(other).await.expect("a sandbox");
    }
    .boxed_local()
}

fn some_are_out(seen: &Picture, before: &Picture) -> bool {
    seen.inside("c1").is_subset(&before.inside("c1"))
}

/// A sandbox with two names in turn, that learns IPv6 and forgets it again.
fn story() -> Story {
    Story {
        name: "files of names",
        drivers: Vec::new(),
        before: |_| (),
        setting,
        steps: vec![
            Step::whole("create the sandbox", |controller| {
                let spec = SandboxSpec::new("c1").hostname("one").extra_host("db", [192, 0, 2, 7].into());
                async move { controller.create_sandbox(spec).await.map(drop) }.boxed_local()
            }),
            Step::whole("join", |controller| join(controller, "blue").boxed_local()),
            Step::whole("join with IPv6", |controller| join(controller, "red").boxed_local()),
            Step::whole("leave", |controller| {
                async move { web(&controller, "blue").await?.leave(&c1(&controller)?).await }.boxed_local()
            }),
            Step {
                name: "refresh",
                run: |controller| {
                    async move {
                        c1(&controller)?.refresh(SandboxSpec::new("c1").hostname("two")).await?;
                        if web(&controller, "red").await?.inspect().await?.sandbox.is_none() {
                            join(controller, "red").await?;
                        }
                        Ok(())
                    }
                    .boxed_local()
                },
                partly: some_are_out,
            },
            Step::whole("join again", |controller| join(controller, "blue").boxed_local()),
            Step {
                name: "delete the sandbox",
                run: |controller| async move { c1(&controller)?.delete().await }.boxed_local(),
                partly: some_are_out,
            },
        ],
        stays: 0,
        files: Some(Places::new()),
    }
}

#[tokio::test]
async fn a_fault_at_every_kernel_operation_leaves_files_that_are_true() {
    story().kernel_fails_in_every_way().await;
}

#[tokio::test]
async fn a_fault_at_every_commit_leaves_files_that_are_true() {
    story().commits_fail().await;
}

#[tokio::test]
async fn killed_at_every_effect_files_are_true_after_the_next_start() {
    story().killed_everywhere().await;
}

// === Whatever dies ===

struct Lab {
    /// Behind the engine, which is dropped before it.
    world: World,
    _places: Places,
}

impl Lab {
    async fn new() -> Self {
        let places = Places::new();
        let world = World::with_files(places.next(EngineConfig::default())).await;
        Self { world, _places: places }
    }

    fn controller(&self) -> Controller {
        self.world.engine().controller()
    }

    fn host(&self, text: &str) {
        fs::write(&self.world.engine().config().resolv_conf, text).expect("written");
    }

    /// A sandbox of this name, and an endpoint.
    async fn made(&self, name: &str) -> (Sandbox, Endpoint) {
        let spec = SandboxSpec::new(name).hostname(name);
        let sandbox = self.controller().create_sandbox(spec).await.expect("a sandbox");
        let network = match self.controller().network_by_name("blue") {
            Ok(network) => network,
            Err(_) => self.world.network("blue").await,
        };
        (sandbox, network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint"))
    }

    async fn is_true(&self) {
        self.world.settles().await;
        check_truth(self.world.engine(), self.world.kernel()).await.expect("true");
    }

    async fn leaks(&self) -> Vec<String> {
        bounded("inspecting", self.world.engine().inspect()).await.expect("inspected").leaks
    }

    async fn ends(&self) {
        self.world.delete_everything().await;
        self.world.assert_pristine_soon().await;
        assert_eq!(directories(&self.world.engine().config().run_dir), BTreeSet::new());
    }
}

/// Waits until the engine says that the host's file has changed.
async fn told(events: &mut EventStream) -> Vec<String> {
    loop {
        let event = bounded("an event", events.next()).await.expect("the engine lives").expect("none missed");
        if let EventKind::NameServersChanged { servers, .. } = event.kind {
            return servers;
        }
    }
}

/// What a sandbox asks that has a name server of its own.
const OWN_SERVER: &str = "nameserver 127.0.0.11\noptions ndots:0\n";

#[tokio::test]
async fn the_death_of_any_actor_costs_no_file() {
    let lab = Lab::new().await;
    let (sandbox, endpoint) = lab.made("web").await;
    let mut events = lab.world.engine().events();
    for (round, victim) in [
        Victim::Files,
        Victim::Sandbox(sandbox.id()),
        Victim::Network(endpoint.network_id()),
        Victim::Store,
        Victim::Controller,
        Victim::Files,
    ]
    .into_iter()
    .enumerate()
    {
        note(format!("{victim:?}"));
        lab.world.simulation.crash_actor(victim).await.expect("told");
        let joins = async || {
            let (Ok(web), Ok(sandbox)) =
                (web(&lab.controller(), "blue").await, lab.controller().sandbox(sandbox.id()))
            else {
                return false;
            };
            web.join(&sandbox, JoinSpec::default()).await.is_ok()
        };
        until("a join", joins).await;
        lab.is_true().await;
        let sandbox = lab.controller().sandbox(sandbox.id()).expect("it is there");
        assert_eq!(Paths::seen(&sandbox).await.resolv(), OWN_SERVER);
        web(&lab.controller(), "blue").await.expect("there").leave(&sandbox).await.expect("left");
        lab.is_true().await;
        lab.host(&format!("nameserver 192.0.2.{}\n", 100 + round));
        assert_eq!(told(&mut events).await, [format!("192.0.2.{}", 100 + round)]);
        assert_eq!(Paths::seen(&sandbox).await.resolv(), format!("nameserver 192.0.2.{}\n", 100 + round));
    }
    lab.ends().await;
}

#[tokio::test]
async fn the_next_engine_takes_files_up_with_what_users_have_written() {
    let lab = Lab::new().await;
    let (sandbox, web) = lab.made("web").await;
    let (edited, _) = lab.made("edited").await;
    let idle = Paths::seen(&lab.made("idle").await.0).await;
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let (files, of_edited) = (Paths::seen(&sandbox).await, Paths::seen(&edited).await);
    let hosts = format!("{}10.9.9.9 mine\n", files.hosts());
    fs::write(&files.hosts, &hosts).expect("a user's line");
    fs::write(&of_edited.resolv, "nameserver 9.9.9.9\n").expect("a user's file");
    let Lab { world, _places } = lab;
    let run_dir = world.engine().config().run_dir.clone();
    let before = world.before.clone();
    let next = world.simulation.kill().await;
    // While there is no engine: the host has other name servers, and somebody's files have no sandbox.
    fs::write(run_dir.parent().expect("a machine").join("resolv.conf"), "nameserver 192.0.2.54\n")
        .expect("written");
    let stray: SandboxId = "ab".repeat(32).parse().expect("an identifier");
    fs::create_dir(run_dir.join("files").join(stray.to_string())).expect("made");
    fs::create_dir(run_dir.join("files/notes")).expect("made");
    let simulation = next.start().await.expect("it starts");
    let world = World { simulation, before };
    assert!(world.engine().repairs().contains(&Repair::FilesRemoved { sandbox: stray }));
    assert!(fs::remove_dir(run_dir.join("files/notes")).is_ok(), "not named like a sandbox");
    assert_eq!((files.hosts(), files.resolv()), (hosts, OWN_SERVER.into()));
    assert_eq!(idle.resolv(), "nameserver 192.0.2.54\n");
    assert_eq!(of_edited.resolv(), "nameserver 9.9.9.9\n");
    let lab = Lab { world, _places };
    lab.is_true().await;
    // Also when the host's file changes later.
    let mut events = lab.world.engine().events();
    lab.host("nameserver 192.0.2.55\n");
    told(&mut events).await;
    let all = [&files, &of_edited, &idle].map(Paths::resolv);
    assert_eq!(all, [OWN_SERVER, "nameserver 9.9.9.9\n", "nameserver 192.0.2.55\n"]);
    lab.ends().await;
}

// === Whatever the disk does ===

#[tokio::test]
async fn a_sandbox_whose_files_cannot_be_made_is_none() {
    let lab = Lab::new().await;
    let run_dir = lab.world.engine().config().run_dir.clone();
    fs::create_dir_all(&run_dir).expect("made");
    fs::write(run_dir.join("files"), "in the way").expect("written");
    let refused = lab.controller().create_sandbox(SandboxSpec::new("c1")).await.expect_err("no directory");
    assert!(refused.to_string().contains("run/files"), "{refused}");
    assert!(lab.controller().sandboxes().is_empty());
    fs::remove_file(run_dir.join("files")).expect("removed");
    // Nothing was made, and so what was to be taken away is soon known not to be there.
    until("the janitor", async || lab.leaks().await.is_empty()).await;
    lab.world.assert_pristine_soon().await;
    lab.controller().create_sandbox(SandboxSpec::new("c1")).await.expect("made");
    lab.is_true().await;
    lab.ends().await;
}

#[tokio::test]
async fn a_join_that_cannot_be_entered_is_undone_and_a_leave_is_entered_later() {
    let lab = Lab::new().await;
    let (sandbox, web) = lab.made("web").await;
    let hosts = Paths::seen(&sandbox).await.hosts;
    let aside = hosts.with_extension("aside");
    let in_the_way = || {
        fs::rename(&hosts, &aside).expect("put aside");
        fs::create_dir(&hosts).expect("made");
    };
    let out_of_the_way = || {
        fs::remove_dir(&hosts).expect("removed");
        fs::rename(&aside, &hosts).expect("put back");
    };
    in_the_way();
    let refused = web.join(&sandbox, JoinSpec::default()).await.expect_err("it cannot be entered");
    assert_eq!(refused.kind(), ErrorKind::InvalidParameter, "{refused}");
    assert!(
        refused.to_string().contains("hosts") && refused.to_string().contains("regular file"),
        "{refused}"
    );
    assert_eq!(web.inspect().await.expect("inspected").sandbox, None);
    out_of_the_way();
    lab.is_true().await;
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    lab.is_true().await;

    in_the_way();
    web.leave(&sandbox).await.expect("there is no way back");
    assert_eq!(lab.leaks().await.len(), 1, "{:?}", lab.leaks().await);
    out_of_the_way();
    until("the janitor", async || lab.leaks().await.is_empty()).await;
    lab.is_true().await;

    // What is out of date is not done any more: it has joined again meanwhile.
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    in_the_way();
    web.leave(&sandbox).await.expect("left");
    out_of_the_way();
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    until("the janitor", async || lab.leaks().await.is_empty()).await;
    lab.is_true().await;
    lab.ends().await;
}

#[tokio::test]
async fn files_that_cannot_be_removed_keep_nobody_from_deleting() {
    let lab = Lab::new().await;
    let (sandbox, web) = lab.made("web").await;
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let (files, aside) = ["files", "aside"].map(|name| lab.world.engine().config().run_dir.join(name)).into();
    fs::rename(&files, &aside).expect("put aside");
    fs::write(&files, "in the way").expect("written");
    sandbox.delete().await.expect("deleted");
    assert_eq!(lab.leaks().await.len(), 1, "{:?}", lab.leaks().await);
    fs::remove_file(&files).expect("removed");
    fs::rename(&aside, &files).expect("put back");
    until("the janitor", async || lab.leaks().await.is_empty()).await;
    lab.ends().await;
}

// === What is asked for ===

#[tokio::test]
async fn what_a_sandbox_asks_for_is_in_its_files() {
    let lab = Lab::new().await;
    lab.host("search host.example\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions timeout:2\n");
    let place = lab
        .world
        .engine()
        .config()
        .run_dir
        .join("..")
        .canonicalize()
        .unwrap_or_else(|_| lab.world.engine().config().run_dir.parent().expect("a machine").to_owned());
    let spec = SandboxSpec::new("c1")
        .hostname("web")
        .extra_host("db", [192, 0, 2, 7].into())
        .dns([192, 0, 2, 99].into())
        .dns_search("corp.example")
        .dns_option("ndots:2")
        .with(|settings| {
            settings.domainname = "example".into();
            settings.hosts_path = Some(place.join("hosts-of-c1"));
        });
    let sandbox = lab.controller().create_sandbox(spec.clone()).await.expect("a sandbox");
    let files = Paths::seen(&sandbox).await;
    assert_eq!(files.hosts, place.join("hosts-of-c1"));
    assert_eq!(files.resolv(), "search corp.example\nnameserver 192.0.2.99\noptions ndots:2\n");
    let network = lab.world.network("blue").await;
    let web = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let address = web.inspect().await.expect("inspected").ipv4.expect("one").addr();
    let expected = format!("127.0.0.1\tlocalhost\n192.0.2.7\tdb\n{address}\tweb.example web\n");
    assert_eq!(files.hosts(), expected);

    // A parent has the child's address under the name that it knows.
    let child = SandboxSpec::new("c2").with(|settings| {
        let (container_id, address) = ("c1".into(), [192, 0, 2, 8].into());
        settings.parent_updates.push(netloom::ParentUpdate { container_id, name: "db".into(), address });
    });
    lab.controller().create_sandbox(child).await.expect("a sandbox");
    assert_eq!(files.hosts(), expected.replace("192.0.2.7", "192.0.2.8"));
    sandbox.delete().await.expect("deleted");
    assert!(files.hosts.exists() && !files.resolv.exists(), "a caller's file is his");
    lab.ends().await;
}

#[tokio::test]
async fn a_simulation_that_asks_for_none_has_no_files() {
    let world = World::new().await;
    let sandbox = world.sandbox("c1").await;
    assert_eq!(sandbox.inspect().await.expect("inspected").files, None);
    world.delete_everything().await;
}
