//! The directory of the namespaces: what is ours in it, and what is not.

mod common;

use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use common::{Lab, create_netns, inside, isolated, netns_name, soon, start, up, wait};
use netloom_kernel::{DirectoryError, Kernel, LinuxConfig, LinuxKernel, Op, execute_all};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A thread in a mount namespace of its own: a copy of its maker's, so what is mounted later in the one is not
/// seen in the other.
struct Elsewhere(Sender<Box<dyn FnOnce() + Send>>);

impl Elsewhere {
    fn new() -> Self {
        let (jobs, queue) = channel::<Box<dyn FnOnce() + Send>>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("needs CAP_SYS_ADMIN");
            queue.into_iter().for_each(|job| job());
        });
        let elsewhere = Self(jobs);
        // Not before it is there.
        elsewhere.run(|| ());
        elsewhere
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, answer) = channel();
        let job = Box::new(move || sender.send(job()).expect("the test waits"));
        self.0.send(job).expect("the thread lives");
        answer.recv().expect("the job has run")
    }

    fn try_start(&self, run_dir: &Path) -> Result<LinuxKernel, Error> {
        let run_dir = run_dir.to_owned();
        self.run(move || try_start(&run_dir))
    }
}

fn try_start(run_dir: &Path) -> Result<LinuxKernel, Error> {
    LinuxKernel::start(LinuxConfig { run_dir: run_dir.to_owned() })
}

/// Why a start is refused.
fn refusal(result: Result<LinuxKernel, Error>) -> DirectoryError {
    let error = result.expect_err("refused");
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref()).cloned();
    reason.unwrap_or_else(|| panic!("another error: {error}"))
}

/// Ends a kernel and waits for its last thread.
fn stop(kernel: LinuxKernel, run_dir: &Path) {
    drop(kernel);
    File::open(marker(run_dir)).expect("there").lock().expect("let go");
}

fn marker(run_dir: &Path) -> PathBuf {
    run_dir.join("netns/.netloom")
}

fn namespaces(kernel: &LinuxKernel) -> Vec<String> {
    let names = wait(kernel.namespaces(soon())).expect("listed");
    names.into_iter().map(|name| name.to_string()).collect()
}

fn create(kernel: &LinuxKernel, name: &str) {
    wait(execute_all(kernel, vec![create_netns(name)], soon())).expect("made");
}

#[test]
fn a_symbolic_link_leads_to_no_namespace() {
    isolated(|lab| {
        lab.must(vec![create_netns("theirs")]);
        let theirs = lab.kernel.netns_path(netns_name("theirs"));
        let run_dir = lab.run_dir.with_file_name("other");
        let kernel = start(&run_dir);
        let link = kernel.netns_path(netns_name("c1"));
        symlink(&theirs, &link).expect("linked");
        assert!(namespaces(&kernel).is_empty());
        let errno = |op| wait(execute_all(&kernel, vec![op], soon())).expect_err("not ours").errno;
        assert_eq!(errno(up(inside("c1"), "lo")), libc::ENOENT);
        assert_eq!(errno(Op::DeleteNetns { name: netns_name("c1") }), libc::ENOENT);
        assert_eq!(errno(create_netns("c1")), libc::EEXIST);
        assert!(fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink()));
        assert_eq!(namespaces(&lab.kernel), ["theirs"]);
    });
}

#[test]
fn the_directory_itself_is_no_symbolic_link() {
    isolated(|lab| {
        let other = lab.run_dir.with_file_name("other");
        let (netns, empty) = (other.join("netns"), other.join("empty"));
        fs::create_dir_all(&empty).expect("made");
        for target in [lab.run_dir.join("netns"), empty.clone(), other.join("nowhere")] {
            symlink(&target, &netns).expect("linked");
            let dir = netns.clone();
            assert_eq!(refusal(try_start(&other)), DirectoryError::SymbolicLink { dir });
            fs::remove_file(&netns).expect("removed");
        }
        assert!(fs::read_dir(&empty).expect("readable").next().is_none() && !other.join("nowhere").exists());
        // On the way to it they are welcome.
        let way = lab.run_dir.with_file_name("way");
        symlink(&lab.run_dir, &way).expect("linked");
        lab.must(vec![create_netns("c1")]);
        assert_eq!(namespaces(&start(&way)), ["c1"]);
    });
}

