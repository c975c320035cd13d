//! A fault at every step of a start: it fails with a typed error or it says what is out of service, nobody is
//! cut off, and the next start puts everything right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use netloom::snapshot::{EngineSnapshot, NetworkPhase, SandboxPhase};
use netloom::testkit::{Fault, FaultKind};
use netloom::{Error, ErrorKind};

use crate::mortal::{Blind, Death, Mortal};
use crate::support::note;
use crate::wreck::{Damage, Silent, Still, Wreck, killed_after};

/// `EBUSY`.
const EBUSY: i32 = 16;

const KINDS: [FaultKind; 4] =
    [FaultKind::Refuse(EBUSY), FaultKind::Lose, FaultKind::LoseBefore, FaultKind::Hang];

/// Long enough for whatever a start leaves to do behind its back, and for the janitor to come round.
const WHILE: Duration = Duration::from_secs(100);

/// What became of a start with a fault.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    /// Everything is in service.
    Whole,
    /// So many objects are out of service.
    Without(usize),
    /// It failed with an error of this kind.
    Failed(String),
}

/// Checks what a started engine says: everything that is recorded is listed, in service, or out of it with a
/// reason.
fn judge(wreck: &Wreck, picture: &EngineSnapshot) -> Result<End, String> {
    let mut without = 0;
    let networks = picture.networks.iter().map(|network| network.name.as_str());
    let sandboxes = picture.sandboxes.iter().map(|sandbox| sandbox.container_id.as_str());
    let listed: Vec<_> = networks.chain(sandboxes).collect();
    if listed != ["blue", "lan", "c1", "c2"] {
        return Err(format!("it lists {listed:?}"));
    }
    for (was, is) in wreck.networks.iter().zip(&picture.networks) {
        match (is.phase, &is.failure) {
            (NetworkPhase::Active, None) => {}
            (NetworkPhase::Failed, Some(_)) => without += 1,
            other => return Err(format!("network {} is {other:?}", is.name)),
        }
        if was.endpoints != is.endpoints {
            return Err(format!("endpoints of {} were {:?}, are {:?}", is.name, was.endpoints, is.endpoints));
        }
    }
    for (was, is) in wreck.sandboxes.iter().zip(&picture.sandboxes) {
        match (is.phase, &is.failure) {
            (SandboxPhase::Ready, None) => {}
            (SandboxPhase::Failed, Some(_)) => without += 1,
            other => return Err(format!("sandbox {} is {other:?}", is.container_id)),
        }
        if was.endpoints != is.endpoints {
            return Err(format!("in {} were {:?}, are {:?}", is.container_id, was.endpoints, is.endpoints));
        }
    }
    Ok(if without == 0 { End::Whole } else { End::Without(without) })
}

/// A fault of one start.
#[derive(Clone, Copy, Debug)]
struct Case {
    damage: Damage,
    /// Whether it is a lookup that fails, or an operation.
    lookup: bool,
    kind: FaultKind,
    n: u64,
}

