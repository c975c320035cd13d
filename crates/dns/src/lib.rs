//! Names inside of sandboxes: service records, the name server that answers in each sandbox, and the files that hold
//! names.
//!
//! [`records`] are what networks publish: one writer for each, any number of readers without lock or message.
//! [`answer`](answer::answer) makes the answer to a question of them, or says that somebody else has to be asked.
//! A [`Server`](server::Server) does that for any number of sandboxes, on sockets that somebody opened in their
//! namespaces, and asks others where it has to ([`forward`]).
//!
//! What the files say is put together in [`hosts`] and [`resolv`], which touch nothing. Everything that touches the
//! disk is in [`io`].

pub mod answer;
pub mod counters;
pub mod forward;
pub mod hosts;
pub mod io;
pub mod name;
pub mod query;
pub mod records;
pub mod resolv;
pub mod server;
mod sha256;

/// The same cases in every run, unless `PROPTEST_RNG_SEED` or `PROPTEST_CASES` says otherwise.
#[cfg(test)]
fn seeded() -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    let mut config = Config { cases, failure_persistence: None, ..Config::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x006e_6574_6c6f_6f6d);
    }
    config
}
