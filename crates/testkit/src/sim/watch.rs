//! Readers of changes of the host's links, of its addresses and routes, and of its tables.

use futures::channel::mpsc;
use ipnet::IpNet;
use netloom_kernel::nft::Table;
use netloom_kernel::{AddressView, KernelEvent, LinkView, ReachEvent, RouteView, TableEvent};
use netloom_model::IfName;

use super::world::{HOST, LinkId, RouteEntry, World};

/// How many events wait for a reader before it has to list again.
pub(super) const WATCH_CAPACITY: usize = 1024;

/// What readers are told.
pub(super) trait News {
    /// That something was lost.
    const OVERRUN: Self;
}

impl News for KernelEvent {
    const OVERRUN: Self = Self::Overrun;
}

impl News for ReachEvent {
    const OVERRUN: Self = Self::Overrun;
}

impl News for TableEvent {
    const OVERRUN: Self = Self::Overrun;
}

/// Everybody who called `watch`, or `watch_reach`.
#[derive(Debug)]
pub(super) struct Watchers<E>(Vec<Watcher<E>>);

#[derive(Debug)]
struct Watcher<E> {
    events: mpsc::Sender<E>,
    /// Each sender of a channel owns a slot, so that this one has room when the other has none.
    overrun: mpsc::Sender<E>,
}

impl<E> Default for Watchers<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E: News> Watchers<E> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, capacity: usize) -> mpsc::Receiver<E> {
        let (events, reader) = mpsc::channel(capacity);
        let overrun = events.clone();
        self.0.push(Watcher { events, overrun });
        reader
    }

    /// Tells everybody to list again.
    pub(super) fn overrun(&mut self) {
        self.tell(|| E::OVERRUN);
    }

    fn tell(&mut self, event: impl Fn() -> E) {
        self.0.retain_mut(|watcher| {
            match watcher.events.try_send(event()) {
                // A second loss before the reader saw the first needs no second notice: that notice is still
                // ahead of the reader, who will list after this change.
                Err(error) if error.is_full() => drop(watcher.overrun.try_send(E::OVERRUN)),
                _ => {}
            }
            !watcher.events.is_closed()
        });
    }
}

impl Watchers<KernelEvent> {
    pub(super) fn link_changed(&mut self, view: &LinkView) {
        self.tell(|| KernelEvent::LinkChanged(view.clone()));
    }

    pub(super) fn link_gone(&mut self, index: u32, name: IfName) {
        self.tell(|| KernelEvent::LinkGone { index, name });
    }
}

impl Watchers<TableEvent> {
    pub(super) fn changed(&mut self, table: &Table) {
        self.tell(|| TableEvent::Changed(table.clone()));
    }
}

impl World {
    /// Whether somebody hears of the addresses and routes of a link.
    pub(super) fn is_heard(&self, id: LinkId) -> bool {
        !self.reach.is_empty() && self.links[id].ns == HOST
    }

    pub(super) fn note_address(&mut self, id: LinkId, address: IpNet, came: bool) {
        if self.is_heard(id) {
            let view = AddressView { link: self.links[id].index, address };
            self.note(if came { ReachEvent::AddressCame(view) } else { ReachEvent::AddressWent(view) });
        }
    }

    pub(super) fn note_route(&mut self, route: &RouteEntry, came: bool) {
        if self.is_heard(route.link) {
            let link = Some(self.links[route.link].index);
            let view =
                RouteView { destination: route.destination, via: route.via, link, table: RouteView::MAIN };
            self.note(if came { ReachEvent::RouteCame(view) } else { ReachEvent::RouteWent(view) });
        }
    }

    fn note(&mut self, event: ReachEvent) {
        if event.counts() {
            self.reach.tell(|| event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(index: u32) -> KernelEvent {
        KernelEvent::LinkGone { index, name: "eth0".parse().expect("valid") }
    }

    #[test]
    fn a_slow_reader_is_told_once_and_then_goes_on() {
        let mut watchers = Watchers::default();
        let mut reader = watchers.add(2);
        for index in 0..10 {
            watchers.link_gone(index, "eth0".parse().expect("valid"));
        }
        let mut seen = Vec::new();
        while let Ok(event) = reader.try_recv() {
            seen.push(event);
        }
        assert_eq!(seen, [gone(0), gone(1), gone(2), KernelEvent::Overrun]);
        watchers.link_gone(11, "eth0".parse().expect("valid"));
        assert_eq!(reader.try_recv().expect("goes on"), gone(11));
    }

    #[test]
    fn a_reader_that_left_is_forgotten() {
        let mut watchers = Watchers::default();
        drop(watchers.add(2));
        watchers.link_gone(1, "eth0".parse().expect("valid"));
        assert!(watchers.is_empty());
    }
}
