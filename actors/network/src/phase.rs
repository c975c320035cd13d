//! Which phase takes which command: every pair is decided here, and a new one does not compile until it is.

use netloom_model::snapshot::{EndpointPhase, NetworkPhase};

/// The commands that a network decides on by its phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NetworkCommand {
    Establish,
    CreateEndpoint,
    ChangeEndpoint,
    Reserve,
    Delete,
    RestoreInDriver,
    Revive,
}

/// The commands that a network decides on by the phase of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndpointCommand {
    Delete,
    Rename,
    Attach,
    Commit,
    Abandon,
    Detach,
    Program,
}

/// What becomes of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is carried out.
    Go,
    /// It is refused, because the object is doing this.
    Refuse(&'static str),
    /// Nothing has to be done: it is so already.
    Nothing,
}

/// Decides on a command by the network's phase.
pub(crate) fn network(phase: NetworkPhase, command: NetworkCommand) -> Verdict {
    use NetworkCommand as C;
    use Verdict::{Go, Refuse};
    match (phase, command) {
        (NetworkPhase::Creating, C::Establish) => Go,
        (
            NetworkPhase::Creating,
            C::CreateEndpoint | C::ChangeEndpoint | C::Reserve | C::Delete | C::RestoreInDriver | C::Revive,
        ) => Refuse("being created"),
        (NetworkPhase::Active, C::Establish) => Refuse("in service already"),
        (
            NetworkPhase::Active,
            C::CreateEndpoint | C::ChangeEndpoint | C::Reserve | C::Delete | C::RestoreInDriver | C::Revive,
        ) => Go,
        // An endpoint's leave must be possible to the end, or a stuck deletion would hold sandboxes.
        (NetworkPhase::Deleting, C::ChangeEndpoint) => Go,
        (
            NetworkPhase::Deleting,
            C::Establish | C::CreateEndpoint | C::Reserve | C::Delete | C::RestoreInDriver | C::Revive,
        ) => Refuse("being deleted"),
        (NetworkPhase::Failed, C::Delete | C::ChangeEndpoint | C::Revive) => Go,
        (NetworkPhase::Failed, C::Establish | C::CreateEndpoint | C::Reserve | C::RestoreInDriver) => {
            Refuse("out of service")
        }
    }
}

/// Decides on a command by the endpoint's phase.
pub(crate) fn endpoint(phase: EndpointPhase, command: EndpointCommand) -> Verdict {
    use EndpointCommand as C;
    use EndpointPhase as P;
    use Verdict::{Go, Nothing, Refuse};
    match (phase, command) {
        (P::Creating, C::Delete | C::Rename | C::Attach | C::Commit | C::Detach | C::Program) => {
            Refuse("being created")
        }
        (P::Creating, C::Abandon) => Nothing,
        (P::Idle, C::Delete | C::Rename | C::Attach) => Go,
        // After a restart of the network's actor the driver may know of an attachment that nobody recorded.
        (P::Idle, C::Abandon) => Go,
        (P::Idle, C::Commit | C::Detach | C::Program) => Refuse("not joined"),
        // Attached in earnest when the namespace is there.
        (P::Reserved, C::Rename | C::Attach | C::Abandon | C::Detach) => Go,
        (P::Reserved, C::Delete | C::Commit | C::Program) => Refuse("waiting for its sandbox"),
        (P::Joining, C::Commit | C::Abandon | C::Program) => Go,
        (P::Joining, C::Delete | C::Rename | C::Attach | C::Detach) => Refuse("joining a sandbox"),
        (P::Joined, C::Rename | C::Detach | C::Program) => Go,
        // Its commit went through, but the answer did not reach the sandbox, which has given the join up.
        (P::Joined, C::Abandon) => Go,
        (P::Joined, C::Delete | C::Attach | C::Commit) => Refuse("joined to a sandbox"),
        (P::Leaving, C::Delete | C::Rename | C::Attach | C::Commit | C::Abandon | C::Detach | C::Program) => {
            Refuse("leaving its sandbox")
        }
        (P::Deleting, C::Delete | C::Rename | C::Attach | C::Commit | C::Detach | C::Program) => {
            Refuse("being deleted")
        }
        (P::Deleting, C::Abandon) => Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK_PHASES: [NetworkPhase; 4] =
        [NetworkPhase::Creating, NetworkPhase::Active, NetworkPhase::Deleting, NetworkPhase::Failed];
    const ENDPOINT_PHASES: [EndpointPhase; 7] = [
        EndpointPhase::Creating,
        EndpointPhase::Idle,
        EndpointPhase::Reserved,
        EndpointPhase::Joining,
        EndpointPhase::Joined,
        EndpointPhase::Leaving,
        EndpointPhase::Deleting,
    ];

    /// One letter a phase: g(o), r(efuse), n(othing).
    fn row<P: Copy>(phases: &[P], decide: impl Fn(P) -> Verdict) -> String {
        let letter = |verdict| match verdict {
            Verdict::Go => 'g',
            Verdict::Refuse(_) => 'r',
            Verdict::Nothing => 'n',
        };
        phases.iter().map(|phase| letter(decide(*phase))).collect()
    }

    #[test]
    fn every_pair_of_network_phase_and_command() {
        // Columns: creating, active, deleting, failed.
        for (command, expected) in [
            (NetworkCommand::Establish, "grrr"),
            (NetworkCommand::CreateEndpoint, "rgrr"),
            (NetworkCommand::ChangeEndpoint, "rggg"),
            (NetworkCommand::Reserve, "rgrr"),
            (NetworkCommand::Delete, "rgrg"),
            (NetworkCommand::RestoreInDriver, "rgrr"),
            (NetworkCommand::Revive, "rgrg"),
        ] {
            assert_eq!(row(&NETWORK_PHASES, |phase| network(phase, command)), expected, "{command:?}");
        }
    }

    #[test]
    fn every_pair_of_endpoint_phase_and_command() {
        // Columns: creating, idle, reserved, joining, joined, leaving, deleting.
        for (command, expected) in [
            (EndpointCommand::Delete, "rgrrrrr"),
            (EndpointCommand::Rename, "rggrgrr"),
            (EndpointCommand::Attach, "rggrrrr"),
            (EndpointCommand::Commit, "rrrgrrr"),
            (EndpointCommand::Abandon, "nggggrn"),
            (EndpointCommand::Detach, "rrgrgrr"),
            (EndpointCommand::Program, "rrrggrr"),
        ] {
            assert_eq!(row(&ENDPOINT_PHASES, |phase| endpoint(phase, command)), expected, "{command:?}");
        }
    }
}
