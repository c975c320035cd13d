//! Whose a subnet is when several want it at the same moment, such as two engines of one host: each finds it free, and
//! each gives its bridge an address of it.
//!
//! The kernel tells everybody of new addresses in one order, and whose came first keeps the subnet. So exactly one of
//! them does, however slow it is, and nobody waits for anybody. A bridge gets its IPv4 address first: of two that meet
//! in both families, it decides. Where news were lost, whoever else is there keeps the subnet.
//!
//! A route that has come since the host was looked at, such as a VPN's, keeps it as well. One that follows from an address
//! comes and goes with that, of which is decided as said.

use futures::StreamExt;
use futures::channel::mpsc;
use ipnet::IpNet;
use netloom_kernel::{AddressView, Netns, Op, ReachEvent, RouteView};
use netloom_model::{Error, IfName, Reason, Result};

use crate::driver::DriverCx;

/// What of a bridge's new addresses is to be found out: it is begun before they are given to it.
pub(super) struct Claim {
    news: mpsc::Receiver<ReachEvent>,
    race: Race,
}

impl Claim {
    /// Begins to listen, and looks whether somebody else has the subnets of these addresses already. `link` is the
    /// number of the bridge.
    ///
    /// # Errors
    /// `PoolOverlapsHost`; the kernel's own.
    pub(super) async fn new(cx: &DriverCx, link: u32, addresses: &[IpNet]) -> Result<Self> {
        let news = cx.kernel.watch_reach();
        // Of others nothing is told that is link-local.
        let told = |net: &IpNet| ReachEvent::AddressCame(AddressView { link, address: *net }).counts();
        let wanted = addresses.iter().filter(|net| told(net)).copied().collect();
        let claim = Self { news, race: Race { link, wanted, came: Vec::new() } };
        claim.look(cx).await?;
        Ok(claim)
    }

    /// Finds out who was first, now that the bridge has got these addresses. They are taken back when somebody else was.
    ///
    /// # Errors
    /// `PoolOverlapsHost`; the kernel's own.
    pub(super) async fn decide(mut self, cx: &DriverCx, bridge: IfName, got: &[IpNet]) -> Result<()> {
        let mut awaited: Vec<_> = got.iter().filter(|net| self.race.wanted.contains(net)).copied().collect();
        let mut complete = true;
        while complete && !awaited.is_empty() {
            match self.news.next().await {
                Some(ReachEvent::Overrun) | None => complete = false,
                Some(news) => self.race.learn(&news, &mut awaited),
            }
        }
        let lost = match self.race.first_of_another() {
            Some(other) if complete => Err(self.race.lost_to(cx, &other).await),
            None if complete => Ok(()),
            Some(_) | None => self.look(cx).await,
        };
        let lost = match lost {
            Ok(()) => self.look_at_routes(cx).await,
            lost => lost,
        };
        if lost.is_err() {
            // At once, so that nobody else passes the subnet over for them. The bridge goes with its network.
            let (netns, link) = (Netns::Host, bridge);
            let back = got.iter().map(|address| Op::DeleteAddress { netns, link, address: *address });
            for refused in
                cx.kernel.execute(back.collect(), cx.deadline).await.into_iter().filter_map(Result::err)
            {
                tracing::debug!(error = %refused, %bridge, "an address stays until the bridge is gone");
            }
        }
        lost
    }

    /// Looks whether somebody else has the subnets.
    async fn look(&self, cx: &DriverCx) -> Result<()> {
        let all = cx.kernel.addresses(Netns::Host, cx.deadline).await?;
        match all.into_iter().find(|view| self.race.in_the_way(view)) {
            Some(other) => Err(self.race.lost_to(cx, &other).await),
            None => Ok(()),
        }
    }

    /// Looks whether a route of others leads to the subnets.
    async fn look_at_routes(&self, cx: &DriverCx) -> Result<()> {
        let before = self.routes(cx).await?;
        if before.is_empty() {
            return Ok(());
        }
        // Of another bridge that was later, and goes: its route was there before its address is looked for, and is gone
        // with that after it.
        let addresses = cx.kernel.addresses(Netns::Host, cx.deadline).await?;
        let now = self.routes(cx).await?;
        let has_address = |link: u32| {
            addresses.iter().any(|view| view.link == link && self.race.overlapped(&view.address).is_some())
        };
        let stays = |route: &RouteView| now.contains(route) && !route.link.is_some_and(has_address);
        match before.into_iter().find(stays) {
            Some(RouteView { destination, link, table, .. }) => {
                let main = table == RouteView::MAIN;
                let what = if main { "a route".to_owned() } else { format!("a route of table {table}") };
                Err(self.race.lost(cx, destination, what, link).await)
            }
            None => Ok(()),
        }
    }

    async fn routes(&self, cx: &DriverCx) -> Result<Vec<RouteView>> {
        let mut all = cx.kernel.routes_of_all_tables(Netns::Host, cx.deadline).await?;
        all.retain(|route| {
            let to = &route.destination;
            route.link != Some(self.race.link) && to.prefix_len() > 1 && self.race.overlapped(to).is_some()
        });
        Ok(all)
    }
}

/// Who has come with which address, in the kernel's order.
struct Race {
    /// The number of the bridge.
    link: u32,
    wanted: Vec<IpNet>,
    came: Vec<AddressView>,
}