#[test]
fn what_takes_the_place_of_the_directory_is_left_alone() {
    isolated(|lab| {
        let other = lab.run_dir.with_file_name("other");
        let theirs = start(&other);
        create(&theirs, "c1");
        lab.must(vec![create_netns("c1"), create_netns("c2")]);
        let netns = lab.run_dir.join("netns");
        fs::rename(&netns, lab.run_dir.join("moved")).expect("renamed");
        symlink(other.join("netns"), &netns).expect("linked");
        lab.must(vec![Op::DeleteNetns { name: netns_name("c1") }, create_netns("c3")]);
        assert_eq!(
            (namespaces(&lab.kernel), namespaces(&theirs)),
            (vec!["c2".to_owned(), "c3".to_owned()], vec!["c1".to_owned()])
        );
    });
}

#[test]
fn the_directory_of_others_tools_is_refused_before_it_is_made() {
    isolated(|lab| {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        let beside = lab.run_dir.with_file_name("beside");
        symlink("/run", &beside).expect("linked");
        let run_dirs = ["/run", "/run/", "/run/../run", "/var/run"].map(PathBuf::from);
        for run_dir in run_dirs.iter().chain([&beside]) {
            let error = try_start(run_dir).expect_err("not ours");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(
                error.to_string().contains("run_dir") && error.to_string().contains("ip netns"),
                "{error}"
            );
            assert!(!Path::new("/run/netns").exists(), "{}", run_dir.display());
        }
        // Nor by another name.
        let (theirs, shared) = (Path::new("/run/netns"), lab.run_dir.with_file_name("shared"));
        let netns = shared.join("netns");
        fs::create_dir_all(theirs).expect("made");
        fs::create_dir_all(&netns).expect("made");
        mount(Some(theirs), &netns, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mounted");
        assert_eq!(refusal(try_start(&shared)), DirectoryError::IpNetns { dir: netns });
        assert!(fs::read_dir(theirs).expect("readable").next().is_none());
        start(Path::new("/run/netloom"));
    });
}

#[test]
fn a_name_reserved_by_a_killed_process_is_freed_at_the_next_start() {
    isolated(|lab| {
        lab.must(vec![create_netns("kept")]);
        let Lab { kernel, run_dir } = lab;
        let netns = run_dir.join("netns");
        fs::write(netns.join("reserved"), "").expect("written");
        fs::write(netns.join("text"), "not ours").expect("written");
        // With the other still there it could be a name that is about to be used.
        drop(start(&run_dir));
        assert!(netns.join("reserved").exists());
        stop(kernel, &run_dir);
        let kernel = start(&run_dir);
        assert!(!netns.join("reserved").exists());
        assert!(netns.join("text").exists(), "what is not empty is not ours");
        assert_eq!(namespaces(&kernel), ["kept"]);
    });
}

#[test]
fn namespaces_that_are_mounted_elsewhere_are_not_lost() {
    isolated(|lab| {
        let elsewhere = Elsewhere::new();
        lab.must(vec![create_netns("a"), create_netns("b")]);
        let Lab { kernel, run_dir } = lab;
        let reason = refusal(elsewhere.try_start(&run_dir));
        assert!(matches!(reason, DirectoryError::InUseElsewhere { .. }), "{reason}");
        stop(kernel, &run_dir);
        let reason = refusal(elsewhere.try_start(&run_dir));
        let text = reason.to_string();
        let DirectoryError::MountedElsewhere { dir, place, count, example } = reason else {
            panic!("{text}")
        };
        let here = fs::read_link("/proc/thread-self/ns/mnt").expect("readable");
        assert_eq!((dir, count, example), (run_dir.join("netns"), 2, netns_name("a")));
        assert!(place.contains(here.to_str().expect("ASCII")) && text.contains("nsenter"), "{text}");
        // Nothing has happened to them.
        let lab = Lab { kernel: start(&run_dir), run_dir };
        assert_eq!(namespaces(&lab.kernel), ["a", "b"]);
        lab.must(vec![up(inside("a"), "lo"), up(inside("b"), "lo")]);
    });
}

#[test]
fn a_directory_with_nothing_in_it_may_be_used_from_elsewhere() {
    isolated(|lab| {
        let elsewhere = Elsewhere::new();
        lab.must(vec![create_netns("a"), Op::DeleteNetns { name: netns_name("a") }]);
        let Lab { kernel, run_dir } = lab;
        stop(kernel, &run_dir);
        let kernel = elsewhere.try_start(&run_dir).expect("nothing can be lost");
        create(&kernel, "b");
        assert_eq!(namespaces(&kernel), ["b"]);
        stop(kernel, &run_dir);
        // Now it is used from there.
        let reason = refusal(try_start(&run_dir));
        assert!(matches!(reason, DirectoryError::MountedElsewhere { count: 1, .. }), "{reason}");
        stop(elsewhere.try_start(&run_dir).expect("from there"), &run_dir);
        // Whoever knows that nobody needs them removes the files.
        fs::remove_file(run_dir.join("netns/b")).expect("removed");
        create(&start(&run_dir), "a");
    });
}

#[test]
fn what_is_seen_from_two_places_may_be_used_from_both() {
    isolated(|lab| {
        lab.must(vec![create_netns("a")]);
        // A copy of what is mounted.
        let elsewhere = Elsewhere::new();
        let Lab { kernel, run_dir } = lab;
        stop(kernel, &run_dir);
        let kernel = elsewhere.try_start(&run_dir).expect("it sees them all");
        assert_eq!(namespaces(&kernel), ["a"]);
        stop(kernel, &run_dir);
        assert_eq!(namespaces(&start(&run_dir)), ["a"]);
    });
}

#[test]
fn empty_files_are_remains_after_a_reboot_and_unknown_without_a_record() {
    isolated(|lab| {
        let Lab { kernel, run_dir } = lab;
        stop(kernel, &run_dir);
        let (netns, marker) = (run_dir.join("netns"), marker(&run_dir));
        let record = fs::read_to_string(&marker).expect("readable");
        let (boot, _) = record.split_once(' ').expect("two words");
        let reserve = || fs::write(netns.join("reserved"), "").expect("written");
        reserve();
        // From another mount namespace of the same boot, or by hand, or by a build that kept no record.
        for unsure in [format!("{boot} mnt:[1]\n"), String::new()] {
            fs::write(&marker, &unsure).expect("written");
            let reason = refusal(try_start(&run_dir));
            assert!(matches!(reason, DirectoryError::MountedElsewhere { count: 1, .. }), "{reason}");
            assert!(netns.join("reserved").exists());
            assert_eq!(fs::read_to_string(&marker).expect("readable"), unsure, "nobody has taken it over");
        }
        // The mounts of another boot are gone. A longer record leaves nothing behind.
        fs::write(&marker, format!("another-boot mnt:[1]\n{}", "x".repeat(300))).expect("written");
        stop(try_start(&run_dir).expect("nothing can be lost"), &run_dir);
        assert!(!netns.join("reserved").exists());
        assert_eq!(fs::read_to_string(&marker).expect("readable"), record);
        // One made by hand, where there is nothing to lose.
        fs::write(&marker, "").expect("written");
        fs::set_permissions(&marker, fs::Permissions::from_mode(0o644)).expect("changed");
        stop(try_start(&run_dir).expect("nothing can be lost"), &run_dir);
        assert_eq!(fs::read_to_string(&marker).expect("readable"), record);
        let mode = fs::metadata(&marker).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others could lock it");
    });
}
