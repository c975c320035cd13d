//! Sockets to upstreams: opened in the sandbox's namespace or in the host's, and used from outside of both.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use netloom_dns::forward::{Dial, Here, Opening, Place};
use netloom_dns::query::Transport;
use netloom_kernel::{Kernel, Netns};

/// How long it may take to open a socket: a question has four seconds in all.
const PATIENCE: Duration = Duration::from_secs(4);

/// Opens sockets for one sandbox.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) netns: Netns,
}

impl Dial for Dialer {
    fn open(&self, place: Place, transport: Transport, v6: bool) -> Opening {
        // The threads that ask are in the engine's own namespace.
        if place == Place::Host {
            return Here.open(place, transport, v6);
        }
        let (sender, opened) = oneshot::channel::<io::Result<OwnedFd>>();
        let job = Box::new(move || {
            // It is open as soon as it is asked for, and nobody may want it any more.
            if let Some(socket) = futures::FutureExt::now_or_never(Here.open(place, transport, v6)) {
                let _ = sender.send(socket);
            }
        });
        let asked = self.kernel.run_in(self.netns, job, Instant::now() + PATIENCE);
        Box::pin(async move {
            asked.await.map_err(io::Error::other)?;
            opened.await.map_err(io::Error::other)?
        })
    }
}
