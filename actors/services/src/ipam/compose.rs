//! What the engine asks of a foreign driver, composed of the driver's own calls: all or nothing, in order, and taken
//! back in reverse.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_ipam::driver::{MAC_ADDRESS, Owner, PoolId, PoolRequest};
use netloom_ipam::{Granted, HostNet, Lease, LeaseRequest, check_host};
use netloom_model::config::Scope;
use netloom_model::record::{EndpointRecord, NetworkRecord, PoolRecord};
use netloom_model::{ErrorKind, IpamPoolSpec, IpamSpec, MacAddr, NetworkId, NetworkSpec, Reason, Result};
use netloom_runtime::OpCtx;

use super::books::{HeldAddress, add_to, gateway_of, recorded, reserved_of};
use super::dealer::{Dealer, check_in_pool, request};
use super::message::{RequestPools, ReserveAddresses};

/// A family's name in an error text.
fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

impl Dealer {
    // === Pools ===

    /// Every pool of a network, with gateways and auxiliary addresses.
    pub(super) async fn request_pools(&self, op: OpCtx, message: RequestPools) -> Result<Granted> {
        let RequestPools { network, spec, host, scope, shares } = message;
        self.books.open(network, &spec.name)?;
        let exclude = excluded(&host);
        // Networks that share a subnet lie beside the host in one that it has an address of.
        let host = if shares { Vec::new() } else { host };
        let ask = PoolRequest {
            space: self.space(&spec.ipam, scope),
            pool: None,
            sub_pool: None,
            options: spec.ipam.options.clone(),
            exclude,
            v6: false,
            network,
            replay: None,
        };
        let taken = self.take_pools(&op, &ask, &spec, &host).await;
        match taken {
            Ok(granted) => Ok(granted),
            Err(error) => {
                let back = self.give_network_back(&Self::time_to_give_back(&op), network).await;
                Err(Self::undone(error, back))
            }
        }
    }

    fn space(&self, spec: &IpamSpec, scope: Scope) -> String {
        if !spec.address_space.is_empty() {
            return spec.address_space.clone();
        }
        match scope {
            Scope::Local => self.terms.spaces.local.clone(),
            Scope::Global => self.terms.spaces.global.clone(),
        }
    }

    async fn take_pools(
        &self,
        op: &OpCtx,
        ask: &PoolRequest,
        NetworkSpec { ipam: spec, ipv6, .. }: &NetworkSpec,
        host: &[HostNet],
    ) -> Result<Granted> {
        // As for the driver `default`: an empty list stands for one pool of the driver's choice.
        let automatic = [IpamPoolSpec::default()];
        let or_automatic =
            |pools: &'_ [IpamPoolSpec]| if pools.is_empty() { automatic.to_vec() } else { pools.to_vec() };
        let mut granted = Granted { v4: Vec::new(), v6: Vec::new(), skipped: Vec::new() };
        for pool in or_automatic(&spec.v4) {
            granted.v4.push(self.take_pool(op, ask.clone(), pool, host).await?);
        }
        for pool in if *ipv6 { or_automatic(&spec.v6) } else { Vec::new() } {
            let ask = PoolRequest { v6: true, ..ask.clone() };
            granted.v6.push(self.take_pool(op, ask, pool, host).await?);
        }
        Ok(granted)
    }

