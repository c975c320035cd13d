//! What some errors say about what to do.

/// What a store cannot do when a cluster's does not answer ([`Reason::Store`](super::Reason::Store)).
pub const REACH_CLUSTER: &str = "reach the cluster's store";

/// About an address space that is not there.
pub(super) const NO_SPACE: &str = "leave it out, or name one that the ipam driver has: \"default\" has LocalDefault, and \
     GlobalDefault where the engine is in a cluster (EngineBuilder::cluster)";
