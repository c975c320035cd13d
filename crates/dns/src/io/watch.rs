//! When something happens to files that may be links, or not be there: inotify, on a thread of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use netloom_model::{Error, Reason, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::host::{News, Told};
use super::place::refused;

/// How long nothing happens until it is looked at what has: a file is often emptied before it is written.
const QUIET: Duration = Duration::from_millis(20);
/// For how long that is waited for.
const LONGEST_UNREST: Duration = Duration::from_millis(200);
/// How many links lead from one to the next, as in the kernel.
const MOST_LINKS: usize = 40;
/// How often the way is looked at anew because it has changed meanwhile.
const MOST_LOOKS: usize = 8;

/// What happens to a name in a directory.
const OF_NAMES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
/// What happens to a file itself: one that is mounted here may be written by the name that it has elsewhere.
const OF_FILE: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// What is to be watched: directories, each with the names that matter, and files.
#[derive(Default, PartialEq, Eq)]
struct Way {
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
    files: BTreeSet<PathBuf>,
}

impl Way {
    /// Everything by which a path leads to its file, or as far as it does.
    fn add(&mut self, path: &Path) {
        let names = |path: &Path| -> Vec<OsString> {
            let parts =
                path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
            parts.map(|part| part.as_os_str().to_owned()).collect()
        };
        let mut rest: VecDeque<OsString> = names(path).into();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            self.names.entry(at.clone()).or_default().insert(name);
            let Ok(found) = fs::symlink_metadata(&next) else { return };
            if found.is_symlink() {
                links += 1;
                let Ok(target) = fs::read_link(&next) else { return };
                if links > MOST_LINKS {
                    return;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    rest.push_front(name);
                }
            } else if rest.is_empty() {
                if found.is_file() {
                    self.files.insert(next);
                }
            } else {
                at = next;
            }
        }
    }
}

/// Files that are watched.
pub(crate) struct Watcher {
    inotify: Inotify,
    paths: Vec<PathBuf>,
    /// The names that matter in a directory; of a file, everything does.
    watches: HashMap<WatchDescriptor, Option<BTreeSet<OsString>>>,
}

