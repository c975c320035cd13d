//! How long a host rests when others were faster.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use rustc_hash::FxHasher;

/// The longest rest after the first time; doubled after each further one.
const FIRST: Duration = Duration::from_millis(2);
/// How many times it is doubled.
const DOUBLED: u32 = 5;

/// How long a host rests that was too late this many times in a row: up to 2 ms the first time, up to 64 ms in the end, and
/// at least half of that. Where in between follows from its name and from what it knows, so hosts that were too late
/// together do not come back together.
pub(crate) fn back_off(host: &str, at: u64, late: u32) -> Duration {
    let longest = FIRST * 2u32.pow(late.saturating_sub(1).min(DOUBLED));
    let mut hasher = FxHasher::default();
    (host, at, late).hash(&mut hasher);
    let part = u32::try_from(hasher.finish() >> 48).unwrap_or_default();
    longest / 2 + longest / 2 * part / (1 << 16)
}

/// How a host rests: time is its caller's business.
#[derive(Clone)]
pub(crate) struct Rest(Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>);

impl Rest {
    pub(crate) fn new(rest: impl Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rest))
    }

    pub(crate) async fn of(&self, time: Duration) {
        (self.0)(time).await;
    }
}

impl Default for Rest {
    /// Not at all.
    fn default() -> Self {
        Self::new(|_| Box::pin(ready(())))
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rest")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rests_grow_are_bounded_and_differ_between_hosts() {
        let mut longest = Duration::from_millis(2);
        for late in 1..40 {
            let rests: BTreeSet<_> = (0..100).map(|n| back_off(&format!("host-{n}"), 7, late)).collect();
            assert!(rests.len() > 90, "{} different rests of 100 hosts", rests.len());
            let (least, most) = (*rests.first().expect("100"), *rests.last().expect("100"));
            assert!(least >= longest / 2 && most < longest, "{late}: {least:?} to {most:?}");
            assert!(most - least > longest / 4, "{late}: {least:?} to {most:?}");
            assert_eq!(back_off("host-1", 7, late), back_off("host-1", 7, late));
            longest = (longest * 2).min(Duration::from_millis(64));
        }
    }
}
