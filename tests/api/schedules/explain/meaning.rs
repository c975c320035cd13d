//! What operations mean, one after the other.

use std::collections::BTreeMap;

use netloom::ErrorKind;

use super::super::history::{Action, Id};

/// What there is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(in super::super) struct State {
    /// By name.
    pub(in super::super) networks: BTreeMap<u8, Id>,
    pub(in super::super) endpoints: BTreeMap<Id, Placed>,
    /// By container.
    pub(in super::super) sandboxes: BTreeMap<u8, Id>,
    /// The name of the default network.
    pub(in super::super) default: Option<u8>,
    /// Endpoints that are out because their sandbox is being refreshed, and that sandbox.
    pub(in super::super) away: BTreeMap<Id, Id>,
}

/// An endpoint: its network, its name, and the sandbox it is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in super::super) struct Placed {
    pub(in super::super) network: Id,
    pub(in super::super) name: u8,
    pub(in super::super) sandbox: Option<Id>,
}

fn has_network(state: &State, network: Id) -> bool {
    state.networks.values().any(|id| *id == network)
}

fn has_sandbox(state: &State, sandbox: Id) -> bool {
    state.sandboxes.values().any(|id| *id == sandbox)
}

fn find_endpoint(state: &State, network: Id, name: u8) -> Option<Id> {
    let found = state.endpoints.iter().find(|(_, placed)| placed.network == network && placed.name == name);
    found.map(|(id, _)| *id)
}

/// The right answer of a look-up; `None` when it is refused, or not a look-up.
pub(super) fn look_up(action: Action, state: &State) -> Option<Option<Id>> {
    match action {
        Action::FindNetwork { name } => Some(state.networks.get(&name).copied()),
        Action::FindSandbox { name } => Some(state.sandboxes.get(&name).copied()),
        Action::FindDefault => Some(state.default.and_then(|name| state.networks.get(&name).copied())),
        Action::FindEndpoint { network, name } => {
            has_network(state, network).then(|| find_endpoint(state, network, name))
        }
        Action::Locate { endpoint, .. } => state.endpoints.get(&endpoint).map(|placed| placed.sandbox),
        _ => None,
    }
}

