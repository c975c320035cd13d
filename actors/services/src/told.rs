//! What readers of events believe about published ports.

use std::cell::RefCell;
use std::rc::Rc;

use netloom_model::{EndpointId, Published, PublishedPorts, Seldom};
use rustc_hash::FxHashMap;

/// The ports that each endpoint was told to have. Belongs to the engine and not to an actor: after the death of one nothing
/// is told twice, and nothing that came while it was away is lost.
#[derive(Clone, Debug, Default)]
pub struct ToldPorts(Rc<RefCell<FxHashMap<EndpointId, Seldom<Published>>>>);

impl ToldPorts {
    /// An earlier engine has told of these, if this one has not said anything else yet.
    pub fn known(&self, endpoint: EndpointId, published: &Seldom<Published>) {
        if !published.is_nothing() {
            self.0.borrow_mut().entry(endpoint).or_insert_with(|| published.clone());
        }
    }

    /// These lead to the endpoint now: those that do not any more, and those that did not before.
    #[must_use = "who reads events is to be told"]
    pub fn change(
        &self,
        endpoint: EndpointId,
        now: &Seldom<Published>,
    ) -> (Vec<PublishedPorts>, Vec<PublishedPorts>) {
        let mut all = self.0.borrow_mut();
        let before = match all.get_mut(&endpoint) {
            Some(before) => std::mem::replace(before, now.clone()),
            None if now.is_nothing() => return Default::default(),
            None => {
                all.insert(endpoint, now.clone());
                Seldom::default()
            }
        };
        let only = |these: &Published, those: &Published| {
            these.0.iter().filter(|ports| !those.0.contains(ports)).cloned().collect()
        };
        (only(&before, now), only(now, &before))
    }

    /// The endpoint is gone.
    pub fn forget(&self, endpoint: EndpointId) {
        self.0.borrow_mut().remove(&endpoint);
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::{HostPorts, PortRange, Protocol};

    use super::*;

    fn ports(numbers: &[u16]) -> Seldom<Published> {
        let all = numbers.iter().map(|port| PublishedPorts {
            host: HostPorts {
                protocol: Protocol::Tcp,
                addresses: ["0.0.0.0".parse().expect("an address")].into(),
                range: PortRange { first: *port, last: *port },
            },
            port: 80,
        });
        Published(all.collect()).into()
    }

    /// Each case: what is so now, what has ended, what has begun.
    #[test]
    fn only_what_is_new_is_told() {
        let (told, endpoint) = (ToldPorts::default(), "1".repeat(64).parse().expect("an identifier"));
        let cases: [(&[u16], &[u16], &[u16]); 6] = [
            (&[], &[], &[]),
            (&[1, 2], &[], &[1, 2]),
            (&[2, 1], &[], &[]),
            (&[2, 3], &[1], &[3]),
            (&[], &[2, 3], &[]),
            (&[], &[], &[]),
        ];
        for (now, ended, begun) in cases {
            let changed = told.change(endpoint, &ports(now));
            assert_eq!(changed, (ports(ended).0.clone(), ports(begun).0.clone()), "{now:?}");
        }
        // What an earlier engine has said counts only where this one has said nothing.
        told.known(endpoint, &ports(&[4]));
        assert_eq!(told.change(endpoint, &ports(&[4])), (Vec::new(), ports(&[4]).0.clone()));
        told.forget(endpoint);
        told.known(endpoint, &ports(&[4]));
        assert_eq!(told.change(endpoint, &ports(&[4])), Default::default());
    }
}
