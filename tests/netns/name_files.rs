//! The files of names on a real disk, as a container sees them: mounted before anything joins, and read by glibc.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use netloom::snapshot::SandboxFilePaths;
use netloom::{
    Endpoint, EndpointSpec, Engine, EngineConfig, EventKind, JoinSpec, NetworkSpec, Reason, Sandbox,
    SandboxSpec, ShutdownMode,
};

use crate::lab::{Lab, delete_everything, in_lab};

/// Programs of a container: in the sandbox's network namespace and a mount namespace of their own, with its files.
struct Programs {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Programs {
    async fn start(sandbox: &Sandbox) -> Self {
        let seen = sandbox.inspect().await.expect("inspected");
        let SandboxFilePaths { hosts, resolv_conf } =
            seen.files.expect("an engine on a machine writes files");
        let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf || exit 1\n\
                      while read -r what name; do\n\
                      case $what in\n\
                      name) getent -s files ahosts \"$name\" | cut -d' ' -f1 | sort -u ;;\n\
                      file) cat \"$name\" ;;\n\
                      esac; echo end-of-answer; done";
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", seen.key.display()))
            .args(["--", "unshare", "--mount", "sh", "-c", script, "sh"])
            .args([hosts, resolv_conf])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter and unshare must be installed (package util-linux)");
        let ask = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, ask, answers }
    }

    fn asked(&mut self, question: &str) -> String {
        writeln!(self.ask, "{question}").expect("it listens");
        let mut answer = String::new();
        loop {
            let start = answer.len();
            assert!(self.answers.read_line(&mut answer).expect("it answers") > 0, "it has ended: {answer}");
            if answer[start..].trim_end() == "end-of-answer" {
                answer.truncate(start);
                return answer;
            }
        }
    }

    /// The addresses that glibc finds in the hosts file.
    fn addresses(&mut self, name: &str) -> Vec<IpAddr> {
        let answer = self.asked(&format!("name {name}"));
        // While an IPv6 address alone is there yet, glibc says IPv4 in IPv6's clothes.
        let address = |line: &str| line.parse::<IpAddr>().expect("an address").to_canonical();
        let mut found: Vec<IpAddr> = answer.lines().map(address).collect();
        found.sort_unstable();
        found
    }

    fn resolv_conf(&mut self) -> String {
        self.asked("file /etc/resolv.conf")
    }

    fn end(self) {
        let Self { mut child, ask, .. } = self;
        drop(ask);
        child.wait().expect("it ends");
    }
}

fn config(lab: &Lab) -> EngineConfig {
    EngineConfig { resolv_conf: lab.dir.path().join("resolv.conf"), ..EngineConfig::default() }
}

/// An endpoint of two networks, of which the second has IPv6.
async fn endpoints(engine: &Engine) -> [Endpoint; 2] {
    let mut made = Vec::new();
    for spec in [NetworkSpec::new("blue"), NetworkSpec::new("red").ipv6(true)] {
        let network = engine.controller().create_network(spec).await.expect("a network");
        made.push(network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint"));
    }
    made.try_into().expect("two")
}

async fn addresses(endpoints: &[&Endpoint]) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for endpoint in endpoints {
        let seen = endpoint.inspect().await.expect("inspected");
        all.extend(seen.ipv4.map(|net| IpAddr::V4(net.addr())));
        all.extend(seen.ipv6.map(|net| IpAddr::V6(net.addr())));
    }
    all.sort_unstable();
    all
}

