//! One wish, carried out: what to ask of the programs, in which order, and what is taken back when they refuse it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Names, Saved, Unfit, Version, Wanted, removal};
use crate::io::XtablesError;
use crate::network::NetworkRules;
use crate::port::PortRules;
use crate::table::Mark;

/// How long taking back may take, beyond the deadline of what is taken back.
const BACK: Duration = Duration::from_secs(10);

/// The programs, called one after another. Whoever calls waits.
pub trait Calls {
    /// `iptables-save`.
    ///
    /// # Errors
    /// When the program does not show them.
    fn save(&mut self, version: Version, deadline: Instant) -> Result<Saved, XtablesError>;

    /// `iptables-restore --noflush`.
    ///
    /// # Errors
    /// When the program refuses it. A table has changed as a whole or not at all.
    fn restore(&mut self, version: Version, text: &str, deadline: Instant) -> Result<(), XtablesError>;

    /// `iptables-restore --test`: whether it can change the tables at all. Changes nothing.
    ///
    /// # Errors
    /// What is in the way.
    fn test(&mut self, version: Version, text: &str, deadline: Instant) -> Result<(), XtablesError>;
}

/// What should be there, and how far the host is known to be.
#[derive(Clone, Debug)]
pub struct Job {
    /// How the engine's chains begin.
    pub names: Names,
    /// Packets of this mark reach every port.
    pub mark: Option<Mark>,
    /// What is said about networks.
    pub networks: Vec<Arc<NetworkRules>>,
    /// What is said about published ports.
    pub ports: Vec<Arc<[PortRules]>>,
    /// What is there; `None` where it has to be looked at.
    pub before: Option<Arc<Wanted>>,
    /// Which programs are called: a kernel without IPv6 has only one of them.
    pub versions: Vec<Version>,
}

/// What a [`Job`] came to.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What is there now; `None` where nothing of ours is.
    pub wanted: Option<Arc<Wanted>>,
    /// How many lines it took.
    pub changes: usize,
}

impl Job {
    /// Makes the host as it should be, with one `iptables-restore` for each version that differs. Where nothing is wanted,
    /// nothing of ours is left.
    ///
    /// # Errors
    /// When a program fails. What had changed before has been taken back then, unless that failed too, which is logged:
    /// so the next job looks first.
    pub fn carry_out(&self, calls: &mut dyn Calls, deadline: Instant) -> Result<Settled, XtablesError> {
        let wanted = self.wanted().map_err(|unfit| XtablesError::Unfit(Box::new(unfit)))?.map(Arc::new);
        let (mut tried, mut changes) = (Vec::new(), 0);
        for version in &self.versions {
            let outcome = self
                .one(*version, wanted.as_deref(), &mut tried, calls, deadline)
                .map(|count| changes += count);
            if let Err(error) = outcome {
                self.back(&tried, calls, deadline.max(Instant::now() + BACK));
                return Err(error);
            }
        }
        Ok(Settled { wanted, changes })
    }

    /// `None` where nothing is wanted.
    fn wanted(&self) -> Result<Option<Wanted>, Unfit> {
        if self.networks.is_empty() && self.ports.is_empty() {
            return Ok(None);
        }
        let ports: Vec<_> = self.ports.iter().flat_map(|ports| ports.iter()).collect();
        Wanted::new(&self.names, self.mark, &self.networks, &ports).map(Some)
    }

    fn one(
        &self,
        version: Version,
        wanted: Option<&Wanted>,
        tried: &mut Vec<(Version, Option<Saved>)>,
        calls: &mut dyn Calls,
        deadline: Instant,
    ) -> Result<usize, XtablesError> {
        let (text, saved) = match (wanted, self.before.as_deref()) {
            (Some(wanted), Some(before)) => (wanted.delta(version, before), None),
            (wanted, _) => {
                let saved = calls.save(version, deadline)?;
                let text = match wanted {
                    Some(wanted) => wanted.restore(version, &saved),
                    None => removal(&self.names, version, &saved),
                };
                (text, Some(saved))
            }
        };
        let Some(text) = text else { return Ok(0) };
        tried.push((version, saved));
        calls.restore(version, &text, deadline)?;
        Ok(text.lines().filter(|line| !line.starts_with(['*', '#']) && *line != "COMMIT").count())
    }

    /// Takes back what became of these.
    fn back(&self, tried: &[(Version, Option<Saved>)], calls: &mut dyn Calls, deadline: Instant) {
        for (version, saved) in tried {
            let taken_back = calls.save(*version, deadline).and_then(|now| {
                let text = match (saved, self.before.as_deref()) {
                    (Some(saved), _) => Wanted::back(&self.names, *version, saved, &now),
                    (None, Some(before)) => before.restore(*version, &now),
                    (None, None) => None,
                };
                text.map_or(Ok(()), |text| calls.restore(*version, &text, deadline))
            });
            if let Err(error) = taken_back {
                tracing::warn!(%error, "cannot take back what was changed in {version}");
            }
        }
    }
}
