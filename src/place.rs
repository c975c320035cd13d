//! What an engine over the real kernel has to itself: its directories, its name, and its identity.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use netloom_model::{ControllerId, EngineConfig, Error, Reason, Result};

use crate::core::fresh;

/// Keeps others out for as long as this engine's thread lives.
///
/// Namespaces carry no engine's mark, so a second engine in the same run directory would take them for
/// remains of its own. Two engines of one name in one network namespace could not be told apart by people.
pub(crate) fn hold(config: &EngineConfig) -> Result<()> {
    let EngineConfig { run_dir, data_dir, instance, .. } = config;
    let shown = run_dir.display().to_string();
    let unusable = |error: std::io::Error| {
        let why = format!("{error}; name a directory that this engine can write to");
        Error::invalid("run_dir", &shown, why)
    };
    let taken = |what: String, by: String| Error::from(Reason::InUse { what, by });
    std::fs::create_dir_all(run_dir).map_err(unusable)?;
    let mut options = std::fs::OpenOptions::new();
    // Nobody else may open it: a lock by a passer-by would keep the engine from starting.
    options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(run_dir.join("engine.lock")).map_err(unusable)?;
    lock.try_lock().map_err(|_| taken(format!("run_dir {shown}"), "another engine".into()))?;

    let home = data_dir.canonicalize().map_err(unusable)?.display().to_string();
    let owner = run_dir.join("owner");
    match std::fs::read_to_string(&owner) {
        Ok(other) if other != home => {
            let by = format!("the engine of data_dir {other}; remove {} if that is gone", owner.display());
            return Err(taken(format!("run_dir {shown}"), by));
        }
        Ok(_) => {}
        Err(_) => std::fs::write(&owner, home).map_err(unusable)?,
    }

    // An abstract name belongs to the network namespace and goes with its holder.
    let name = SocketAddr::from_abstract_name(format!("netloom/{instance}")).map_err(unusable)?;
    let claim = UnixListener::bind_addr(&name).map_err(|_| {
        taken(format!("instance {instance}"), "another engine in this network namespace".into())
    })?;
    tokio::task::spawn_local(async move {
        let _held = (lock, claim);
        std::future::pending::<()>().await;
    });
    Ok(())
}

/// The file that holds an engine's identity.
const IDENTITY: &str = "engine-id";

/// The engine's identity, drawn at its first start. It marks its kernel objects, so it is kept twice: with
/// the records that say what they are, and where it lives as long as they do, should the records be lost.
pub(crate) fn identity(config: &EngineConfig) -> Result<ControllerId> {
    let places = [&config.data_dir, &config.run_dir].map(|dir| dir.join(IDENTITY));
    let mut kept = Vec::new();
    for place in &places {
        kept.push(read(place)?);
    }
    let drawn = || {
        let (a, b) = fresh();
        ControllerId::from_uuids(a, b)
    };
    let identity = kept.iter().copied().flatten().next().unwrap_or_else(drawn);
    for (place, kept) in places.iter().zip(kept) {
        if kept != Some(identity) {
            write(place, identity).map_err(|error| unusable(place, &error))?;
        }
    }
    Ok(identity)
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
fn write(path: &Path, identity: ControllerId) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&draft)?;
    writeln!(file, "{identity}")?;
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
        let first = identity(&config).expect("drawn");
        for lost in [&config.data_dir, &config.run_dir] {
            assert_eq!(identity(&config).expect("read"), first);
            fs::remove_dir_all(lost).expect("removed");
            make();
        }
        assert_eq!(identity(&config).expect("read"), first);
        fs::write(config.data_dir.join(IDENTITY), "nonsense").expect("written");
        assert_eq!(identity(&config).expect("read"), first, "the other one still makes sense");
        for dir in [&config.data_dir, &config.run_dir] {
            fs::remove_file(dir.join(IDENTITY)).expect("removed");
        }
        assert_ne!(identity(&config).expect("drawn"), first);
    }
}
