//! The files of several sandboxes: what each word about one comes to, whatever was before.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_model::{ErrorKind, ParentUpdate, SandboxId, SandboxSettings, SandboxSpec};

use super::super::*;
use crate::resolv::{EMBEDDED_SERVER, Ndots};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a directory") };
        place.host("nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch corp.example\n");
        place
    }

    fn host(&self, text: &str) {
        fs::write(self.at("host"), text).expect("written");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn host_file(&self) -> HostFile {
        HostFile::new(self.at("host"), self.at("behind"))
    }

    fn keeper(&self) -> Keeper {
        let says = HostSays::Told(Arc::new(self.host_file().read()));
        Keeper::new(Files::new(self.at("run")), self.host_file(), says)
    }

    fn of(&self, sandbox: SandboxId, name: &str) -> PathBuf {
        self.at("run/files").join(sandbox.to_string()).join(name)
    }

    fn hosts(&self, sandbox: SandboxId) -> String {
        text(&self.of(sandbox, "hosts"))
    }

    fn resolv(&self, sandbox: SandboxId) -> String {
        let text = text(&self.of(sandbox, "resolv.conf"));
        text.lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn id(number: u8) -> SandboxId {
    format!("{number:02x}").repeat(32).parse().expect("an identifier")
}

fn wanted(spec: &SandboxSpec, addresses: &[&str]) -> Wanted {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    Wanted { spec: Arc::new(spec.clone()), addresses, ipv6, server: None }
}

fn web() -> SandboxSpec {
    SandboxSpec::new("c1").hostname("web.example").extra_host("db", [192, 0, 2, 7].into())
}

const WITHOUT_IPV6: &str = "127.0.0.1\tlocalhost\n192.0.2.7\tdb\n";

#[test]
fn a_sandbox_s_life_in_its_files() {
    let (place, web) = (Place::new(), web());
    let mut keeper = place.keeper();
    keeper.make(id(1), wanted(&web, &[])).expect("made");
    assert_eq!(place.hosts(id(1)), WITHOUT_IPV6);
    assert_eq!(place.resolv(id(1)), "search corp.example\nnameserver 192.0.2.53\n");
    let inode = fs::metadata(place.of(id(1), "hosts")).expect("there").ino();

    keeper.settle(id(1), wanted(&web, &["10.0.0.2", "2001:db8::2"])).expect("joined");
    let both = place.hosts(id(1));
    assert!(both.ends_with("192.0.2.7\tdb\n10.0.0.2\tweb.example web\n2001:db8::2\tweb.example web\n"));
    assert!(both.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"));
    assert!(place.resolv(id(1)).contains("nameserver 2001:db8::53"));

    fs::write(place.of(id(1), "hosts"), format!("{both}10.9.9.9 mine\n")).expect("a user's line");
    keeper.settle(id(1), wanted(&web, &["10.0.0.3"])).expect("another address");
    let now = place.hosts(id(1));
    assert!(
        now.ends_with("10.9.9.9 mine\n10.0.0.3\tweb.example web\n") && !now.contains("10.0.0.2"),
        "{now}"
    );
    assert!(!place.resolv(id(1)).contains("2001:db8::53") && !now.contains("ip6-"));
    assert_eq!(
        fs::metadata(place.of(id(1), "hosts")).expect("there").ino(),
        inode,
        "mounted in the container"
    );

    keeper.remove(id(1), &web).expect("removed");
    keeper.remove(id(1), &web).expect("nothing is left");
    assert!(fs::read_dir(place.at("run/files")).expect("there").next().is_none());
}

#[test]
fn the_next_engine_goes_on_with_what_it_finds() {
    let (place, web) = (Place::new(), web());
    let mut first = place.keeper();
    first.make(id(1), wanted(&web, &[])).expect("made");
    // Written, and not recorded any more.
    first.settle(id(1), wanted(&web, &["10.0.0.2"])).expect("joined");
    place.host("nameserver 192.0.2.54\n");
    let mut next = place.keeper();
    next.settle(id(1), wanted(&web, &["10.0.0.9"])).expect("taken up");
    assert_eq!(place.hosts(id(1)), format!("{WITHOUT_IPV6}10.0.0.9\tweb.example web\n"));
    assert_eq!(place.resolv(id(1)), "nameserver 192.0.2.54\n");
    fs::remove_dir_all(place.at("run")).expect("somebody tidies up");
    next.settle(id(1), wanted(&web, &["10.0.0.9"])).expect("there again");
    assert_eq!(place.hosts(id(1)), format!("{WITHOUT_IPV6}10.0.0.9\tweb.example web\n"));
}

#[test]
fn sandboxes_follow_the_host_s_file_unless_a_user_has_changed_theirs() {
    let (place, mut many) = (Place::new(), Vec::new());
    let mut keeper = place.keeper();
    for number in 1..100 {
        let spec = SandboxSpec::new(format!("c{number}"));
        keeper.make(id(number), wanted(&spec, &[])).expect("made");
        many.push(spec);
    }
    fs::write(place.of(id(3), "resolv.conf"), "nameserver 9.9.9.9\n").expect("a user's");
    fs::remove_dir_all(place.at("run/files").join(id(4).to_string())).expect("and one is gone");
    place.host("nameserver 192.0.2.54\n");
    assert!(keeper.host_changed(Arc::new(place.host_file().read())));
    let (mut pieces, mut failed) = (1, Vec::new());
    loop {
        let (more, some) = keeper.catch_up();
        failed.extend(some.into_iter().map(|(sandbox, _)| sandbox));
        if !more {
            break;
        }
        pieces += 1;
    }
    assert_eq!((pieces, failed), (4, vec![id(4)]));
    for number in (1..100).filter(|number| *number != 4) {
        let expected = if number == 3 { "nameserver 9.9.9.9\n" } else { "nameserver 192.0.2.54\n" };
        assert_eq!(place.resolv(id(number)), expected, "{number}");
    }
    keeper.settle(id(4), wanted(&many[3], &[])).expect("the next word about it");
    assert_eq!(place.resolv(id(4)), "nameserver 192.0.2.54\n");
    fs::remove_file(place.at("host")).expect("removed");
    assert!(!keeper.host_changed(Arc::new(place.host_file().read())), "a missing file says nothing");
    assert_eq!(keeper.catch_up(), (false, Vec::new()));
    assert_eq!(place.resolv(id(1)), "nameserver 192.0.2.54\n");
}

#[test]
fn its_own_name_server_is_the_only_one_as_long_as_it_is_there() {
    let (place, web) = (Place::new(), web());
    let mut keeper = place.keeper();
    assert_eq!(keeper.make(id(1), wanted(&web, &[])).expect("made"), None);
    let with = |server| Wanted { server, ..wanted(&web, &[]) };
    let asked = keeper.settle(id(1), with(Some(EMBEDDED_SERVER))).expect("pointed at").expect("it has one");
    assert_eq!(place.resolv(id(1)), "search corp.example\nnameserver 127.0.0.11\noptions ndots:0\n");
    let servers: Vec<_> = asked.upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.53 (from the host)", "2001:db8::53 (from the host)"]);
    assert_eq!(asked.ndots, Ndots::Zero);
    place.host("nameserver 192.0.2.54\n");
    keeper.host_changed(Arc::new(place.host_file().read()));
    assert_eq!(keeper.catch_up(), (false, Vec::new()));
    let servers = |keeper: &Keeper| keeper.asked(id(1)).map(|asked| asked.upstreams[0].to_string());
    assert_eq!(servers(&keeper).as_deref(), Some("192.0.2.54 (from the host)"));
    assert_eq!(keeper.settle(id(1), with(None)).expect("it has ended"), None);
    assert_eq!((place.resolv(id(1)).as_str(), servers(&keeper)), ("nameserver 192.0.2.54\n", None));
}

#[test]
fn a_container_is_entered_in_the_files_of_its_parents() {
    let place = Place::new();
    let mut keeper = place.keeper();
    let parent = SandboxSpec::new("parent")
        .extra_host("child", [10, 0, 0, 2].into())
        .extra_host("children", [10, 0, 0, 3].into());
    keeper.make(id(1), wanted(&parent, &[])).expect("made");
    let update = |container: &str, name: &str| {
        let (container_id, address) = (container.into(), [10, 0, 0, 9].into());
        ParentUpdate { container_id, name: name.into(), address }
    };
    let child = SandboxSpec::new("c2").with(|settings| {
        settings.parent_updates =
            vec![update("nobody", "child"), update("parent", "child"), update("parent", "unknown")];
    });
    keeper.make(id(2), wanted(&child, &[])).expect("made");
    let expected = "127.0.0.1\tlocalhost\n10.0.0.9\tchild\n10.0.0.3\tchildren\n";
    assert_eq!(place.hosts(id(1)), expected);
    keeper.settle(id(1), wanted(&parent, &["10.0.0.1"])).expect("joined");
    assert_eq!(place.hosts(id(1)), expected, "it has no host name");
}

#[test]
fn files_of_the_host_and_of_callers_are_copies() {
    let place = Place::new();
    place.host("# by hand\nnameserver 127.0.0.53\n");
    fs::write(place.at("behind"), "nameserver 192.0.2.1\n").expect("written");
    let mut keeper = place.keeper();
    let host = SandboxSpec::new("h").host_namespace().hostname("h").extra_host("db", [192, 0, 2, 7].into());
    keeper.make(id(1), wanted(&host, &[])).expect("made");
    assert_eq!(text(&place.of(id(1), "resolv.conf")), "# by hand\nnameserver 127.0.0.53\n");
    let hosts = fs::read_to_string("/etc/hosts").expect("every host has one");
    assert_eq!(place.hosts(id(1)).trim_end(), format!("{}\n192.0.2.7\tdb", hosts.trim_end()));
    let given = host.clone().dns([192, 0, 2, 9].into());
    keeper.make(id(1), wanted(&given, &[])).expect("made");
    assert_eq!(place.resolv(id(1)), "nameserver 192.0.2.9\n");

    fs::write(place.at("origin"), "10.1.1.1 other\n").expect("written");
    let copied = web().with(|settings| {
        settings.origin_hosts_path = Some(place.at("origin"));
        settings.hosts_path = Some(place.at("hosts-of-c1"));
        settings.origin_resolv_conf_path = Some(place.at("behind"));
    });
    keeper.make(id(2), wanted(&copied, &[])).expect("made");
    keeper.settle(id(2), wanted(&copied, &["10.0.0.2"])).expect("joined");
    assert_eq!(text(&place.at("hosts-of-c1")), "10.1.1.1 other\n", "taken as it is");
    assert_eq!(place.resolv(id(2)), "nameserver 192.0.2.1\n");
    assert!(!place.of(id(2), "hosts").exists());
    // Begun anew without those.
    keeper.make(id(2), wanted(&web(), &["10.0.0.2"])).expect("made");
    assert_eq!(place.hosts(id(2)), format!("{WITHOUT_IPV6}10.0.0.2\tweb.example web\n"));
    assert!(place.at("hosts-of-c1").exists(), "a caller's file stays");
}

#[test]
fn a_disk_that_refuses_is_told_and_tried_again_with_the_next_word() {
    let (place, web) = (Place::new(), web());
    fs::create_dir(place.at("run")).expect("made");
    fs::write(place.at("run/files"), "in the way").expect("written");
    let mut keeper = place.keeper();
    let error = keeper.make(id(1), wanted(&web, &[])).expect_err("no directory");
    assert!(error.to_string().contains("run/files"), "{error}");
    keeper.remove(id(1), &web).expect_err("it is not known what is there");
    fs::remove_file(place.at("run/files")).expect("removed");
    keeper.remove(id(1), &web).expect("nothing is there");
    keeper.make(id(1), wanted(&web, &[])).expect("made");
    // Its hosts file becomes a way to a file of somebody else's.
    fs::remove_file(place.of(id(1), "hosts")).expect("removed");
    symlink("/etc/passwd", place.of(id(1), "hosts")).expect("linked");
    let error = keeper.settle(id(1), wanted(&web, &["10.0.0.2"])).expect_err("a link");
    assert_eq!(error.kind(), ErrorKind::InvalidParameter);
    assert!(error.to_string().contains("symbolic link"), "{error}");
    fs::remove_file(place.of(id(1), "hosts")).expect("removed");
    keeper.settle(id(1), wanted(&web, &["10.0.0.2"])).expect("made again");
    assert_eq!(place.hosts(id(1)), format!("{WITHOUT_IPV6}10.0.0.2\tweb.example web\n"));
}

#[test]
fn what_a_crash_has_left_is_swept() {
    let place = Place::new();
    let mut keeper = place.keeper();
    for number in 1..=3 {
        let spec = SandboxSpec::new(format!("c{number}"));
        keeper.make(id(number), wanted(&spec, &[])).expect("made");
    }
    fs::create_dir(place.at("run/files/notes")).expect("somebody's");
    // Of a rebuilt record only the beginning is right.
    let rebuilt: SandboxId = format!("{:0<64}", id(2).short()).parse().expect("an identifier");
    assert_eq!(place.keeper().sweep(&[id(1), rebuilt]).expect("swept"), [id(3)]);
    let left: Vec<_> = Files::new(place.at("run")).list().expect("listed");
    assert_eq!(left.len(), 3);
    assert!(Place::new().keeper().sweep(&[]).expect("nothing").is_empty());
    let named = SandboxSettings { hosts_path: Some(place.at("h")), ..SandboxSettings::default() };
    let paths = Files::new(place.at("run")).of(id(1), Some(&named)).expect("paths").paths();
    assert_eq!(paths, (place.at("h"), place.of(id(1), "resolv.conf")));
}
