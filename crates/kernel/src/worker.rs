//! A thread of its own for calls that block, fed by a bounded queue that it drains at once.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The most jobs that one call of a handler gets.
const MAX_DRAINED: usize = 1_024;

/// What becomes of a thread after its handler has run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It takes the next jobs.
    Serve,
    /// It ends, and a new thread with a new handler takes its place.
    Retire,
}

/// A named thread that blocks on a bounded queue, drains what waits there and hands it to its handler in
/// one piece: the place for group commits and for system calls that take their time.
///
/// Cloning shares the thread. It ends when the last clone is dropped and every job that was accepted has
/// been handled.
pub struct Worker<J> {
    sender: Sender<J>,
    name: Arc<str>,
}

impl<J> Clone for Worker<J> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), name: Arc::clone(&self.name) }
    }
}

impl<J> fmt::Debug for Worker<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).field("waiting", &self.sender.len()).finish()
    }
}

impl<J: Send + 'static> Worker<J> {
    /// Starts a thread. `bound` is how many jobs may wait; Linux shows the first 15 bytes of `name`.
    ///
    /// A handler that panics loses the jobs of that call, so their reply channels close; it is logged and
    /// the thread goes on with the same handler. A handler that keeps state must leave it usable.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn(name: &str, bound: usize, handler: impl FnMut(Vec<J>) + Send + 'static) -> io::Result<Self> {
        Self::spawn_draining(name, bound, |_, _| {}, handler)
    }

    /// Starts a thread whose handler gets still more in one piece: each job says until when it can wait for others
    /// to come, and what has been drained goes to the handler at the earliest of these times. Otherwise like
    /// [`Self::spawn`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn spawn_gathering(
        name: &str,
        bound: usize,
        can_wait: impl Fn(&J) -> Instant + Send + 'static,
        handler: impl FnMut(Vec<J>) + Send + 'static,
    ) -> io::Result<Self> {
        Self::spawn_draining(name, bound, move |receiver, jobs| gather(receiver, jobs, &can_wait), handler)
    }

    /// Starts a thread that takes what waits, and what `more` adds to it, to the handler.
    fn spawn_draining(
        name: &str,
        bound: usize,
        more: impl Fn(&Receiver<J>, &mut Vec<J>) + Send + 'static,
        mut handler: impl FnMut(Vec<J>) + Send + 'static,
    ) -> io::Result<Self> {
        let (worker, receiver) = Self::queue(name, bound);
        let title = Arc::clone(&worker.name);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut serving = |jobs| {
                handler(jobs);
                Next::Serve
            };
            while let Some(mut jobs) = drain(&receiver) {
                more(&receiver, &mut jobs);
                guarded(&title, &mut serving, jobs);
            }
        })?;
        Ok(worker)
    }

    /// Starts a thread that can be replaced: for handlers that may spoil their own thread.
    ///
    /// `make` builds the handler on the thread that will use it. When the handler says [`Next::Retire`] the
    /// thread ends and a new one starts, from a supervising thread that never runs a handler, so nothing
    /// that was done to the old thread is inherited. While `make` fails, jobs are dropped, which closes
    /// their reply channels, and it is tried again for the next ones.
    ///
    /// # Errors
    /// When a thread cannot be started, or the first error of `make`.
    pub fn spawn_supervised<H>(
        name: &str,
        bound: usize,
        make: impl Fn() -> io::Result<H> + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        H: FnMut(Vec<J>) -> Next,
    {
        let (worker, receiver) = Self::queue(name, bound);
        let title = Arc::clone(&worker.name);
        let (started, first) = bounded(1);
        let supervise = move || {
            let mut started = Some(started);
            while let End::Replace = one_life(&title, &receiver, &make, &mut started) {}
        };
        thread::Builder::new().name(format!("{name}-home")).spawn(supervise)?;
        // A closed channel means that `make` panicked, which was logged.
        first.recv().unwrap_or_else(|_| Err(io::Error::other(format!("thread {name} did not start"))))?;
        Ok(worker)
    }

    fn queue(name: &str, bound: usize) -> (Self, Receiver<J>) {
        let (sender, receiver) = bounded(bound);
        (Self { sender, name: name.into() }, receiver)
    }

    /// Queues a job. Never blocks.
    ///
    /// # Errors
    /// The job itself, when the queue is full or the thread is gone.
    pub fn submit(&self, job: J) -> Result<(), J> {
        self.sender.try_send(job).map_err(crossbeam_channel::TrySendError::into_inner)
    }
}

/// How one thread of a supervised worker ended.
enum End {
    Replace,
    Done,
}

/// Runs one thread of a supervised worker until it ends.
fn one_life<J, H>(
    name: &Arc<str>,
    receiver: &Receiver<J>,
    make: &(impl Fn() -> io::Result<H> + Sync),
    started: &mut Option<Sender<io::Result<()>>>,
) -> End
where
    J: Send,
    H: FnMut(Vec<J>) -> Next,
{
    let report = started.take();
    let first = report.is_some();
    let body = || {
        let mut handler = match make() {
            Ok(handler) => handler,
            Err(error) => {
                tracing::error!(thread = %name, %error, "a worker thread cannot start");
                if let Some(report) = report {
                    // The starter waits for exactly this message.
                    let _ = report.send(Err(error));
                }
                return None;
            }
        };
        if let Some(report) = report {
            let _ = report.send(Ok(()));
        }
        while let Some(jobs) = drain(receiver) {
            if guarded(name, &mut handler, jobs) == Next::Retire {
                tracing::warn!(thread = %name, "a worker thread is replaced");
                return Some(End::Replace);
            }
        }
        Some(End::Done)
    };
    let ended = thread::scope(|scope| {
        let spawned = thread::Builder::new().name(name.to_string()).spawn_scoped(scope, body);
        spawned.map(|thread| thread.join().ok().flatten())
    });
    match ended {
        Ok(Some(end)) => end,
        // The starter has been told and nobody holds the worker.
        Ok(None) | Err(_) if first => End::Done,
        Ok(None) | Err(_) => match drain(receiver) {
            Some(jobs) => {
                tracing::error!(thread = %name, lost = jobs.len(), "no thread for these jobs");
                End::Replace
            }
            None => End::Done,
        },
    }
}