#[test]
fn programs_of_a_container_find_it_by_its_name_from_its_first_join_to_the_last_leave() {
    in_lab(async |lab| {
        fs::write(lab.dir.path().join("resolv.conf"), "nameserver 127.0.0.53\nnameserver 192.0.2.53\n")
            .expect("written");
        let engine = lab.next_engine_with(config(&lab)).await;
        let [blue, red] = endpoints(&engine).await;
        let spec = SandboxSpec::new("c1").hostname("web.example").extra_host("db", [192, 0, 2, 7].into());
        let sandbox = engine.controller().create_sandbox(spec).await.expect("a sandbox");
        let mut programs = Programs::start(&sandbox).await;
        assert_eq!(programs.addresses("web"), [] as [IpAddr; 0]);
        assert_eq!(programs.addresses("db"), [IpAddr::from([192, 0, 2, 7])]);
        let asks = programs.resolv_conf();
        assert!(asks.starts_with("nameserver 192.0.2.53\n") && !asks.contains("127.0.0.11"), "{asks}");

        // The host moves to another network, and the container with it.
        let mut events = engine.events();
        let began = Instant::now();
        fs::write(lab.dir.path().join("resolv.conf"), "nameserver 192.0.2.54\n").expect("written");
        while !programs.resolv_conf().starts_with("nameserver 192.0.2.54\n") {
            assert!(began.elapsed() < Duration::from_secs(1), "{}", programs.resolv_conf());
        }
        loop {
            let event = events.next().await.expect("the engine lives").expect("none missed");
            if let EventKind::NameServersChanged { servers, .. } = event.kind {
                assert_eq!(servers, ["192.0.2.54"]);
                break;
            }
        }

        blue.join(&sandbox, JoinSpec::default()).await.expect("joined");
        assert_eq!(programs.addresses("web"), addresses(&[&blue]).await);
        red.join(&sandbox, JoinSpec::default()).await.expect("joined");
        let both = addresses(&[&blue, &red]).await;
        assert_eq!((both.len(), programs.addresses("web")), (3, both.clone()));
        assert_eq!(programs.addresses("web.example"), both);
        let servers = engine.controller().name_servers().await.expect("listed");
        let [server] = &servers[..] else { panic!("{servers:?}") };
        let upstreams: Vec<_> = server.upstreams.iter().map(|one| one.address.to_string()).collect();
        assert_eq!(upstreams, ["192.0.2.54:53"], "of the host's file that the configuration names");
        let asks = programs.resolv_conf();
        assert!(asks.starts_with("nameserver 127.0.0.11\n") && !asks.contains("nameserver 192"), "{asks}");

        // The next engine goes on in the same files, which the container has mounted.
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        drop(engine);
        let engine = lab.next_engine_with(config(&lab)).await;
        let sandbox = engine.controller().sandbox_by_container("c1").expect("restored");
        let blue = engine.controller().network_by_name("blue").expect("restored");
        let blue = blue.endpoint_by_name("web").await.expect("restored");
        blue.leave(&sandbox).await.expect("left");
        let red = engine.controller().network_by_name("red").expect("restored");
        let red = red.endpoint_by_name("web").await.expect("restored");
        assert_eq!(programs.addresses("web"), addresses(&[&red]).await);
        assert!(programs.resolv_conf().starts_with("nameserver 127.0.0.11\n"), "{}", programs.resolv_conf());
        red.leave(&sandbox).await.expect("left");
        let asks = programs.resolv_conf();
        assert!(asks.starts_with("nameserver 192.0.2.54\n"), "{asks}");
        assert_eq!(programs.addresses("web"), [] as [IpAddr; 0]);
        assert_eq!(programs.addresses("db"), [IpAddr::from([192, 0, 2, 7])]);

        programs.end();
        delete_everything(&engine).await;
        let left = fs::read_dir(lab.run_dir().join("files")).expect("there").count();
        assert_eq!(left, 0, "a sandbox takes its files along");
        lab.assert_pristine().await;
    });
}

fn mount(arguments: &[&str], at: &Path) {
    let done = Command::new(arguments[0]).args(&arguments[1..]).arg(at).output().expect("util-linux");
    assert!(done.status.success(), "{arguments:?} {}: {done:?}", at.display());
}

/// Whether an error says that the disk is read-only, and which file it was about.
fn is_read_only(error: &netloom::Error, file: &str) -> bool {
    const EROFS: i32 = 30;
    let first = match error.reason() {
        Reason::Leaked { cause, .. } => cause.reason(),
        reason => reason,
    };
    matches!(first, Reason::Kernel { errno: EROFS, operation, .. } if operation.contains(file))
}

#[test]
fn a_disk_that_cannot_be_written_to_stops_what_needs_it_and_nothing_else() {
    in_lab(async |lab| {
        fs::write(lab.dir.path().join("resolv.conf"), "nameserver 192.0.2.53\n").expect("written");
        let engine = lab.next_engine_with(config(&lab)).await;
        let [blue, red] = endpoints(&engine).await;
        let named = |name: &str| SandboxSpec::new(name).hostname(name);
        let sandbox = engine.controller().create_sandbox(named("c1")).await.expect("a sandbox");
        blue.join(&sandbox, JoinSpec::default()).await.expect("joined");
        let files = lab.run_dir().join("files");
        let shown = files.to_str().expect("text").to_owned();
        let leaks = async || engine.inspect().await.expect("inspected").leaks;

        mount(&["mount", "--bind", &shown], &files);
        mount(&["mount", "-o", "remount,ro,bind"], &files);
        let error = engine.controller().create_sandbox(named("c2")).await.expect_err("read-only");
        assert!(is_read_only(&error, "run/files"), "{error:?}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("writable")), "{error:?}");
        let error = red.join(&sandbox, JoinSpec::default()).await.expect_err("read-only");
        assert!(is_read_only(&error, "hosts"), "{error:?}");
        assert_eq!(red.inspect().await.expect("inspected").sandbox, None, "it is undone");
        blue.leave(&sandbox).await.expect("there is no way back");
        assert!(!leaks().await.is_empty(), "and what is left to do is visible");
        mount(&["umount"], &files);

        let began = Instant::now();
        while !leaks().await.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", leaks().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut programs = Programs::start(&sandbox).await;
        assert_eq!(programs.addresses("c1"), [] as [IpAddr; 0]);
        red.join(&sandbox, JoinSpec::default()).await.expect("joined");
        assert_eq!(programs.addresses("c1"), addresses(&[&red]).await);
        programs.end();
        engine.controller().create_sandbox(named("c2")).await.expect("a sandbox");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
