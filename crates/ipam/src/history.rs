//! The history of a cluster's address space in the store: looked at, followed, and added to.

use std::collections::VecDeque;

use netloom_model::{EndpointId, Error, NetworkId, Reason, Result};
use netloom_store::cluster::{Revision, Swapped};
use netloom_store::{StoreError, decode, encode};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::back_off::back_off;
use crate::change::Change;
use crate::cluster::ClusterIpam;
use crate::default::DefaultIpam;
use crate::head::{Head, LARGEST, Piece, check_size, damaged, head_key, unusable};
use crate::image::Contradiction;
use crate::parts::{Lack, Parts, REMOVED, Walked};
use crate::request::AddressSpace;
use crate::touched::Touched;
use crate::tree::{Name, Rebuilt};

/// How many changes are made at once, where there are many: the head has a limit.
pub(crate) const AT_ONCE: usize = 48;
/// How many times others may be faster, or the store unclear, before a request gives up.
pub(crate) const ATTEMPTS: usize = 32;
/// How many changes a host makes in a row by what it knows. Whoever has just changed the head is faster than those who have
/// to look first, so then it looks again as well, and rests before that where there are others: they come in between
/// however many changes it has.
const IN_A_ROW: u32 = 8;
/// How it rests then: as one that was too late so many times.
const TURN: u32 = 3;
/// For how many changes it is believed that there are others, after one was seen.
const BELIEVED: u32 = 64;

/// What this host knows of the space.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) ipam: DefaultIpam,
    pub(crate) history: Uuid,
    /// How many changes were followed.
    pub(crate) at: u64,
    /// The head as it was last seen and its version, while nobody is known to have changed it.
    pub(crate) seen: Option<(Head, Option<Revision>)>,
    /// How many changes were made since the head was looked at.
    pub(crate) in_a_row: u32,
    /// For how many more changes it is believed that others change the space as well.
    pub(crate) others: u32,
    /// Whether the host's name is known to be this engine's.
    pub(crate) claimed: bool,
    /// Whether a change may still come into effect though nobody waits for it any more. Only another change of the head
    /// keeps it out.
    pub(crate) unclear: bool,
    /// Endpoints of this host whose links are dying.
    pub(crate) quarantined: FxHashSet<(NetworkId, EndpointId)>,
    /// Endpoints of this host that others know by another name.
    pub(crate) renamed: FxHashMap<(NetworkId, EndpointId), Box<str>>,
    /// What the store says and cannot be.
    pub(crate) found: Vec<Contradiction>,
    /// The uppermost part of an image that is known not to be whole in the store, though this host knows all of it.
    broken: Option<Name>,
    /// What the changes since the last image have made different, each with the number of its change.
    touched: VecDeque<(u64, Touched)>,
}

/// What came of changes that were to be added to the head.
enum Added {
    /// They are in it.
    Yes,
    /// The head has gone on; nothing was done.
    Late,
    /// It is not known, which the next look tells.
    Unclear,
}

impl ClusterIpam {
    /// Makes the changes that `plan` wants, by the space as it is. `plan` leaves it as it was, and is asked again when
    /// that was not of today.
    pub(crate) async fn change<T>(
        &self,
        mut plan: impl FnMut(&mut DefaultIpam) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        let mut replica = self.replica.lock().await;
        if !replica.claimed {
            self.place.claim(&*self.store).await?;
            replica.claimed = true;
        }
        let (mut asked, mut late) = (false, 0);
        for _ in 0..ATTEMPTS {
            let looked = replica.seen.is_none();
            if looked {
                if replica.in_a_row >= IN_A_ROW && replica.others > 0 {
                    self.rest.of(back_off(&self.place.host, replica.at, TURN)).await;
                }
                // What was asked for before may have been done.
                self.look(&mut replica)
                    .await
                    .map_err(|error| if asked { error.uncertain() } else { error })?;
            }
            let (changes, answer) = match plan(&mut replica.ipam) {
                Ok(planned) => planned,
                Err(refusal) if looked => return Err(refusal),
                // It may be the refusal of yesterday.
                Err(_) => {
                    replica.seen = None;
                    continue;
                }
            };
            if changes.is_empty() && looked && !replica.unclear {
                return Ok(answer);
            }
            if changes.is_empty() && !looked {
                replica.seen = None;
                continue;
            }
            match self.append(&mut replica, changes).await {
                Ok(Added::Yes) => return Ok(answer),
                Ok(Added::Late) => {
                    late += 1;
                    replica.others = BELIEVED;
                    self.rest.of(back_off(&self.place.host, replica.at, late)).await;
                }
                Ok(Added::Unclear) => asked = true,
                Err(error) if asked => return Err(error.uncertain()),
                Err(error) => return Err(error),
            }
        }
        Err(restless(asked))
    }

