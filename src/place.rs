//! What an engine over the real kernel has to itself: its directories, its name, and its identity.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use netloom_model::{ControllerId, EngineConfig, Error, Reason, Result};

use crate::core::fresh;

/// Keeps others out until its answer is dropped. The kernel layer has claimed the directory of the namespaces
/// before.
///
/// Namespaces carry no engine's mark, so a second engine in the same run directory would take them for
/// remains of its own. Two engines of one name in one network namespace could not be told apart by people.
pub(crate) fn hold(config: &EngineConfig) -> Result<impl Sized + 'static> {
    let EngineConfig { run_dir, data_dir, instance, .. } = config;
    let shown = run_dir.display().to_string();
    let unusable = |error: std::io::Error| {
        let why = format!("{error}; name a directory that this engine can write to");
        Error::invalid("run_dir", &shown, why)
    };
    let taken = |by: String| Error::from(Reason::InUse { what: format!("run_dir {shown}"), by });
    // Beside the namespaces and not above them: whoever tidies the run directory up does not reach it.
    let netns = run_dir.join("netns");
    let mut options = std::fs::OpenOptions::new();
    // Nobody else may open it: a lock by a passer-by would keep the engine from starting.
    options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(netns.join(".lock")).map_err(unusable)?;
    // Without a byte in it, it would pass for the file of a namespace.
    lock.set_len(1).map_err(unusable)?;
    lock.try_lock().map_err(|_| taken("another engine".into()))?;

    let owner = netns.join(".owner");
    let own =
        Owner { data_dir: data_dir.canonicalize().map_err(unusable)?.display().to_string(), ..Owner::here() };
    if let Some(other) = Owner::read(&owner).filter(|_| has_namespaces(&netns)) {
        if other.data_dir != own.data_dir {
            let by = format!(
                "the engine of data_dir {}; remove {} if that is gone",
                other.data_dir,
                owner.display()
            );
            return Err(taken(by));
        }
        // Its links are in another network namespace: from here they would seem to be gone.
        if other.boot == own.boot && other.network != own.network {
            let by = format!(
                "this engine in network namespace {}, and this is {}; start it there (`lsns --type net`, \
                 `nsenter --net`), or remove {} if that is gone",
                other.network,
                own.network,
                owner.display()
            );
            return Err(taken(by));
        }
    }
    write(&owner, &own.text()).map_err(unusable)?;

    // An abstract name belongs to the network namespace and goes with its holder.
    let name = SocketAddr::from_abstract_name(format!("netloom/{instance}")).map_err(unusable)?;
    let claim = UnixListener::bind_addr(&name).map_err(|_| {
        let by = "another engine in this network namespace".into();
        Error::from(Reason::InUse { what: format!("instance {instance}"), by })
    })?;
    Ok((lock, claim))
}

/// Keeps something for as long as this engine's thread lives.
pub(crate) fn keep(held: impl Sized + 'static) {
    tokio::task::spawn_local(async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
}

/// Whose a run directory is, and from where it was used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Owner {
    data_dir: String,
    /// The boot: namespaces do not outlive it.
    boot: String,
    /// The network namespace of the engine itself, as the kernel writes it.
    network: String,
}

impl Owner {
    /// This boot and this thread's network namespace.
    fn here() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let network = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
        Self { data_dir: String::new(), boot: boot.trim().to_owned(), network: network.display().to_string() }
    }

    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.data_dir, self.boot, self.network)
    }

    /// What a file says; nothing when it is not there.
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        Some(Self {
            data_dir: lines.next()?,
            boot: lines.next().unwrap_or_default(),
            network: lines.next().unwrap_or_default(),
        })
    }
}

/// Whether anything may be mounted there.
fn has_namespaces(netns: &Path) -> bool {
    let entries = fs::read_dir(netns).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
}

/// The file that holds an engine's identity.
const IDENTITY: &str = "engine-id";

/// The engine's identity, drawn at its first start, and whether this is not the first. It marks its kernel objects, so it is kept twice: with
/// the records that say what they are, and where it lives as long as they do, should the records be lost.
pub(crate) fn identity(config: &EngineConfig) -> Result<(ControllerId, bool)> {
    let places = [&config.data_dir, &config.run_dir].map(|dir| dir.join(IDENTITY));
    let mut kept = Vec::new();
    for place in &places {
        kept.push(read(place)?);
    }
    let drawn = || {
        let (a, b) = fresh();
        ControllerId::from_uuids(a, b)
    };
    let known = kept.iter().copied().flatten().next();
    let identity = known.unwrap_or_else(drawn);
    for (place, kept) in places.iter().zip(kept) {
        if kept != Some(identity) {
            write(place, &format!("{identity}\n")).map_err(|error| unusable(place, &error))?;
        }
    }
    Ok((identity, known.is_some()))
}

/// What a file says; nothing when it is not there or makes no sense.
fn read(path: &Path) -> Result<Option<ControllerId>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// Writes it whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid("engine-id", path.display(), format!("{error}; it must be a file that the engine can use"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_the_loss_of_either_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data_dir, run_dir) = (dir.path().join("data"), dir.path().join("run"));
        let config = EngineConfig { data_dir, run_dir, ..EngineConfig::default() };
        let make = || {
            for dir in [&config.data_dir, &config.run_dir] {
                fs::create_dir_all(dir).expect("made");
            }
        };
        make();
        let (first, known) = identity(&config).expect("drawn");
        assert!(!known);
        for lost in [&config.data_dir, &config.run_dir] {
            assert_eq!(identity(&config).expect("read"), (first, true));
            fs::remove_dir_all(lost).expect("removed");
            make();
        }
        assert_eq!(identity(&config).expect("read"), (first, true));
        fs::write(config.data_dir.join(IDENTITY), "nonsense").expect("written");
        assert_eq!(identity(&config).expect("read"), (first, true), "the other one still makes sense");
        for dir in [&config.data_dir, &config.run_dir] {
            fs::remove_file(dir.join(IDENTITY)).expect("removed");
        }
        assert_ne!(identity(&config).expect("drawn").0, first);
    }
}
