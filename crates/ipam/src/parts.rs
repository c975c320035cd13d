//! The parts of an image in the store of a cluster.

use futures::future::join_all;
use netloom_model::Error;
use netloom_store::cluster::ClusterStore;
use netloom_store::{StoreError, decode, encode};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::default::DefaultIpam;
use crate::head::{Head, IMAGES, PIECES, Piece, damaged, head_key, unusable};
use crate::image::{Contradiction, ImageError};
use crate::request::AddressSpace;
use crate::tree::{Edits, Name, Need, Node, Rebuild, Rebuilt};

/// How many calls of the store are under way at once.
const AT_ONCE: usize = 16;
/// How often it is asked again whether a part was written.
const TRIES: usize = 3;
/// How many parts that are of no use any more are removed with one image.
const REMOVED: usize = 256;

/// The parts of the images of one history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub store: &'a dyn ClusterStore,
    pub history: Uuid,
}

/// Why an image cannot be had.
#[derive(Debug)]
pub(crate) enum Lack {
    /// A part is not there: the head may have gone on, and taken its parts with it.
    Missing(Name),
    /// Anything else.
    Error(Error),
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

    fn names(&self, name: Name, node: &Node) -> Result<Vec<Name>, Lack> {
        node.names().map_err(|error| Lack::Error(self.odd(name, error)))
    }

    /// Reads parts, in this order, those that are known already without the store.
    async fn read(&self, names: &[Name], known: &mut FxHashMap<Name, Vec<u8>>) -> Result<(), Lack> {
        let unknown: Vec<_> = names.iter().filter(|name| !known.contains_key(name)).copied().collect();
        for names in unknown.chunks(AT_ONCE) {
            let answers = join_all(names.iter().map(|name| self.store.get(&self.key(*name)))).await;
            for (name, answer) in names.iter().zip(answers) {
                let found = answer?.ok_or(Lack::Missing(*name))?;
                if !name.is_of(&found.value) {
                    let why = ImageError::Damaged("it is not what it is named after");
                    return Err(Lack::Error(self.odd(*name, why)));
                }
                known.insert(*name, found.value);
            }
        }
        Ok(())
    }

    /// Reads a whole image: its parts of level 0, by their names in order. `known` has what was read before, and then all
    /// that was read.
    pub(crate) async fn leaves(
        &self,
        root: Name,
        known: &mut FxHashMap<Name, Vec<u8>>,
    ) -> Result<Vec<Name>, Lack> {
        let mut names = vec![root];
        loop {
            self.read(&names, known).await?;
            let (mut below, mut level) = (Vec::new(), None);
            for name in &names {
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
                below.extend(self.names(*name, &node)?);
            }
            if level.is_none_or(|level| level == 0) {
                return Ok(names);
            }
            names = below;
        }
    }

    /// Reads an image into an allocator in which nothing is in use, and tells what was left out.
    pub(crate) fn load<'b>(
        &self,
        ipam: &mut DefaultIpam,
        leaves: impl Iterator<Item = (Name, &'b [u8])>,
    ) -> Result<Vec<Contradiction>, Error> {
        let mut last = None;
        let leaves = leaves.map(|(name, bytes)| {
            last = Some(name);
            bytes
        });
        let loaded = ipam.load_parts(AddressSpace::Global, leaves);
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
    pub(crate) async fn sweep(&self, head: &Head) {
        let Ok(live) = self.live(head.root).await else { return };
        let Ok(mut keys) = self.store.keys(IMAGES).await else { return };
        keys.extend(self.store.keys(PIECES).await.unwrap_or_default());
        // What is of other histories was so before this one, if the head is of this one after it was listed.
        let now = self.store.get(&head_key()).await.ok().flatten();
        let now = now.and_then(|found| decode::<Head>(&found.value).ok());
        if now.is_none_or(|now| now.history != self.history) {
            return;
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
        let keys: Vec<_> = keys.into_iter().filter(useless).take(REMOVED).collect();
        self.remove_keys(&keys).await;
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
                below.extend(self.names(*name, &node)?);
            }
            names = below;
        }
        Ok(live)
    }
}
