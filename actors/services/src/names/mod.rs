//! The name service: a name server inside of each sandbox that needs one, and the records of all networks that they
//! answer from.

mod actor;
mod dial;
mod ending;
mod host;
mod message;
mod open;
mod rules;
mod state;
mod wanted;
mod zones;

pub use actor::NamesActor;
pub use message::{EndNames, ListNameServers, NameServer, SetNames, StopNames};
pub(crate) use open::forget;
pub use rules::table;
pub use state::NamesState;
pub use wanted::NamesWanted;
pub use zones::{NameRecord, NamedNetwork, Zones};
