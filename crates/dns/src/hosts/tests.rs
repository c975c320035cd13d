//! Hosts files: built, changed, and what stays whatever is done.

use std::net::IpAddr;
use std::time::Instant;

use netloom_model::ErrorKind;
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn entry(address: &str, names: &[&str]) -> Entry {
    Entry::new(ip(address), names).expect("a line")
}

fn extra(address: &str, name: &str) -> ExtraHost {
    ExtraHost { name: name.into(), address: ip(address) }
}

fn edited(text: &str, changes: &[Change]) -> String {
    let new = edit(text.as_bytes(), changes).expect("it changes");
    String::from_utf8(new).expect("text")
}

fn removed(name: &str) -> Change {
    Change::RemoveName(name.into())
}

fn update(name: &str, address: &str) -> Change {
    Change::Update { name: name.into(), address: ip(address) }
}

#[test]
fn a_new_file_has_six_lines_and_one_without_ipv6() {
    let with = build(true, &[]).expect("built");
    assert_eq!(
        with,
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
    );
    let hosts = [extra("192.0.2.1", "db"), extra("2001:db8::1", "db"), extra("192.0.2.2", "a.example")];
    let without = build(false, &hosts).expect("built");
    assert_eq!(without, "127.0.0.1\tlocalhost\n192.0.2.1\tdb\n2001:db8::1\tdb\n192.0.2.2\ta.example\n");
}

#[test]
fn an_endpoint_has_a_line_for_each_address() {
    let addresses = || [ip("172.18.0.2"), ip("fd00::2")];
    for (hostname, domain, expected) in [
        ("web", "", "172.18.0.2\tweb|fd00::2\tweb"),
        ("web", "example.net", "172.18.0.2\tweb.example.net web|fd00::2\tweb.example.net web"),
        ("web.example.net", "", "172.18.0.2\tweb.example.net web|fd00::2\tweb.example.net web"),
        ("web.a", "b", "172.18.0.2\tweb.a.b web|fd00::2\tweb.a.b web"),
        ("web.", "", "172.18.0.2\tweb|fd00::2\tweb"),
        ("", "example.net", ""),
    ] {
        let lines = Entry::of_endpoint(hostname, domain, addresses()).expect("lines");
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(lines.join("|"), expected, "{hostname} {domain}");
    }
    assert!(Entry::of_endpoint("web", "", []).expect("no lines").is_empty());
}

#[test]
fn names_that_would_be_something_else_are_refused_by_name() {
    let long = "a".repeat(254);
    for name in ["", "two words", "a\nb", "a\tb", "a\0b", "a#b", "a\rb", "straße", &long] {
        let error = Entry::new(ip("192.0.2.1"), &["fine", name]).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        assert!(error.to_string().contains(&format!("{shown:?}")), "{error}");
        removed(name).check().expect_err(name);
        update(name, "192.0.2.1").check().expect_err(name);
    }
    Entry::new(ip("192.0.2.1"), &[]).expect_err("no name");
    Entry::new(ip("192.0.2.1"), &["a"; 65]).expect_err("too many");
    build(true, &[extra("192.0.2.1", "a b")]).expect_err("two words");
}

#[test]
fn what_is_removed_is_this_and_nothing_like_it() {
    let text = "# web is ours\n10.0.0.2\tweb\n10.0.0.3\tweb1\n10.0.0.20\tmy.web web\n\n10.0.0.2 web\n10.0.0.5\tweb db\n";
    assert_eq!(
        edited(text, &[removed("web")]),
        "# web is ours\n10.0.0.3\tweb1\n10.0.0.20\tmy.web\n\n10.0.0.2 web\n10.0.0.5\tdb\n"
    );
    assert_eq!(
        edited(text, &[Change::RemoveAddress(ip("10.0.0.2"))]),
        "# web is ours\n10.0.0.3\tweb1\n10.0.0.20\tmy.web web\n\n10.0.0.2 web\n10.0.0.5\tweb db\n"
    );
    assert_eq!(edit(text.as_bytes(), &[removed("we"), removed("eb1"), removed("WEB")]), None);
    assert_eq!(edit(text.as_bytes(), &[Change::Remove(entry("10.0.0.2", &["web1"]))]), None);
    // Of two that are the same the later one, which was added.
    let twice = "10.0.0.2\tweb\n# between\n10.0.0.2\tweb\n# after";
    let gone = edited(twice, &[Change::Remove(entry("10.0.0.2", &["web"]))]);
    assert_eq!(gone, "10.0.0.2\tweb\n# between\n# after");
}

#[test]
fn what_a_file_begins_with_stays() {
    let text = build(true, &[]).expect("built");
    let changes = [
        removed("localhost"),
        removed("ip6-allnodes"),
        Change::RemoveAddress(ip("127.0.0.1")),
        Change::RemoveAddress(ip("::1")),
        Change::Remove(entry("127.0.0.1", &["localhost"])),
        update("localhost", "192.0.2.1"),
    ];
    assert_eq!(edit(text.as_bytes(), &changes), None);
}

