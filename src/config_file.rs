//! Configuration files.

use std::path::Path;

use netloom_model::config::{Ignored, parse};
use netloom_model::{EngineConfig, Error, Result};

/// Reads a configuration file, in TOML: libnetwork's tables and the engine's own keys. `docs/netloom.toml` has
/// every key with its meaning. What of the file has no effect, tables that old files have, is warned of in the log
/// and returned. Reads the file in the calling thread.
///
/// # Errors
/// `InvalidParameter`, naming the file: it cannot be read; or, with line and key, it is no TOML, a key is unknown, or
/// a value cannot be used ([`Reason::ConfigFile`](crate::Reason::ConfigFile)).
pub fn config_from_file(path: impl AsRef<Path>) -> Result<(EngineConfig, Vec<Ignored>)> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::invalid("the configuration file", path.display(), error.to_string()))?;
    let (config, ignored) = parse(&text, Some(path))?;
    for key in &ignored {
        tracing::warn!(file = %path.display(), "{key}");
    }
    Ok((config, ignored))
}
