//! Which names objects can have.

use super::{ObjectKind, Reason, Result};

/// Checks a name the way libnetwork does (`config.ValidateName`: not blank after trimming) and, beyond it,
/// refuses control characters and more than 255 bytes.
///
/// # Errors
/// [`Reason::InvalidName`].
pub fn check_name(object: ObjectKind, name: &str) -> Result<()> {
    let why = if name.trim().is_empty() {
        "a name must not be blank"
    } else if name.len() > 255 {
        "a name has at most 255 bytes"
    } else if name.chars().any(char::is_control) {
        "a name must not contain control characters"
    } else {
        return Ok(());
    };
    Err(Reason::InvalidName { object, name: name.chars().take(80).collect(), why }.into())
}
