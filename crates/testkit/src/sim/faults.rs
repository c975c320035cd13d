//! Planned faults: which operation, and what becomes of it.

/// Every verb of [`netloom_kernel::Op::verb`].
pub(super) const VERBS: &[&str] = &[
    "create_netns",
    "adopt_netns",
    "delete_netns",
    "create_bridge",
    "create_veth",
    "cut_link",
    "delete_link",
    "move_link",
    "set_link",
    "set_master",
    "set_port_flag",
    "set_mtu",
    "add_address",
    "delete_address",
    "add_route",
    "delete_route",
    "add_neighbour",
    "delete_neighbour",
    "announce",
    "sysctl",
    "change_table",
    "change_table_inside",
    "forget_connections",
];

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// It is refused with this error number and has no effect.
    Refuse(i32),
    /// It takes effect, and the answer is lost: the caller gets an error of certainty `Uncertain`.
    Lose,
    /// It is lost on the way: no effect, and the same error as for [`FaultKind::Lose`].
    LoseBefore,
    /// It is not answered until [`super::SimKernel::release`] or the deadline. When it is released it takes
    /// effect, even if its caller has given up: that is what a kernel does with a request it has taken.
    /// Operations behind it in the same call wait with it, and so do later ones on the same link or
    /// namespace: a kernel does not let them overtake.
    Hang,
}

/// Which operations a fault counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPoint {
    /// All.
    Any,
    /// Those of one verb, as [`netloom_kernel::Op::verb`] names it.
    Verb(&'static str),
}

/// A fault: the n-th operation that fits its point, counted from the moment it is planned, and as many after
/// it as [`Fault::times`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which operations count.
    pub point: FaultPoint,
    /// Which of them it hits first; 1 is the next.
    pub nth: u64,
    /// How many in a row it hits.
    pub times: u64,
    /// What becomes of them.
    pub kind: FaultKind,
}

impl Fault {
    /// A fault of the n-th operation from now; 1 is the next.
    #[must_use]
    pub fn nth(n: u64, kind: FaultKind) -> Self {
        Self { point: FaultPoint::Any, nth: n.max(1), times: 1, kind }
    }

    /// A fault of the n-th operation of a verb from now; 1 is the next.
    ///
    /// # Panics
    /// When no operation has this verb: such a fault would never happen, and the test that plans it would
    /// prove nothing.
    #[must_use]
    pub fn verb(verb: &'static str, n: u64, kind: FaultKind) -> Self {
        check_verb(verb);
        Self { point: FaultPoint::Verb(verb), nth: n.max(1), times: 1, kind }
    }

    /// The same for so many operations in a row.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: times.max(1), ..self }
    }

    /// The same from the n-th on, until the faults are cleared.
    #[must_use]
    pub fn always(self) -> Self {
        Self { times: u64::MAX, ..self }
    }
}

/// Faults drawn at random; the same seed draws the same faults for the same sequence of operations.
#[derive(Clone, PartialEq, Debug)]
pub struct RandomFaults {
    /// Where the sequence starts.
    pub seed: u64,
    /// How likely each operation is to fail, from 0 to 1.
    pub probability: f64,
    /// What may become of it, each as likely as the others. Without any, nothing fails.
    pub kinds: Vec<FaultKind>,
}

/// Faults to plan together.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FaultPlan {
    /// Faults of particular operations. Where two meet, the earlier one in this list wins.
    pub faults: Vec<Fault>,
    /// Faults of all other operations.
    pub random: Option<RandomFaults>,
}

/// The plan as it is carried out.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Fault>,
    random: Option<(RandomFaults, u64)>,
}

impl Faults {
    pub(super) fn is_empty(&self) -> bool {
        self.planned.is_empty() && self.random.is_none()
    }

    pub(super) fn plan(&mut self, fault: Fault) {
        if let FaultPoint::Verb(verb) = fault.point {
            check_verb(verb);
        }
        self.planned.push(fault);
    }

    pub(super) fn plan_all(&mut self, plan: FaultPlan) {
        for fault in plan.faults {
            self.plan(fault);
        }
        if let Some(random) = plan.random {
            let seed = random.seed;
            self.random = Some((random, seed));
        }
    }

