//! The engine through its public interface, over the simulated kernel.

mod acme;
mod addresses;
mod again;
mod answers;
mod bad_input;
mod beside;
mod builtin;
mod cluster_faults;
mod cluster_space;
mod concurrency;
mod custom_ipam;
mod custom_ipam_faults;
mod diff;
mod double_faults;
mod embedding;
mod external;
mod faults;
mod files;
mod firewall;
mod force;
mod gateway;
mod host_prefix;
mod interfaces;
mod kept_by_others;
mod lifecycle;
mod listening;
mod live;
mod model;
mod mortal;
mod names;
mod naming;
mod neighbours;
mod options;
mod order;
#[path = "../common/outless.rs"]
mod outless;
#[path = "../common/outside.rs"]
mod outside;
mod overlap;
mod overtaken;
mod ports;
mod ports_faults;
#[path = "../../actors/services/tests/stage/programs.rs"]
mod programs;
mod rebuild;
mod reconcile;
mod recovery;
mod reload;
mod replug;
mod reservations;
mod restart;
#[path = "../common/routed.rs"]
mod routed;
#[path = "../common/scenario/mod.rs"]
mod scenario;
mod scenarios;
mod schedules;
mod scripted;
mod shared_pools;
mod start_faults;
mod static_routes;
mod still_dying;
mod supervision;
mod support;
mod sweep;
mod told;
mod way_out;
mod way_out_faults;
mod wreck;