    /// The same for changes that may be many. They are made so many at a time, and those that somebody has made before their
    /// turn comes are left out.
    pub(crate) async fn change_in_parts<T>(
        &self,
        mut plan: impl FnMut(&mut DefaultIpam) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        let first = self.change(|ipam| {
            let (mut changes, answer) = plan(ipam)?;
            let rest = changes.split_off(changes.len().min(AT_ONCE));
            Ok((changes, (rest, answer)))
        });
        let (rest, answer) = first.await?;
        for part in rest.chunks(AT_ONCE) {
            let missing = self.change(|ipam| Ok((ipam.missing(part)?, ())));
            // Of what was planned a part is done.
            missing.await.map_err(Error::uncertain)?;
        }
        Ok(answer)
    }

    /// Adds changes to the head that was seen last, and follows them. Also when this is dropped half-way, the head is looked
    /// at before the next change.
    async fn append(&self, replica: &mut Replica, changes: Vec<Change>) -> Result<Added> {
        let Some((mut head, revision)) = replica.seen.take() else { return Ok(Added::Late) };
        let mut cleared = None;
        // Who does not know all makes no image: it would be no better.
        let knows_all = replica.ipam.check_whole();
        let anew = head.broken || (replica.broken.is_some() && replica.broken == head.root);
        if knows_all.is_ok() && (head.is_long() || anew) {
            let Some(rebuilt) = self.rebuild(replica, &head, revision, anew).await? else {
                return Ok(Added::Late);
            };
            let (next, sweep) = head.after(&rebuilt);
            cleared = Some((rebuilt.old, sweep, rebuilt.anew));
            head = next;
        }
        head.changes.extend(changes.iter().cloned());
        let value = encode(&head)?;
        check_size(value.len().saturating_sub(head.bytes))?;
        head.bytes = value.len();
        if head.bytes > LARGEST {
            knows_all?;
        }
        replica.unclear = true;
        let swapped = match self.store.swap(&head_key(), value, revision).await {
            Err(StoreError::CommitUncertain { .. }) => return Ok(Added::Unclear),
            swapped => swapped,
        };
        // Whatever was on its way before has come too late now, if this has not failed.
        replica.unclear = false;
        let Swapped::Done(revision) = swapped? else { return Ok(Added::Late) };
        changes.iter().for_each(|change| replica.follow(change));
        replica.forget_touched(head.image);
        replica.in_a_row += 1;
        replica.others = replica.others.saturating_sub(1);
        if replica.in_a_row < IN_A_ROW {
            replica.seen = Some((head.clone(), Some(revision)));
        }
        if let Some((old, sweep, anew)) = cleared {
            replica.broken = None;
            let parts = Parts { store: &*self.store, history: head.history };
            parts.remove(&old, &head).await;
            if sweep && parts.sweep(&head, if anew { usize::MAX } else { REMOVED }).await {
                replica.broken = head.root;
            }
        }
        Ok(Added::Yes)
    }

    /// Writes the image of all changes of a head, which this host has followed: anew if the one before is not whole. `None`
    /// when the head has gone on.
    async fn rebuild(
        &self,
        replica: &Replica,
        head: &Head,
        revision: Option<Revision>,
        mut anew: bool,
    ) -> Result<Option<Rebuilt>> {
        let parts = Parts { store: &*self.store, history: head.history };
        loop {
            let (before, edits) = if anew {
                (None, replica.ipam.all_anew(AddressSpace::Global))
            } else {
                let touched = replica.touched.iter().map(|(_, touched)| touched);
                (head.root, replica.ipam.edits(AddressSpace::Global, touched))
            };
            match parts.follow(before, head.last(), &edits).await {
                Ok(rebuilt) => {
                    parts.keep(head).await?;
                    return Ok(Some(Rebuilt { anew, ..rebuilt }));
                }
                Err(Lack::Error(error)) => return Err(error),
                Err(Lack::Parts(_))
                    if self.store.get(&head_key()).await?.map(|found| found.revision) != revision =>
                {
                    return Ok(None);
                }
                // All of it is known here.
                Err(Lack::Parts(_)) if !anew => anew = true,
                Err(Lack::Parts(lacking)) => {
                    let (name, why) =
                        lacking.first().map_or((None, "it is not there"), |(name, why)| (Some(*name), *why));
                    return Err(unusable(name.map_or_else(head_key, |name| parts.key(name)), why));
                }
            }
        }
    }

