//! One call of a foreign driver at a time, with the books kept: what the composed requests are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ipnet::IpNet;
use netloom_ipam::driver::{
    AddressRelease, AddressRequest, AddressSpaces, AllocatedAddress, AllocatedPool, IpamCapability, Owner,
    PoolId, PoolRelease, PoolRequest,
};
use netloom_model::record::PoolRecord;
use netloom_model::{Certainty, EndpointId, Error, NetworkId, Reason, Result};
use netloom_runtime::{Addr, Cause, Janitor, OpCtx, Port};

use super::actor::IpamActor;
use super::books::{Books, HeldAddress, Unsettled};
use super::message::{AskAddress, AskPool, GiveAddressBack, GivePoolBack};
use crate::answered;

/// How long giving back what a failed request got may take, apart from the request's own time.
const GIVING_BACK: Duration = Duration::from_secs(10);
/// The longest name of a pool, and the most that may come with it: both are recorded.
const LONGEST_NAME: usize = 1024;
const MOST_META: usize = 64 * 1024;

/// Asks the driver on behalf of the requests that run beside its actor.
#[derive(Clone, Debug)]
pub(super) struct Dealer {
    pub(super) me: Addr<IpamActor>,
    pub(super) terms: Arc<Terms>,
    pub(super) books: Books,
    /// Takes what nobody waits for any more, and tries until it is given back.
    pub(super) janitor: Janitor,
    /// Where the actor's successor is found.
    pub(super) port: Port<IpamActor>,
}

/// What a driver has said about itself.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) name: String,
    pub(super) capability: IpamCapability,
    pub(super) spaces: AddressSpaces,
}

impl Dealer {
    fn who(&self) -> String {
        format!("the ipam driver {:?}", self.terms.name)
    }

    /// The error of an answer that breaks a rule.
    pub(super) fn bad(&self, given: impl std::fmt::Display, why: impl Into<String>) -> Error {
        let (driver, given) = (self.terms.name.clone(), given.to_string().chars().take(120).collect());
        Reason::IpamAnswer { driver, given, why: why.into() }.into()
    }

    // === Pools ===

    /// Asks for a pool and enters it. On an error the books say what is to be given back.
    pub(super) async fn ask_pool(&self, op: &OpCtx, request: PoolRequest) -> Result<AllocatedPool> {
        let (network, v6, asked) = (request.network, request.v6, request.pool);
        self.books.expect_pool(network, v6);
        let answer = answered(op, self.who(), self.me.outcome(op, AskPool(request)).await);
        let given = match answer {
            Ok(given) => given,
            Err(error) => {
                if error.certainty() == Certainty::Aborted {
                    self.books.forget_pool(network, None);
                }
                return Err(error);
            }
        };
        let shared = given.pool.prefix_len() == 0;
        if let Some(holder) = self.books.other_holder(network, &given.id).filter(|_| !shared) {
            // Giving it back would take it from that one.
            self.books.forget_pool(network, None);
            return Err(self.bad(format!("pool {}", given.id), format!("{holder} has it")));
        }
        let beside: Vec<_> = self.books.pools(network).into_iter().filter_map(|pool| pool.record).collect();
        if !self.books.settle_pool(network, &given.id, None) {
            self.abandon_pool(op, PoolRelease { id: Some(given.id.clone()), network });
            return Err(Reason::Gone { who: self.who() }.into());
        }
        match check_pool(&given, v6, asked, &beside) {
            Ok(()) => Ok(given),
            Err(why) => Err(self.bad(format!("pool {} ({})", given.pool, given.id), why)),
        }
    }

    /// Asks for a recorded pool again. Nothing of it is given back when that fails.
    pub(super) async fn ask_pool_again(&self, op: &OpCtx, request: PoolRequest) -> Result<()> {
        let (wanted, subnet) = (request.replay.clone(), request.pool);
        let given = answered(op, self.who(), self.me.outcome(op, AskPool(request)).await)?;
        if Some(&given.id) != wanted.as_ref() || Some(given.pool) != subnet {
            let (id, subnet) = (
                wanted.map(|id| id.0).unwrap_or_default(),
                subnet.map(|net| net.to_string()).unwrap_or_default(),
            );
            let why = format!("pool {subnet} ({id}) is recorded and was requested again");
            return Err(self.bad(format!("pool {} ({})", given.pool, given.id), why));
        }
        Ok(())
    }

    async fn give_pool_back(&self, op: &OpCtx, release: PoolRelease) -> Result<()> {
        answered(op, self.who(), self.me.outcome(op, GivePoolBack(release)).await)
    }