    /// The faults that have not happened yet, or not to their end.
    pub(super) fn pending(&self) -> &[Fault] {
        &self.planned
    }

    /// Counts an operation and says what becomes of it.
    pub(super) fn decide(&mut self, verb: &str) -> Option<FaultKind> {
        let mut hit = None;
        self.planned.retain_mut(|fault| {
            if matches!(fault.point, FaultPoint::Verb(wanted) if wanted != verb) {
                return true;
            }
            if fault.nth > 1 {
                fault.nth -= 1;
                return true;
            }
            // One that comes second keeps its turn for the next operation.
            if hit.is_some() {
                return true;
            }
            hit = Some(fault.kind);
            if fault.times < u64::MAX {
                fault.times -= 1;
            }
            fault.times > 0
        });
        hit.or_else(|| self.draw())
    }

    fn draw(&mut self) -> Option<FaultKind> {
        let (random, state) = self.random.as_mut()?;
        let chance = next_random(state);
        let pick = next_random(state);
        // 53 bits: as many as the fraction of an f64 holds exactly.
        let chance = (chance >> 11) as f64 / (1_u64 << 53) as f64;
        if chance >= random.probability || random.kinds.is_empty() {
            return None;
        }
        let place = pick % random.kinds.len() as u64;
        usize::try_from(place).ok().and_then(|place| random.kinds.get(place).copied())
    }
}

pub(super) fn check_verb(verb: &str) {
    assert!(VERBS.contains(&verb), "no operation has the verb {verb:?}; there are {}", VERBS.join(", "));
}

/// The splitmix64 sequence.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSE: FaultKind = FaultKind::Refuse(16);

    fn run(faults: &mut Faults, verbs: &[&str]) -> Vec<bool> {
        verbs.iter().map(|verb| faults.decide(verb).is_some()).collect()
    }

    #[test]
    fn the_nth_operation_overall_or_of_a_verb_is_hit() {
        let mut faults = Faults::default();
        faults.plan(Fault::nth(2, REFUSE));
        faults.plan(Fault::verb("set_mtu", 2, REFUSE));
        let verbs = ["set_mtu", "sysctl", "sysctl", "set_mtu", "set_mtu"];
        assert_eq!(run(&mut faults, &verbs), [false, true, false, true, false]);
        assert!(faults.is_empty());
    }

    #[test]
    fn a_fault_repeats_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.plan(Fault::nth(2, REFUSE).times(2));
        assert_eq!(run(&mut faults, &["sysctl"; 5]), [false, true, true, false, false]);
        faults.plan(Fault::nth(3, REFUSE).always());
        assert_eq!(run(&mut faults, &["sysctl"; 5]), [false, false, true, true, true]);
        assert_eq!(faults.pending().len(), 1);
    }

    #[test]
    fn two_faults_of_one_operation_hit_two_operations() {
        let mut faults = Faults::default();
        faults.plan(Fault::nth(1, FaultKind::Lose));
        faults.plan(Fault::nth(1, REFUSE));
        assert_eq!(faults.decide("sysctl"), Some(FaultKind::Lose));
        assert_eq!(faults.decide("sysctl"), Some(REFUSE));
        assert_eq!(faults.decide("sysctl"), None);
    }

    #[test]
    fn random_faults_follow_their_seed() {
        let drawn = |seed, probability| {
            let mut faults = Faults::default();
            let kinds = vec![REFUSE, FaultKind::Lose];
            let random = Some(RandomFaults { seed, probability, kinds });
            faults.plan_all(FaultPlan { faults: Vec::new(), random });
            (0..1000).map(|_| faults.decide("sysctl")).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7, 0.1), drawn(7, 0.1));
        assert_ne!(drawn(7, 0.1), drawn(8, 0.1));
        let hits = drawn(7, 0.1).iter().flatten().count();
        assert!((50..200).contains(&hits), "{hits} of 1000 at one in ten");
        assert!(drawn(7, 0.0).iter().all(Option::is_none));
        assert!(drawn(7, 1.0).iter().all(Option::is_some));
    }
}