/// The kinds of error with which an operation is refused in this state.
pub(super) fn refusals(action: Action, state: &State) -> Vec<ErrorKind> {
    use ErrorKind::{Conflict, Forbidden, NotFound};
    let missing = |network: Id| !has_network(state, network);
    let of = |endpoint: &Id| state.endpoints.get(endpoint);
    match action {
        Action::CreateNetwork { name } if state.networks.contains_key(&name) => vec![Conflict],
        Action::CreateSandbox { name } if state.sandboxes.contains_key(&name) => vec![Conflict],
        Action::DeleteNetwork { network, .. }
        | Action::CreateEndpoint { network, .. }
        | Action::FindEndpoint { network, .. }
        | Action::Join { network, .. }
        | Action::Leave { network, .. }
            if missing(network) =>
        {
            vec![NotFound]
        }
        Action::DeleteNetwork { network, force: false }
            if state.endpoints.values().any(|placed| placed.network == network) =>
        {
            vec![Forbidden]
        }
        Action::CreateEndpoint { network, name } if find_endpoint(state, network, name).is_some() => {
            vec![Conflict]
        }
        Action::DeleteSandbox { sandbox, .. }
        | Action::Rename { sandbox, .. }
        | Action::Refresh { sandbox }
        | Action::Join { sandbox, .. }
        | Action::Leave { sandbox, .. }
            if !has_sandbox(state, sandbox) =>
        {
            vec![NotFound]
        }
        Action::Rename { sandbox, name } if renamed(sandbox, name, state).is_none() => vec![Conflict],
        Action::DeleteEndpoint { endpoint, .. } | Action::Locate { endpoint, .. }
            if of(&endpoint).is_none() =>
        {
            vec![NotFound]
        }
        Action::DeleteEndpoint { endpoint, force: false, .. }
            if of(&endpoint).is_some_and(|placed| placed.sandbox.is_some()) =>
        {
            vec![Forbidden]
        }
        Action::Join { endpoint, .. } => match of(&endpoint) {
            None => vec![NotFound],
            Some(placed) if placed.sandbox.is_some() => vec![Forbidden],
            Some(_) => Vec::new(),
        },
        // The sandbox knows that it is not inside, its network that it is not there.
        Action::Leave { endpoint, sandbox, .. } => match of(&endpoint) {
            None => vec![NotFound, Forbidden],
            Some(placed) if placed.sandbox != Some(sandbox) => vec![Forbidden],
            Some(_) => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// What there is after an operation succeeded; `None` when it cannot.
pub(super) fn carry_out(action: Action, made: Option<Id>, state: &State) -> Option<State> {
    if !refusals(action, state).is_empty() {
        return None;
    }
    let mut next = state.clone();
    match action {
        Action::CreateNetwork { name } => drop(next.networks.insert(name, made?)),
        Action::DeleteNetwork { network, .. } => {
            next.networks.retain(|_, id| *id != network);
            next.endpoints.retain(|_, placed| placed.network != network);
        }
        Action::Rename { sandbox, name } => next = renamed(sandbox, name, state)?,
        Action::Refresh { sandbox } => {
            let away = state.away.iter().filter(|(_, of)| **of == sandbox);
            for endpoint in away.map(|(endpoint, _)| endpoint) {
                let placed = next.endpoints.get_mut(endpoint).filter(|placed| placed.sandbox.is_none())?;
                placed.sandbox = Some(sandbox);
            }
            next.away.retain(|_, of| *of != sandbox);
        }
        Action::Reload { default } => next.default = default,
        Action::CreateEndpoint { network, name } => {
            next.endpoints.insert(made?, Placed { network, name, sandbox: None });
        }
        Action::DeleteEndpoint { endpoint, .. } => drop(next.endpoints.remove(&endpoint)),
        Action::CreateSandbox { name } => drop(next.sandboxes.insert(name, made?)),
        Action::DeleteSandbox { sandbox, .. } => {
            next.sandboxes.retain(|_, id| *id != sandbox);
            next.away.retain(|_, of| *of != sandbox);
            for placed in next.endpoints.values_mut().filter(|placed| placed.sandbox == Some(sandbox)) {
                placed.sandbox = None;
            }
        }
        Action::Join { endpoint, sandbox, .. } => next.endpoints.get_mut(&endpoint)?.sandbox = Some(sandbox),
        Action::Leave { endpoint, .. } => next.endpoints.get_mut(&endpoint)?.sandbox = None,
        _ => return None,
    }
    Some(next)
}

/// All endpoints of a sandbox under this name; `None` when another one has it in a network of theirs.
fn renamed(sandbox: Id, name: u8, state: &State) -> Option<State> {
    let mut next = state.clone();
    for (id, placed) in state.endpoints.iter().filter(|(_, placed)| placed.sandbox == Some(sandbox)) {
        if find_endpoint(&next, placed.network, name).is_some_and(|other| other != *id) {
            return None;
        }
        next.endpoints.insert(*id, Placed { name, ..*placed });
    }
    Some(next)
}

/// What there is after an operation failed: of a refreshed sandbox whoever cannot join again stays out.
pub(super) fn given_up(action: Action, state: &State) -> State {
    let Action::Refresh { sandbox } = action else { return state.clone() };
    let mut next = state.clone();
    next.away.retain(|_, of| *of != sandbox);
    next
}

/// What there may be while an operation is under way that does several things: a sandbox's endpoints leave, are renamed
/// and join again one by one, and those that are deleted with force leave first.
pub(super) fn partly(action: Action, state: &State) -> Vec<State> {
    let mut after = Vec::new();
    for (id, placed) in &state.endpoints {
        let mut with = |changed: Option<Placed>, away: Option<Id>| {
            let mut next = state.clone();
            match changed {
                Some(changed) => drop(next.endpoints.insert(*id, changed)),
                None => drop(next.endpoints.remove(id)),
            }
            match away {
                Some(sandbox) => drop(next.away.insert(*id, sandbox)),
                None => drop(next.away.remove(id)),
            }
            after.push(next);
        };
        let out = Placed { sandbox: None, ..*placed };
        match action {
            Action::DeleteSandbox { sandbox, .. } if placed.sandbox == Some(sandbox) => with(Some(out), None),
            Action::DeleteEndpoint { endpoint, force: true, .. }
                if *id == endpoint && placed.sandbox.is_some() =>
            {
                with(Some(out), None);
            }
            Action::DeleteNetwork { network, force: true } if placed.network == network => {
                if placed.sandbox.is_some() {
                    with(Some(out), None);
                }
                with(None, None);
            }
            Action::Rename { sandbox, name }
                if placed.sandbox == Some(sandbox)
                    && find_endpoint(state, placed.network, name).is_none() =>
            {
                with(Some(Placed { name, ..*placed }), None);
            }
            Action::Refresh { sandbox } if placed.sandbox == Some(sandbox) => with(Some(out), Some(sandbox)),
            Action::Refresh { sandbox }
                if placed.sandbox.is_none() && state.away.get(id) == Some(&sandbox) =>
            {
                with(Some(Placed { sandbox: Some(sandbox), ..*placed }), None);
            }
            _ => {}
        }
    }
    after
}