    /// Gives every pool of a network back, with what was reserved in it and what its endpoints have. What the driver
    /// has not taken stays in the books.
    ///
    /// # Errors
    /// The first one.
    pub(super) async fn give_network_back(&self, op: &OpCtx, network: NetworkId) -> Result<()> {
        // A pool that still has addresses cannot go.
        self.give_addresses_back(op, network, self.books.held(network, None)).await?;
        let mut failed = None;
        for pool in self.books.pools(network).into_iter().rev() {
            match self.give_pool_back(op, PoolRelease { id: pool.id.clone(), network }).await {
                Ok(()) => self.books.forget_pool(network, pool.id.as_ref()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => {
                self.books.close(network);
                Ok(())
            }
        }
    }

    // === Addresses ===

    /// Asks for an address and enters it. On an error the books say what is to be given back.
    pub(super) async fn ask_address(
        &self,
        op: &OpCtx,
        network: NetworkId,
        pool: &PoolRecord,
        request: AddressRequest,
    ) -> Result<Option<IpNet>> {
        let (owner, id, asked) = (request.owner.clone(), request.pool.clone(), request.address);
        self.books.expect_address(network, &owner, &id);
        let answer = answered(op, self.who(), self.me.outcome(op, AskAddress(request)).await);
        let given = match answer {
            Ok(AllocatedAddress { address, .. }) => address,
            Err(error) => {
                if error.certainty() == Certainty::Aborted {
                    self.books.forget_address(network, &owner, &id);
                }
                return Err(error);
            }
        };
        let Some(net) = given else {
            self.books.forget_address(network, &owner, &id);
            let Some(address) = asked else { return Ok(None) };
            return Err(self.bad("no address", format!("{address} of pool {} was asked for", pool.pool)));
        };
        match self.books.settle_address(network, &owner, &id, net.addr()) {
            Ok(()) => {}
            Err(Unsettled::Taken(holder)) => {
                // Giving it back would take it from that one.
                self.books.forget_address(network, &owner, &id);
                return Err(self.bad(format!("address {net} to {owner}"), format!("{holder} has it")));
            }
            Err(Unsettled::Abandoned) => {
                self.abandon_address(op, AddressRelease { pool: id, address: Some(net.addr()), owner });
                return Err(Reason::Gone { who: self.who() }.into());
            }
        }
        match check_address(pool, asked, net) {
            Ok(()) => Ok(Some(net)),
            Err(why) => Err(self.bad(format!("address {net} to {owner}"), why)),
        }
    }

    /// Asks for an address again that was given. It is not given back when that fails.
    pub(super) async fn ask_address_again(&self, op: &OpCtx, request: AddressRequest) -> Result<IpNet> {
        let (owner, asked) = (request.owner.clone(), request.address);
        let given = answered(op, self.who(), self.me.outcome(op, AskAddress(request)).await)?.address;
        if let Some(net) = given.filter(|net| Some(net.addr()) == asked) {
            return Ok(net);
        }
        let text = |address: Option<String>| address.unwrap_or_else(|| "no address".into());
        let given = text(given.map(|net| format!("address {net}")));
        let asked = text(asked.map(|address| address.to_string()));
        Err(self.bad(format!("{given} to {owner}"), format!("{asked} was given and was requested again")))
    }

    /// Gives the addresses of an endpoint back. What the driver has not taken stays in the books.
    ///
    /// # Errors
    /// The first one.
    pub(super) async fn give_endpoint_back(
        &self,
        op: &OpCtx,
        network: NetworkId,
        endpoint: EndpointId,
    ) -> Result<()> {
        self.give_addresses_back(op, network, self.books.held(network, Some(endpoint))).await?;
        self.books.leave(network, endpoint);
        Ok(())
    }

    pub(super) async fn give_addresses_back(
        &self,
        op: &OpCtx,
        network: NetworkId,
        held: Vec<HeldAddress>,
    ) -> Result<()> {
        let mut failed = None;
        for HeldAddress { pool, owner, address } in held.into_iter().rev() {
            let release = AddressRelease { pool: pool.clone(), address, owner: owner.clone() };
            let asked = self.me.outcome(op, GiveAddressBack(release));
            match answered(op, self.who(), asked.await) {
                Ok(()) => self.books.forget_address(network, &owner, &pool),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    // === What failed ===

    /// The error of a request after what it got was given back, or after that was tried: the books have the rest, and
    /// only `Uncertain` makes the caller have it given back later.
    pub(super) fn undone(error: Error, given_back: Result<()>) -> Error {
        match given_back {
            Ok(()) => error.unwound(),
            Err(left) => {
                tracing::warn!(%error, %left, "an ipam driver did not take back what a failed request got");
                error.uncertain()
            }
        }
    }

    /// The time for giving back what a failed request got.
    pub(super) fn time_to_give_back(op: &OpCtx) -> OpCtx {
        op.for_undo(GIVING_BACK)
    }

    /// An address came when its endpoint, or the actor that asked, was gone.
    fn abandon_address(&self, op: &OpCtx, release: AddressRelease) {
        let AddressRelease { pool, address, owner } = &release;
        let address = address.map(|address| format!("{address} ")).unwrap_or_default();
        let what = format!("address {address}of {owner} in pool {pool} of {}", self.who());
        let (me, op) = (self.clone(), op.clone());
        self.janitor.adopt(what, move || {
            let (me, own) = (me.clone(), OpCtx::new(Cause::Tick("janitor"), GIVING_BACK).identified(op.id));
            let asked = me.port.outcome(&own, GiveAddressBack(release.clone()));
            async move { answered(&own, me.who(), asked.await).map_err(|error| error.to_string()) }
                .boxed_local()
        });
    }

    /// The same for a pool.
    fn abandon_pool(&self, op: &OpCtx, release: PoolRelease) {
        let id = release.id.as_ref().map(ToString::to_string).unwrap_or_default();
        let what = format!("pool {id} of network {} of {}", release.network.short(), self.who());
        let (me, op) = (self.clone(), op.clone());
        self.janitor.adopt(what, move || {
            let (me, own) = (me.clone(), OpCtx::new(Cause::Tick("janitor"), GIVING_BACK).identified(op.id));
            let asked = me.port.outcome(&own, GivePoolBack(release.clone()));
            async move { answered(&own, me.who(), asked.await).map_err(|error| error.to_string()) }
                .boxed_local()
        });
    }
}

fn check_pool(
    given: &AllocatedPool,
    v6: bool,
    asked: Option<IpNet>,
    beside: &[std::rc::Rc<PoolRecord>],
) -> Result<(), String> {
    let (pool, length) = (given.pool, given.id.0.len());
    if length == 0 || length > LONGEST_NAME {
        return Err(format!("its name has {length} bytes, where 1 to {LONGEST_NAME} are expected"));
    }
    if given.id.0.chars().any(char::is_control) {
        return Err("its name has control characters".to_owned());
    }
    let meta: usize = given.meta.iter().map(|(key, value)| key.len() + value.len()).sum();
    if meta > MOST_META {
        return Err(format!("what comes with it has {meta} bytes, and at most {MOST_META} are recorded"));
    }
    if pool.addr().is_ipv6() != v6 {
        return Err(format!("an {} pool was asked for", if v6 { "IPv6" } else { "IPv4" }));
    }
    if let Some(asked) = asked.filter(|asked| *asked != pool) {
        return Err(format!("{asked} was asked for"));
    }
    if pool.trunc() != pool {
        return Err(format!("host bits are set; {} has none", pool.trunc()));
    }
    if let Some(why) = netloom_model::reserved::within(pool).filter(|_| pool.prefix_len() > 0) {
        return Err(why);
    }
    let mut named = beside.iter().filter(|record| record.id == given.id.0 && pool.prefix_len() > 0);
    if let Some(other) = named.next() {
        return Err(format!("pool {} of the same network has that name", other.pool));
    }
    let overlaps = |other: &IpNet| other.prefix_len() > 0 && (other.contains(&pool) || pool.contains(other));
    match beside.iter().map(|record| record.pool).find(overlaps).filter(|_| pool.prefix_len() > 0) {
        Some(other) => Err(format!("it overlaps {other} of the same network")),
        None => Ok(()),
    }
}

fn check_address(pool: &PoolRecord, asked: Option<IpAddr>, given: IpNet) -> Result<(), String> {
    let address = given.addr();
    if let Some(asked) = asked.filter(|asked| *asked != address) {
        return Err(format!("{asked} was asked for"));
    }
    if given.prefix_len() < pool.pool.prefix_len() {
        return Err(format!("its subnet is larger than pool {}", pool.pool));
    }
    check_in_pool(pool.pool, address)
}

/// Why an address is none of a host in a pool, if it is not.
pub(super) fn check_in_pool(pool: IpNet, address: IpAddr) -> Result<(), String> {
    if !pool.contains(&address) {
        return Err(format!("it lies outside of pool {pool}"));
    }
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err("it is no address of a host".to_owned());
    }
    let whole = (1..=30).contains(&pool.prefix_len()) && pool.addr().is_ipv4();
    if whole && (address == pool.network() || address == pool.broadcast()) {
        return Err(format!("it is the network or broadcast address of pool {pool}"));
    }
    Ok(())
}

/// The options of a request for a gateway.
pub(super) fn for_gateway() -> BTreeMap<String, String> {
    use netloom_ipam::driver::{GATEWAY, REQUEST_ADDRESS_TYPE};
    [(REQUEST_ADDRESS_TYPE.to_owned(), GATEWAY.to_owned())].into()
}

/// A request for an address of a recorded pool.
pub(super) fn request(pool: &PoolRecord, owner: Owner, address: Option<IpAddr>) -> AddressRequest {
    let options = if matches!(owner, Owner::Gateway(_)) { for_gateway() } else { BTreeMap::new() };
    AddressRequest { pool: PoolId(pool.id.clone()), address, options, owner }
}
