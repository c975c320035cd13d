//! The objects that steps name: handles, look-ups, pictures; and clearing up.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use netloom::kernel::{Netns, Op, execute_all};
use netloom::snapshot::{NetworkSnapshot, SandboxEndpoint};
use netloom::{Endpoint, Engine, NamespaceSpec, Network, Result, Sandbox, ShutdownMode};

use super::Machine;
use super::expect::Differences;
use super::looks::{HostLook, Namespace};
use super::picture::Detail;
use super::run::{Found, Run, told};
use super::step::{Act, Find, Listing};

/// How long the kernel may take for what a scenario does to it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Drivers whose networks cannot be deleted.
const PERMANENT: [&str; 2] = ["host", "null"];

impl<M: Machine> Run<'_, M> {
    pub(super) fn network(&self, name: &str) -> Result<Network> {
        self.names.borrow().network(self.present(), name)
    }

    pub(super) fn sandbox(&self, container: &str) -> Result<Sandbox> {
        self.names.borrow().sandbox(self.present(), container)
    }

    /// The endpoint called `network/name`.
    pub(super) async fn endpoint(&self, path: &str) -> Result<Endpoint> {
        if let Some(endpoint) = self.names.borrow().endpoint(path) {
            return Ok(endpoint);
        }
        let (network, name) = path.split_once('/').unwrap_or((path, ""));
        self.network(network)?.endpoint_by_name(name).await
    }

    pub(super) async fn pair(&self, endpoint: &str, sandbox: &str) -> Result<(Endpoint, Sandbox)> {
        Ok((self.endpoint(endpoint).await?, self.sandbox(sandbox)?))
    }

    /// The namespace of a sandbox.
    pub(super) fn netns(&self, container: &str) -> Found<Netns> {
        let sandbox = self.sandbox(container).map_err(told)?;
        sandbox.netns().map(Netns::Named).map_err(told)
    }

    /// Where a sandbox is: in its own namespace, or in the host's.
    pub(super) async fn place(&self, container: &str) -> Found<Netns> {
        let seen = match self.sandbox(container) {
            Ok(sandbox) => sandbox.inspect().await.map_err(told)?,
            // A look into what is left of one that is gone.
            Err(_) => return self.netns(container),
        };
        if seen.namespace == NamespaceSpec::Host { Ok(Netns::Host) } else { self.netns(container) }
    }

    /// An address, or that of an endpoint.
    pub(super) async fn address(&self, text: &str) -> Found<IpAddr> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let seen = self.endpoint(text).await.map_err(told)?.inspect().await.map_err(told)?;
        seen.ipv4.map(|net| net.addr().into()).ok_or_else(|| format!("{text} has no address"))
    }

    /// What a bridge is called: `@network` for that of a network that did not choose.
    pub(super) fn bridge(&self, key: &str) -> Found<String> {
        let Some(network) = key.strip_prefix('@') else { return Ok(key.to_owned()) };
        let id = self.names.borrow().resolve(&format!("${network}"))?;
        let id: netloom::NetworkId = id.parse().map_err(told)?;
        Ok(format!("br-{}", id.short()))
    }

    /// Does something to the kernel that is not the engine's doing.
    pub(super) async fn execute(&self, ops: Vec<Op>) -> Found<()> {
        execute_all(self.machine.kernel(), ops, Instant::now() + PATIENCE).await.map_err(told)
    }

    /// Destroys the namespace of a sandbox. Linux keeps it for as long as anybody has a socket in it, so from here on
    /// the two kernels are not compared.
    pub(super) async fn lose_namespace(&self, container: &str) -> Found<()> {
        let Netns::Named(name) = self.netns(container)? else { return Err("it has none".into()) };
        self.detail.set(Detail::Nothing);
        self.execute(vec![Op::DeleteNetns { name }]).await
    }

    /// Lets go of namespaces that are gone: having looked into them keeps them.
    async fn let_go(&self) -> Found<()> {
        let kernel = self.machine.kernel();
        let end = || Instant::now() + PATIENCE;
        let mounted = kernel.namespaces(end()).await.map_err(told)?;
        let seen = self.names.borrow().namespaces();
        let gone = seen.into_iter().filter(|name| !mounted.contains(name));
        for answer in kernel.execute(gone.map(|name| Op::DeleteNetns { name }).collect(), end()).await {
            if let Err(error) = answer
                && !error.already_gone()
            {
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Waits until the host has no more links than these.
    async fn wait_for_links(&self, at_most: usize) -> Found<()> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let host = Namespace::of(self.machine.kernel(), Netns::Host).await?;
            if host.links.len() <= at_most {
                return Ok(());
            }
            if Instant::now() > patience {
                return Err(format!("more than {at_most} links are left: {:?}", host.links));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Looks something up, and says its identifier.
    pub(super) async fn find(&self, what: &Find) -> Found<Result<String>> {
        let controller = self.engine()?.controller();
        let resolved = |text: &str| self.names.borrow().resolve(text);
        let network = |found: Result<Network>| found.map(|network| network.id().to_string());
        let endpoint = |found: Result<Endpoint>| found.map(|endpoint| endpoint.id().to_string());
        let sandbox = |found: Result<Sandbox>| found.map(|sandbox| sandbox.id().to_string());
        Ok(match what {
            Find::NetworkByName(name) => network(controller.network_by_name(name)),
            Find::NetworkById(id) => network(resolved(id)?.parse().and_then(|id| controller.network(id))),
            Find::DefaultNetwork => network(controller.default_network()),
            Find::EndpointByName { network, name } => match self.network(network) {
                Ok(network) => endpoint(network.endpoint_by_name(name).await),
                Err(error) => Err(error),
            },
            Find::EndpointById { network, id } => match (self.network(network), resolved(id)?.parse()) {
                (Ok(network), Ok(id)) => endpoint(network.endpoint(id).await),
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
            Find::SandboxByContainer(container) => sandbox(controller.sandbox_by_container(container)),
            Find::SandboxById(id) => sandbox(resolved(id)?.parse().and_then(|id| controller.sandbox(id))),
            Find::SandboxByKey(key) if key.starts_with('/') => sandbox(controller.sandbox_by_key(key)),
            Find::SandboxByKey(container) => {
                match self.sandbox(container).and_then(|sandbox| sandbox.key()) {
                    Ok(key) => sandbox(controller.sandbox_by_key(key)),
                    Err(error) => Err(error),
                }
            }
        })
    }

    /// Lists names; a walk stops after so many.
    pub(super) async fn list(&self, what: &Listing) -> Result<Vec<String>> {
        let controller = self.present().controller();
        let mut names = Vec::new();
        let mut visit = |name: &str, walk: Option<usize>| {
            names.push(name.to_owned());
            if walk.is_some_and(|walk| names.len() >= walk) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        match what {
            Listing::Networks { walk } => controller.walk_networks(|network| visit(network.name(), *walk)),
            Listing::Sandboxes { walk } => {
                controller.walk_sandboxes(|sandbox| visit(sandbox.container_id(), *walk));
            }
            Listing::Endpoints { network, walk } => {
                let network = self.network(network)?;
                network.walk_endpoints(|endpoint| visit(endpoint.name(), *walk)).await?;
            }
            Listing::Drivers => names = controller.drivers().await?,
            Listing::IpamDrivers => names = controller.ipam_drivers().await?,
        }
        Ok(names)
    }

    /// Looks at the picture of an object.
    pub(super) async fn inspect(
        &self,
        engine: &Engine,
        act: &Act,
        save: &dyn Fn(String),
    ) -> Found<Result<()>> {
        let mut differences = Differences::default();
        let id =
            |look: &Option<String>| look.as_deref().map(|id| self.names.borrow().resolve(id)).transpose();
        let seen = match act {
            Act::InspectNetwork(name, look) => {
                let expected = id(&look.id)?;
                match self.network(name) {
                    Ok(network) => network.inspect().await.map(|found| {
                        look.compare(expected.as_ref(), &found, &mut differences);
                        save(found.id.to_string());
                    }),
                    Err(error) => Err(error),
                }
            }
            Act::InspectEndpoint(path, look) => {
                let expected = id(&look.id)?;
                match self.endpoint(path).await {
                    Ok(endpoint) => endpoint.inspect().await.map(|found| {
                        let inside = found.sandbox.and_then(|id| engine.controller().sandbox(id).ok());
                        let container = inside.as_ref().map(Sandbox::container_id);
                        look.compare(expected.as_ref(), &found, container, &mut differences);
                        save(found.id.to_string());
                    }),
                    Err(error) => Err(error),
                }
            }
            Act::InspectSandbox(container, look) => {
                let expected = id(&look.id)?;
                let found = match self.sandbox(container) {
                    Ok(sandbox) => sandbox.inspect().await,
                    Err(error) => Err(error),
                };
                match found {
                    Ok(found) => {
                        let paths = self.paths(engine, &found.endpoints).await?;
                        look.compare(expected.as_ref(), &found, &paths, &mut differences);
                        save(found.id.to_string());
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Act::InspectEngine(look) => {
                engine.inspect().await.map(|found| look.compare(&found, &mut differences))
            }
            Act::DriverInfo(path, look) => match self.endpoint(path).await {
                Ok(endpoint) => {
                    endpoint.driver_info().await.map(|found| look.compare(&found, &mut differences))
                }
                Err(error) => Err(error),
            },
            other => return Err(format!("{other:?} is no look at a picture")),
        };
        differences.into_result()?;
        Ok(seen)
    }

    /// The endpoints of a sandbox as `network/name`.
    async fn paths(&self, engine: &Engine, endpoints: &[SandboxEndpoint]) -> Found<Vec<String>> {
        let mut paths = Vec::new();
        for place in endpoints {
            let network = engine.controller().network(place.network).map_err(told)?;
            let endpoint = network.endpoint(place.endpoint).await.map_err(told)?;
            paths.push(format!("{}/{}", network.name(), endpoint.name()));
        }
        Ok(paths)
    }

    pub(super) async fn look_at_host(&self, look: &HostLook) -> Found<()> {
        let kernel = self.machine.kernel();
        let host = Namespace::of(kernel, Netns::Host).await?;
        let namespaces = kernel.namespaces(Instant::now() + PATIENCE).await.map_err(told)?.len();
        let mut differences = Differences::default();
        look.compare(&host, self.links_before, namespaces, |key| self.bridge(key), &mut differences)?;
        differences.into_result()
    }

    /// Deletes everything, and checks that nothing of ours is left: neither now nor with the next engine.
    pub(super) async fn clear_up(&mut self) -> Found<()> {
        if !self.running {
            self.start(None).await?;
        }
        let engine = self.engine()?.clone();
        let controller = engine.controller();
        for sandbox in controller.sandboxes() {
            sandbox.delete().await.map_err(told)?;
        }
        let mut permanent = Vec::new();
        for network in controller.networks() {
            for endpoint in network.endpoints().await.map_err(told)? {
                endpoint.delete().await.map_err(told)?;
            }
            let seen = network.inspect().await.map_err(told)?;
            match network.delete().await {
                Err(_) if PERMANENT.contains(&seen.driver.as_str()) => permanent.push(seen.id),
                outcome => outcome.map_err(told)?,
            }
        }
        engine.drain().await.map_err(told)?;
        let seen = engine.inspect().await.map_err(told)?;
        if !seen.leaks.is_empty() || !seen.operations.is_empty() {
            return Err(format!("left: leaks {:?}, in flight {:?}", seen.leaks, seen.operations));
        }
        let foreign = std::mem::take(&mut self.foreign);
        let names = foreign.iter().map(|name| Ok(Op::DeleteLink { name: name.parse()?, tag: None }));
        let deletions = names.collect::<Result<Vec<_>>>().map_err(told)?;
        self.execute(deletions).await.map_err(|why| format!("what is not ours is gone: {why}"))?;
        // What others had in a sandbox goes with its namespace, when Linux gets round to it.
        self.let_go().await?;
        self.end_outside().await?;
        self.wait_for_links(self.links_before).await?;
        let mut left = self.machine.left().await;
        left.retain(|line| !permanent.iter().any(|id| line.contains(&id.to_string())));
        if !left.is_empty() {
            return Err(format!("left: {}", left.join("; ")));
        }
        engine.shutdown(ShutdownMode::Graceful).await.map_err(told)?;
        drop((engine, controller));
        self.start(None).await?;
        let engine = self.engine()?;
        let seen = engine.inspect().await.map_err(told)?;
        let is_known = |network: &NetworkSnapshot| permanent.contains(&network.id);
        let comes_back = !seen.networks.iter().all(is_known) || !seen.sandboxes.is_empty();
        if comes_back || !engine.repairs().is_empty() {
            return Err(format!("the next engine has {seen:?} and repaired {:?}", engine.repairs()));
        }
        engine.shutdown(ShutdownMode::Graceful).await.map_err(told)
    }
}
