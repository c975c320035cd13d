//! Service records: which names of a network stand for which addresses.
//!
//! A network's owner holds its [`ZoneWriter`]; whoever answers questions holds [`ZoneReader`]s. Each change is published
//! as a new [`Zone`] that shares all that stayed the same with the one before, so a change costs the logarithm of the
//! number of records, and a reader takes what there is without a lock or a message. A sandbox asks through its
//! [`View`]: its networks in their order, and names of its own.

mod view;
mod writer;
mod zone;

pub use view::{Attachment, Found, NotOurs, SrvFound, View, ViewCell};
pub use writer::{EndpointNames, Listed, ServicePort, ZoneWriter};
pub use zone::{Entry, Family, Known, Service, Target, Zone, ZoneReader};