impl Watcher {
    /// For these paths. Nothing is watched yet.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Result<Self> {
        let made = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = made.map_err(|error| limit("watch files", error, "fs.inotify.max_user_instances"))?;
        Ok(Self { inotify, paths, watches: HashMap::new() })
    }

    fn way(&self) -> Way {
        let mut way = Way::default();
        self.paths.iter().for_each(|path| way.add(path));
        way
    }

    /// Watches everything that leads to the files as they are now.
    pub(crate) fn arm(&mut self) -> Result<()> {
        let mut way = self.way();
        for _ in 0..MOST_LOOKS {
            self.follow(&way)?;
            // What has changed before it was watched.
            let now = self.way();
            if now == way {
                return Ok(());
            }
            way = now;
        }
        // It changes all the time, and so it will be looked at again.
        Ok(())
    }

    fn follow(&mut self, way: &Way) -> Result<()> {
        let mut watches: HashMap<WatchDescriptor, Option<BTreeSet<OsString>>> = HashMap::new();
        for (directory, names) in &way.names {
            if let Some(watch) = self.add(directory, OF_NAMES)? {
                // One directory may have two paths.
                watches
                    .entry(watch)
                    .or_insert(Some(BTreeSet::new()))
                    .iter_mut()
                    .for_each(|all| all.extend(names.clone()));
            }
        }
        for file in &way.files {
            if let Some(watch) = self.add(file, OF_FILE)? {
                watches.insert(watch, None);
            }
        }
        for old in self.watches.keys().filter(|old| !watches.contains_key(*old)) {
            // One whose file is gone is no more.
            let _ = self.inotify.rm_watch(*old);
        }
        self.watches = watches;
        Ok(())
    }

    /// Nothing for what has gone meanwhile, or may not be looked into.
    fn add(&self, path: &Path, what: AddWatchFlags) -> Result<Option<WatchDescriptor>> {
        match self.inotify.add_watch(path, what) {
            Ok(watch) => Ok(Some(watch)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
            Err(error @ Errno::ENOSPC) => {
                Err(limit(&format!("watch {}", path.display()), error, "fs.inotify.max_user_watches"))
            }
            Err(error) => Err(refused("watch", path, error)),
        }
    }

    /// Starts the thread, which ends when the end of the pipe that this returns is closed.
    pub(crate) fn start(self, told: Told<impl FnMut(News) + Send + 'static>) -> Result<PipeWriter> {
        let (ended, stop) = io::pipe().map_err(|error| refused("watch", Path::new("files"), error))?;
        let body = move || self.run(&ended, told);
        let started = thread::Builder::new().name("nl-hostfile".into()).spawn(body);
        started.map_err(|error| refused("start a thread for", Path::new("nl-hostfile"), error))?;
        Ok(stop)
    }

    fn run(mut self, ended: &PipeReader, mut told: Told<impl FnMut(News)>) {
        loop {
            match self.wait(ended, None) {
                Ok(Some(Noticed::Matters)) => {}
                Ok(Some(Noticed::Ended)) => return,
                Ok(Some(Noticed::Else) | None) => continue,
                Err(error) => return told.trouble(refused("wait for changes of", Path::new("files"), error)),
            }
            let last = Instant::now() + LONGEST_UNREST;
            let mut quiet = Instant::now() + QUIET;
            loop {
                match self.wait(ended, Some(quiet.min(last))) {
                    Ok(Some(Noticed::Matters)) => quiet = Instant::now() + QUIET,
                    Ok(Some(Noticed::Else)) => {}
                    Ok(Some(Noticed::Ended)) => return,
                    // If waiting does not work, the outer loop says so.
                    Ok(None) | Err(_) => break,
                }
            }
            if let Err(error) = self.arm() {
                told.trouble(error);
            }
            told.look();
        }
    }

    /// Waits until something is noticed, or until then: `None`.
    fn wait(&self, ended: &PipeReader, until: Option<Instant>) -> Result<Option<Noticed>, Errno> {
        let timeout = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => return Ok(None),
            // Not a moment too early, or this would be called in vain.
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        };
        let mut both = [
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut both, timeout) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Some(Noticed::Else)),
            Err(error) => return Err(error),
        }
        if both[1].any().unwrap_or(true) {
            return Ok(Some(Noticed::Ended));
        }
        let mut noticed = Noticed::Else;
        for event in self.inotify.read_events()? {
            let lost = event.mask.intersects(AddWatchFlags::IN_Q_OVERFLOW);
            if lost || self.matters(event.wd, event.name.as_deref()) {
                noticed = Noticed::Matters;
            }
        }
        Ok(Some(noticed))
    }

    fn matters(&self, watch: WatchDescriptor, name: Option<&OsStr>) -> bool {
        match (self.watches.get(&watch), name) {
            (Some(Some(names)), Some(name)) => names.contains(name),
            // To a file, or to the directory itself.
            (Some(_), _) => true,
            // Of a watch that is no more.
            (None, _) => false,
        }
    }
}

/// What a wait came to.
enum Noticed {
    /// Nobody wants to know any more.
    Ended,
    /// Something that may have changed what the files say.
    Matters,
    /// Something else.
    Else,
}

/// An error that may be one of the limits of inotify, whose text says something else.
fn limit(operation: &str, errno: Errno, key: &str) -> Error {
    let hint = match errno {
        Errno::ENOSPC | Errno::EMFILE => {
            format!(" (or there are as many as {key} allows: raise it with sysctl)")
        }
        _ => String::new(),
    };
    let message = format!("{}{hint}", errno.desc());
    Reason::Kernel { operation: operation.into(), errno: errno as i32, message }.into()
}