    /// Looks at the head and follows what others have changed.
    async fn look(&self, replica: &mut Replica) -> Result<()> {
        replica.in_a_row = 0;
        let (mut known, mut missing, mut anew) = (FxHashMap::default(), None, false);
        for _ in 0..ATTEMPTS {
            let Some(found) = self.store.get(&head_key()).await? else {
                if replica.at > 0 {
                    return Err(lost("it is gone from the store"));
                }
                replica.begin(self.place.start);
                replica.seen = Some((Head::new(self.place.start), None));
                return Ok(());
            };
            let mut head: Head = decode(&found.value).map_err(|error| damaged(head_key(), &error))?;
            head.bytes = found.value.len();
            if replica.at > 0 && (replica.history != head.history || replica.at > head.last()) {
                return Err(lost("the store has been set back, or begun anew"));
            }
            let within = (head.image..=head.last()).contains(&replica.at) && replica.history == head.history;
            // Whoever writes the next image knows what this host does not.
            let outgrown = replica.ipam.doubts.as_ref().is_some_and(|doubts| doubts.root != head.root);
            if outgrown || (!within && !self.catch_up(replica, &head, false).await?) {
                anew = true;
                missing = self.read_image(replica, &head, &mut known, missing).await?;
                if missing.is_some() {
                    // The head has gone on, and taken parts of its image with it. What is left is known by now.
                    continue;
                }
            }
            replica.forget_touched(head.image);
            let known = usize::try_from(replica.at - head.image).unwrap_or(usize::MAX);
            if known < head.changes.len() {
                replica.others = BELIEVED;
            }
            head.changes.iter().skip(known).for_each(|change| replica.follow(change));
            if std::mem::take(&mut anew) {
                replica.know_own();
            }
            let Some(revision) = self.ask_for_all(replica, &mut head, found.revision).await? else {
                continue;
            };
            replica.seen = Some((head, Some(revision)));
            return Ok(());
        }
        Err(missing.map_or_else(|| restless(false), |(key, _)| unusable(key, "it is not there")))
    }

