//! The namespace thread: the only one that ever leaves the namespace it was started in.
//!
//! It makes and removes namespaces, writes settings, runs jobs, and keeps one netlink socket per namespace.
//! A socket stays where it was opened, so links, addresses and routes inside need no switching. When the
//! thread cannot get home it ends, and a new one with fresh sockets takes its place.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use netloom_model::NetnsName;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use rustc_hash::FxHashMap;

use super::batch;
use super::call::{Allowance, Call};
use super::encode;
use super::failure::Failure;
use super::has_ipv6;
use super::mounts::{Mounts, open_foreign, open_own};
use super::nft;
use super::reader::Inquiry;
use super::transport::{Counters, Transport};
use crate::NetnsJob;
use crate::op::{Netns, Op};
use crate::worker::{Next, Worker, panic_text};

/// The most sockets kept open. A socket opens again in 30 µs, and file descriptors are few.
const MAX_SOCKETS: usize = 256;

/// What the namespace thread is asked for.
pub(super) enum Task {
    /// Operations.
    Call(Call),
    /// Changes of this namespace's tables, for which a socket is opened here.
    OpenNft { name: NetnsName, call: Call },
    /// A question about a namespace.
    Inquire { name: NetnsName, inquiry: Inquiry },
    /// The mounted namespaces.
    List { allowance: Allowance, reply: oneshot::Sender<Result<Vec<NetnsName>, Failure>> },
    /// What a setting says.
    ReadSetting {
        netns: Netns,
        key: String,
        allowance: Allowance,
        reply: oneshot::Sender<Result<String, Failure>>,
    },
    /// The sockets are not needed for now.
    Rest { allowance: Allowance, reply: oneshot::Sender<Result<(), Failure>> },
    /// A job inside a namespace.
    Run { netns: Netns, allowance: Allowance, job: NetnsJob, reply: oneshot::Sender<Result<(), Failure>> },
}

/// Starts the thread in the caller's namespace.
pub(super) fn spawn(bound: usize, mounts: Mounts, counters: &Arc<Counters>) -> io::Result<Worker<Task>> {
    let counters = Arc::clone(counters);
    Worker::spawn_supervised("nl-netns", bound, move || {
        let mut traveller = Traveller {
            home: open_own()?,
            astray: false,
            mounts: mounts.clone(),
            sockets: FxHashMap::default(),
            host: Transport::open(&counters)?,
            counters: Arc::clone(&counters),
        };
        Ok(move |tasks: Vec<Task>| {
            for task in tasks {
                traveller.serve(task);
            }
            if traveller.astray { Next::Retire } else { Next::Serve }
        })
    })
}

struct Traveller {
    home: OwnedFd,
    /// Set when the way home failed: nothing may run on this thread any more.
    astray: bool,
    mounts: Mounts,
    sockets: FxHashMap<NetnsName, Transport>,
    host: Transport,
    counters: Arc<Counters>,
}

impl Traveller {
    fn serve(&mut self, task: Task) {
        match task {
            Task::Call(call) => {
                if let Some(call) = call.if_in_time() {
                    let answers = self.execute(call.run(), call.allowance.deadline);
                    call.answer(answers);
                }
            }
            Task::OpenNft { name, call } => {
                if let Some(call) = call.if_in_time() {
                    call.go_inside(self.nft_socket(name));
                }
            }
            Task::Inquire { name, inquiry } => inquiry.answer(|| self.socket(name)),
            Task::List { allowance, reply } => {
                let late = allowance.is_over().then_some(Failure::NotStarted);
                let _ = reply.send(late.map_or_else(|| self.mounts.list(), Err));
            }
            Task::ReadSetting { netns, key, allowance, reply } => {
                let late = allowance.is_over().then_some(Failure::NotStarted);
                let _ = reply.send(late.map_or_else(|| self.read_setting(netns, &key), Err));
            }
            Task::Rest { allowance, reply } => {
                let late = allowance.is_over().then_some(Failure::NotStarted);
                if late.is_none() {
                    self.sockets.clear();
                }
                let _ = reply.send(late.map_or(Ok(()), Err));
            }
            Task::Run { netns, allowance, job, reply } => {
                let late = allowance.is_over().then_some(Failure::NotStarted);
                let _ = reply.send(late.map_or_else(|| self.run(netns, job), Err));
            }
        }
    }

