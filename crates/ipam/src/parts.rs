//! The parts of an image in the store of a cluster.

use futures::future::join_all;
use netloom_model::Error;
use netloom_store::cluster::ClusterStore;
use netloom_store::{StoreError, decode, encode};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::default::DefaultIpam;
use crate::doubt::Gap;
use crate::head::{Head, IMAGES, PIECES, Piece, damaged, head_key, unusable};
use crate::image::{Contradiction, ImageError};
use crate::part::Key;
use crate::request::AddressSpace;
use crate::tree::{Edits, Name, Need, Node, Rebuild, Rebuilt};

/// How many calls of the store are under way at once.
const AT_ONCE: usize = 16;
/// How often it is asked again whether a part was written.
const TRIES: usize = 3;
/// How many parts that are of no use any more are removed with one image.
pub(crate) const REMOVED: usize = 256;
const GONE: &str = "it is not there";
const DAMAGED: &str = "it is not what it is named after";

/// The parts of the images of one history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub store: &'a dyn ClusterStore,
    pub history: Uuid,
}

/// Why an image cannot be had.
#[derive(Debug)]
pub(crate) enum Lack {
    /// Parts are not there, or not what they are named after: the head may have gone on, and taken its parts with it.
    Parts(Vec<(Name, &'static str)>),
    /// Anything else.
    Error(Error),
}

/// What was read of an image.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Its parts of level 0, by their names in order.
    pub leaves: Vec<Name>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

/// A part that is looked for, and the keys that it covers.
struct Sought {
    name: Name,
    from: Option<Key>,
    to: Option<Key>,
}

impl From<StoreError> for Lack {
    fn from(error: StoreError) -> Self {
        Self::Error(error.into())
    }
}

impl Parts<'_> {
    pub(crate) fn key(&self, name: Name) -> String {
        format!("{}{}", self.prefix(IMAGES), name.text())
    }

    /// The error for a part that makes no sense.
    fn odd(&self, name: Name, error: ImageError) -> Error {
        let key = self.key(name);
        match error {
            ImageError::Newer { found, known } => {
                let (found, known) = (found.into(), known.into());
                damaged(key, &StoreError::Newer { what: "the image".into(), found, known })
            }
            ImageError::Damaged(_) => unusable(key, error.to_string()),
        }
    }

    fn node(&self, name: Name, bytes: &[u8]) -> Result<Node, Lack> {
        Node::read(AddressSpace::Global.name(), bytes).map_err(|error| Lack::Error(self.odd(name, error)))
    }

    fn names<'b>(&self, name: Name, node: &'b Node) -> Result<Vec<(&'b Key, Name)>, Lack> {
        node.names().map_err(|error| Lack::Error(self.odd(name, error)))
    }

    /// Reads parts, those that are known already without the store; answers with those that cannot be had, and why.
    async fn try_read(
        &self,
        names: &[Name],
        known: &mut FxHashMap<Name, Vec<u8>>,
    ) -> Result<Vec<(Name, &'static str)>, Lack> {
        let mut lacking = Vec::new();
        let unknown: Vec<_> = names.iter().filter(|name| !known.contains_key(name)).copied().collect();
        for names in unknown.chunks(AT_ONCE) {
            let answers = join_all(names.iter().map(|name| self.store.get(&self.key(*name)))).await;
            for (name, answer) in names.iter().zip(answers) {
                match answer? {
                    None => lacking.push((*name, GONE)),
                    Some(found) if !name.is_of(&found.value) => lacking.push((*name, DAMAGED)),
                    Some(found) => drop(known.insert(*name, found.value)),
                }
            }
        }
        Ok(lacking)
    }

    /// The same for parts without which it cannot go on.
    async fn read(&self, names: &[Name], known: &mut FxHashMap<Name, Vec<u8>>) -> Result<(), Lack> {
        let lacking = self.try_read(names, known).await?;
        if lacking.is_empty() { Ok(()) } else { Err(Lack::Parts(lacking)) }
    }