    /// Notes in the head that its image is not whole, for those who know all; answers with its version then. `None` when it
    /// has gone on.
    async fn ask_for_all(
        &self,
        replica: &Replica,
        head: &mut Head,
        revision: Revision,
    ) -> Result<Option<Revision>> {
        if head.broken || replica.ipam.doubts.is_none() {
            return Ok(Some(revision));
        }
        head.broken = true;
        let value = encode(head)?;
        head.bytes = value.len();
        match self.store.swap(&head_key(), value, Some(revision)).await {
            Ok(Swapped::Done(revision)) => Ok(Some(revision)),
            Ok(Swapped::Changed) | Err(StoreError::CommitUncertain { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows the pieces of the history up to the image of a head; `false` when they do not begin early enough, or one is not
    /// there as it was: the image has all that is in them.
    async fn catch_up(&self, replica: &mut Replica, head: &Head, from_nothing: bool) -> Result<bool> {
        let begun = head.pieces.first().is_some_and(|first| *first <= replica.at);
        if replica.history != head.history || (replica.at == 0 && !from_nothing) || !begun {
            return Ok(false);
        }
        let parts = Parts { store: &*self.store, history: head.history };
        for end in &head.pieces {
            if *end <= replica.at {
                continue;
            }
            let Some(found) = self.store.get(&parts.piece(*end)).await? else { return Ok(false) };
            let Ok(piece) = decode::<Piece>(&found.value) else { return Ok(false) };
            let known = replica.at.checked_sub(piece.after).and_then(|known| usize::try_from(known).ok());
            let Some(known) = known else { return Ok(false) };
            piece.changes.iter().skip(known).for_each(|change| replica.follow(change));
        }
        Ok(replica.at == head.image)
    }

    /// Begins anew at the image of a head; answers with the key of a part that cannot be had, if there is one, and the image
    /// that it is of. `known` has what was read of it before, and then all that was read.
    ///
    /// Where the same was `missing` at the look before, it is lost. Then the history may go back to its beginning; if not, what
    /// there is of the image is read, and the rest is in doubt.
    async fn read_image(
        &self,
        replica: &mut Replica,
        head: &Head,
        known: &mut FxHashMap<Name, Vec<u8>>,
        missing: Missing,
    ) -> Result<Missing> {
        let parts = Parts { store: &*self.store, history: head.history };
        let whole = missing.is_none_or(|(_, root)| root != head.root);
        let walked = match head.root {
            None => Walked::default(),
            Some(root) => match parts.walk(root, known, whole).await {
                Ok(walked) => walked,
                Err(Lack::Parts(lacking)) => {
                    let key = lacking.first().map_or_else(head_key, |(name, _)| parts.key(*name));
                    return Ok(Some((key, head.root)));
                }
                Err(Lack::Error(error)) => return Err(error),
            },
        };
        let broken = !walked.gaps.is_empty();
        if let Some(gap) = walked.gaps.first()
            && !parts.is_latest(head).await
        {
            // It was removed, and rightly.
            return Ok(Some((gap.key.clone(), head.root)));
        }
        replica.begin(head.history);
        if broken && head.pieces.first() == Some(&0) {
            if self.catch_up(replica, head, true).await? {
                replica.broken = head.root;
                return Ok(None);
            }
            replica.begin(head.history);
        }
        let leaves = walked.leaves.iter().filter_map(|name| Some((*name, known.get(name)?.as_slice())));
        replica.found.extend(parts.load(&mut replica.ipam, leaves, !broken)?);
        if broken {
            replica.ipam.set_doubts(head.root, walked.gaps);
        }
        replica.at = head.image;
        Ok(None)
    }
}

/// A part of an image that cannot be had: its key, and the uppermost part.
type Missing = Option<(String, Option<Name>)>;

impl Replica {
    /// Of an engine that has not looked yet.
    pub(crate) fn new(ipam: DefaultIpam, history: Uuid) -> Self {
        let (quarantined, renamed, found) = (FxHashSet::default(), FxHashMap::default(), Vec::new());
        let (seen, in_a_row, others, claimed, unclear) = (None, 0, 0, false, false);
        let (broken, touched) = (None, VecDeque::new());
        Self {
            ipam,
            history,
            at: 0,
            seen,
            in_a_row,
            others,
            claimed,
            unclear,
            quarantined,
            renamed,
            found,
            broken,
            touched,
        }
    }

    /// Nothing has changed yet.
    fn begin(&mut self, history: Uuid) {
        self.ipam = self.ipam.without_networks();
        (self.history, self.at) = (history, 0);
        self.touched.clear();
    }

    /// Notes what this host alone knows of its endpoints, where they were read anew.
    fn know_own(&mut self) {
        for (network, endpoint) in &self.quarantined {
            self.ipam.quarantine(*network, *endpoint);
        }
        for ((network, endpoint), name) in &self.renamed {
            self.ipam.rename(*network, *endpoint, name);
        }
    }

    /// An endpoint of this host has another name.
    pub(crate) fn rename(&mut self, network: NetworkId, endpoint: EndpointId, name: &str) {
        self.renamed.insert((network, endpoint), name.into());
        self.ipam.rename(network, endpoint, name);
    }

    /// Forgets what was different before an image.
    fn forget_touched(&mut self, image: u64) {
        while self.touched.pop_front_if(|(at, _)| *at <= image).is_some() {}
    }

    /// Makes a change that is in the store.
    fn follow(&mut self, change: &Change) {
        self.at += 1;
        let touched = self.ipam.touched(change);
        self.touched.extend(touched.into_iter().map(|touched| (self.at, touched)));
        let applied = self.ipam.apply(change);
        if self.ipam.doubts.is_some() {
            // What is not known here may be what it is about.
            return self.ipam.doubt_again(change);
        }
        if let Err(error) = applied {
            // Nobody can have added it; everybody leaves it out alike.
            self.found.push(Contradiction { what: format!("{change:?}"), why: error.to_string() });
        }
    }
}

/// The error for one who was too late each time; whether he may have changed something.
fn restless(asked: bool) -> Error {
    let why = "others change the address space all the time".to_owned();
    let error =
        Error::from(Reason::ClusterStore { key: head_key(), why, remedy: "retry after a pause".into() });
    if asked { error.uncertain() } else { error }
}

/// What was given away is not known to the store any more: to go on would give it away again.
fn lost(why: &str) -> Error {
    let remedy = "start the engines of all hosts again, one after the other, so that each says what it has";
    Reason::ClusterStore { key: head_key(), why: why.to_owned(), remedy: remedy.to_owned() }.into()
}