#[test]
fn an_update_changes_the_address_of_a_name_and_of_its_family_only() {
    let text = "10.0.0.2\tdb.example db\nfd00::2\tdb\n10.0.0.3\tdb1\n10.0.0.4 db\n10.0.0.5\tx db\n";
    assert_eq!(
        edited(text, &[update("db", "192.0.2.77")]),
        "192.0.2.77\tdb.example db\nfd00::2\tdb\n10.0.0.3\tdb1\n10.0.0.4 db\n192.0.2.77\tx db\n"
    );
    assert_eq!(
        edited(text, &[update("db", "fd00::77")]),
        "10.0.0.2\tdb.example db\nfd00::77\tdb\n10.0.0.3\tdb1\n10.0.0.4 db\n10.0.0.5\tx db\n"
    );
    assert_eq!(edit(text.as_bytes(), &[update("nobody", "192.0.2.1")]), None);
    assert_eq!(edit(text.as_bytes(), &[update("db1", "10.0.0.3")]), None, "it has that address");
}

#[test]
fn lines_come_at_the_end_of_a_line_of_their_own() {
    let web = || entry("10.0.0.2", &["web"]);
    assert_eq!(edited("", &[Change::Add(web())]), "10.0.0.2\tweb\n");
    assert_eq!(edited("# no end", &[Change::Add(web())]), "# no end\n10.0.0.2\tweb\n");
    assert_eq!(edited("10.0.0.2\tweb", &[Change::Add(web())]), "10.0.0.2\tweb\n10.0.0.2\tweb\n");
    assert_eq!(edit(b"10.0.0.2\tweb", &[Change::Ensure(web())]), None);
    assert_eq!(edited("10.0.0.2\tweb1\n", &[Change::Ensure(web())]), "10.0.0.2\tweb1\n10.0.0.2\tweb\n");
    assert_eq!(edit(b"x", &[Change::Add(web()), Change::Remove(web())]), Some(b"x\n".to_vec()));
    assert_eq!(edit(b"x\n", &[Change::Add(web()), Change::Remove(web())]), None, "nothing is written");
}

#[test]
fn ipv6_comes_and_goes_where_it_belongs() {
    let lines = [extra("192.0.2.1", "db")];
    let (with, without) = (build(true, &lines).expect("built"), build(false, &lines).expect("built"));
    assert_eq!(edited(&without, &[Change::Ipv6(true)]), with);
    assert_eq!(edited(&with, &[Change::Ipv6(false)]), without);
    assert_eq!(edit(with.as_bytes(), &[Change::Ipv6(true)]), None);
    assert_eq!(edit(without.as_bytes(), &[Change::Ipv6(false)]), None);
    // A user took all lines away, or some.
    let changed = edited("# mine\n", &[Change::Ipv6(true)]);
    assert!(changed.starts_with("::1\t") && changed.ends_with("# mine\n"), "{changed}");
    let some = with.replace("ff00::0\tip6-mcastprefix\n", "");
    assert_eq!(edited(&some, &[Change::Ipv6(true)]).lines().count(), with.lines().count());
}

/// The bound holds in a release build; a debug build is some 15 times slower, and asks for less.
#[test]
fn ten_thousand_lines_are_changed_quickly() {
    let mut text = build(true, &[]).expect("built").into_bytes();
    for n in 0..10_000_u32 {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let line = Entry::new(address, &[&format!("host-{n}.example.net"), &format!("host-{n}")]);
        text.extend(format!("{}\n", line.expect("a line")).bytes());
    }
    let changes: [(&str, Change); 5] = [
        ("add", Change::Add(entry("192.0.2.1", &["web.example.net", "web"]))),
        ("remove", Change::Remove(entry("10.0.39.15", &["host-9999.example.net", "host-9999"]))),
        ("remove an address", Change::RemoveAddress(ip("10.0.19.136"))),
        ("remove a name", removed("host-9998")),
        ("update", update("host-5000", "192.0.2.77")),
    ];
    for (what, change) in changes {
        let fastest = (0..20).map(|_| {
            let begun = Instant::now();
            assert!(edit(&text, std::slice::from_ref(&change)).is_some(), "{what}");
            begun.elapsed()
        });
        let fastest = fastest.min().expect("it ran");
        let most = if cfg!(debug_assertions) { 60_000 } else { 1_000 };
        assert!(fastest.as_micros() < most, "{what}: {fastest:?}");
    }
}

