//! Where engines of tests write the files of names, and what must be true of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use netloom::snapshot::{SandboxFilePaths, SandboxSnapshot};
use netloom::{Engine, EngineConfig, NamespaceSpec, Result, Sandbox};
use netloom_model::record::WAY_OUT_LABEL;

use super::bounded;

/// A directory for each machine of a test, with a resolv.conf of its host.
pub(crate) struct Places {
    dir: tempfile::TempDir,
    machines: AtomicUsize,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), machines: AtomicUsize::new(0) }
    }

    /// The configuration of the next machine.
    pub(crate) fn next(&self, config: EngineConfig) -> EngineConfig {
        let machine = self.dir.path().join(self.machines.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&machine).expect("made");
        let resolv_conf = machine.join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 192.0.2.53\n").expect("written");
        EngineConfig { run_dir: machine.join("run"), resolv_conf, ..config }
    }
}

impl Places {
    /// The configuration of a machine to which the files of another one were brought, as they are at the moment.
    pub(crate) fn moved(&self, config: EngineConfig) -> EngineConfig {
        let moved = self.next(EngineConfig::default());
        let (from, to) = (config.run_dir.join("files"), moved.run_dir.join("files"));
        for (path, content) in at_one_moment(&config.run_dir, &from) {
            let path = to.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, content).expect("written");
        }
        for name in directories(&config.run_dir) {
            fs::create_dir_all(to.join(name)).expect("made");
        }
        EngineConfig { run_dir: moved.run_dir, ..config }
    }
}

/// What all files hold at one moment. A dead engine may be writing yet, where a dead process would not: what is read of a
/// file before and of another one behind that is no moment. So they are read until nothing has changed meanwhile.
fn at_one_moment(run_dir: &Path, from: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = || -> BTreeMap<PathBuf, Vec<u8>> {
        let names = directories(run_dir).into_iter();
        let paths = names.flat_map(|name| FILES.map(|file| Path::new(&name).join(file)));
        // One that is not there yet, or not any more, is as good: a crash may come at any moment.
        paths.filter_map(|path| fs::read(from.join(&path)).ok().map(|content| (path, content))).collect()
    };
    let (mut seen, mut still) = (read(), 0);
    while still < 3 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        let now = read();
        still = if now == seen { still + 1 } else { 0 };
        seen = now;
    }
    seen
}

/// The files of a sandbox's directory.
const FILES: [&str; 3] = ["hosts", "resolv.conf", "resolv.conf.hash"];

/// The names of the sandboxes that have files below a run directory.
pub(crate) fn directories(run_dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(run_dir.join("files")).into_iter().flatten();
    entries.map(|entry| entry.expect("listed").file_name().into_string().expect("text")).collect()
}

/// Checks that files say what is plugged in, if the engine writes any. Meant for a moment at which nothing runs.
pub(crate) async fn check(engine: &Engine) -> Result<(), String> {
    let picture = engine.inspect().await.map_err(|error| error.to_string())?;
    if picture.sandboxes.iter().all(|sandbox| sandbox.files.is_none()) {
        return Ok(());
    }
    let there = directories(&engine.config().run_dir);
    let due = picture.sandboxes.iter().map(|sandbox| sandbox.id.to_string()).collect();
    if there != due {
        return Err(format!("there are files of {there:?}, and sandboxes {due:?}"));
    }
    let endpoints: Vec<_> = picture.networks.iter().flat_map(|network| &network.endpoints).collect();
    for sandbox in &picture.sandboxes {
        let inside = endpoints.iter().filter(|endpoint| {
            endpoint.sandbox == Some(sandbox.id) && !endpoint.labels.contains_key(WAY_OUT_LABEL)
        });
        let addresses = inside.flat_map(|endpoint| {
            let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
            ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
        });
        let mut due: Vec<IpAddr> = match (sandbox.namespace, sandbox.hostname.as_str()) {
            (NamespaceSpec::Host, _) | (_, "") => Vec::new(),
            _ => addresses.collect(),
        };
        due.sort_unstable();
        let Paths { hosts, resolv } = Paths::of(sandbox);
        let text = fs::read_to_string(&hosts).map_err(|error| format!("{}: {error}", hosts.display()))?;
        let mut found = Paths::named(&text, &sandbox.hostname);
        found.sort_unstable();
        if found != due {
            return Err(format!("{} finds itself at {found:?} instead of {due:?}", sandbox.container_id));
        }
        let text = fs::read_to_string(&resolv).map_err(|error| format!("{}: {error}", resolv.display()))?;
        // Which ones is for tests of their own: a dead engine may still write one here, where a dead process would not.
        if !text.contains("nameserver ") {
            return Err(format!("{} asks {text:?}", sandbox.container_id));
        }
    }
    Ok(())
}

/// The files of a sandbox.
pub(crate) struct Paths {
    pub(crate) hosts: PathBuf,
    pub(crate) resolv: PathBuf,
}

impl Paths {
    fn of(sandbox: &SandboxSnapshot) -> Self {
        let SandboxFilePaths { hosts, resolv_conf } = sandbox.files.clone().expect("it has files");
        Self { hosts, resolv: resolv_conf }
    }

    pub(crate) async fn seen(sandbox: &Sandbox) -> Self {
        Self::of(&bounded("inspecting", sandbox.inspect()).await.expect("inspected"))
    }

    /// The addresses of the lines with this name and no other.
    fn named(text: &str, name: &str) -> Vec<IpAddr> {
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        lines
            .filter(|(_, names)| *names == name)
            .map(|(address, _)| address.parse().expect("an address"))
            .collect()
    }

    /// What its hosts file says.
    pub(crate) fn hosts(&self) -> String {
        fs::read_to_string(&self.hosts).expect("a hosts file")
    }

    /// What counts of its resolv.conf.
    pub(crate) fn resolv(&self) -> String {
        let text = fs::read_to_string(&self.resolv).expect("a resolv.conf");
        text.lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
    }
}
