//! The userland proxy: published ports that no rule of a firewall serves, as tasks of one runtime.
//!
//! libnetwork starts a process for each published port (`docker-proxy`, libnetwork's `portmapper` and
//! `cmd/proxy`). Here a port is one task that sleeps: about a kilobyte, and no buffer. Whoever binds the socket
//! hands it over ([`Bound`]), so that the port is held before anything is promised about it, and says where it
//! leads ([`Proxy::start`]).
//!
//! - TCP: each direction ends by itself (a FIN is passed on, the other direction goes on), a reset of one side
//!   resets the other, and a stream that ends before its time never looks whole. Little is copied, much is
//!   moved through a pipe with `splice(2)`.
//! - UDP: each client has a socket to the back end of its own (an *association*), so that replies find their
//!   way, for as long as either side says something within the timeout. Replies leave from the address that
//!   was asked.
//! - Front and back end may be of different families.
//!
//! Where a firewall redirects clients anyway, one socket that listens serves any number of TCP ports: a
//! [`Switchboard`] asks the kernel where each client meant to go, and leads it from there.
//!
//! Sockets to the back end are opened in the network namespace of the runtime's threads. Nothing here knows
//! actors: the engine gives a runtime, and drops or stops the [`Proxy`].

mod association;
mod bound;
mod counters;
mod datagram;
mod error;
mod exchange;
mod fronts;
mod oldest;
mod options;
mod pipe;
mod proxy;
mod relay;
mod switchboard;
mod tcp;
mod udp;

pub use bound::Bound;
pub use counters::Counts;
pub use error::ProxyError;
pub use fronts::FrontRange;
pub use options::Options;
pub use proxy::{Proxy, Stopped, Stopping, offers};
pub use switchboard::{Ending, Switchboard};
