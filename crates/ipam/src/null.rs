//! The IPAM driver `null`: networks without pools, whose endpoints get their addresses from the network driver, or none.
//!
//! Parity: moby `ipams/null/null.go`. Its only pool is the whole IPv4 space, which every network shares and which is
//! recorded, so that what was asked for is visible; network drivers are shown no pool. Unlike there, an address that is
//! asked for is refused instead of being ignored, and the release of what it never gave succeeds, as of every driver here.

use netloom_model::{Error, ObjectKind, Reason};

use crate::driver::{
    AddressRelease, AddressRequest, AddressSpaces, AllocatedAddress, AllocatedPool, Begun, IpamCx,
    IpamDriver, PoolId, PoolRelease, PoolRequest, done,
};

/// Its name.
pub const NAME: &str = "null";
/// The name of both of its address spaces.
pub const SPACE: &str = "null";
/// What it calls its pool.
pub const POOL: &str = "null/0.0.0.0/0";

/// A driver that gives nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullIpam;

fn own(pool: &PoolId) -> Result<(), Error> {
    if pool.0 == POOL {
        return Ok(());
    }
    let why = format!("the ipam driver null has the pool {POOL} and no other");
    Err(Error::invalid("pool", pool, why))
}

impl IpamDriver for NullIpam {
    fn name(&self) -> &str {
        NAME
    }

    fn address_spaces(&self) -> AddressSpaces {
        AddressSpaces { local: SPACE.into(), global: SPACE.into() }
    }

    fn request_pool(&mut self, _: &IpamCx, request: PoolRequest) -> Begun<AllocatedPool> {
        if request.space != SPACE {
            return Err(Error::not_found(ObjectKind::AddressSpace, request.space));
        }
        let why = |what| format!("the ipam driver null gives no {what}; leave it out");
        if request.v6 {
            return Err(Error::invalid("ipv6", true, why("IPv6 pools")));
        }
        if let Some(pool) = request.pool.filter(|_| request.replay.is_none()) {
            return Err(Error::invalid("subnet", pool, why("subnets")));
        }
        if let Some(range) = request.sub_pool {
            return Err(Error::invalid("range", range, why("ranges")));
        }
        let pool = ipnet::Ipv4Net::default().into();
        done(AllocatedPool { id: PoolId(POOL.into()), pool, meta: [].into() })
    }

    fn release_pool(&mut self, _: &IpamCx, _: PoolRelease) -> Begun<()> {
        done(())
    }

    fn request_address(&mut self, _: &IpamCx, request: AddressRequest) -> Begun<AllocatedAddress> {
        own(&request.pool)?;
        if let Some(address) = request.address {
            let why = "the ipam driver null of its network gives no addresses".into();
            return Err(Reason::AddressUnusable { address, why }.into());
        }
        done(AllocatedAddress::default())
    }

    fn release_address(&mut self, _: &IpamCx, _: AddressRelease) -> Begun<()> {
        done(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::FutureExt;
    use netloom_model::{ErrorKind, Result};

    use super::*;
    use crate::driver::Owner;

    fn at_once<T>(begun: Begun<T>) -> Result<T> {
        begun?.now_or_never().expect("there is nothing to wait for")
    }

    fn cx() -> IpamCx {
        IpamCx { instance: "test".into(), deadline: Instant::now() }
    }

    fn request() -> PoolRequest {
        PoolRequest {
            space: SPACE.into(),
            pool: None,
            sub_pool: None,
            options: [].into(),
            exclude: Vec::new(),
            v6: false,
            network: "blue".parse().expect("an id"),
            replay: None,
        }
    }

    #[test]
    fn the_null_ipam_has_one_pool_that_is_no_pool() {
        let mut null = NullIpam;
        let given = at_once(null.request_pool(&cx(), request())).expect("given");
        assert_eq!((given.id.0.as_str(), given.pool.to_string()), ("null/0.0.0.0/0", "0.0.0.0/0".into()));
        assert!(given.meta.is_empty());
        let pool = Some("10.0.0.0/8".parse().expect("a subnet"));
        for (refused, kind) in [
            (PoolRequest { v6: true, ..request() }, ErrorKind::InvalidParameter),
            (PoolRequest { pool, ..request() }, ErrorKind::InvalidParameter),
            (PoolRequest { sub_pool: pool, ..request() }, ErrorKind::InvalidParameter),
            (PoolRequest { space: "LocalDefault".into(), ..request() }, ErrorKind::NotFound),
        ] {
            let error = at_once(null.request_pool(&cx(), refused.clone())).expect_err("it gives no such");
            assert_eq!(error.kind(), kind, "{refused:?}");
        }
        let network = request().network;
        // Whatever it is, and however often, nothing is left of it.
        for id in [Some(given.id.clone()), Some(given.id), Some(PoolId("x".into())), None] {
            at_once(null.release_pool(&cx(), PoolRelease { id, network })).expect("nothing is there");
        }
    }

    #[test]
    fn the_null_ipam_gives_no_address_and_only_of_its_own_pool() {
        let mut null = NullIpam;
        let owner = Owner::Gateway(request().network);
        let request = |pool: &str| AddressRequest {
            pool: PoolId(pool.into()),
            address: None,
            options: [].into(),
            owner: owner.clone(),
        };
        let given = at_once(null.request_address(&cx(), request(POOL))).expect("its own");
        assert_eq!(given, AllocatedAddress::default());
        let error =
            at_once(null.request_address(&cx(), request("LocalDefault/10.0.0.0/8"))).expect_err("not its");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        let fixed = AddressRequest { address: Some([10, 0, 0, 2].into()), ..request(POOL) };
        let error = at_once(null.request_address(&cx(), fixed)).expect_err("it has none");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        let release =
            |pool: &str| AddressRelease { pool: PoolId(pool.into()), address: None, owner: owner.clone() };
        for pool in [POOL, POOL, "x"] {
            at_once(null.release_address(&cx(), release(pool))).expect("nothing is there");
        }
    }
}
