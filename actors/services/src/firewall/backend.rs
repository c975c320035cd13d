//! What rules are said to. One transaction at a time: what is there is read and compared, or what differs between two wishes
//! is said at once.

use std::sync::Arc;
use std::time::Instant;

use netloom_firewall::io::{Variant, Xtables, XtablesError};
use netloom_firewall::iptables::{Job, Settled, Version, Wanted};
use netloom_firewall::{TableConfig, delta, has_users, unasked};
use netloom_kernel::nft::{Change, Contents, Table};
use netloom_kernel::{Kernel, KernelError, Netns, Op, execute_all};
use netloom_model::Error;
use netloom_runtime::{Cx, Handle, OpCtx, Reply};

use super::actor::FirewallActor;
use super::message::LeadsToEngine;

/// What rules are said to.
#[derive(Clone, Debug)]
pub enum Backend {
    /// A table of nftables, over netlink.
    Nftables,
    /// Chains of iptables, by its programs.
    Iptables {
        /// The programs.
        xtables: Arc<dyn Xtables>,
        /// Those of them that work here: a kernel without IPv6 has no tables for it.
        versions: Vec<Version>,
    },
    /// Nothing: what is asked for is noted and answered.
    None,
}

impl Backend {
    /// Its name, as the configuration has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables { .. } => "iptables",
            Self::None => "none",
        }
    }

    /// Where the rules are.
    pub(super) fn place(&self, config: &TableConfig) -> String {
        match self {
            Self::Nftables => format!("table {}", config.table()),
            Self::Iptables { xtables, .. } => {
                let (user, variant) = (config.names().user(), xtables.chosen());
                format!("chains {}-* of iptables-{variant}", user.trim_end_matches("-USER"))
            }
            Self::None => String::new(),
        }
    }

    /// Whether the kernel tells of changes that others make of it.
    pub(super) fn is_told(&self) -> bool {
        match self {
            Self::Nftables | Self::None => true,
            Self::Iptables { xtables, .. } => xtables.chosen() == Variant::Nft,
        }
    }

    /// Whether a change of this table of nftables may concern the rules.
    pub(super) fn concerned_by(&self, changed: &Table, own: &Table) -> bool {
        match self {
            Self::Nftables => changed == own,
            Self::Iptables { .. } => matches!(&*changed.name, "raw" | "filter" | "nat"),
            Self::None => false,
        }
    }
}

/// Why a transaction did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is nothing that rules could be said to.
    Missing(String),
    Other(Error),
}

impl From<KernelError> for Trouble {
    fn from(error: KernelError) -> Self {
        if error.unsupported() { Self::Missing(error.to_string()) } else { Self::Other(error.into()) }
    }
}

impl From<XtablesError> for Trouble {
    fn from(error: XtablesError) -> Self {
        Self::Other(error.into())
    }
}

/// What a transaction came to.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// How many changes it took.
    pub(super) changes: usize,
    /// How many of them nobody has asked for; `None` where that is not known.
    pub(super) repaired: Option<usize>,
    /// What iptables has now.
    pub(super) wanted: Option<Arc<Wanted>>,
}

/// A transaction.
#[derive(Debug)]
pub(super) enum Transaction {
    /// Makes these changes in the table.
    Change(Table, Vec<Change>),
    /// Makes the table what is wanted, whatever it is; of that these are changes that were asked for, where it is known.
    Repair(Table, Contents, Need, Option<Vec<Change>>),
    /// Makes the chains what is wanted.
    Job(Arc<dyn Xtables>, Job),
}

/// Whether anybody has rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    Somebody,
    Nobody,
}

impl Transaction {
    pub(super) async fn carry_out(self, kernel: &dyn Kernel, deadline: Instant) -> Result<Told, Trouble> {
        match self {
            Self::Change(table, changes) => {
                let changes = change(kernel, table, changes, deadline).await?;
                Ok(Told { changes, ..Told::default() })
            }
            Self::Repair(table, wanted, need, asked) => {
                let changes = repair(kernel, table.clone(), &wanted, need, deadline).await?;
                let repaired = asked.map(|asked| unasked(&changes, &asked));
                let changes = change(kernel, table, changes, deadline).await?;
                Ok(Told { changes, repaired, wanted: None })
            }
            Self::Job(xtables, job) => {
                let Settled { wanted, changes } = xtables.settle(job, deadline).await?;
                Ok(Told { changes, wanted, repaired: None })
            }
        }
    }
}

async fn change(
    kernel: &dyn Kernel,
    table: Table,
    changes: Vec<Change>,
    deadline: Instant,
) -> Result<usize, KernelError> {
    if changes.is_empty() {
        return Ok(0);
    }
    let count = changes.len();
    execute_all(kernel, vec![Op::ChangeTable { netns: Netns::Host, table, changes }], deadline).await?;
    Ok(count)
}

/// What makes the table what is wanted, whatever it is. One that nobody needs is removed, but for what users have in it.
async fn repair(
    kernel: &dyn Kernel,
    table: Table,
    wanted: &Contents,
    need: Need,
    deadline: Instant,
) -> Result<Vec<Change>, KernelError> {
    Ok(match (kernel.table(table.clone(), deadline).await?, need) {
        (None, Need::Nobody) => Vec::new(),
        (Some(is), Need::Nobody) if !has_users(&is, wanted) => vec![Change::DeleteTable],
        (is, _) => delta(is.as_ref(), wanted),
    })
}

/// Removes what backends other than this one have of the engine: what users have among it stays, without effect. `empty` is
/// the table without anybody's rules.
pub(super) async fn clean(
    backend: &Backend,
    kernel: &dyn Kernel,
    xtables: Option<&dyn Xtables>,
    (config, empty): (&TableConfig, &Contents),
    deadline: Instant,
) -> Result<usize, Error> {
    let (mut changes, mut has_nftables) = (0, true);
    if !matches!(backend, Backend::Nftables) {
        let removed = async {
            let gone = repair(kernel, config.table(), empty, Need::Nobody, deadline).await?;
            change(kernel, config.table(), gone, deadline).await
        };
        match removed.await {
            Ok(count) => changes += count,
            Err(error) if error.unsupported() => has_nftables = false,
            Err(error) => return Err(error.into()),
        }
    }
    let Some(xtables) = xtables else { return Ok(changes) };
    for variant in Variant::ALL {
        let own = matches!(backend, Backend::Iptables { .. }) && xtables.chosen() == variant;
        let there = xtables.called(variant, Version::V4).is_some();
        if own || !there || (variant == Variant::Nft && !has_nftables) {
            continue;
        }
        let both = vec![Version::V4, Version::V6];
        changes += xtables.clean(variant, config.names(), both, deadline).await?;
    }
    Ok(changes)
}

impl Handle<LeadsToEngine> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: LeadsToEngine, reply: Reply<bool>, _: &mut Cx<'_, Self>) {
        let known = self.deps.state.get();
        reply.send(matches!(known.backend, Backend::Nftables) && !known.is_silent());
    }
}