impl Race {
    /// Takes news in; of the bridge's own addresses, what came is awaited no longer.
    fn learn(&mut self, news: &ReachEvent, awaited: &mut Vec<IpNet>) {
        match news {
            ReachEvent::AddressCame(view) if view.link == self.link => {
                awaited.retain(|address| *address != view.address);
                self.came.push(*view);
            }
            ReachEvent::AddressCame(view) if self.in_the_way(view) => self.came.push(*view),
            ReachEvent::AddressWent(view) if view.link != self.link => self.came.retain(|came| came != view),
            _ => {}
        }
    }

    /// Whether it is another link's address in a subnet that is wanted. One that covers everything says nothing.
    fn in_the_way(&self, view: &AddressView) -> bool {
        view.link != self.link && view.address.prefix_len() > 1 && self.overlapped(&view.address).is_some()
    }

    fn overlapped(&self, other: &IpNet) -> Option<IpNet> {
        let other = other.trunc();
        let overlaps = |net: &&IpNet| net.trunc().contains(&other) || other.contains(&net.trunc());
        self.wanted.iter().find(overlaps).copied()
    }

    /// An address of another link that came before the bridge's own.
    fn first_of_another(&self) -> Option<AddressView> {
        let v4 = |view: &AddressView| matches!(view.address, IpNet::V4(_));
        let of = |link: u32| self.came.iter().enumerate().filter(move |(_, came)| came.link == link);
        let others = self.came.iter().filter(|came| came.link != self.link);
        let decisive = others.filter_map(|other| {
            let mut all = of(other.link);
            all.clone().find(|(_, came)| v4(came)).or_else(|| all.next())
        });
        let mut earlier = decisive.filter(|(at, other)| {
            let mut own = of(self.link).filter(|(_, came)| v4(came) == v4(other));
            // One that is not told was there before.
            own.next().is_some_and(|(own, _)| *at < own)
        });
        earlier.next().map(|(_, other)| *other)
    }

    async fn lost_to(&self, cx: &DriverCx, other: &AddressView) -> Error {
        self.lost(cx, other.address, "an address".to_owned(), Some(other.link)).await
    }

    /// The subnet is another one's, because of its address or route.
    async fn lost(&self, cx: &DriverCx, other: IpNet, what: String, link: Option<u32>) -> Error {
        let links = link.into_iter().collect();
        let found = cx.kernel.links_at(Netns::Host, links, cx.deadline).await;
        // One that nobody can name any more is in the way all the same.
        let link = found.ok().and_then(|found| found.into_iter().flatten().next()).map(|link| link.name);
        let pool = self.overlapped(&other).unwrap_or(other).trunc();
        let (other, what) = (other.trunc(), what.into());
        Error::from(Reason::PoolOverlapsHost { pool, other, what, link }).uncertain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1;

    /// What comes of news such as `1+10.0.0.1/24`: the link that was first, if it is another one.
    fn first(wanted: &[&str], news: &[&str]) -> Option<u32> {
        let net = |text: &str| text.parse::<IpNet>().expect("an address");
        let wanted: Vec<_> = wanted.iter().map(|text| net(text)).collect();
        let mut awaited = wanted.clone();
        let mut race = Race { link: OWN, wanted, came: Vec::new() };
        for text in news {
            let (link, address) = text.split_once(['+', '-']).expect("a link and an address");
            let view = AddressView { link: link.parse().expect("a number"), address: net(address) };
            let came = text.contains('+');
            let news = if came { ReachEvent::AddressCame(view) } else { ReachEvent::AddressWent(view) };
            race.learn(&news, &mut awaited);
        }
        race.first_of_another().map(|view| view.link)
    }

    #[test]
    fn whoever_was_first_keeps_the_subnet() {
        let wanted = ["10.0.0.1/24"];
        for (news, other) in [
            (&["1+10.0.0.1/24"][..], None),
            (&["1+10.0.0.1/24", "2+10.0.0.1/24"], None),
            (&["2+10.0.0.1/24", "1+10.0.0.1/24"], Some(2)),
            (&["2+10.0.1.1/24", "1+10.0.0.1/24"], None),
            (&["2+10.0.0.9/32", "1+10.0.0.1/24"], Some(2)),
            (&["2+10.9.9.9/8", "1+10.0.0.1/24"], Some(2)),
            (&["2+10.9.9.9/1", "1+10.0.0.1/24"], None),
            (&["2+10.0.0.1/24", "2-10.0.0.1/24", "1+10.0.0.1/24"], None),
            (&["2+10.0.0.1/24", "3+10.0.0.2/24", "2-10.0.0.1/24", "1+10.0.0.1/24"], Some(3)),
            // Told again, as the kernel does when something of it changes.
            (&["1+10.0.0.1/24", "2+10.0.0.1/24", "1+10.0.0.1/24"], None),
        ] {
            assert_eq!(first(&wanted, news), other, "{news:?}");
        }
    }

    #[test]
    fn of_two_that_meet_in_both_families_ipv4_decides() {
        let both = ["10.0.0.1/24", "fd00::1/64"];
        let (own4, own6, other4, other6) = ("1+10.0.0.1/24", "1+fd00::1/64", "2+10.0.0.1/24", "2+fd00::1/64");
        assert_eq!(first(&both, &[own4, other4, other6, own6]), None);
        assert_eq!(first(&both, &[other4, own4, own6, other6]), Some(2));
        assert_eq!(first(&both, &[own4, other6, own6]), Some(2), "they meet in IPv6 alone");
        assert_eq!(first(&both, &[own4, "2+10.0.1.1/24", other6, own6]), Some(2));
        assert_eq!(first(&both, &[other6, own6]), Some(2), "the IPv4 address was there before");
    }
}