    /// Reads an image, whole or, where a part cannot be had and this is asked for, what there is of it. `known` has what
    /// was read before, and then all that was read.
    pub(crate) async fn walk(
        &self,
        root: Name,
        known: &mut FxHashMap<Name, Vec<u8>>,
        whole: bool,
    ) -> Result<Walked, Lack> {
        let mut walked = Walked::default();
        let mut sought = vec![Sought { name: root, from: None, to: None }];
        loop {
            let names: Vec<_> = sought.iter().map(|sought| sought.name).collect();
            let lacking = self.try_read(&names, known).await?;
            if whole && !lacking.is_empty() {
                return Err(Lack::Parts(lacking));
            }
            let lacking: FxHashMap<_, _> = lacking.into_iter().collect();
            let (lost, here): (Vec<_>, Vec<_>) =
                sought.into_iter().partition(|sought| lacking.contains_key(&sought.name));
            walked.gaps.extend(lost.into_iter().map(|Sought { name, from, to }| {
                let why = lacking.get(&name).copied().unwrap_or(GONE);
                Gap { key: self.key(name), why, from, to }
            }));
            let (mut below, mut level) = (Vec::new(), None);
            for Sought { name, from, to } in &here {
                let bytes = known.get(name).map(Vec::as_slice).unwrap_or_default();
                // They are read once more as what they are.
                if level == Some(0) {
                    break;
                }
                let node = self.node(*name, bytes)?;
                if level.replace(node.level()).is_some_and(|level| level != node.level()) {
                    let why = ImageError::Damaged("it is of another level");
                    return Err(Lack::Error(self.odd(*name, why)));
                }
                let names = self.names(*name, &node)?;
                for (n, (first, name)) in names.iter().enumerate() {
                    // What comes before all others is the first one's.
                    let from = if n == 0 { from.clone() } else { Some((*first).clone()) };
                    let to = names.get(n + 1).map(|(next, _)| (*next).clone()).or_else(|| to.clone());
                    below.push(Sought { name: *name, from, to });
                }
            }
            if level.is_none_or(|level| level == 0) {
                walked.leaves = here.into_iter().map(|sought| sought.name).collect();
                return Ok(walked);
            }
            sought = below;
        }
    }

    /// Reads an image, or what there is of it, into an allocator in which nothing is in use, and tells what was left out.
    pub(crate) fn load<'b>(
        &self,
        ipam: &mut DefaultIpam,
        leaves: impl Iterator<Item = (Name, &'b [u8])>,
        whole: bool,
    ) -> Result<Vec<Contradiction>, Error> {
        let mut last = None;
        let leaves = leaves.map(|(name, bytes)| {
            last = Some(name);
            bytes
        });
        let loaded = ipam.load_parts(AddressSpace::Global, leaves, whole);
        loaded.map_err(|error| match last {
            Some(name) => self.odd(name, error),
            None => unusable(head_key(), error.to_string()),
        })
    }

    /// Makes the image that follows one, and writes what is new of it.
    pub(crate) async fn follow(
        &self,
        root: Option<Name>,
        image: u64,
        edits: &Edits,
    ) -> Result<Rebuilt, Lack> {
        let (space, mut known) = (AddressSpace::Global.name(), FxHashMap::default());
        let rebuilt = loop {
            match (Rebuild { space, image, edits, known: &known }).run(root) {
                Ok(rebuilt) => break rebuilt,
                Err(Need::Damaged(name, error)) => return Err(Lack::Error(self.odd(name, error))),
                Err(Need::Parts(names)) => {
                    let mut found = FxHashMap::default();
                    self.read(&names, &mut found).await?;
                    for (name, bytes) in found {
                        known.insert(name, self.node(name, &bytes)?);
                    }
                }
            }
        };
        for parts in rebuilt.new.chunks(AT_ONCE) {
            let keys: Vec<_> = parts.iter().map(|(name, bytes)| (self.key(*name), bytes)).collect();
            let written = join_all(keys.iter().map(|(key, bytes)| self.write(key, bytes))).await;
            written.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(rebuilt)
    }

    /// Keeps the changes of a head beside the image that they are in.
    pub(crate) async fn keep(&self, head: &Head) -> Result<(), StoreError> {
        let piece = Piece { after: head.image, changes: head.changes.clone() };
        self.write(&self.piece(head.last()), &encode(&piece)?).await
    }

    /// The key of the piece of the history that ends with so many changes.
    pub(crate) fn piece(&self, end: u64) -> String {
        format!("{}{end:020}", self.prefix(PIECES))
    }

    /// Writes what nobody ever changes. What is there already is the same: of somebody who did not come further, or was
    /// faster.
    async fn write(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            match self.store.swap(key, bytes.to_vec(), None).await {
                Ok(_) => return Ok(()),
                // Whether it is there is told when it is written once more. Nothing of the request is done before all are.
                Err(StoreError::CommitUncertain { message }) => {
                    outcome = Err(StoreError::Unreachable { message });
                }
                Err(error) => return Err(error),
            }
        }
        outcome
    }

