//! resolv.conf: read, and built for each kind of sandbox.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn source() -> Source {
    Source::new("/etc/resolv.conf")
}

fn built(host: &str, given: &Given<'_>, mode: Mode) -> Built {
    build(&ResolvConf::parse(host.as_bytes()), &source(), given, mode)
}

/// What counts of it.
fn text(host: &str, given: &Given<'_>, mode: Mode) -> String {
    format!("{}\n", built(host, given, mode).without_comments())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const NONE: Given<'_> = Given { name_servers: &[], search: &[], options: &[] };
const V4: Mode = Mode::Direct { ipv6: false };
const V6: Mode = Mode::Direct { ipv6: true };
const EMBEDDED: Mode = Mode::Embedded(EMBEDDED_SERVER);

#[test]
fn lines_say_what_resolvers_make_of_them() {
    let read = ResolvConf::parse(
        b"; made by hand\n\
          search one.example two.example # old\n\
          nameserver 192.0.2.1\r\n\
          \tnameserver\t2001:db8::53   ignored\n\
          nameserver fe80::1%eth0\n\
          nameserver 192.0.2.1\n\
          #nameserver 192.0.2.9\n\
          domain three.example ignored\n\
          options timeout:1  attempts:2;x\n\
          sortlist 192.0.2.0/255.255.255.0\n\
          lookup   file bind\n\
          options rotate\n\
          search\n\
          search .\n\
          nameserver 192.0.2.2",
    );
    let servers: Vec<String> = read.name_servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1", "2001:db8::53", "fe80::1%eth0", "192.0.2.2"]);
    assert_eq!(read.search, ["."]);
    assert_eq!(read.options, ["timeout:1", "attempts:2", "rotate"]);
    assert_eq!(read.other, ["sortlist 192.0.2.0/255.255.255.0", "lookup file bind"]);
    let left: Vec<String> = read.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(
        left,
        [
            "line 6: nameserver 192.0.2.1: named twice",
            "line 2: search one.example two.example: a later search or domain line counts",
            "line 13: search: nothing follows",
            "line 8: domain three.example ignored: a later search or domain line counts",
        ]
    );
}

#[test]
fn name_servers_that_are_none_are_noted() {
    for (line, why) in [
        ("nameserver 192.0.2.300", Why::NoAddress),
        ("nameserver dns.example.net", Why::NoAddress),
        ("nameserver 192.0.2.1/24", Why::NoAddress),
        ("nameserver", Why::Empty),
        ("nameserver 224.0.0.251", Why::NotOneHost),
        ("nameserver 255.255.255.255", Why::NotOneHost),
        ("nameserver ff02::fb", Why::NotOneHost),
        ("nameserver 192.0.2.1%eth0", Why::Zone),
        ("nameserver 2001:db8::1%eth0", Why::Zone),
        ("nameserver fe80::1%", Why::Zone),
        ("nameserver fe80::1%a/b", Why::Zone),
        ("nameserver fe80::1%0123456789abcdef", Why::Zone),
        ("nameserver 192.0.2.1\u{a0}", Why::NotText),
        ("search a\0b", Why::NotText),
        ("search a\u{7f}", Why::NotText),
    ] {
        let read = ResolvConf::parse(line.as_bytes());
        assert!(read.name_servers.is_empty() && read.search.is_empty(), "{line:?}");
        let [left] = &read.left_out[..] else { panic!("{line:?}: {:?}", read.left_out) };
        assert_eq!((left.line, left.why), (Some(1), why), "{line:?}");
        assert!(!left.what.contains(char::is_control), "{left}");
    }
    assert_eq!(ResolvConf::parse(b"search \xff\xfe").left_out[0].why, Why::NotText);
    for fine in ["", "\n\n", "# all\n;of\n  # it", "\r\n \t\r\n"] {
        assert_eq!(ResolvConf::parse(fine.as_bytes()), ResolvConf::default(), "{fine:?}");
    }
}

#[test]
fn there_are_bounds() {
    let line = format!("nameserver 192.0.2.1{}", " ".repeat(LONGEST_LINE));
    assert_eq!(ResolvConf::parse(line.as_bytes()).left_out[0].why, Why::LongLine);
    let many: String =
        (0..1_000_u32).map(|n| format!("nameserver {}\n", std::net::Ipv4Addr::from(n + 7))).collect();
    let read = ResolvConf::parse(many.as_bytes());
    assert_eq!((read.name_servers.len(), read.left_out.len()), (MOST, MOST));
    assert!(read.left_out.iter().all(|left| left.why == Why::TooMany));
    let read = ResolvConf::parse(format!("search {}", "a ".repeat(1_000)).as_bytes());
    assert_eq!(read.search.len(), MOST);
    // The line that is cut might name somebody else.
    let mut long = "#\n".repeat(LONGEST_FILE / 2 - 10).into_bytes();
    long.extend(b"nameserver 192.0.2.100\n");
    let read = ResolvConf::parse(&long);
    assert!(long.len() > LONGEST_FILE && read.name_servers.is_empty());
    assert_eq!(read.left_out.last().map(|left| left.why), Some(Why::LongFile));
}

#[test]
fn directly_the_host_itself_is_not_asked_and_public_servers_are_the_last_resort() {
    const LOCAL: &str = "search pocketknife.local\nnameserver 127.0.0.1\nnameserver ::1\nnameserver 0.0.0.0\n\
                         nameserver ::ffff:127.0.0.53\n";
    assert_eq!(text(LOCAL, &NONE, V4), "search pocketknife.local\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    assert_eq!(
        text(LOCAL, &NONE, V6),
        "search pocketknife.local\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n\
         nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n"
    );
    let made = built(LOCAL, &NONE, V4);
    assert!(made.fallback && made.upstreams.is_empty() && made.ndots == Ndots::Unsaid);
    assert_eq!(made.left_out.iter().filter(|left| left.why == Why::Local).count(), 4);
    let mixed = "nameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\n\
                 options ndots:x\nsortlist 192.0.2.0\n";
    assert_eq!(text(mixed, &NONE, V4), "nameserver 192.0.2.1\noptions ndots:x\nsortlist 192.0.2.0\n");
    let with = "nameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:x\nsortlist 192.0.2.0\n";
    assert_eq!(text(mixed, &NONE, V6), with);
    let left: Vec<Why> = built(mixed, &NONE, V4).left_out.iter().map(|left| left.why).collect();
    assert_eq!(left, [Why::Local, Why::NoIpv6, Why::HostLink]);
}

#[test]
fn what_was_given_goes_before_the_hosts_and_the_rest_is_the_hosts() {
    const HOST: &str =
        "search corp.example\nnameserver 127.0.0.1\nnameserver 192.0.2.1\noptions ndots:3 rotate\n";
    let (servers, search, options) =
        ([ip("127.0.0.5"), ip("2001:db8::5")], words(&["a", "b"]), words(&["ndots:2"]));
    let given = Given { name_servers: &servers, ..NONE };
    assert!(given.is_anything() && !NONE.is_anything());
    // As they were given.
    assert_eq!(
        text(HOST, &given, V4),
        "search corp.example\nnameserver 127.0.0.5\nnameserver 2001:db8::5\noptions ndots:3 rotate\n"
    );
    let given = Given { search: &search, ..NONE };
    assert_eq!(text(HOST, &given, V4), "search a b\nnameserver 192.0.2.1\noptions ndots:3 rotate\n");
    let given = Given { options: &options, ..NONE };
    assert_eq!(text(HOST, &given, V4), "search corp.example\nnameserver 192.0.2.1\noptions ndots:2\n");
    let none = words(&["."]);
    let given = Given { search: &none, ..NONE };
    assert_eq!(text(HOST, &given, V4), "nameserver 192.0.2.1\noptions ndots:3 rotate\n");
    let bad = words(&["a\nnameserver 6.6.6.6", "x#y", "fine"]);
    let made = built(HOST, &Given { search: &bad, options: &bad, ..NONE }, V4);
    assert_eq!(made.without_comments(), "search fine\nnameserver 192.0.2.1\noptions fine");
    assert_eq!(made.left_out.iter().filter(|left| left.why == Why::NotText).count(), 4);
    let all = Given { name_servers: &servers, search: &search, options: &options };
    let made = built(HOST, &all, Mode::Host);
    assert_eq!(
        made.without_comments(),
        "search a b\nnameserver 127.0.0.5\nnameserver 2001:db8::5\noptions ndots:2"
    );
    assert_eq!(text(HOST, &NONE, Mode::Host), HOST, "the host's namespace has the host's file");
}

#[test]
fn the_embedded_server_stands_alone_and_asks_the_others() {
    let host = "search pocket.com\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n\
                nameserver fe80::1%eth0\n";
    let made = built(host, &NONE, EMBEDDED);
    assert_eq!(made.without_comments(), "search pocket.com\nnameserver 127.0.0.11\noptions ndots:0");
    let upstreams: Vec<String> = made.upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(
        upstreams,
        [
            "127.0.0.53 (from the host)",
            "192.0.2.1 (from the host)",
            "2001:db8::1 (from the host)",
            "fe80::1%eth0 (from the host)"
        ]
    );
    assert_eq!((made.ndots, made.fallback), (Ndots::Zero, false));
    // Its own address would ask itself, when asked from the sandbox. The host's file may mean another server by it.
    let servers = [EMBEDDED_SERVER, ip("192.0.2.7"), ip("127.0.0.1"), ip("192.0.2.7")];
    let made = built(host, &Given { name_servers: &servers, ..NONE }, EMBEDDED);
    let upstreams: Vec<String> = made.upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(upstreams, ["192.0.2.7 (from the container)", "127.0.0.1 (from the container)"]);
    let left: Vec<Why> = made.left_out.iter().map(|left| left.why).collect();
    assert_eq!(left, [Why::Itself, Why::Twice]);
    assert_eq!(built("nameserver 127.0.0.11\n", &NONE, EMBEDDED).upstreams.len(), 1);
    // Nobody but itself, and nobody to ask.
    let made = built(host, &Given { name_servers: &[EMBEDDED_SERVER], ..NONE }, EMBEDDED);
    assert!(made.fallback && made.upstreams.iter().all(|upstream| upstream.from == AskedFrom::Host));
    let made = built("", &NONE, EMBEDDED);
    assert!(made.fallback && made.upstreams.len() == 4);
    assert!(made.upstreams.iter().all(|upstream| upstream.from == AskedFrom::Host));
}

#[test]
fn ndots_are_the_users_or_none() {
    for (options, line, ndots) in [
        (&[][..], "options ndots:0", Ndots::Zero),
        (&["rotate"], "options rotate ndots:0", Ndots::Zero),
        (&["ndots:2"], "options ndots:2", Ndots::Said(2)),
        (&["ndots:0"], "options ndots:0", Ndots::Said(0)),
        (&["ndots:99", "edns0"], "options ndots:99 edns0", Ndots::Said(15)),
        (&["ndots:70000"], "options ndots:70000", Ndots::Said(15)),
        (&["ndots:1", "ndots:3"], "options ndots:1 ndots:3", Ndots::Said(3)),
        (&["ndots", "ndots:", "ndots:-1", "ndots:x", "ndots:1x"], "options ndots:0", Ndots::Zero),
        (&["ndots:x", "ndots:4"], "options ndots:4", Ndots::Said(4)),
        (&["ndotsy:1"], "options ndotsy:1 ndots:0", Ndots::Zero),
    ] {
        let options = words(options);
        let given = Given { options: &options, ..NONE };
        let made = built("nameserver 192.0.2.1\n", &given, EMBEDDED);
        assert_eq!(made.without_comments(), format!("nameserver 127.0.0.11\n{line}"), "{options:?}");
        assert_eq!(made.ndots, ndots, "{options:?}");
        let kept = line.matches("ndots").count() - usize::from(made.ndots == Ndots::Zero);
        let dropped = made.left_out.iter().filter(|left| left.why == Why::Ndots).count();
        assert_eq!(kept + dropped, options.iter().filter(|option| option.contains("ndots")).count());
        // The host's count as well.
        let host = format!("nameserver 192.0.2.1\noptions {}\n", options.join(" "));
        assert_eq!(built(&host, &NONE, EMBEDDED).ndots, ndots);
    }
}

#[test]
fn comments_say_where_it_comes_from() {
    let host = ResolvConf::parse(b"nameserver 192.0.2.1\nnameserver nobody\n");
    let stub = Source { path: BEHIND_SYSTEMD_STUB.into(), instead_of: Some("/etc/re\nsolv.conf".into()) };
    let search = words(&["a.example"]);
    let made = build(&host, &stub, &Given { search: &search, ..NONE }, EMBEDDED);
    assert_eq!(
        made.text,
        "search a.example\n\
         nameserver 127.0.0.11\n\
         options ndots:0\n\
         \n\
         # Written by the container network engine. Once it is changed by hand, it is left alone.\n\
         # Made from /run/systemd/resolve/resolv.conf, as /etc/re\\nsolv.conf names nothing but systemd-resolved on the \
         host\n\
         # Given for this container: search domains\n\
         # 127.0.0.11 asks 192.0.2.1 (from the host)\n\
         # ndots:0 is the engine's\n\
         # Left out: line 2: nameserver nobody: not an IP address\n"
    );
    let public = built("", &NONE, V4).text;
    assert!(public.contains("\n# No other name server is of use here: public ones are asked.\n"), "{public}");
}

#[test]
fn the_stub_of_systemd_is_one_when_it_is_alone() {
    for (host, is_stub) in [
        ("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", true),
        ("nameserver 127.0.0.53\nnameserver 127.0.0.53\n", true),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", false),
        ("nameserver 127.0.0.1\n", false),
        ("", false),
    ] {
        assert_eq!(ResolvConf::parse(host.as_bytes()).is_systemd_stub(), is_stub, "{host:?}");
    }
}

/// Bytes that look like a resolv.conf now and then.
fn any_file() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop_oneof!["nameserver", "search", "domain", "options", "sortlist", "ndots:[0-9x]"]
            .prop_map(String::into_bytes),
        prop_oneof![" ", "\t", "\n", "\r\n", "#", ";"].prop_map(String::into_bytes),
        prop_oneof!["127.0.0.[0-9]", "192.0.2.[0-9]", "fe80::1%[a-z]", "::1", "a.example", "\\."]
            .prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(crate::seeded())]

    #[test]
    fn what_is_written_is_read_as_it_was_meant(
        host in any_file(),
        given in any::<bool>(),
        mode in prop_oneof![Just(V4), Just(V6), Just(EMBEDDED), Just(Mode::Host)],
    ) {
        let read = ResolvConf::parse(&host);
        let servers = [ip("192.0.2.77")];
        let given = Given { name_servers: if given { &servers } else { &[] }, ..NONE };
        let made = build(&read, &source(), &given, mode);
        let again = ResolvConf::parse(made.text.as_bytes());
        prop_assert!(again.left_out.is_empty(), "{:?}", again.left_out);
        prop_assert_eq!(&again.search, if read.search == ["."] { &made_none().search } else { &read.search });
        prop_assert_eq!(&again.other, &read.other);
        // A second time, nothing is left to be done but what a sandbox's file is made for.
        let settled = build(&again, &source(), &NONE, Mode::Host);
        prop_assert_eq!(settled.without_comments(), made.without_comments());
        if mode == EMBEDDED {
            prop_assert_eq!(&again.name_servers, &[NameServer::from(EMBEDDED_SERVER)]);
            prop_assert!(!made.upstreams.is_empty());
        }
        if mode == V4 {
            prop_assert!(again.name_servers.iter().all(|s| s.address.is_ipv4() && !s.is_local()));
        }
        if !matches!(mode, Mode::Host) {
            prop_assert!(!again.name_servers.is_empty());
        }
    }
}

fn made_none() -> ResolvConf {
    ResolvConf::default()
}
