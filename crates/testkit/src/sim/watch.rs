//! Readers of changes of the host's links.

use futures::channel::mpsc;
use netloom_kernel::{KernelEvent, LinkView};
use netloom_model::IfName;

/// How many events wait for a reader before it has to list again.
pub(super) const WATCH_CAPACITY: usize = 1024;

/// Everybody who called `watch`.
#[derive(Debug, Default)]
pub(super) struct Watchers(Vec<Watcher>);

#[derive(Debug)]
struct Watcher {
    events: mpsc::Sender<KernelEvent>,
    /// Each sender of a channel owns a slot, so that this one has room when the other has none.
    overrun: mpsc::Sender<KernelEvent>,
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, capacity: usize) -> mpsc::Receiver<KernelEvent> {
        let (events, reader) = mpsc::channel(capacity);
        let overrun = events.clone();
        self.0.push(Watcher { events, overrun });
        reader
    }

    pub(super) fn link_changed(&mut self, view: &LinkView) {
        self.tell(|| KernelEvent::LinkChanged(view.clone()));
    }

    pub(super) fn link_gone(&mut self, index: u32, name: IfName) {
        self.tell(|| KernelEvent::LinkGone { index, name });
    }

    /// Tells everybody to list again.
    pub(super) fn overrun(&mut self) {
        self.tell(|| KernelEvent::Overrun);
    }

    fn tell(&mut self, event: impl Fn() -> KernelEvent) {
        self.0.retain_mut(|watcher| {
            match watcher.events.try_send(event()) {
                // A second loss before the reader saw the first needs no second notice: that notice is still
                // ahead of the reader, who will list after this change.
                Err(error) if error.is_full() => drop(watcher.overrun.try_send(KernelEvent::Overrun)),
                _ => {}
            }
            !watcher.events.is_closed()
        });
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
