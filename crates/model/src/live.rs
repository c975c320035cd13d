//! Which sandboxes live: what the embedder says, and what the engine made of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, OpId, SandboxId};
use crate::ifname::{IfName, NetnsName};

/// What the container of a sandbox is called whose record was lost and rebuilt begins with; the name of its
/// namespace follows.
pub const REBUILT_CONTAINER: &str = "recovered-";

/// A sandbox that is in use, by either of its names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveSandbox {
    /// That of this container.
    Container(String),
    /// The one of this identifier.
    Sandbox(SandboxId),
}

impl From<&str> for LiveSandbox {
    fn from(container_id: &str) -> Self {
        Self::Container(container_id.to_owned())
    }
}

impl From<String> for LiveSandbox {
    fn from(container_id: String) -> Self {
        Self::Container(container_id)
    }
}

impl From<SandboxId> for LiveSandbox {
    fn from(id: SandboxId) -> Self {
        Self::Sandbox(id)
    }
}

impl fmt::Display for LiveSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(container_id) => write!(f, "the sandbox of container {container_id:?}"),
            Self::Sandbox(id) => write!(f, "sandbox {}", id.short()),
        }
    }
}

/// Everything that lives, as somebody listed it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LiveList(BTreeSet<LiveSandbox>);

/// What a list says about a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It lives.
    Lives,
    /// It does not.
    Dead,
    /// Nothing: its record was rebuilt, so that nobody knows which container it belongs to.
    Unclear,
}

impl<L: Into<LiveSandbox>> FromIterator<L> for LiveList {
    fn from_iter<I: IntoIterator<Item = L>>(live: I) -> Self {
        Self(live.into_iter().map(Into::into).collect())
    }
}

impl LiveList {
    /// Adds one.
    pub fn insert(&mut self, live: impl Into<LiveSandbox>) {
        self.0.insert(live.into());
    }

    /// Whether a sandbox lives.
    #[must_use]
    pub fn judge(&self, id: SandboxId, container_id: &str) -> Verdict {
        if self.0.contains(&LiveSandbox::Sandbox(id)) || self.0.contains(&container_id.into()) {
            return Verdict::Lives;
        }
        if !is_rebuilt(id, container_id) {
            return Verdict::Dead;
        }
        // Of a rebuilt identifier only the beginning may be right.
        let begins =
            |live: &LiveSandbox| matches!(live, LiveSandbox::Sandbox(live) if live.short() == id.short());
        if self.0.iter().any(begins) { Verdict::Lives } else { Verdict::Unclear }
    }

    /// Those that are none of these.
    #[must_use]
    pub fn beyond(&self, known: &[(SandboxId, String)]) -> Vec<LiveSandbox> {
        let names = known.iter().flat_map(|(id, container)| [(*id).into(), container.as_str().into()]);
        let names: BTreeSet<LiveSandbox> = names.collect();
        let rebuilt = known.iter().filter(|(id, container)| is_rebuilt(*id, container));
        let rebuilt: Vec<_> = rebuilt.map(|(id, _)| id.short()).collect();
        let is_known = |live: &&LiveSandbox| {
            let begins = matches!(live, LiveSandbox::Sandbox(id) if rebuilt.contains(&id.short()));
            begins || names.contains(*live)
        };
        self.0.iter().filter(|live| !is_known(live)).cloned().collect()
    }
}

fn is_rebuilt(id: SandboxId, container_id: &str) -> bool {
    container_id.strip_prefix(REBUILT_CONTAINER).is_some_and(|netns| *netns == *id.short())
}

/// A moment in the life of an engine: what it had in service then can be told from what came later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The start of the engine that it was taken of.
    pub engine: OpId,
    /// How many sandboxes had come into service before.
    pub born: u64,
}

/// What lives, with the moment before it was listed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LiveSet {
    /// Taken before anybody looked at what lives: a sandbox that came into service later is not judged.
    pub mark: Mark,
    /// What lives.
    pub live: LiveList,
}

impl LiveSet {
    /// A set with nothing in it. The mark must be taken *before* the list is made that the set is filled from.
    #[must_use]
    pub fn since(mark: Mark) -> Self {
        Self { mark, live: LiveList::default() }
    }

    /// Adds one that lives.
    #[must_use]
    pub fn with(mut self, live: impl Into<LiveSandbox>) -> Self {
        self.live.insert(live);
        self
    }

    /// Adds those that live.
    #[must_use]
    pub fn with_all(self, live: impl IntoIterator<Item = impl Into<LiveSandbox>>) -> Self {
        live.into_iter().fold(self, Self::with)
    }
}

/// What a reconciliation did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReconcileReport {
    /// Sandboxes that were released, by container.
    pub released: Vec<ReleasedSandbox>,
    /// Objects of the kernel that were removed because no record knows them.
    pub removed: Vec<Stray>,
    /// What should have been removed and could not be, or could not be judged.
    pub left: Vec<Left>,
    /// What lives as far as the caller knows, and is no sandbox of this engine.
    pub unknown: Vec<LiveSandbox>,
}

