//! Engine threads: each a tokio `LocalRuntime` on which actors live. No actix `System`, no `Arbiter`.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use tokio::sync::{mpsc, oneshot};

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce() -> LocalFuture + Send>;

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
    /// Dropped to end the thread.
    kill: Mutex<Option<oneshot::Sender<Never>>>,
    end: Shared<BoxFuture<'static, ()>>,
}

thread_local! {
    /// Results on their way to other threads.
    static OUTBOX: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
}

/// Hands a result to another thread, after what is ready to run on this one has run. Waking a sleeping thread is
/// a system call of a few microseconds, and one of them is enough for all results that go out together.
fn hand_out(send: impl FnOnce() + 'static) {
    let first = OUTBOX.with_borrow_mut(|outbox| {
        outbox.push(Box::new(send));
        outbox.len() == 1
    });
    if first {
        tokio::task::spawn_local(async {
            tokio::task::yield_now().await;
            for send in OUTBOX.take() {
                send();
            }
        });
    }
}

/// Nothing is ever sent where only the end of a channel matters.
enum Never {}

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
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let options = tokio::runtime::LocalOptions::default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options);
            let runtime = match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            runtime.block_on(async move {
                let serve = async {
                    while let Some(job) = inbox.recv().await {
                        tokio::task::spawn_local(job());
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = killed => {}
                }
            });
            // Every task ends here, wherever it stood.
            drop(runtime);
            drop(ended);
        })?;
        started.recv().map_err(|_| io::Error::other("the engine thread died at its start"))??;
        let end = end.map(|_| ()).boxed().shared();
        Ok(Self(Arc::new(Inner { jobs, kill: Mutex::new(Some(kill)), end })))
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
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            let work = work();
            Box::pin(async move {
                let result = work.await;
                hand_out(move || {
                    let _ = sender.send(result);
                });
            })
        });
        // A refused job drops its sender, so the answer below says so.
        let _ = self.0.jobs.send(job);
        async move { answer.await.map_err(|_| ThreadGone) }
    }
}
