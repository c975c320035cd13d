//! Engine threads: each a tokio `LocalRuntime` on which actors live. No actix `System`, no `Arbiter`.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::actor::{Handle, Message, Reply};
use crate::addr::{Addr, AskError};
use crate::deadline::Deadlines;
use crate::op::OpCtx;
use crate::permit::Permit;
use crate::wake;

/// After so many polls the runtime looks at new jobs, its timers and its sockets, of which an engine has next to none.
/// tokio's own 61 would be a system call for each of a container's steps.
const EVENT_INTERVAL: u32 = 256;

type Job = Box<dyn FnOnce() + Send>;

/// The engine thread is gone; nothing can be asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThreadGone;

impl fmt::Display for ThreadGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine thread is gone")
    }
}

impl std::error::Error for ThreadGone {}

/// A handle on an engine thread. The thread ends by itself, with every task on it, when the last handle is
/// dropped; nobody waits for that, because the last handle may be dropped on a host's async thread.
#[derive(Clone)]
pub struct EngineThread(Arc<Inner>);

struct Inner {
    // Unbounded: whoever sends has been admitted by a bound of its own.
    jobs: mpsc::UnboundedSender<Job>,
    deadlines: Deadlines,
    /// Dropped to end the thread.
    kill: Mutex<Option<oneshot::Sender<Never>>>,
    end: Shared<BoxFuture<'static, ()>>,
}

/// Nothing is ever sent where only the end of a channel matters.
pub(crate) enum Never {}

impl fmt::Debug for EngineThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineThread")
    }
}

impl EngineThread {
    /// Starts a thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(name: &str) -> io::Result<Self> {
        let (jobs, mut inbox) = mpsc::unbounded_channel::<Job>();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let (kill, killed) = oneshot::channel::<Never>();
        let (ended, end) = oneshot::channel::<Never>();
        let deadlines = Deadlines::default();
        let keeper = deadlines.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let options = tokio::runtime::LocalOptions::default();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .event_interval(EVENT_INTERVAL)
                .enable_all()
                .build_local(options);
            let made = runtime.and_then(|runtime| Ok((runtime, wake::gather_on_this_thread()?)));
            let (runtime, gathering) = match made {
                Ok(made) => {
                    let _ = ready.send(Ok(()));
                    made
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            runtime.block_on(async move {
                let serve = async {
                    while let Some(job) = inbox.recv().await {
                        job();
                    }
                };
                tokio::select! {
                    () = serve => {}
                    () = keeper.keep() => {}
                    _ = killed => {}
                }
            });
            drop(gathering);
            // Every task ends here, wherever it stood.
            drop(runtime);
            drop(ended);
        })?;
        started.recv().map_err(|_| io::Error::other("the engine thread died at its start"))??;
        let end = end.map(|_| ()).boxed().shared();
        Ok(Self(Arc::new(Inner { jobs, deadlines, kill: Mutex::new(Some(kill)), end })))
    }

    /// Ends the thread at once, with every task on it wherever that stands, as the death of the process
    /// would: for harnesses.
    pub async fn kill(&self) {
        if let Ok(mut kill) = self.0.kill.lock() {
            drop(kill.take());
        }
        self.0.end.clone().await;
    }

    /// Whether the thread serves nobody any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.jobs.is_closed()
    }

    /// Runs work on the thread and hands its result back. The work runs to its end whether or not the
    /// result is still awaited; the future may be polled on any runtime, or on none.
    ///
    /// # Errors
    /// [`ThreadGone`] when the thread ended before the work did, or the work panicked.
    pub fn call<T, F, W>(&self, work: W) -> impl Future<Output = Result<T, ThreadGone>> + Send + use<T, F, W>
    where
        W: FnOnce() -> F + Send + 'static,
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, mut answer) = oneshot::channel();
        let job = move || {
            let work = work();
            // Boxed: on its way into the runtime a future is moved several times.
            tokio::task::spawn_local(Box::pin(async move {
                let _ = sender.send(work.await);
            }));
        };
        // A refused job drops its sender, so the answer below says so.
        let _ = self.0.jobs.send(Box::new(job));
        poll_fn(move |cx| wake::poll_gathered(&mut answer, cx)).map(|answer| answer.map_err(|_| ThreadGone))
    }

    /// Asks an actor on the thread and waits for the answer, until `end` at the longest. The future may be polled
    /// on any runtime, or on none.
    ///
    /// The message is sent when this is called, and it is handled whether or not anybody still waits. `permit` is
    /// given back when the answer is there, or can never come.
    ///
    /// # Errors
    /// [`AskError`]: either way the message may have been handled.
    pub fn ask<A, M>(
        &self,
        addr: Addr<A>,
        op: OpCtx,
        message: M,
        end: Instant,
        permit: Option<Permit>,
    ) -> impl Future<Output = Result<M::Reply, AskError>> + Send + use<A, M>
    where
        M: Message,
        A: Handle<M>,
    {
        let (reply, mut answer) = Reply::channel();
        let reply = reply.holding(permit);
        let mut deadline = self.0.deadlines.enter(end);
        // Not from here straight into the mailbox: that wakes the engine's thread each time, and this only when
        // it has nothing to do.
        let _ = self.0.jobs.send(Box::new(move || addr.forward(&op, message, reply)));
        poll_fn(move |cx| {
            if let Poll::Ready(answer) = wake::poll_gathered(&mut answer, cx) {
                return Poll::Ready(answer.map_err(|_| AskError::Gone));
            }
            deadline.passed.poll_unpin(cx).map(|_| Err(AskError::Timeout))
        })
    }
}