/// Waits for a job and takes everything else that waits; `None` when no more can come.
fn drain<J>(receiver: &Receiver<J>) -> Option<Vec<J>> {
    let first = receiver.recv().ok()?;
    let mut jobs = Vec::with_capacity(receiver.len().min(MAX_DRAINED) + 1);
    jobs.push(first);
    jobs.extend(receiver.try_iter().take(MAX_DRAINED - 1));
    Some(jobs)
}

/// Waits for more jobs, for as long as all of these can.
fn gather<J>(receiver: &Receiver<J>, jobs: &mut Vec<J>, can_wait: impl Fn(&J) -> Instant) {
    let Some(mut until) = jobs.iter().map(&can_wait).min() else { return };
    while jobs.len() < MAX_DRAINED && Instant::now() < until {
        let Ok(job) = receiver.recv_deadline(until) else { return };
        until = until.min(can_wait(&job));
        jobs.push(job);
    }
}

fn guarded<J>(name: &str, handler: &mut impl FnMut(Vec<J>) -> Next, jobs: Vec<J>) -> Next {
    catch_unwind(AssertUnwindSafe(|| handler(jobs))).unwrap_or_else(|panic| {
        tracing::error!(thread = name, panic = panic_text(&*panic), "a worker's handler panicked");
        Next::Serve
    })
}

/// The text of a panic, as far as it has one.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// A job that is answered through its channel, or dropped.
    struct Ask(u32, Sender<u32>);

    #[test]
    fn waiting_jobs_come_in_one_piece_and_in_order() {
        let (entered, inside) = bounded(0);
        let (release, gate) = bounded::<()>(0);
        let (seen, batches) = bounded(16);
        let worker = Worker::spawn("w", 8, move |jobs: Vec<u32>| {
            entered.send(()).expect("the test listens");
            gate.recv().expect("the test releases");
            seen.send(jobs).expect("the test listens");
        })
        .expect("starts");
        worker.submit(0).expect("accepted");
        inside.recv().expect("the handler runs");
        for job in 1..=8 {
            worker.submit(job).expect("there is room");
        }
        assert_eq!(worker.submit(9), Err(9), "a full queue gives the job back");
        release.send(()).expect("waits");
        inside.recv().expect("the handler runs again");
        release.send(()).expect("waits");
        assert_eq!(batches.recv().expect("first"), [0]);
        assert_eq!(batches.recv().expect("second"), [1, 2, 3, 4, 5, 6, 7, 8]);
        drop(worker);
        assert!(batches.recv().is_err(), "the thread ends with its last handle");
    }

    #[test]
    fn jobs_wait_for_others_as_long_as_all_of_them_can() {
        let (seen, batches) = bounded(16);
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        let can_wait = move |job: &u32| if *job == 0 { now } else { now + hour };
        let worker = Worker::spawn_gathering("w", 8, can_wait, move |jobs: Vec<u32>| {
            seen.send(jobs).expect("the test listens");
        })
        .expect("starts");
        let submit = |jobs: [u32; 3]| jobs.map(|job| worker.submit(job).expect("there is room"));
        submit([1, 2, 0]);
        assert_eq!(batches.recv().expect("first"), [1, 2, 0], "the last one cannot wait");
        submit([3, 4, 5]);
        drop(worker);
        assert_eq!(batches.recv().expect("second"), [3, 4, 5], "nobody can come any more");
    }

    #[test]
    fn a_panic_loses_its_jobs_only() {
        let worker = Worker::spawn("w", 8, |jobs: Vec<Ask>| {
            for Ask(number, reply) in jobs {
                assert_ne!(number, 0, "a planned panic");
                reply.send(number).expect("the test listens");
            }
        })
        .expect("starts");
        let ask = |number| {
            let (reply, answer) = bounded(1);
            assert!(worker.submit(Ask(number, reply)).is_ok());
            answer.recv()
        };
        assert!(ask(0).is_err());
        assert_eq!(ask(7), Ok(7));
    }

    #[test]
    fn a_retired_thread_is_replaced_and_a_failed_start_is_told() {
        let lives = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lives);
        let worker = Worker::spawn_supervised("w", 8, move || {
            let life = count.fetch_add(1, Ordering::SeqCst);
            if life == 1 {
                return Err(io::Error::other("a planned failure"));
            }
            let mut life = u32::try_from(life).expect("small");
            Ok(move |jobs: Vec<Ask>| {
                let retire = jobs.iter().any(|job| job.0 == 0);
                jobs.into_iter().for_each(|job| job.1.send(life).expect("the test listens"));
                life += 10;
                if retire { Next::Retire } else { Next::Serve }
            })
        })
        .expect("starts");
        let ask = |number| {
            let (reply, answer) = bounded(1);
            assert!(worker.submit(Ask(number, reply)).is_ok());
            answer.recv()
        };
        assert_eq!((ask(1), ask(0)), (Ok(0), Ok(10)));
        assert!(ask(1).is_err(), "the second life fails to start and loses the job");
        assert_eq!(ask(1), Ok(2));

        let failed = Worker::<u32>::spawn_supervised("w", 8, || {
            Err::<fn(Vec<u32>) -> Next, _>(io::Error::other("never"))
        });
        assert_eq!(failed.expect_err("must fail").to_string(), "never");
    }
}
