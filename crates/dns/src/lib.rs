//! Names inside of sandboxes: the files that hold them, hosts and resolv.conf.
//!
//! What they say is put together in [`hosts`] and [`resolv`], which touch nothing. Everything that touches the disk is
//! in [`io`].

pub mod hosts;
pub mod io;
pub mod resolv;
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
