//! Callers that ask for a random mix of everything, and note what they are answered.

use std::collections::BTreeMap;

use netloom::{
    Controller, Endpoint, EndpointSpec, Engine, Error, ErrorKind, JoinSpec, Network, NetworkSpec, Result,
    Sandbox, SandboxSpec, ShutdownMode,
};

use super::history::{Action, Answer, Id, Shared};
use crate::model::Random;

/// Names of each kind: few, so that callers meet.
const NETWORKS: u64 = 2;
const ENDPOINTS: u64 = 2;
const SANDBOXES: u64 = 2;

/// What a caller wants, by names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    CreateNetwork(u8),
    DeleteNetwork {
        name: u8,
        force: bool,
    },
    CreateEndpoint(u8, u8),
    DeleteEndpoint {
        of: (u8, u8),
        force: bool,
    },
    CreateSandbox(u8),
    DeleteSandbox {
        name: u8,
        force: bool,
    },
    Join {
        of: (u8, u8),
        sandbox: u8,
        priority: i32,
    },
    Leave {
        of: (u8, u8),
        sandbox: u8,
    },
    Find {
        of: (u8, u8),
        sandbox: u8,
    },
    Inspect,
    Rename {
        sandbox: u8,
        name: u8,
    },
    Refresh(u8),
    /// Another default network, or none.
    Reload(Option<u8>),
    FindDefault,
    Shutdown(ShutdownMode),
}

impl Wish {
    pub(super) fn draw(random: &mut Random) -> Self {
        let mut below = |bound| u8::try_from(random.below(bound)).expect("small");
        let (verb, network, endpoint, sandbox) =
            (below(28), below(NETWORKS), below(ENDPOINTS), below(SANDBOXES));
        let of = (network, endpoint);
        match verb {
            0 => Self::CreateNetwork(network),
            1 => Self::DeleteNetwork { name: network, force: false },
            2..=4 => Self::CreateEndpoint(network, endpoint),
            5 => Self::DeleteEndpoint { of, force: false },
            6 => Self::DeleteEndpoint { of, force: true },
            7 | 8 => Self::CreateSandbox(sandbox),
            9 => Self::DeleteSandbox { name: sandbox, force: false },
            10 => Self::DeleteSandbox { name: sandbox, force: true },
            11..=14 => Self::Join { of, sandbox, priority: i32::from(below(3)) },
            15 | 16 => Self::Leave { of, sandbox },
            17 | 18 => Self::Find { of, sandbox },
            19 => Self::Inspect,
            20 => Self::DeleteNetwork { name: network, force: true },
            21 | 22 => Self::Rename { sandbox, name: endpoint },
            23 | 24 => Self::Refresh(sandbox),
            25 => Self::Reload((endpoint == 0).then_some(network)),
            26 => Self::FindDefault,
            _ => Self::Join { of, sandbox, priority: 0 },
        }
    }

    /// What callers find: a network, and mostly the rest.
    pub(super) fn stage(random: &mut Random) -> Vec<Self> {
        let mut stage = vec![
            Self::CreateNetwork(0),
            Self::CreateSandbox(0),
            Self::CreateEndpoint(0, 0),
            Self::CreateSandbox(1),
        ];
        stage.truncate(usize::try_from(1 + random.below(6)).expect("small"));
        stage
    }
}

/// A caller. It keeps handles, and uses them now and then although what they stand for may be gone.
pub(super) struct Caller {
    pub(super) number: usize,
    pub(super) engine: Engine,
    pub(super) history: Shared,
    pub(super) random: Random,
    networks: BTreeMap<u8, Network>,
    endpoints: BTreeMap<(u8, u8), Endpoint>,
    sandboxes: BTreeMap<u8, Sandbox>,
}

impl Caller {
    pub(super) fn new(number: usize, engine: Engine, history: Shared, random: Random) -> Self {
        let (networks, endpoints, sandboxes) = Default::default();
        Self { number, engine, history, random, networks, endpoints, sandboxes }
    }

    /// Asks for one thing after the other.
    pub(super) async fn run(&mut self, wishes: &[Wish]) {
        for wish in wishes {
            // Callers are polled again and again, so this is a pause of as many turns.
            let pause = self.random.below(2) * self.random.below(8);
            for _ in 0..pause {
                turn().await;
            }
            self.grant(*wish).await;
        }
    }

    fn controller(&self) -> Controller {
        self.engine.controller()
    }

    fn id(&self, id: &impl ToString) -> Id {
        self.history.lock().id(id)
    }

