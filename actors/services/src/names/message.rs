//! What the name service can be asked.

use std::sync::Arc;

use netloom_dns::counters::Counts;
use netloom_dns::forward::UpstreamState;
use netloom_kernel::Netns;
use netloom_model::{Result, SandboxId};
use netloom_runtime::messages;

use super::host::HostServers;
use super::wanted::NamesWanted;

/// Have a name server in a sandbox, and have it be like this from now on. What is under way goes on. One that cannot be
/// started is told by [`ListNameServers`] and in the log, and tried again until it is ended. Answered with whether there is one,
/// or will be.
#[derive(Clone, Debug)]
pub struct SetNames {
    /// What it is to be like.
    pub wanted: Arc<NamesWanted>,
    /// Whether one is started where there is none.
    pub starts: bool,
    /// Whether this is answered when it serves, or could not be started, and not as soon as it is known.
    pub waits: bool,
}

/// End the name server of a sandbox. Answered when nothing of it holds the namespace any more. Without effect where there
/// is none.
///
/// Errors: what the kernel says when rules that are to go cannot be removed.
#[derive(Clone, Copy, Debug)]
pub struct EndNames {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its namespace.
    pub netns: Netns,
    /// Whether the namespace stays, so that the rules that lead to the name server have to go.
    pub stays: bool,
}

/// End all name servers, and leave the rules that lead to them: the engine ends, and the next one goes on. Answered when
/// nothing of them holds a namespace any more.
#[derive(Clone, Copy, Debug)]
pub struct StopNames;

/// Every name server, in the order of the sandboxes' containers.
#[derive(Clone, Copy, Debug)]
pub struct ListNameServers;

/// A sandbox's name server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameServer {
    /// What is wanted.
    pub wanted: Arc<NamesWanted>,
    /// The names of its networks, first asked first.
    pub networks: Vec<Arc<str>>,
    /// Its ports in the sandbox, of UDP and of TCP, while it serves.
    pub ports: Option<(u16, u16)>,
    /// What it has done so far; nothing where it does not serve, or no packets pass (in a simulation).
    pub counts: Option<Counts>,
    /// Whom it asks, and how they do.
    pub upstreams: Vec<UpstreamState>,
    /// Why it does not serve, if it could not be started when that was tried last.
    pub trouble: Option<String>,
}

/// The host's name servers are others now, or are known for the first time.
#[derive(Clone, Debug)]
pub(super) struct HostServersRead(pub(super) Option<Arc<HostServers>>);

/// It is time to try again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryDue {
    pub(super) sandbox: SandboxId,
    pub(super) attempt: u64,
}

messages! {
    SetNames => bool;
    EndNames => Result<()>;
    StopNames => ();
    ListNameServers => Vec<NameServer>;
    HostServersRead => ();
    RetryDue => ();
}
