//! Histories that some order explains, and ones that none does.

use super::*;

/// A record of one caller, asked and answered at these places.
fn record(caller: usize, action: Action, answer: Answer, begun: u32, ended: u32) -> Record {
    Record { caller, action, answer, told: String::new(), begun, ended, at: (0, 0) }
}

fn state(networks: &[(u8, Id)], endpoints: &[(Id, Placed)], sandboxes: &[(u8, Id)]) -> State {
    State {
        networks: networks.iter().copied().collect(),
        endpoints: endpoints.iter().copied().collect(),
        sandboxes: sandboxes.iter().copied().collect(),
        ..State::default()
    }
}

fn explained(records: &[Record], last: &State) -> bool {
    explain(records, last, Circumstances::default()).is_ok()
}

const NETWORK: Action = Action::CreateNetwork { name: 0 };
const CONFLICT: Answer = Answer::Refused(ErrorKind::Conflict);
const FORBIDDEN: Answer = Answer::Refused(ErrorKind::Forbidden);
const NOT_FOUND: Answer = Answer::Refused(ErrorKind::NotFound);

#[test]
fn of_two_creations_at_once_one_succeeds() {
    let one = record(1, NETWORK, Answer::Made(7), 1, 4);
    let last = state(&[(0, 7)], &[], &[]);
    assert!(explained(&[one.clone(), record(2, NETWORK, CONFLICT, 2, 3)], &last));
    // Both cannot; and neither can one be refused for the sake of one that came later.
    assert!(!explained(&[one.clone(), record(2, NETWORK, Answer::Made(8), 2, 3)], &last));
    assert!(!explained(
        &[record(2, NETWORK, CONFLICT, 1, 2), record(1, NETWORK, Answer::Made(7), 3, 4)],
        &last
    ));
    // What was made is there.
    assert!(!explained(&[one], &State::default()));
}

#[test]
fn look_ups_see_what_was_there_in_their_time() {
    let made = record(1, NETWORK, Answer::Made(7), 1, 4);
    let look =
        |found, begun, ended| record(2, Action::FindNetwork { name: 0 }, Answer::Found(found), begun, ended);
    let last = state(&[(0, 7)], &[], &[]);
    assert!(explained(&[made.clone(), look(None, 2, 3)], &last));
    assert!(explained(&[made.clone(), look(Some(7), 2, 3)], &last));
    assert!(!explained(&[made.clone(), look(None, 5, 6)], &last), "it is there for good");
    assert!(!explained(&[made.clone(), look(Some(8), 2, 3)], &last), "nobody made that");
    let flickers = [made, look(Some(7), 2, 3), look(None, 5, 6)];
    assert!(!explained(&flickers, &last), "it was seen before");
}

/// A network 1, an endpoint 2 on it, sandboxes 3 and 4.
fn stage() -> (Vec<Record>, State) {
    let records = vec![
        record(0, NETWORK, Answer::Made(1), 1, 2),
        record(0, Action::CreateEndpoint { network: 1, name: 0 }, Answer::Made(2), 3, 4),
        record(0, Action::CreateSandbox { name: 0 }, Answer::Made(3), 5, 6),
        record(0, Action::CreateSandbox { name: 1 }, Answer::Made(4), 7, 8),
    ];
    let endpoint = Placed { network: 1, name: 0, sandbox: None };
    (records, state(&[(0, 1)], &[(2, endpoint)], &[(0, 3), (1, 4)]))
}

fn join(sandbox: Id) -> Action {
    Action::Join { network: 1, endpoint: 2, sandbox }
}

#[test]
fn an_endpoint_is_in_one_place() {
    let (mut records, mut last) = stage();
    last.endpoints.entry(2).and_modify(|placed| placed.sandbox = Some(3));
    records.push(record(1, join(3), Answer::Done, 10, 13));
    records.push(record(2, join(4), FORBIDDEN, 11, 12));
    assert!(explained(&records, &last));
    records[5].answer = Answer::Done;
    assert!(!explained(&records, &last), "both have it");
    (records[5].answer, records[5].begun, records[5].ended) = (NOT_FOUND, 14, 15);
    assert!(!explained(&records, &last), "it is there, and nothing is under way");
}

