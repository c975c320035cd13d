//! The engine on the real kernel, in network and mount namespaces that each test makes for itself.

mod again;
mod backends;
mod beside;
mod churn;
mod conformance;
mod container;
mod crowd;
mod cut;
mod descriptors;
mod external_key;
mod firewalld;
mod forgotten;
mod golden;
mod host;
mod kill;
mod lab;
mod led;
mod live;
mod many;
mod misuse;
mod modes;
mod name_files;
mod names;
mod neighbours;
mod obstacles;
#[expect(dead_code, reason = "what drivers are told is looked at over the simulated kernel")]
#[path = "../common/outless.rs"]
mod outless;
#[path = "../common/outside.rs"]
mod outside;
mod packets;
mod published;
#[path = "../common/routed.rs"]
mod routed;
mod rules;
#[path = "../common/scenario/mod.rs"]
mod scenario;
mod scenarios;
mod takeover;
mod together;
mod victim;
mod wall;
mod way_out;