    /// Asks, and notes the answer.
    async fn note<T>(
        &self,
        action: Action,
        work: impl Future<Output = Result<T>>,
        answer: impl FnOnce(&Self, &T) -> Answer,
    ) -> Option<T> {
        let record = self.history.lock().ask(self.number, action);
        let outcome = work.await;
        let (seen, told) = match &outcome {
            Ok(value) => (answer(self, value), String::new()),
            Err(error) => (Answer::of_error(error), error.to_string()),
        };
        self.history.lock().tell(record, seen, told);
        outcome.ok()
    }

    /// A look-up: that something is not there is an answer like others.
    async fn look_up<T>(
        &self,
        action: Action,
        work: impl Future<Output = Result<T>>,
        id: impl Fn(&T) -> String,
    ) -> Option<T> {
        let work = async {
            match work.await {
                Ok(found) => Ok(Some(found)),
                Err(error) if is_missing(&error, action) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let answer =
            |this: &Self, found: &Option<T>| Answer::Found(found.as_ref().map(|found| this.id(&id(found))));
        self.note(action, work, answer).await.flatten()
    }

    async fn network(&mut self, name: u8) -> Option<Network> {
        if self.random.below(2) == 0
            && let Some(known) = self.networks.get(&name)
        {
            return Some(known.clone());
        }
        let controller = self.controller();
        let found = async { controller.network_by_name(&network_name(name)) };
        let found =
            self.look_up(Action::FindNetwork { name }, found, |network| network.id().to_string()).await?;
        self.networks.insert(name, found.clone());
        Some(found)
    }

    async fn endpoint(&mut self, (network, name): (u8, u8)) -> Option<Endpoint> {
        if self.random.below(2) == 0
            && let Some(known) = self.endpoints.get(&(network, name))
        {
            return Some(known.clone());
        }
        let of = self.network(network).await?;
        let action = Action::FindEndpoint { network: self.id(&of.id()), name };
        let endpoint = endpoint_name(name);
        let found = of.endpoint_by_name(&endpoint);
        let found = self.look_up(action, found, |endpoint| endpoint.id().to_string()).await?;
        self.endpoints.insert((network, name), found.clone());
        Some(found)
    }

    async fn sandbox(&mut self, name: u8) -> Option<Sandbox> {
        if self.random.below(2) == 0
            && let Some(known) = self.sandboxes.get(&name)
        {
            return Some(known.clone());
        }
        let controller = self.controller();
        let found = async { controller.sandbox_by_container(&container_name(name)) };
        let found =
            self.look_up(Action::FindSandbox { name }, found, |sandbox| sandbox.id().to_string()).await?;
        self.sandboxes.insert(name, found.clone());
        Some(found)
    }

    /// An endpoint with the numbers of its network and of itself.
    async fn place(&mut self, of: (u8, u8)) -> Option<(Endpoint, Id, Id)> {
        let endpoint = self.endpoint(of).await?;
        let numbers = (self.id(&endpoint.network_id()), self.id(&endpoint.id()));
        Some((endpoint, numbers.0, numbers.1))
    }

    async fn grant(&mut self, wish: Wish) -> Option<()> {
        let controller = self.controller();
        let done = |_: &Self, (): &()| Answer::Done;
        match wish {
            Wish::CreateNetwork(name) => {
                let subnet = format!("10.{name}.0.0/28").parse().expect("a net");
                let work = controller.create_network(NetworkSpec::new(network_name(name)).subnet(subnet));
                let made = |this: &Self, network: &Network| Answer::Made(this.id(&network.id()));
                let network = self.note(Action::CreateNetwork { name }, work, made).await?;
                self.networks.insert(name, network);
            }
            Wish::DeleteNetwork { name, force } => {
                let handle = self.network(name).await?;
                let action = Action::DeleteNetwork { network: self.id(&handle.id()), force };
                let work =
                    async { if force { handle.delete_with_force().await } else { handle.delete().await } };
                self.note(action, work, done).await?;
            }
            Wish::Rename { sandbox, name } => {
                let handle = self.sandbox(sandbox).await?;
                let action = Action::Rename { sandbox: self.id(&handle.id()), name };
                self.note(action, handle.rename(endpoint_name(name)), done).await?;
            }
            Wish::Refresh(name) => {
                let handle = self.sandbox(name).await?;
                let spec = SandboxSpec::new(container_name(name)).hostname("again");
                self.note(Action::Refresh { sandbox: self.id(&handle.id()) }, handle.refresh(spec), done)
                    .await?;
            }
            Wish::Reload(default) => {
                let mut config = controller.config();
                config.default_network = default.map(network_name);
                self.note(Action::Reload { default }, controller.reload(config), done).await?;
            }
            Wish::FindDefault => {
                let found = async { controller.default_network() };
                self.look_up(Action::FindDefault, found, |network| network.id().to_string()).await?;
            }
            Wish::CreateEndpoint(of, name) => {
                let network = self.network(of).await?;
                let action = Action::CreateEndpoint { network: self.id(&network.id()), name };
                let work = network.create_endpoint(EndpointSpec::new(endpoint_name(name)));
                let made = |this: &Self, endpoint: &Endpoint| Answer::Made(this.id(&endpoint.id()));
                let endpoint = self.note(action, work, made).await?;
                self.endpoints.insert((of, name), endpoint);
            }
            Wish::DeleteEndpoint { of, force } => {
                let (handle, network, endpoint) = self.place(of).await?;
                let work =
                    async { if force { handle.delete_with_force().await } else { handle.delete().await } };
                self.note(Action::DeleteEndpoint { network, endpoint, force }, work, done).await?;
            }
            Wish::CreateSandbox(name) => {
                let work = controller.create_sandbox(SandboxSpec::new(container_name(name)));
                let made = |this: &Self, sandbox: &Sandbox| Answer::Made(this.id(&sandbox.id()));
                let sandbox = self.note(Action::CreateSandbox { name }, work, made).await?;
                self.sandboxes.insert(name, sandbox);
            }
            Wish::DeleteSandbox { name, force } => {
                let handle = self.sandbox(name).await?;
                let sandbox = self.id(&handle.id());
                let work =
                    async { if force { handle.delete_with_force().await } else { handle.delete().await } };
                self.note(Action::DeleteSandbox { sandbox, force }, work, done).await?;
            }
            Wish::Join { of, sandbox, priority } => {
                let (handle, network, endpoint) = self.place(of).await?;
                let into = self.sandbox(sandbox).await?;
                let action = Action::Join { network, endpoint, sandbox: self.id(&into.id()) };
                let work = handle.join(&into, JoinSpec::priority(priority));
                self.note(action, work, |_, _| Answer::Done).await?;
            }
            Wish::Leave { of, sandbox } => {
                let (handle, network, endpoint) = self.place(of).await?;
                let from = self.sandbox(sandbox).await?;
                let action = Action::Leave { network, endpoint, sandbox: self.id(&from.id()) };
                self.note(action, handle.leave(&from), done).await?;
            }
            Wish::Find { of, sandbox } => {
                self.sandbox(sandbox).await;
                let (handle, network, endpoint) = self.place(of).await?;
                self.locate(&handle, network, endpoint).await?;
            }
            Wish::Inspect => {
                let engine = self.engine.clone();
                let work = async { super::consistent(&engine.inspect().await?) };
                self.note(Action::Inspect, work, done).await?;
            }
            Wish::Shutdown(mode) => {
                let engine = self.engine.clone();
                self.note(Action::Shutdown, engine.shutdown(mode), done).await?;
            }
        }
        Some(())
    }

    /// Looks where an endpoint is. One that is on its way is nowhere to be told.
    async fn locate(&self, handle: &Endpoint, network: Id, endpoint: Id) -> Option<()> {
        use netloom::snapshot::EndpointPhase::{Idle, Joined};
        let record = self.history.lock().ask(self.number, Action::Locate { network, endpoint });
        let (answer, told) = match handle.inspect().await {
            Ok(seen) if matches!(seen.phase, Idle | Joined) => {
                (Answer::Found(seen.sandbox.map(|id| self.id(&id))), String::new())
            }
            Ok(seen) => (Answer::Done, format!("it is {:?}", seen.phase)),
            Err(error) => (Answer::of_error(&error), error.to_string()),
        };
        self.history.lock().tell(record, answer, told);
        Some(())
    }
}

/// Whether a look-up says that there is no such object; that its network is gone is something else.
fn is_missing(error: &Error, action: Action) -> bool {
    let of_network =
        matches!(error.reason(), netloom::Reason::NotFound { object: netloom::ObjectKind::Network, .. });
    error.kind() == ErrorKind::NotFound
        && (matches!(action, Action::FindNetwork { .. } | Action::FindDefault) || !of_network)
}

/// Ends when it is polled again.
async fn turn() {
    let mut polled = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut polled, true) {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}

pub(super) fn network_name(name: u8) -> String {
    format!("n{name}")
}

pub(super) fn endpoint_name(name: u8) -> String {
    format!("e{name}")
}

pub(super) fn container_name(name: u8) -> String {
    format!("c{name}")
}

/// The number in a name.
pub(super) fn number_of(name: &str) -> u8 {
    name[1..].parse().expect("one of the names above")
}
