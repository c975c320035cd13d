//! The engine on the real kernel, in network and mount namespaces that each test makes for itself.

mod churn;
mod conformance;
mod container;
mod cut;
mod external_key;
mod host;
mod kill;
mod lab;
mod live;
mod misuse;
#[path = "../common/outside.rs"]
mod outside;
mod packets;
#[path = "../common/routed.rs"]
mod routed;
#[path = "../common/scenario/mod.rs"]
mod scenario;
mod scenarios;
mod takeover;
mod together;