    /// A pool with what is reserved in it.
    ///
    /// Parity: libnetwork holds a pool that overlaps what the host uses and asks for another one
    /// (`requestPoolHelper`). Here the driver was told what that is, and a pool that overlaps it all the same is refused;
    /// also one that the caller named, as of the driver `default`.
    async fn take_pool(
        &self,
        op: &OpCtx,
        ask: PoolRequest,
        spec: IpamPoolSpec,
        host: &[HostNet],
    ) -> Result<PoolRecord> {
        let network = ask.network;
        let chosen = !spec.names_subnet();
        if let Some(subnet) = spec.subnet.filter(|_| !chosen) {
            check_host(subnet, chosen, host)?;
        }
        let given = self.ask_pool(op, PoolRequest { pool: spec.subnet, sub_pool: spec.range, ..ask }).await?;
        if given.pool.prefix_len() > 0 {
            check_host(given.pool, chosen, host)?;
        }
        let mut record = PoolRecord {
            range: spec.range,
            id: given.id.0.clone(),
            meta: given.meta,
            ..PoolRecord::new(given.pool)
        };
        let told = record.meta.get(netloom_ipam::driver::GATEWAY).cloned();
        let with_pool = gateway_of(&record);
        if let Some(told) = told {
            let why = match with_pool {
                Some(gateway) => check_in_pool(record.pool, gateway),
                None => Err("it is no address".to_owned()),
            };
            why.map_err(|why| self.bad(format!("gateway {told:?} with pool {}", given.id), why))?;
        }
        record.gateway = match (spec.gateway, with_pool) {
            (None, Some(gateway)) => Some(gateway),
            // Nothing is to be asked for what is there already.
            (Some(asked), Some(gateway)) if asked == gateway => Some(gateway),
            (asked, _) => {
                let ask = request(&record, Owner::Gateway(network), asked);
                self.ask_address(op, network, &record, ask).await?.map(|net| net.addr())
            }
        };
        for (name, address) in spec.auxiliary {
            let ask = request(&record, Owner::Auxiliary(network, name.clone()), Some(address));
            self.ask_address(op, network, &record, ask).await?;
            record.auxiliary.insert(name, address);
        }
        self.books.settle_pool(network, &given.id, Some(&record));
        Ok(record)
    }

    /// What the records of a network say, entered and, where the driver forgets, requested again. What fails is
    /// entered all the same: containers use it, and it is given back when they are gone.
    pub(super) async fn restore(
        &self,
        op: OpCtx,
        network: NetworkRecord,
        endpoints: Vec<EndpointRecord>,
        scope: Scope,
    ) -> Result<()> {
        self.books.restore(&network, &endpoints);
        if !self.terms.capability.requires_request_replay {
            return Ok(());
        }
        let id = network.id;
        for (v6, pool) in recorded(&network) {
            let ask = PoolRequest {
                space: self.space(&network.spec.ipam, scope),
                pool: Some(pool.pool),
                sub_pool: pool.range,
                options: network.spec.ipam.options.clone(),
                exclude: Vec::new(),
                v6,
                network: id,
                replay: Some(PoolId(pool.id.clone())),
            };
            self.ask_pool_again(&op, ask).await?;
            for (owner, address) in reserved_of(id, pool) {
                self.ask_address_again(&op, request(pool, owner, Some(address))).await?;
            }
        }
        for HeldAddress { pool, owner, address } in self.books.held(id, None) {
            let pool = recorded(&network).find(|(_, record)| record.id == pool.0 && !record.is_none());
            if let (Owner::Reservation(..), Some((_, pool))) = (&owner, pool) {
                self.ask_address_again(&op, request(pool, owner, address)).await?;
            }
        }
        for endpoint in &endpoints {
            let owner = Owner::Endpoint(endpoint.id);
            for held in self.books.held(id, Some(endpoint.id)) {
                let pool = recorded(&network).find(|(_, pool)| pool.id == held.pool.0);
                let Some((_, pool)) = pool.filter(|(_, pool)| !pool.is_none()) else { continue };
                let ask = request(pool, owner.clone(), held.address);
                self.ask_address_again(&op, self.with_mac(ask, endpoint.mac)).await?;
            }
        }
        Ok(())
    }

    /// What a record names, entered and given back. A pool that another network has by now is that one's.
    pub(super) async fn take_back(&self, op: OpCtx, mut network: NetworkRecord) -> Result<()> {
        let id = network.id;
        let asked_only = network.v4.is_empty() && network.v6.is_empty();
        let own = |pool: &PoolRecord| {
            pool.is_none() || self.books.other_holder(id, &PoolId(pool.id.clone())).is_none()
        };
        network.v4.retain(own);
        network.v6.retain(own);
        self.books.restore(&network, &[]);
        if asked_only && self.books.pools(id).is_empty() {
            // The engine died before it had noted what it was given.
            self.books.expect_pool(id, false);
        }
        self.give_network_back(&op, id).await
    }

    /// What a network has, given back.
    pub(super) async fn release_pools(&self, op: OpCtx, network: NetworkId) -> Result<()> {
        self.give_network_back(&op, network).await
    }

    // === Addresses ===