    /// Carries out operations in order. Those that need no more than a socket go together.
    fn execute(&mut self, ops: &[Op], deadline: Instant) -> Vec<Result<(), Failure>> {
        let mut answers = Vec::with_capacity(ops.len());
        while let Some(op) = ops.get(answers.len()) {
            match op {
                Op::CreateNetns { name, ipv6 } => answers.push(self.create(*name, *ipv6, deadline)),
                Op::AdoptNetns { name, source } => answers.push(self.adopt(*name, source, deadline)),
                Op::DeleteNetns { name } => answers.push(self.delete(*name)),
                Op::Sysctl { netns, .. } => {
                    answers.extend(self.write_settings(*netns, &ops[answers.len()..]));
                }
                _ => {
                    let rest = &ops[answers.len()..];
                    let together = |other: &&Op| is_plain(other) && other.netns() == op.netns();
                    let run: Vec<&Op> = rest.iter().take_while(together).collect();
                    answers.extend(self.converse(op.netns(), &run, deadline));
                }
            }
        }
        answers
    }

    /// Carries out operations on the socket of one namespace.
    fn converse(&mut self, netns: Netns, ops: &[&Op], deadline: Instant) -> Vec<Result<(), Failure>> {
        let (mounts, home) = (self.mounts.clone(), self.home.try_clone());
        let open = |to: Netns| match to {
            _ if to == netns => Ok(None),
            Netns::Named(name) => mounts.open(name).map(Some),
            Netns::Host => {
                let home = home.as_ref().map_err(|error| Failure::io(error, "cannot name the host"))?;
                home.try_clone().map(Some).map_err(|error| Failure::io(&error, "cannot name the host"))
            }
        };
        let socket = match netns {
            Netns::Host => Ok(&mut self.host),
            Netns::Named(name) => self.socket(name),
        };
        match socket {
            Ok(socket) => batch::carry_out(socket, ops, &open, None, deadline),
            Err(failure) => vec![Err(failure); ops.len()],
        }
    }

    fn create(&mut self, name: NetnsName, ipv6: bool, deadline: Instant) -> Result<(), Failure> {
        let enter = || unshare(CloneFlags::CLONE_NEWNET).map_err(Failure::errno);
        let set_up = || {
            if ipv6 {
                return Ok(());
            }
            match write_setting("ipv6/conf/default/disable_ipv6", "1") {
                // As in a container whose engine may change no setting: its links have IPv6 then.
                Err(Failure::Refused { errno: libc::EROFS, .. }) => {
                    tracing::warn!(%name, "settings are read-only here, so links of the namespace have IPv6");
                    Ok(())
                }
                outcome => outcome,
            }
        };
        self.establish(name, enter, set_up, deadline)
    }