    /// Removes parts of which no image is made any more, and the piece of the history that the head has no more. What stays
    /// is found by [`Parts::sweep`].
    pub(crate) async fn remove(&self, names: &[Name], head: &Head) {
        let mut keys: Vec<_> = names.iter().take(REMOVED).map(|name| self.key(*name)).collect();
        keys.extend(head.pieces.first().map(|end| self.piece(*end)));
        self.remove_keys(&keys).await;
    }

    async fn remove_keys(&self, keys: &[String]) {
        for keys in keys.chunks(AT_ONCE) {
            join_all(keys.iter().map(|key| self.store.remove(key))).await;
        }
    }

    /// Removes what is left of images that nobody finished, of removals that failed, and of histories of before, so much at
    /// a time. Parts of later images than that of this head may be about to be used.
    ///
    /// Answers whether parts are not there that should be.
    pub(crate) async fn sweep(&self, head: &Head, at_most: usize) -> bool {
        let live = match self.live(head.root).await {
            Ok(live) => live,
            Err(Lack::Parts(_)) => return self.is_latest(head).await,
            Err(Lack::Error(_)) => return false,
        };
        let Ok(mut keys) = self.store.keys(IMAGES).await else { return false };
        keys.extend(self.store.keys(PIECES).await.unwrap_or_default());
        // What is of other histories was so before this one, if the head is of this one after it was listed.
        let now = self.store.get(&head_key()).await.ok().flatten();
        let now = now.and_then(|found| decode::<Head>(&found.value).ok());
        if now.is_none_or(|now| now.history != self.history) {
            return false;
        }
        let (parts, pieces) = (self.prefix(IMAGES), self.prefix(PIECES));
        let useless = |key: &String| {
            if let Some(name) = key.strip_prefix(&parts) {
                Name::parse(name).is_some_and(|name| name.image <= head.image && !live.contains(&name))
            } else if let Some(end) = key.strip_prefix(&pieces) {
                end.parse::<u64>()
                    .is_ok_and(|end| end <= head.image && !head.pieces.iter().skip(1).any(|of| *of == end))
            } else {
                true
            }
        };
        let there: FxHashSet<_> =
            keys.iter().filter_map(|key| Name::parse(key.strip_prefix(&parts)?)).collect();
        let keys: Vec<_> = keys.into_iter().filter(useless).take(at_most).collect();
        self.remove_keys(&keys).await;
        !live.is_subset(&there) && self.is_latest(head).await
    }

    /// Whether the image of a head is that of today still.
    pub(crate) async fn is_latest(&self, head: &Head) -> bool {
        let now = self.store.get(&head_key()).await.ok().flatten();
        let now = now.and_then(|found| decode::<Head>(&found.value).ok());
        now.is_some_and(|now| (now.history, now.image, now.root) == (head.history, head.image, head.root))
    }

    /// What the keys of this history begin with.
    fn prefix(&self, of: &str) -> String {
        format!("{of}{}/", self.history.simple())
    }

    /// The names of all parts of an image.
    async fn live(&self, root: Option<Name>) -> Result<FxHashSet<Name>, Lack> {
        let mut names: Vec<_> = root.into_iter().collect();
        let mut live = FxHashSet::default();
        while !names.is_empty() {
            live.extend(names.iter().copied());
            let mut known = FxHashMap::default();
            // All of them are of one level: what the first is tells whether there is anything below.
            self.read(&names[..1], &mut known).await?;
            let Some(bytes) = known.get(&names[0]) else { break };
            if self.node(names[0], bytes)?.level() == 0 {
                break;
            }
            self.read(&names, &mut known).await?;
            let mut below = Vec::new();
            for (name, bytes) in &known {
                let node = self.node(*name, bytes)?;
                below.extend(self.names(*name, &node)?.into_iter().map(|(_, name)| name));
            }
            names = below;
        }
        Ok(live)
    }
}