    /// The addresses of an endpoint, one of each family that its network has pools of.
    pub(super) async fn lease(
        &self,
        op: OpCtx,
        network: NetworkId,
        want: LeaseRequest,
        mac: Option<MacAddr>,
    ) -> Result<Lease> {
        if let Some(lease) = self.books.begin_lease(network, &want)? {
            return Ok(lease);
        }
        match self.take_addresses(&op, network, &want, mac).await {
            Ok(lease) => {
                self.books.complete(network, want.owner, lease);
                Ok(lease)
            }
            Err(error) => {
                let undo = Self::time_to_give_back(&op);
                let back = self.give_endpoint_back(&undo, network, want.owner).await;
                Err(Self::undone(error, back))
            }
        }
    }

    async fn take_addresses(
        &self,
        op: &OpCtx,
        network: NetworkId,
        want: &LeaseRequest,
        mac: Option<MacAddr>,
    ) -> Result<Lease> {
        let mut lease = Lease::default();
        for (v6, asked) in [(false, want.ipv4.map(IpAddr::V4)), (true, want.ipv6.map(IpAddr::V6))] {
            if let Some((pool, HeldAddress { owner, address, .. })) =
                self.books.lend(network, want, v6, asked)
            {
                // The driver has given it already, and says once more with which prefix length.
                let given = self.ask_address_again(op, request(&pool, owner, address)).await?;
                add_to(&mut lease, given);
                continue;
            }
            if let Some(address) = asked {
                self.books.check_unkept(network, address)?;
            }
            let pools = self.books.pools(network).into_iter().filter(|pool| pool.v6 == v6);
            let mut pools: Vec<_> = pools.filter_map(|pool| pool.record).collect();
            if let Some(address) = asked {
                let all: Vec<_> = pools.iter().map(|pool| pool.pool.to_string()).collect();
                pools.retain(|pool| pool.pool.contains(&address));
                if pools.is_empty() {
                    let why = match all.as_slice() {
                        [] => format!("its network has no {} pool", family(v6)),
                        all => format!("it lies outside of {}, the pools of its network", all.join(", ")),
                    };
                    return Err(Reason::AddressUnusable { address, why }.into());
                }
            }
            let last = pools.len().saturating_sub(1);
            for (at, pool) in pools.iter().enumerate() {
                let ask = self.with_mac(request(pool, Owner::Endpoint(want.owner), asked), mac);
                match self.ask_address(op, network, pool, ask).await {
                    Ok(given) => {
                        given.into_iter().for_each(|net: IpNet| add_to(&mut lease, net));
                        break;
                    }
                    // The next one is a reserve.
                    Err(error) if error.kind() == ErrorKind::Exhausted && at < last => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(lease)
    }

    /// Keeps addresses of a network for endpoints of a name.
    pub(super) async fn keep(&self, op: OpCtx, message: ReserveAddresses) -> Result<()> {
        let ReserveAddresses { network, name, kept } = message;
        let Some(missing) = self.books.begin_keeping(network, &name, &kept)? else { return Ok(()) };
        let owner = Owner::Reservation(network, name.to_string());
        for (pool, address) in missing {
            let ask = request(&pool, owner.clone(), Some(address));
            if let Err(error) = self.ask_address(&op, network, &pool, ask).await {
                let back = self.give_up(Self::time_to_give_back(&op), network, &name).await;
                return Err(Self::undone(error, back));
            }
        }
        self.books.keep(network, &name);
        Ok(())
    }

    /// Keeps nothing for a name any more. What an endpoint of the name has stays with it.
    pub(super) async fn give_up(&self, op: OpCtx, network: NetworkId, name: &str) -> Result<()> {
        let left = self.books.give_up(network, name);
        self.give_addresses_back(&op, network, left).await?;
        self.books.forget_kept(network, name);
        Ok(())
    }

    fn with_mac(
        &self,
        mut request: netloom_ipam::driver::AddressRequest,
        mac: Option<MacAddr>,
    ) -> netloom_ipam::driver::AddressRequest {
        if let Some(mac) = mac.filter(|_| self.terms.capability.requires_mac_address) {
            request.options.insert(MAC_ADDRESS.to_owned(), mac.to_string());
        }
        request
    }
}

/// What the host uses, each once and in order.
fn excluded(host: &[HostNet]) -> Vec<IpNet> {
    let mut nets: Vec<_> = host.iter().map(|host| host.net.trunc()).collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}