impl ReconcileReport {
    /// Whether there was nothing to do and nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { released, removed, left, unknown } = self;
        released.is_empty() && removed.is_empty() && left.is_empty() && unknown.is_empty()
    }
}

impl fmt::Display for ReconcileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing to do");
        }
        let released = self.released.iter().map(|released| format!("released {released}"));
        let removed = self.removed.iter().map(|stray| format!("removed {stray}, which no record knows"));
        let left = self.left.iter().map(|left| format!("left {left}"));
        let unknown = self.unknown.iter().map(|live| format!("{live} lives, and is not known"));
        let lines: Vec<_> = released.chain(removed).chain(left).chain(unknown).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// A sandbox that was released.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleasedSandbox {
    /// Its identifier.
    pub sandbox: SandboxId,
    /// Its container.
    pub container_id: String,
    /// Its endpoints, which were deleted with it.
    pub endpoints: Vec<EndpointId>,
}

impl fmt::Display for ReleasedSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandbox, container_id, endpoints } = self;
        write!(f, "sandbox {} of container {container_id:?}, which does not live", sandbox.short())?;
        match endpoints.len() {
            0 => Ok(()),
            1 => f.write_str(", with its endpoint"),
            several => write!(f, ", with its {several} endpoints"),
        }
    }
}

/// An object of the kernel that is the engine's own and that no record knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stray {
    /// A link of the host's that carries the engine's mark.
    Link(IfName),
    /// A namespace in the engine's directory.
    Namespace(NetnsName),
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
        }
    }
}

/// Something that was left as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Left {
    /// What.
    pub object: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Repair;

    fn id(digit: char) -> SandboxId {
        digit.to_string().repeat(64).parse().expect("an id")
    }

    #[test]
    fn a_sandbox_lives_by_either_of_its_names() {
        let list: LiveList = ["one"].into_iter().collect();
        assert_eq!(list.judge(id('a'), "one"), Verdict::Lives);
        assert_eq!(list.judge(id('a'), "two"), Verdict::Dead);
        let list: LiveList = [id('a')].into_iter().collect();
        assert_eq!(list.judge(id('a'), "two"), Verdict::Lives);
        assert_eq!(list.judge(id('b'), "two"), Verdict::Dead);
        assert_eq!(LiveList::default().judge(id('b'), "two"), Verdict::Dead);
    }

    #[test]
    fn one_whose_container_is_lost_is_dead_on_nobodys_word() {
        let container = format!("{REBUILT_CONTAINER}{}", id('a').short());
        let list: LiveList = ["one"].into_iter().collect();
        assert_eq!(list.judge(id('a'), &container), Verdict::Unclear);
        assert_eq!(list.judge(id('b'), &container), Verdict::Dead, "only its own namespace makes it one");
        // The rest of a rebuilt identifier is filled up.
        let padded: SandboxId = format!("{:0<64}", id('a').short().to_string()).parse().expect("an id");
        let list: LiveList = [id('a')].into_iter().collect();
        assert_eq!(list.judge(padded, &container), Verdict::Lives);
        assert_eq!(list.judge(padded, "one"), Verdict::Dead, "a whole record has a whole identifier");
    }

    #[test]
    fn what_was_put_right_can_be_written_down_and_read_back() {
        let endpoints = vec!["e".repeat(64).parse().expect("an id")];
        let released = ReleasedSandbox { sandbox: id('a'), container_id: "web".into(), endpoints };
        let kept = |why: &str| (id('b'), "db".to_owned(), why.to_owned());
        let (sandbox, container_id, why) = kept("its network does not answer");
        for (repair, text) in [
            (
                Repair::DeadSandboxReleased(released),
                "container \"web\", which does not live, with its endpoint",
            ),
            (
                Repair::DeadSandboxKept { sandbox, container_id, why },
                "container \"db\", which does not live: its network does not answer",
            ),
            (
                Repair::LiveSandboxUnknown { sandbox: "ghost".into() },
                "container \"ghost\" lives, and is not recorded",
            ),
            (Repair::LiveSandboxUnknown { sandbox: id('c').into() }, "sandbox cccccccccccc lives"),
        ] {
            assert!(repair.to_string().contains(text), "{repair}");
            let json = serde_json::to_string(&repair).expect("written");
            assert_eq!(serde_json::from_str::<Repair>(&json).expect("read"), repair);
        }
    }

    #[test]
    fn those_that_nobody_knows_are_told() {
        let mut list: LiveList = ["one", "two"].into_iter().collect();
        list.insert(id('a'));
        list.insert(id('c'));
        let known = [(id('a'), "x".to_owned()), (id('b'), "one".to_owned())];
        let expected = [LiveSandbox::from("two"), LiveSandbox::from(id('c'))];
        assert_eq!(list.beyond(&known), expected);
    }
}
