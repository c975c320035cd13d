//! The history of a cluster's address space in the store: looked at, followed, and added to.

use netloom_model::{EndpointId, Error, NetworkId, Reason, Result};
use netloom_store::cluster::{Revision, Swapped};
use netloom_store::{StoreError, decode, encode};
use rustc_hash::FxHashSet;
use uuid::Uuid;

use crate::back_off::back_off;
use crate::change::Change;
use crate::cluster::ClusterIpam;
use crate::default::DefaultIpam;
use crate::head::{Head, damaged, head_key, unusable};
use crate::image::{Contradiction, ImageError};
use crate::request::AddressSpace;

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
    /// What the store says and cannot be.
    pub(crate) found: Vec<Contradiction>,
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
                Ok(true) => return Ok(answer),
                Ok(false) => {
                    late += 1;
                    replica.others = BELIEVED;
                    self.rest.of(back_off(&self.place.host, replica.at, late)).await;
                }
                // It is not known whether it was made, which the next look tells.
                Err(StoreError::CommitUncertain { .. }) => asked = true,
                Err(error) if asked => return Err(Error::from(error).uncertain()),
                Err(error) => return Err(error.into()),
            }
        }
        let why = "others change the address space all the time".to_owned();
        let error =
            Error::from(Reason::ClusterStore { key: head_key(), why, remedy: "retry after a pause".into() });
        Err(if asked { error.uncertain() } else { error })
    }

    /// Adds changes to the head that was seen last, and follows them. `false` when it is not the last any more. Also when
    /// this is dropped half-way, the head is looked at before the next change.
    async fn append(&self, replica: &mut Replica, changes: Vec<Change>) -> Result<bool, StoreError> {
        let Some((mut head, revision)) = replica.seen.take() else { return Ok(false) };
        let before = head.image;
        if head.is_long() {
            head = Head { history: head.history, image: head.last(), changes: Vec::new() };
            let image = replica.ipam.image(AddressSpace::Global);
            // One that is there already is of the same changes: of somebody who did not come further.
            self.store.swap(&head.image_key(), image, None).await?;
        }
        head.changes.extend(changes.iter().cloned());
        replica.unclear = true;
        let swapped = match self.store.swap(&head_key(), encode(&head)?, revision).await {
            Err(error) if !matches!(error, StoreError::CommitUncertain { .. }) => {
                replica.unclear = false;
                return Err(error);
            }
            swapped => swapped?,
        };
        // Whatever was on its way before has come too late now.
        replica.unclear = false;
        let Swapped::Done(revision) = swapped else { return Ok(false) };
        changes.iter().for_each(|change| replica.follow(change));
        let (last, images) = (head.image_key(), head.image != before);
        replica.in_a_row += 1;
        replica.others = replica.others.saturating_sub(1);
        if replica.in_a_row < IN_A_ROW {
            replica.seen = Some((head, Some(revision)));
        }
        if images {
            self.clear_before(&last).await;
        }
        Ok(true)
    }

    /// Removes images that no head begins with any more. Later ones may be about to be used.
    async fn clear_before(&self, last: &str) {
        // What stays is removed with the next image.
        let of_history = last.rsplit_once('/').map_or(last, |(images, _)| images);
        let Ok(keys) = self.store.keys(of_history).await else { return };
        for key in keys.iter().filter(|key| key.as_str() < last) {
            let _ = self.store.remove(key).await;
        }
    }

    /// Looks at the head and follows what others have changed.
    async fn look(&self, replica: &mut Replica) -> Result<()> {
        replica.in_a_row = 0;
        for _ in 0..ATTEMPTS {
            let Some(found) = self.store.get(&head_key()).await? else {
                if replica.at > 0 {
                    return Err(lost("it is gone from the store"));
                }
                let head = Head { history: self.place.start, image: 0, changes: Vec::new() };
                replica.begin(self.place.start);
                replica.seen = Some((head, None));
                return Ok(());
            };
            let head: Head = decode(&found.value).map_err(|error| damaged(head_key(), &error))?;
            if replica.at > 0 && (replica.history != head.history || replica.at > head.last()) {
                return Err(lost("the store has been set back, or begun anew"));
            }
            let within = (head.image..=head.last()).contains(&replica.at) && replica.history == head.history;
            if !within && !self.read_image(replica, &head).await? {
                // The head has gone on, and taken its image with it.
                continue;
            }
            let known = usize::try_from(replica.at - head.image).unwrap_or(usize::MAX);
            if known < head.changes.len() {
                replica.others = BELIEVED;
            }
            head.changes.iter().skip(known).for_each(|change| replica.follow(change));
            replica.seen = Some((head, Some(found.revision)));
            return Ok(());
        }
        Err(unusable(head_key(), "the image that it names is not there"))
    }

    /// Begins anew at the image of a head; `false` when it is not there.
    async fn read_image(&self, replica: &mut Replica, head: &Head) -> Result<bool> {
        if head.image == 0 {
            replica.begin(head.history);
            return Ok(true);
        }
        let Some(image) = self.store.get(&head.image_key()).await? else { return Ok(false) };
        replica.begin(head.history);
        let loaded = replica.ipam.load_image(AddressSpace::Global, &image.value);
        let found = loaded.map_err(|error| match error {
            ImageError::Newer { found, known } => {
                let (found, known) = (found.into(), known.into());
                damaged(head.image_key(), &StoreError::Newer { what: "the image".into(), found, known })
            }
            ImageError::Damaged(_) => unusable(head.image_key(), error.to_string()),
        })?;
        replica.found.extend(found);
        replica.at = head.image;
        for (network, endpoint) in replica.quarantined.clone() {
            replica.ipam.quarantine(network, endpoint);
        }
        Ok(true)
    }
}

impl Replica {
    /// Of an engine that has not looked yet.
    pub(crate) fn new(ipam: DefaultIpam, history: Uuid) -> Self {
        let (quarantined, found) = (FxHashSet::default(), Vec::new());
        let (seen, in_a_row, others, claimed, unclear) = (None, 0, 0, false, false);
        Self { ipam, history, at: 0, seen, in_a_row, others, claimed, unclear, quarantined, found }
    }

    /// Nothing has changed yet.
    fn begin(&mut self, history: Uuid) {
        self.ipam = self.ipam.without_networks();
        (self.history, self.at) = (history, 0);
    }

    /// Makes a change that is in the store.
    fn follow(&mut self, change: &Change) {
        self.at += 1;
        if let Err(error) = self.ipam.apply(change) {
            // Nobody can have added it; everybody leaves it out alike.
            self.found.push(Contradiction { what: format!("{change:?}"), why: error.to_string() });
        }
    }
}

/// What was given away is not known to the store any more: to go on would give it away again.
fn lost(why: &str) -> Error {
    let remedy = "start the engines of all hosts again, one after the other, so that each says what it has";
    Reason::ClusterStore { key: head_key(), why: why.to_owned(), remedy: remedy.to_owned() }.into()
}