#[test]
fn a_sandbox_that_is_deleted_lets_its_endpoints_go_one_by_one() {
    let (mut records, mut last) = stage();
    last.sandboxes.remove(&0);
    last.endpoints.entry(2).and_modify(|placed| placed.sandbox = Some(4));
    records.push(record(0, join(3), Answer::Done, 9, 10));
    records.push(record(1, Action::DeleteSandbox { sandbox: 3, force: false }, Answer::Done, 11, 20));
    records.push(record(2, join(4), Answer::Done, 12, 13));
    records.push(record(2, Action::FindSandbox { name: 0 }, Answer::Found(Some(3)), 14, 15));
    assert!(explained(&records, &last));
    // But not before its deletion begins.
    records[5].begun = 14;
    assert!(!explained(&records, &last));
}

#[test]
fn forced_deletions_at_once_are_all_content() {
    let (mut records, mut last) = stage();
    last.endpoints.clear();
    let delete = |force| Action::DeleteEndpoint { network: 1, endpoint: 2, force };
    records.push(record(1, delete(true), Answer::Done, 10, 13));
    records.push(record(2, delete(true), Answer::Done, 11, 12));
    assert!(explained(&records, &last));
    (records[4].action, records[5].action) = (delete(false), delete(false));
    assert!(!explained(&records, &last), "without force only one can");
    (records[4].action, records[5].action, records[5].ended) = (delete(true), delete(true), 15);
    records[5].begun = 14;
    assert!(!explained(&records, &last), "it was gone before");
}

#[test]
fn what_is_seen_while_it_is_made_may_come_to_nothing() {
    let (mut records, last) = stage();
    let (create, find) =
        (Action::CreateEndpoint { network: 1, name: 1 }, Action::FindEndpoint { network: 1, name: 1 });
    let failed = Answer::Refused(ErrorKind::Internal);
    records.push(record(1, create, failed, 10, 13));
    records.push(record(2, find, Answer::Found(Some(9)), 11, 12));
    let faults = Circumstances { faults: true, ..Circumstances::default() };
    assert!(explain(&records, &last, faults).is_ok());
    (records[5].begun, records[5].ended) = (14, 15);
    assert!(explain(&records, &last, faults).is_err(), "it has come to nothing");
}

#[test]
fn what_was_not_answered_may_have_been_done_or_not() {
    let shutdown = record(3, Action::Shutdown, Answer::None, 2, u32::MAX);
    for open in [Answer::None, Answer::Unsure(ErrorKind::Unavailable)] {
        let records = [record(1, NETWORK, open, 1, 5), shutdown.clone()];
        assert!(explained(&records, &State::default()));
        assert!(explained(&records, &state(&[(0, 9)], &[], &[])));
        assert!(!explained(&records, &state(&[(1, 9)], &[], &[])));
        assert!(!explained(&records[..1], &State::default()), "nothing stays open without a reason");
    }
}

#[test]
fn errors_need_a_reason() {
    let last = State::default();
    for kind in [ErrorKind::Internal, ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::Busy] {
        assert!(!explained(&[record(1, NETWORK, Answer::Refused(kind), 1, 2)], &last), "{kind:?}");
    }
    let faults = Circumstances { faults: true, ..Circumstances::default() };
    let records = [record(1, NETWORK, Answer::Refused(ErrorKind::Internal), 1, 2)];
    assert!(explain(&records, &last, faults).is_ok());
}

/// Two endpoints of one sandbox, on two networks.
fn furnished() -> (Vec<Record>, State) {
    let made = |action, id, at| record(0, action, Answer::Made(id), at, at + 1);
    let join = |network, endpoint, at| {
        record(0, Action::Join { network, endpoint, sandbox: 4 }, Answer::Done, at, at + 1)
    };
    let records = vec![
        made(NETWORK, 0, 1),
        made(Action::CreateNetwork { name: 1 }, 1, 3),
        made(Action::CreateEndpoint { network: 0, name: 0 }, 2, 5),
        made(Action::CreateEndpoint { network: 1, name: 0 }, 3, 7),
        made(Action::CreateSandbox { name: 0 }, 4, 9),
        join(0, 2, 11),
        join(1, 3, 13),
    ];
    let placed = |network| Placed { network, name: 0, sandbox: Some(4) };
    let last = state(&[(0, 0), (1, 1)], &[(2, placed(0)), (3, placed(1))], &[(0, 4)]);
    (records, last)
}