impl Case {
    /// What a start with this fault comes to; `None` when it has no n-th step.
    fn run(self) -> Result<Option<End>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let wreck = runtime.block_on(Wreck::new(self.damage));
        let silent = wreck.silent();
        let nth = if self.lookup { i64::try_from(self.n).expect("few") } else { 0 };
        let blind = Blind::at(nth, self.kind);
        if !self.lookup {
            wreck.kernel.plan(Fault::nth(self.n, self.kind));
        }
        let mortal = Mortal::new(wreck.kernel.clone(), Death::never()).blind(blind.clone());
        let end = killed_after(Arc::new(mortal), &wreck.disk, async |started| {
            self.live(&wreck, &silent, &blind, started).await
        });
        wreck.kernel.clear_faults();
        wreck.kernel.release();
        runtime.block_on(next(&wreck))?;
        end
    }

    /// The life of an engine that was started with the fault.
    async fn live(
        self,
        wreck: &Wreck,
        silent: &Silent,
        blind: &Blind,
        started: Result<Still, Error>,
    ) -> Result<Option<End>, String> {
        let happened = || blind.happened() && wreck.kernel.pending_faults().is_empty();
        cut_off(wreck, silent)?;
        let still = match started {
            Ok(still) => still,
            Err(error) => return self.failed(&error).map(Some),
        };
        // What ran out of time together with the start says so a moment later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let end = judge(wreck, &still.inspect().await)?;
        if happened() && self.n.is_multiple_of(2) {
            // Killed now, whatever it has still to do.
            return Ok(Some(end));
        }
        tokio::time::sleep(WHILE).await;
        let happened = happened();
        wreck.kernel.clear_faults();
        wreck.kernel.release();
        blind.over();
        tokio::time::sleep(WHILE).await;
        let picture = still.inspect().await;
        if !picture.leaks.is_empty() || !picture.operations.is_empty() || picture.reaping > 0 {
            return Err(format!("it does not settle: {:?} {:?}", picture.leaks, picture.operations));
        }
        let now = judge(wreck, &picture)?;
        if now != end {
            return Err(format!("it was {end:?}, and is {now:?}"));
        }
        cut_off(wreck, if end == End::Whole { const { &Silent::new() } } else { silent })?;
        let remains = wreck.remains().await;
        if !remains.is_empty() || !wreck.disk.intents().is_empty() {
            return Err(format!("left of the dead: {remains:?}, {:?}", wreck.disk.intents()));
        }
        still.create_network("new").await.map_err(|error| format!("a new network: {error:?}"))?;
        let doubled = wreck.doubled().await;
        if !doubled.is_empty() {
            return Err(format!("two links have {doubled:?}"));
        }
        still.delete_everything().await.map_err(|error| format!("deleting: {error:?}"))?;
        tokio::time::sleep(WHILE).await;
        match end {
            End::Whole if !happened => Ok(None),
            end if !happened => Err(format!("without a fault: {end:?}")),
            end => Ok(Some(end)),
        }
    }

    /// A start may fail when it cannot look around. A single object that cannot be restored does not fail it.
    fn failed(self, error: &Error) -> Result<End, String> {
        match error.kind() {
            ErrorKind::Internal if self.lookup && self.n <= 2 => {}
            ErrorKind::Timeout if self.lookup && self.n <= 2 && self.kind == FaultKind::Hang => {}
            _ => return Err(format!("the start failed with {error:?}")),
        }
        Ok(End::Failed(format!("{:?}", error.kind())))
    }
}

/// The next start, without faults.
async fn next(wreck: &Wreck) -> Result<(), String> {
    let world = wreck.next().await;
    world.settles().await;
    let all_there = !world.engine().controller().sandboxes().is_empty();
    let silent = if all_there { wreck.silent() } else { Silent::new() };
    world.delete_everything().await;
    world.assert_pristine_soon().await;
    if silent.is_empty() { Ok(()) } else { Err(format!("the next start left {silent:?}")) }
}

/// Checks that everybody reaches whom they should, but for those of whom it is known.
fn cut_off(wreck: &Wreck, known: &Silent) -> Result<(), String> {
    let mut newly = wreck.silent();
    newly.retain(|talk, _| !known.contains_key(talk));
    if newly.is_empty() { Ok(()) } else { Err(format!("cut off: {newly:?}")) }
}

/// A fault at step 1, 2, 3… of the start, until it is past the last one.
fn sweep(lookup: bool, at_least: u64) {
    let mut wrong = Vec::new();
    for damage in [Damage::Nothing, Damage::Much] {
        for kind in KINDS {
            let mut ends: BTreeMap<End, usize> = BTreeMap::new();
            let mut n = 1;
            loop {
                assert!(n < 100, "it does not end:\n  {}", wrong.join("\n  "));
                let case = Case { damage, lookup, kind, n };
                match case.run() {
                    Ok(Some(end)) => *ends.entry(end).or_default() += 1,
                    Ok(None) => break,
                    Err(why) => wrong.push(format!("{case:?}: {why}")),
                }
                n += 1;
            }
            assert!(n > at_least, "a start has more steps than {n}: {damage:?} {kind:?}");
            note(format!("{damage:?} {kind:?}: {ends:?}"));
            assert!(
                ends.contains_key(&End::Without(1)),
                "{damage:?} {kind:?}: nothing was ever out of service: {ends:?}"
            );
        }
    }
    assert!(wrong.is_empty(), "{}:\n  {}", wrong.len(), wrong.join("\n  "));
}

#[test]
fn a_fault_at_any_operation_of_a_start_cuts_nobody_off_and_the_next_start_puts_it_right() {
    sweep(false, 15);
}

#[test]
fn a_fault_at_any_lookup_of_a_start_cuts_nobody_off_and_the_next_start_puts_it_right() {
    sweep(true, 10);
}
