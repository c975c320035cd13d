//! The engine on the real kernel, in network and mount namespaces that each test makes for itself.

mod churn;
mod conformance;
mod kill;
mod lab;
mod misuse;
mod packets;
mod takeover;