/// Lines that a user may have written, in no form of the engine's.
fn users_line() -> impl Strategy<Value = String> {
    prop_oneof![
        "# [ -~\t]{0,20}",
        "10\\.0\\.0\\.[0-9] (web|db|web1)",
        "10\\.0\\.0\\.[0-9]\t(web|db)  ?# mine",
        " 10\\.0\\.0\\.[0-9]\tweb",
        "10\\.0\\.0\\.[0-9]\tweb\tdb",
        "10\\.0\\.0\\.[0-9]\tweb\r",
        Just(String::new()),
        Just("not\ta line".to_owned()),
        Just("\u{feff}10.0.0.1\tweb".to_owned()),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let names = prop::collection::vec(prop_oneof!["web", "web1", "db", "web\\.a"], 1..3);
    let address = prop_oneof![(0..4_u8).prop_map(|n| IpAddr::from([10, 0, 0, n])), Just(ip("fd00::2"))];
    (address, names).prop_map(|(address, names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Entry::new(address, &names).expect("a line")
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any_entry().prop_map(Change::Add),
        any_entry().prop_map(Change::Ensure),
        any_entry().prop_map(Change::Remove),
        any_entry().prop_map(|entry| Change::RemoveAddress(entry.address())),
        prop_oneof!["web", "web1", "db", "localhost"].prop_map(Change::RemoveName),
        (prop_oneof!["web", "db", "localhost"], any_entry())
            .prop_map(|(name, entry)| Change::Update { name, address: entry.address() }),
        any::<bool>().prop_map(Change::Ipv6),
        (prop_oneof!["web", "db", "localhost"], prop::collection::vec(any_entry(), 0..3)).prop_map(
            |(name, entries)| {
                let addresses: Vec<IpAddr> = entries.iter().map(Entry::address).collect();
                let own = Own::new(&name, "", &addresses, &[extra("10.0.0.1", &name)]);
                Change::Own(own.expect("a name").expect("it has one"))
            }
        ),
    ]
}

proptest! {
    #![proptest_config(crate::seeded())]

    #[test]
    fn users_lines_survive_whatever_is_done(
        users in prop::collection::vec(users_line(), 0..8),
        own in prop::collection::vec(any_entry(), 0..4),
        changes in prop::collection::vec(any_change(), 0..12),
    ) {
        let mut text = build(true, &[]).expect("built");
        for line in users.iter().cloned().chain(own.iter().map(ToString::to_string)) {
            text.push_str(&line);
            text.push('\n');
        }
        let new = edit(text.as_bytes(), &changes).unwrap_or_else(|| text.into_bytes());
        let new = String::from_utf8(new).expect("text");
        let kept: Vec<&str> = new.split('\n').filter(|line| users.iter().any(|user| user == line)).collect();
        // Splitting sees one more empty line, behind the last end.
        let mut expected: Vec<&str> = users.iter().map(String::as_str).collect();
        if expected.contains(&"") {
            expected.push("");
        }
        prop_assert_eq!(kept, expected);
        prop_assert!(new.contains("127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn what_is_added_and_removed_was_never_there(
        text in prop::collection::vec(prop_oneof![users_line(), any_entry().prop_map(|e| e.to_string())], 0..8),
        added in any_entry(),
    ) {
        let text = text.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes();
        let with = edit(&text, &[Change::Add(added.clone())]).expect("added");
        prop_assert_eq!(edit(&with, &[Change::Remove(added)]), Some(text));
    }

    #[test]
    fn doing_it_again_changes_nothing(text in prop::collection::vec(any::<u8>(), 0..200), change in any_change()) {
        let again = match change {
            // These take away one of several, or put in another.
            Change::Add(entry) | Change::Remove(entry) => Change::Ensure(entry),
            other => other,
        };
        let Some(once) = edit(&text, std::slice::from_ref(&again)) else { return Ok(()) };
        prop_assert_eq!(edit(&once, std::slice::from_ref(&again)), None);
    }
}

#[test]
fn the_lines_of_a_sandbox_s_own_name_are_those_that_are_wanted() {
    let own = |addresses: &[&str], extra: &[ExtraHost]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        Change::Own(Own::new("web", "example", &addresses, extra).expect("names").expect("it has one"))
    };
    let others =
        "127.0.0.1\tlocalhost\n10.0.0.2\tweb\n10.0.0.2\tweb.example web more\n10.0.0.2 web.example web\n";
    let text = format!("{others}10.0.0.2\tweb.example web\n10.0.0.3\tweb.example web\n");
    let with = |lines: &str| format!("{others}{lines}");
    assert_eq!(edited(&text, &[own(&["10.0.0.3"], &[])]), with("10.0.0.3\tweb.example web\n"));
    assert_eq!(edited(&text, &[own(&[], &[])]), others);
    let moved = edited(&text, &[own(&["10.0.0.3", "2001:db8::4"], &[])]);
    assert_eq!(moved, with("10.0.0.3\tweb.example web\n2001:db8::4\tweb.example web\n"));
    assert_eq!(edit(moved.as_bytes(), &[own(&["2001:db8::4", "10.0.0.3"], &[])]), None, "it is so");
    // An extra host of the same name stays, and is no second line of an own address.
    let plain = |addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        let own = Own::new("web", "", &addresses, &[extra("10.0.0.2", "web"), extra("10.0.0.9", "db")]);
        Change::Own(own.expect("names").expect("it has one"))
    };
    assert_eq!(edit(b"10.0.0.2\tweb\n", &[plain(&["10.0.0.2"])]), None);
    assert_eq!(edited("10.0.0.2\tweb\n10.0.0.3\tweb\n", &[plain(&[])]), "10.0.0.2\tweb\n");
    assert_eq!(Own::new("", "example", &[ip("10.0.0.2")], &[]).expect("no name"), None);
    Own::new("two words", "", &[ip("10.0.0.2")], &[]).expect_err("no name of a host");
}
