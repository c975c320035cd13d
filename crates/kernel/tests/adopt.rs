//! Namespaces that others have made.

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use common::{Lab, create_netns, inside, isolated, netns_name, soon, up, veth, wait};
use netloom_kernel::{Kernel, Netns, Op};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A thread in a namespace of its own, as a container's process is; with it the namespace ends, unless
/// somebody else uses it.
struct Process {
    source: PathBuf,
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl Process {
    fn start() -> Self {
        let (end, until) = channel::<()>();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
            let task = fs::read_link("/proc/thread-self").expect("readable");
            tell.send(Path::new("/proc").join(task).join("ns/net")).expect("waited for");
            until.recv().expect_err("nothing is sent");
        });
        Self { source: told.recv().expect("started"), end, thread }
    }

    fn end(self) {
        drop(self.end);
        self.thread.join().expect("ended");
    }
}

fn adopt(name: &str, source: impl AsRef<Path>) -> Op {
    Op::AdoptNetns { name: netns_name(name), source: source.as_ref().into() }
}

fn delete(name: &str) -> Op {
    Op::DeleteNetns { name: netns_name(name) }
}

/// What lies in the directory of the namespaces.
fn files(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.run_dir.join("netns")).expect("readable");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect();
    names.sort_unstable();
    names.retain(|name| name != ".netloom");
    names
}

/// How many descriptors of this process are open for a namespace.
fn open_for(namespace: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").expect("readable");
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.expect("readable").path()).ok());
    targets.filter(|target| target == namespace).count()
}

#[test]
fn a_process_keeps_its_namespace_and_what_was_put_into_it() {
    isolated(|lab| {
        let process = Process::start();
        lab.must(vec![adopt("c1", &process.source), veth("v1", "eth0", inside("c1"), None)]);
        assert!(lab.link(inside("c1"), "lo").expect("there").up, "its loopback is brought up");
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), [netns_name("c1")]);
        lab.must(vec![delete("c1")]);
        assert!(files(&lab).is_empty());
        assert_eq!(lab.errno(up(inside("c1"), "lo")), libc::ENOENT);
        lab.must(vec![adopt("c2", &process.source), up(inside("c2"), "eth0")]);
        // The mount keeps it alive as well.
        process.end();
        lab.must(vec![Op::SetLink { netns: inside("c2"), name: "eth0".parse().expect("a name"), up: false }]);
        lab.must(vec![delete("c2")]);
        let patience = soon();
        while lab.link(Netns::Host, "v1").is_some() {
            assert!(std::time::Instant::now() < patience, "the namespace lives on without users");
            thread::yield_now();
        }
    });
}

#[test]
fn a_descriptor_is_as_good_as_a_process() {
    isolated(|lab| {
        let process = Process::start();
        let held = File::open(&process.source).expect("there");
        process.end();
        let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
        lab.must(vec![adopt("c1", &path), veth("v1", "eth0", inside("c1"), None)]);
        // A namespace of the engine's own, by the file that it is mounted on.
        lab.must(vec![create_netns("c2"), adopt("c3", lab.kernel.netns_path(netns_name("c2")))]);
        lab.must(vec![delete("c2"), up(inside("c3"), "lo"), delete("c3"), delete("c1")]);
    });
}

#[test]
fn nothing_but_a_network_namespace_of_others_is_adopted() {
    isolated(|lab| {
        let process = Process::start();
        lab.must(vec![create_netns("taken")]);
        let scratch = lab.run_dir.with_file_name("scratch");
        fs::create_dir(&scratch).expect("made");
        let (fifo, empty, gone) = (scratch.join("fifo"), scratch.join("empty"), scratch.join("gone"));
        mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        File::create(&empty).expect("made");
        // A FIFO that nobody writes to would keep whoever opens it; a device might do something.
        let refused: [(&Path, i32); 10] = [
            (&gone, libc::ENOENT),
            (Path::new(""), libc::ENOENT),
            (&empty.join("inside"), libc::ENOENT),
            (&fifo, libc::EINVAL),
            (&empty, libc::EINVAL),
            (&scratch, libc::EINVAL),
            (Path::new("/dev/null"), libc::EINVAL),
            (Path::new("/proc/thread-self/ns/mnt"), libc::EINVAL),
            (Path::new("/proc/self/ns/user"), libc::EINVAL),
            (Path::new("zero\0byte"), libc::EINVAL),
        ];
        for (source, errno) in refused {
            assert_eq!(lab.errno(adopt("c1", source)), errno, "{}", source.display());
            assert_eq!(lab.errno(adopt("taken", source)), libc::EEXIST, "{}", source.display());
            assert_eq!(files(&lab), ["taken"]);
        }
        let own = Path::new("/proc/thread-self/ns/net");
        assert_eq!(lab.errno(adopt("c1", own)), libc::EBUSY);
        // By whichever path.
        let held = File::open(own).expect("there");
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        assert_eq!(lab.errno(adopt("c1", path)), libc::EBUSY);
        assert_eq!(files(&lab), ["taken"]);
        assert_eq!(lab.errno(adopt("taken", &process.source)), libc::EEXIST);
        assert!(lab.link(inside("taken"), "lo").is_some(), "whoever had the name still has it");
        // Refusals have left the thread at home.
        lab.must(vec![create_netns("c1"), veth("v1", "eth0", inside("c1"), None)]);
        assert!(lab.link(Netns::Host, "v1").is_some());
    });
}

#[test]
fn no_descriptor_is_left_open() {
    isolated(|lab| {
        let process = Process::start();
        let namespace = fs::read_link(&process.source).expect("readable");
        let _held = File::open(&process.source).expect("there");
        assert_eq!(open_for(&namespace), 1, "they are counted");
        lab.must(vec![adopt("c1", &process.source)]);
        assert_eq!(lab.errno(adopt("c1", &process.source)), libc::EEXIST);
        assert_eq!(open_for(&namespace), 1);
        let other = fs::read_link("/proc/thread-self/ns/mnt").expect("readable");
        assert_eq!(lab.errno(adopt("c2", "/proc/thread-self/ns/mnt")), libc::EINVAL);
        assert_eq!(open_for(&other), 0);
    });
}
