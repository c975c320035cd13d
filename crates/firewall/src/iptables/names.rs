//! Names of chains: at most 28 characters, and never those of another engine or of somebody else.

use std::net::IpAddr;

use netloom_model::IfName;

/// The longest name of a chain (`XT_EXTENSION_MAXNAMELEN` less its zero).
const LONGEST: usize = 28;
/// The longest beginning: a chain of a network has `-I-` and 15 characters more.
const BEGINNING: usize = LONGEST - 3 - SUFFIX;
/// What is left for a bridge or an address.
const SUFFIX: usize = 15;

/// How an engine's chains begin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Names {
    beginning: String,
}

impl Names {
    /// `NETLOOM` for the engine `netloom`. For others `NL_` and their name if it is short and of a-z and 0-9, else `NL_`
    /// and a number made of it. So no engine's name can be that of somebody else's chains, and no beginning is that of
    /// another one.
    #[must_use]
    pub fn of(engine: &str) -> Self {
        let plain = engine.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let room = BEGINNING - "NL_".len();
        let beginning = match engine {
            "netloom" => "NETLOOM".to_owned(),
            short if plain && !short.is_empty() && short.len() < room => {
                format!("NL_{}", short.to_ascii_uppercase())
            }
            // One longer than any name that is taken as it is.
            other => format!("NL_{}", &digits(number(other.as_bytes()))[..room]),
        };
        Self { beginning }
    }

    /// The users' own chain, in the table `filter`.
    #[must_use]
    pub fn user(&self) -> String {
        self.chain("USER")
    }

    /// Whether a chain of this name is ours to write.
    pub(super) fn own(&self, chain: &str) -> bool {
        let rest = chain.strip_prefix(&self.beginning).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest != "USER")
    }

    pub(super) fn chain(&self, kind: &str) -> String {
        format!("{}-{kind}", self.beginning)
    }

    /// What goes to a network.
    pub(super) fn towards(&self, bridge: IfName) -> String {
        self.chain(&format!("I-{bridge}"))
    }

    /// What comes from it.
    pub(super) fn away(&self, bridge: IfName) -> String {
        self.chain(&format!("O-{bridge}"))
    }

    /// What goes to a container. Rules in it name the address, so that two that share a name do no harm.
    pub(super) fn container(&self, address: IpAddr) -> String {
        match address {
            IpAddr::V4(address) => self.chain(&format!("E-{address}")),
            IpAddr::V6(address) => {
                self.chain(&format!("E-{}", &digits(number(&address.octets()))[..SUFFIX - 2]))
            }
        }
    }
}

/// A number of some bytes that is the same everywhere and always (FNV-1a).
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Fourteen digits to the base of 32, the lowest first, because these differ most.
fn digits(mut number: u64) -> String {
    (0..14)
        .map(|_| {
            let digit = usize::try_from(number % 32).unwrap_or_default();
            number /= 32;
            char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[digit])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_no_engine_has_the_chains_of_another() {
        let engines =
            ["netloom", "", "blue", "blues", "docker", "Netloom", "a-b", "a_b", "an-engine-with-a-long-name"];
        let bridge = "br-0123456789ab".parse().expect("valid");
        let addresses = ["255.255.255.255", "fd00::2"].map(|text| text.parse().expect("an address"));
        let chains = |engine: &str| {
            let names = Names::of(engine);
            let [v4, v6] = addresses.map(|address| names.container(address));
            [names.towards(bridge), names.away(bridge), v4, v6, names.chain("FORWARD")]
        };
        for engine in engines {
            for chain in chains(engine) {
                assert!(chain.len() <= LONGEST, "{chain}");
                for other in engines {
                    assert_eq!(Names::of(other).own(&chain), engine == other, "{chain} and {other:?}");
                }
            }
            assert!(!Names::of(engine).own(&Names::of(engine).user()));
            for foreign in ["DOCKER-USER", "DOCKER-FORWARD", "NETLOOM", "FORWARD", "KUBE-FORWARD"] {
                assert!(!Names::of(engine).own(foreign), "{foreign}");
            }
        }
        assert_eq!(Names::of("netloom").user(), "NETLOOM-USER");
        assert_eq!(Names::of("blue").user(), "NL_BLUE-USER");
    }
}