    fn adopt(&mut self, name: NetnsName, source: &Path, deadline: Instant) -> Result<(), Failure> {
        let home = identity(&self.home)?;
        let enter = || {
            let namespace = open_foreign(source)?;
            if identity(&namespace)? == home {
                let text = "it is the namespace of the host itself".into();
                return Err(Failure::refused(libc::EBUSY, Some(text)));
            }
            // Refused with `EINVAL` when it is a namespace of another kind.
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Failure::errno)
        };
        self.establish(name, enter, || Ok(()), deadline)
    }

    /// Goes into a namespace with `enter`, mounts it as the one that this thread is in by then, sets it up, and comes
    /// home.
    fn establish(
        &mut self,
        name: NetnsName,
        enter: impl FnOnce() -> Result<(), Failure>,
        set_up: impl FnOnce() -> Result<(), Failure>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        if self.astray {
            return Err(lost_home());
        }
        self.mounts.reserve(name)?;
        let (mounts, counters) = (self.mounts.clone(), Arc::clone(&self.counters));
        let opened = self.away(enter, || {
            mounts.mount_own(name)?;
            set_up()?;
            let mut socket = Transport::open(&counters)
                .map_err(|error| Failure::io(&error, "cannot open a socket in the namespace"))?;
            socket.ask(&encode::loopback_up(), deadline)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                self.keep(name, socket);
                Ok(())
            }
            Err(failure) => {
                if let Err(leak) = self.mounts.remove(name) {
                    tracing::error!(%name, ?leak, "a namespace that could not be completed is left behind");
                }
                Err(failure)
            }
        }
    }

    fn delete(&mut self, name: NetnsName) -> Result<(), Failure> {
        // The socket would keep the namespace alive.
        self.sockets.remove(&name);
        self.mounts.remove(name)
    }

    /// Writes the settings of one namespace with which `ops` begin, in one visit there, and answers each.
    fn write_settings(&mut self, netns: Netns, ops: &[Op]) -> Vec<Result<(), Failure>> {
        let own = |op| match op {
            &Op::Sysctl { netns: of, ref key, ref value } if of == netns => Some((key, value)),
            _ => None,
        };
        let settings: Vec<_> = ops.iter().map_while(own).collect();
        let write = || Ok(settings.iter().map(|(key, value)| write_setting(key, value)).collect());
        self.inside(netns, write).unwrap_or_else(|failure| vec![Err(failure); settings.len()])
    }

    fn read_setting(&mut self, netns: Netns, key: &str) -> Result<String, Failure> {
        let path = setting_path(key)?;
        let read = || fs::read_to_string(&path).map_err(|error| setting_failed(&error));
        self.inside(netns, read).map(|text| text.trim_end().to_owned())
    }

    fn run(&mut self, netns: Netns, job: NetnsJob) -> Result<(), Failure> {
        self.inside(netns, || {
            job();
            Ok(())
        })
    }

    /// The socket of a namespace, opened through its mount where it is not open yet.
    fn socket(&mut self, name: NetnsName) -> Result<&mut Transport, Failure> {
        if !self.sockets.contains_key(&name) {
            let counters = Arc::clone(&self.counters);
            let socket = self.inside(Netns::Named(name), || {
                Transport::open(&counters).map_err(|error| Failure::io(&error, "cannot open a socket"))
            })?;
            self.keep(name, socket);
        }
        self.sockets.get_mut(&name).ok_or_else(|| Failure::errno(Errno::ENOENT))
    }

    /// A socket for the tables of a namespace. It is not kept: a sandbox needs it once or twice in its life.
    fn nft_socket(&mut self, name: NetnsName) -> Result<Transport, Failure> {
        let counters = Arc::clone(&self.counters);
        self.inside(Netns::Named(name), || nft::open(&counters))
    }

    fn keep(&mut self, name: NetnsName, socket: Transport) {
        if self.sockets.len() >= MAX_SOCKETS
            && let Some(other) = self.sockets.keys().next().copied()
        {
            self.sockets.remove(&other);
        }
        self.sockets.insert(name, socket);
    }

    /// Runs `body` inside a namespace and comes home.
    fn inside<T>(&mut self, netns: Netns, body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        match netns {
            Netns::Host if self.astray => Err(lost_home()),
            Netns::Host => caught(body),
            Netns::Named(name) => {
                let namespace = self.mounts.open(name)?;
                self.away(|| setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Failure::errno), body)
            }
        }
    }

    /// Goes away with `enter`, runs `body` there and comes home, also when `body` panics.
    fn away<T>(
        &mut self,
        enter: impl FnOnce() -> Result<(), Failure>,
        body: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.astray {
            return Err(lost_home());
        }
        enter()?;
        let result = caught(body);
        if let Err(errno) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%errno, "the namespace thread cannot get home and is given up");
            self.astray = true;
        }
        result
    }
}

fn caught<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(Failure::Lost(format!("panicked: {}", panic_text(&*panic)))))
}

/// Nothing was done: the thread is about to be replaced.
fn lost_home() -> Failure {
    Failure::refused(libc::EAGAIN, Some("the namespace thread is being replaced".into()))
}

/// Whether an operation needs no more than a socket.
fn is_plain(op: &Op) -> bool {
    !matches!(op, Op::CreateNetns { .. } | Op::AdoptNetns { .. } | Op::DeleteNetns { .. } | Op::Sysctl { .. })
}

/// By what a namespace is told from all others.
fn identity(namespace: &OwnedFd) -> Result<(u64, u64), Failure> {
    let status = fstat(namespace)?;
    Ok((status.st_dev, status.st_ino))
}

/// The file of a setting; nothing outside of its directory.
fn setting_path(key: &str) -> Result<PathBuf, Failure> {
    let inside = Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
    if key.is_empty() || !inside {
        return Err(Failure::errno(Errno::EINVAL));
    }
    Ok(Path::new("/proc/sys/net").join(key))
}

pub(super) fn write_setting(key: &str, value: &str) -> Result<(), Failure> {
    let path = setting_path(key)?;
    let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| {
        // One write: the kernel takes each as the whole value.
        file.write(value.as_bytes()).map(drop)
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound && value == "1" && has_no_ipv6(key) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => match fs::read_to_string(&path) {
            Ok(text) if text.trim_end() == value => Ok(()),
            _ => Err(setting_failed(&error)),
        },
        written => written.map_err(|error| setting_failed(&error)),
    }
}

/// Whether it would switch off what is not there: the kernel has no IPv6, or the link is too small for it.
fn has_no_ipv6(key: &str) -> bool {
    let link = key.strip_prefix("ipv6/conf/").and_then(|key| key.strip_suffix("/disable_ipv6"));
    link.is_some_and(|link| {
        !has_ipv6() || setting_path(&format!("ipv4/conf/{link}")).is_ok_and(|path| path.exists())
    })
}

fn setting_failed(error: &io::Error) -> Failure {
    Failure::refused(error.raw_os_error().unwrap_or(libc::EIO), None)
}