/// The same after one more question, and whether that is explained when `change` is all that came of it.
fn comes_of(action: Action, answer: Answer, change: impl FnOnce(&mut State)) -> bool {
    let (mut records, mut last) = furnished();
    records.push(record(1, action, answer, 20, 30));
    change(&mut last);
    explained(&records, &last)
}

#[test]
fn a_sandbox_is_renamed_on_all_its_networks_or_on_none() {
    let rename = Action::Rename { sandbox: 4, name: 1 };
    let all = |state: &mut State| state.endpoints.values_mut().for_each(|placed| placed.name = 1);
    let one = |state: &mut State| state.endpoints.get_mut(&2).expect("there").name = 1;
    assert!(comes_of(rename, Answer::Done, all));
    assert!(!comes_of(rename, Answer::Done, one) && !comes_of(rename, Answer::Done, |_| {}));
    assert!(!comes_of(rename, CONFLICT, |_| {}), "nobody has the name");
}

#[test]
fn a_refreshed_sandbox_has_its_endpoints_again() {
    let refresh = Action::Refresh { sandbox: 4 };
    let out = |state: &mut State| state.endpoints.get_mut(&2).expect("there").sandbox = None;
    assert!(comes_of(refresh, Answer::Done, |_| {}));
    assert!(!comes_of(refresh, Answer::Done, out));
    // While it lasts they are out one by one.
    let (mut records, last) = furnished();
    let seen = |found, begun| {
        let locate = Action::Locate { network: 0, endpoint: 2 };
        record(2, locate, Answer::Found(found), begun, begun + 1)
    };
    records.push(record(1, refresh, Answer::Done, 20, 40));
    records.extend([seen(Some(4), 21), seen(None, 23), seen(Some(4), 25)]);
    assert!(explained(&records, &last));
    records.push(seen(None, 41));
    assert!(!explained(&records, &last), "not when it is over");
}

#[test]
fn a_network_goes_by_force_with_all_that_is_on_it() {
    let delete = |force| Action::DeleteNetwork { network: 0, force };
    let gone = |state: &mut State| {
        state.networks.remove(&0);
        state.endpoints.remove(&2);
    };
    assert!(comes_of(delete(true), Answer::Done, gone));
    assert!(!comes_of(delete(true), Answer::Done, |_| {}) && !comes_of(delete(true), FORBIDDEN, |_| {}));
    assert!(!comes_of(delete(false), Answer::Done, gone) && comes_of(delete(false), FORBIDDEN, |_| {}));
    let half = |state: &mut State| state.networks.retain(|_, id| *id != 0);
    assert!(!comes_of(delete(true), Answer::Done, half), "no endpoint stays behind");
}

#[test]
fn what_was_reloaded_last_holds() {
    let reload = |default, begun, ended| {
        record(usize::from(default), Action::Reload { default: Some(default) }, Answer::Done, begun, ended)
    };
    let with = |default| State { default, ..State::default() };
    let one_by_one = [reload(0, 1, 2), reload(1, 3, 4)];
    assert!(explained(&one_by_one, &with(Some(1))));
    assert!(!explained(&one_by_one, &with(Some(0))) && !explained(&one_by_one, &with(None)));
    let at_once = [reload(0, 1, 4), reload(1, 2, 3)];
    assert!(explained(&at_once, &with(Some(0))) && explained(&at_once, &with(Some(1))));
    let restarted = Circumstances { restarted: true, ..Circumstances::default() };
    assert!(explain(&one_by_one, &with(None), restarted).is_ok(), "the next engine has its own");
}
