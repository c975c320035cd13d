//! Trees of parts against maps.

use proptest::prelude::*;

use super::*;

const SPACE: &str = "test";

/// A store with the parts of the images so far.
#[derive(Default)]
struct Kept {
    parts: FxHashMap<Name, Vec<u8>>,
    root: Option<Name>,
    image: u64,
    /// How many parts the last image took from the one before.
    read: usize,
}

impl Kept {
    fn node(&self, name: Name) -> Node {
        let bytes = &self.parts[&name];
        assert!(name.is_of(bytes));
        Node::read(SPACE, bytes).expect("a part")
    }

    /// Makes the next image, and removes what the one before has alone.
    fn follow(&mut self, edits: &Edits) -> Rebuilt {
        self.image += 1;
        let mut known = FxHashMap::default();
        let rebuilt = loop {
            match (Rebuild { space: SPACE, image: self.image, edits, known: &known }).run(self.root) {
                Ok(rebuilt) => break rebuilt,
                Err(Need::Damaged(name, error)) => panic!("{name:?}: {error}"),
                Err(Need::Parts(names)) => {
                    for name in names {
                        assert!(known.insert(name, self.node(name)).is_none(), "it has that one");
                    }
                }
            }
        };
        self.read = known.len();
        for name in &rebuilt.old {
            assert!(self.parts.remove(name).is_some(), "removed twice, or never there");
        }
        for (name, bytes) in &rebuilt.new {
            assert!(self.parts.insert(*name, bytes.clone()).is_none(), "a name came back");
        }
        self.root = rebuilt.root;
        rebuilt
    }

    /// All entries in order, and the number of parts that they are in with those above them.
    fn all(&self) -> (Vec<Entry>, usize) {
        let (mut entries, mut parts) = (Vec::new(), 0);
        let mut rest: Vec<_> = self.root.into_iter().collect();
        while let Some(name) = rest.pop() {
            parts += 1;
            let node = self.node(name);
            let names: Vec<_> = node.names().expect("names").into_iter().map(|(_, name)| name).collect();
            if node.level() == 0 {
                entries.extend(node.entries);
            }
            rest.extend(names.into_iter().rev());
        }
        (entries, parts)
    }
}

/// As long as keys are of networks whose identifiers an engine has drawn.
fn key(n: u16) -> Key {
    [&[b'n'; 70][..], &n.to_be_bytes()].concat()
}

proptest! {
    /// Against a map, with values of which some are larger than a part: nothing is lost, nothing is of no use, no part is
    /// too large, and few are too small.
    #[test]
    fn images_say_what_a_map_says(
        steps in prop::collection::vec(
            (
                prop::collection::vec((0u16..600, 0u8..4, 1usize..900), 1..120),
                prop::option::of((0u16..600, 0u16..400)),
            ),
            1..24,
        ),
    ) {
        let (mut kept, mut map) = (Kept::default(), BTreeMap::new());
        for (changes, gone) in steps {
            let mut edits = Edits::default();
            if let Some((first, many)) = gone {
                let range = (key(first), key(first.saturating_add(many).max(first + 1)));
                map.retain(|key, _| *key < range.0 || *key >= range.1);
                edits.gone.push(range);
            }
            for (n, what, size) in changes {
                let size = if size == 899 { 3 * LARGE } else { size };
                let value = (what > 0).then(|| vec![what; size]);
                match &value {
                    Some(value) => map.insert(key(n), value.clone()),
                    None => map.remove(&key(n)),
                };
                edits.keys.insert(key(n), value);
            }
            let rebuilt = kept.follow(&edits);
            let (entries, parts) = kept.all();
            prop_assert!(entries.iter().map(|(key, value)| (key, value)).eq(&map));
            prop_assert_eq!(parts, kept.parts.len(), "parts that nobody needs");
            prop_assert_eq!(rebuilt.root.is_none(), map.is_empty());
            let large = kept.parts.values().filter(|bytes| bytes.len() > 2 * LARGE).count();
            let values = map.values().filter(|value| value.len() > LARGE).count();
            prop_assert!(large <= values, "{} parts are too large", large);
            let bytes: usize = kept.parts.values().map(Vec::len).sum();
            prop_assert!(parts <= 4 + bytes / SMALL, "{} parts of {} bytes", parts, bytes);
        }
    }
}

/// What is written for a change is a part of each level; parts that shrink are put together.
#[test]
fn what_is_written_follows_what_has_changed() {
    let mut kept = Kept::default();
    let all = |value: Option<&[u8]>, of: &mut dyn Iterator<Item = u16>| {
        let keys = of.map(|n| (key(n), value.map(<[u8]>::to_vec))).collect();
        Edits { keys, gone: Vec::new() }
    };
    kept.follow(&all(Some(&[7; 100]), &mut (0..60_000)));
    let (_, parts) = kept.all();
    assert!((700..1_600).contains(&parts), "{parts}");
    let level = kept.node(kept.root.expect("there is one")).level();
    for n in (0..60_000).step_by(7_001) {
        let rebuilt = kept.follow(&all(Some(&[8; 100]), &mut std::iter::once(n)));
        assert_eq!((rebuilt.new.len(), rebuilt.old.len()), (usize::from(level) + 1, usize::from(level) + 1));
        assert_eq!(kept.read, usize::from(level) + 1);
        assert!(rebuilt.new.iter().all(|(_, bytes)| bytes.len() <= LARGE + LARGE / 4));
    }
    // Of each hundred one stays.
    for n in 0..100 {
        if n != 50 {
            kept.follow(&all(None, &mut (0..600).map(|hundred| hundred * 100 + n)));
        }
    }
    let (entries, parts) = kept.all();
    assert_eq!(entries.len(), 600);
    assert!(parts < 60, "{parts} parts of {} bytes", 600 * 107);
    // A range goes without a look at what is wholly in it.
    kept.follow(&all(Some(&[7; 100]), &mut (0..60_000)));
    let before = kept.parts.len();
    let gone = vec![(key(10_000), key(50_000))];
    kept.follow(&Edits { keys: BTreeMap::new(), gone });
    assert!(kept.read < before / 10, "{} of {before} parts were read", kept.read);
    assert_eq!(kept.all().0.len(), 20_000);
    kept.follow(&Edits { keys: BTreeMap::new(), gone: vec![(key(0), key(u16::MAX))] });
    assert_eq!((kept.root, kept.parts.len()), (None, 0));
}
