//! What else there is on this machine that has to do with packets: the programs of iptables, and firewalld.

use std::sync::Arc;

use netloom_actor_controller::Neighbours;
use netloom_firewall::io::{Installed, RunXtables, Xtables};
use netloom_firewalld::Firewalld;
use netloom_model::{Error, Result};

/// What the embedder has not brought is this machine's.
///
/// # Errors
/// When a thread that speaks to it cannot be started.
pub(crate) fn of_this_machine(given: Neighbours) -> Result<Neighbours> {
    Ok(Neighbours {
        xtables: given.xtables.map_or_else(programs, |given| Ok(Some(given)))?,
        firewalld: given.firewalld.map_or_else(firewalld, |given| Ok(Some(given)))?,
    })
}

/// The programs of iptables, if this machine has them.
fn programs() -> Result<Option<Arc<dyn Xtables>>> {
    let Some(installed) = Installed::find() else { return Ok(None) };
    let running = RunXtables::start(installed)
        .map_err(|error| Error::internal(format!("cannot start the thread of iptables: {error}")))?;
    Ok(Some(Arc::new(running)))
}

/// firewalld, whenever it is there.
#[cfg(feature = "firewalld")]
fn firewalld() -> Result<Option<Arc<dyn Firewalld>>> {
    let started = netloom_firewalld::DbusFirewalld::start()
        .map_err(|error| Error::internal(format!("cannot start the thread of firewalld: {error}")))?;
    Ok(Some(Arc::new(started)))
}

/// Built without the feature `firewalld`: it is left alone.
#[cfg(not(feature = "firewalld"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn firewalld() -> Result<Option<Arc<dyn Firewalld>>> {
    Ok(None)
}
