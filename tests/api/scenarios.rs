//! Every scenario of `tests/scenarios` over the simulated kernel, and the runner itself: whatever is expected wrongly
//! is found.

use crate::scenario::step::VERBS;
use crate::scenario::{Machine, Scenario, SimMachine, TOPICS, chosen, conclude, covers, load, parse, play};

#[tokio::test]
async fn every_scenario_ends_as_written() {
    let mut rows = Vec::new();
    for scenario in chosen() {
        let (outcome, _) = play(&mut SimMachine::new(), &scenario).await;
        rows.push((scenario, vec![outcome]));
    }
    conclude(&["simulated"], &rows);
}

/// A scenario of these steps.
fn scenario(steps: &str) -> Result<Scenario, String> {
    let text = format!("[[scenario]]\nname = \"a test\"\ncovers = [\"the runner\"]\nsteps = [\n{steps}\n]\n");
    parse("a file", &text).map(|mut scenarios| scenarios.remove(0))
}

/// Two endpoints of a network, the first of which is in a sandbox. Ten steps.
const STAGE: &str = r#"
    { create_network = "blue", subnets = ["10.1.0.0/24", "fd01::/64"], labels = { team = "a" } },
    { create_network = "red", subnet = "10.2.0.0/24" },
    { create_endpoint = "blue/web", saves = "first" },
    { create_endpoint = "blue/db" },
    { create_sandbox = "c1" },
    { create_sandbox = "c2" },
    { join = "blue/web", sandbox = "c1" },
    { find_endpoint = "blue/db", saves = "second" },
    { inspect_engine = { networks = 2, endpoints = 2, sandboxes = 2, operations = 0, leaks = [] } },
    { networks = ["blue", "red"] },
"#;

/// Each expectation that a step can have, wrong: the step, and what must be said about it.
const WRONG: &[(&str, &str)] = &[
    // Kinds of errors, their text, their remedy, their certainty.
    (r#"{ create_network = "blue" }"#, "expected success, found Conflict"),
    (r#"{ create_network = "green", fails = "conflict" }"#, "expected Conflict, found success"),
    (r#"{ create_network = "blue", fails = "forbidden" }"#, "expected Forbidden, found Conflict"),
    (
        r#"{ create_network = "blue", may_fail = ["busy"] }"#,
        "expected success or one of [Busy], found Conflict",
    ),
    (r#"{ create_network = "blue", fails = "conflict", says = "$red" }"#, "says: expected"),
    (
        r#"{ create_network = "blue", fails = "conflict", says = ["blue", "green"] }"#,
        "says: expected \"green\"",
    ),
    (r#"{ create_network = "blue", fails = "conflict", says = "$nobody" }"#, "$nobody was never saved"),
    (r#"{ create_network = "blue", fails = "conflict", remedy = "pray" }"#, "remedy: expected \"pray\""),
    (r#"{ drain = true, fails = "timeout" }"#, "expected Timeout, found success"),
    // Look-ups and lists.
    (r#"{ find_network = "blue", is = "$red" }"#, "is: expected $red"),
    (r#"{ find_endpoint = "blue/web", is = "$second" }"#, "is: expected $second"),
    (r#"{ find_network = "green" }"#, "expected success, found NotFound"),
    (r#"{ networks = ["blue"] }"#, "listed: expected [\"blue\"], found [\"blue\", \"red\"]"),
    (r#"{ sandboxes = ["c2", "c1"] }"#, "listed: expected"),
    (r#"{ endpoints = "blue", are = ["web"] }"#, "listed: expected [\"web\"], found [\"db\", \"web\"]"),
    (r#"{ drivers = ["bridge", "warp"] }"#, "listed: expected"),
    (
        r#"{ walk_networks = 1, sees = ["blue", "red"] }"#,
        "listed: expected [\"blue\", \"red\"], found [\"blue\"]",
    ),
    (r#"{ walk_sandboxes = 2, sees = ["c1"] }"#, "listed: expected"),
    (r#"{ walk_endpoints = "blue", stop_after = 1, sees = ["web"] }"#, "listed: expected"),
    // Pictures.
    (r#"{ inspect_network = "blue", id = "$red" }"#, "id: expected"),
    (r#"{ inspect_network = "blue", driver = "warp" }"#, "driver: expected"),
    (r#"{ inspect_network = "blue", phase = "deleting" }"#, "phase: expected"),
    (r#"{ inspect_network = "blue", ipv6 = false }"#, "ipv6: expected"),
    (r#"{ inspect_network = "blue", internal = true }"#, "internal: expected"),
    (r#"{ inspect_network = "blue", labels = {} }"#, "labels: expected"),
    (r#"{ inspect_network = "blue", options = { a = "b" } }"#, "options: expected"),
    (r#"{ inspect_network = "blue", pools = ["10.1.0.0/24"] }"#, "pools: expected"),
    (r#"{ inspect_network = "blue", gateways = ["10.1.0.1", "none"] }"#, "gateways: expected"),
    (r#"{ inspect_network = "blue", endpoints = [] }"#, "endpoints: expected"),
    (r#"{ inspect_endpoint = "blue/web", id = "$second" }"#, "id: expected"),
    (r#"{ inspect_endpoint = "blue/web", phase = "idle" }"#, "phase: expected"),
    (
        r#"{ inspect_endpoint = "blue/web", ipv4 = "10.1.0.3/24" }"#,
        "ipv4: expected \"10.1.0.3/24\", found \"10.1.0.2/24\"",
    ),
    (r#"{ inspect_endpoint = "blue/web", ipv6 = "none" }"#, "ipv6: expected"),
    (r#"{ inspect_endpoint = "blue/web", mac = "03" }"#, "mac: expected"),
    (r#"{ inspect_endpoint = "blue/web", sandbox = "none" }"#, "sandbox: expected"),
    (r#"{ inspect_endpoint = "blue/db", interface = "eth0" }"#, "interface: expected"),
    (r#"{ inspect_sandbox = "c1", id = "$c2" }"#, "id: expected"),
    (r#"{ inspect_sandbox = "c1", phase = "failed" }"#, "phase: expected"),
    (
        r#"{ inspect_sandbox = "c1", endpoints = ["blue/db"] }"#,
        "endpoints: expected [\"blue/db\"], found [\"blue/web\"]",
    ),
    (r#"{ inspect_sandbox = "c1", gateway = "none" }"#, "gateway: expected"),
    (r#"{ inspect_sandbox = "c1", gateway6 = "fd01::2" }"#, "gateway6: expected"),
    (r#"{ inspect_sandbox = "c1", labels = { a = "b" } }"#, "labels: expected"),
    ("{ inspect_engine = { networks = 1 } }", "networks: expected 1, found 2"),
    ("{ inspect_engine = { endpoints = 1 } }", "endpoints: expected 1, found 2"),
    ("{ inspect_engine = { sandboxes = 1 } }", "sandboxes: expected 1, found 2"),
    ("{ inspect_engine = { operations = 1 } }", "operations: expected 1, found 0"),
    (r#"{ inspect_engine = { leaks = ["a link"] } }"#, "leaks: expected"),
    (r#"{ statistics = "c1", interfaces = [] }"#, "interfaces: expected [], found [\"eth0\"]"),
    (r#"{ endpoint_statistics = "blue/db" }"#, "expected success, found Forbidden"),
    (
        r#"{ driver_info = "blue/web", info = { "com.docker.network.endpoint.macaddress" = "03" } }"#,
        "macaddress: expected",
    ),
    (r#"{ inspect_network = "blue", persist = false }"#, "persist: expected"),
    (r#"{ inspect_endpoint = "blue/web", name = "db" }"#, "name: expected"),
    (r#"{ inspect_endpoint = "blue/web", gateway = "none" }"#, "gateway: expected"),
    (r#"{ inspect_endpoint = "blue/web", gateway6 = "none" }"#, "gateway6: expected"),
    (r#"{ inspect_endpoint = "blue/web", routes = ["10.9.0.0/24"] }"#, "routes: expected"),
    (r#"{ inspect_endpoint = "blue/web", options = { a = "b" } }"#, "options: expected"),
    (r#"{ inspect_endpoint = "blue/web", labels = { a = "b" } }"#, "labels: expected"),
    (
        r#"{ inspect_endpoint = "blue/web", ports = { exposed = [{ protocol = "tcp", port = 80 }], map = [] } }"#,
        "ports: expected",
    ),
    (r#"{ inspect_endpoint = "blue/web", names = { anonymous = true } }"#, "names: expected"),
    (r#"{ inspect_sandbox = "c1", hostname = "a" }"#, "hostname: expected"),
    (r#"{ inspect_sandbox = "c1", namespace = "host" }"#, "namespace: expected"),
    (r#"{ inspect_sandbox = "c1", settings = { ingress = true } }"#, "settings: expected"),
    (r#"{ inspect_sandbox = "c1", failure = "the namespace" }"#, "failure: expected"),
    (r#"{ inspect_engine = { ipam_stores = [] } }"#, "ipam_stores: expected"),
    (r#"{ ipam_drivers = ["default", "dhcp"] }"#, "listed: expected"),
    (r#"{ find_default_network = true }"#, "expected success, found NotFound"),
    // The engine as a whole.
    (r#"{ configuration = { debug = true } }"#, "debug: expected"),
    (r#"{ configuration = { limits = { operations = 7 } } }"#, "limits: expected"),
    (r#"{ reload = { instance = "other" } }"#, "expected success, found Forbidden"),
    (r#"{ reconcile = ["c1", "c2"], released = ["c3"] }"#, "released: expected [\"c3\"], found []"),
    (r#"{ reconcile = ["c1", "c2"], removed = ["link a"] }"#, "removed: expected"),
    (r#"{ reconcile = ["c1", "c2"], left = ["a link"] }"#, "left: expected"),
    (r#"{ reconcile = ["c1", "c2", "ghost"] }"#, "unknown: expected []"),
    (r#"{ reconcile = ["c1"] }"#, "released: expected [], found [\"c2\"]"),
    (r#"{ reconcile = [], since = "never" }"#, "there is no mark \"never\""),
    (r#"{ differs = ["a link"] }"#, "differs: expected [\"a link\"], found []"),
    (r#"{ rename_sandbox = "c1", name = "db" }"#, "expected success, found Conflict"),
    (r#"{ refresh = "c1", hostname = "a b" }"#, "expected success, found InvalidParameter"),
    (r#"{ set_key = "c1", path = "/a" }"#, "expected success, found Forbidden"),
    (r#"{ set_key = "c1", namespace = "nobody" }"#, "nobody made a namespace \"nobody\""),
    (r#"{ end_foreign_namespace = "nobody" }"#, "nobody made a namespace \"nobody\""),
    (
        r#"{ delete_network = "blue", force = true, fails = "forbidden" }"#,
        "expected Forbidden, found success",
    ),
    // The kernel.
    (r#"{ inside = "c1", interfaces = {} }"#, "interfaces: expected [], found [\"eth0\"]"),
    (r#"{ inside = "c1", interfaces = { eth0 = {}, eth1 = {} } }"#, "interfaces: expected"),
    (r#"{ inside = "c1", interfaces = { eth0 = { mac = "03" } } }"#, "mac of eth0: expected"),
    (r#"{ inside = "c1", interfaces = { eth0 = { up = false } } }"#, "up of eth0: expected"),
    (r#"{ inside = "c1", interfaces = { eth0 = { mtu = 1400 } } }"#, "mtu of eth0: expected"),
    (
        r#"{ inside = "c1", interfaces = { eth0 = { addresses = ["10.1.0.2/24"] } } }"#,
        "addresses of eth0: expected",
    ),
    (r#"{ inside = "c1", gateway = "10.1.0.2" }"#, "gateway: expected"),
    (r#"{ inside = "c1", gateway6 = "none" }"#, "gateway6: expected"),
    (r#"{ inside = "c1", routes = ["default 10.1.0.1 eth0"] }"#, "routes: expected"),
    ("{ on_host = { links = 1 } }", "links: expected 1, found 3"),
    ("{ on_host = { namespaces = 1 } }", "namespaces: expected 1, found 2"),
    (r#"{ on_host = { bridges = { "@blue" = { exists = false } } } }"#, "bridge @blue: expected false"),
    ("{ on_host = { bridges = { lan0 = {} } } }", "bridge lan0: expected true"),
    (r#"{ on_host = { bridges = { "@blue" = { up = false } } } }"#, "up of bridge @blue: expected"),
    (r#"{ on_host = { bridges = { "@blue" = { mtu = 1 } } } }"#, "mtu of bridge @blue: expected"),
    (
        r#"{ on_host = { bridges = { "@blue" = { ports = 2 } } } }"#,
        "ports of bridge @blue: expected 2, found 1",
    ),
    (r#"{ on_host = { bridges = { "@red" = { addresses = [] } } } }"#, "addresses of bridge @red: expected"),
    (r#"{ reaches = "10.1.0.1", from = "c1", answered = false }"#, "answered by 10.1.0.1: expected false"),
    (r#"{ reaches = "10.1.0.99", from = "c1" }"#, "answered by 10.1.0.99: expected true"),
    ("{ repairs = { SandboxReleased = 1 } }", "repairs: expected"),
    // Several at once, and one after the other.
    (
        r#"{ together = [{ create_network = "green", may_fail = ["conflict"] }], times = 4, outcomes = { ok = 2, conflict = 2 } }"#,
        "outcomes: expected [(\"conflict\", 2), (\"ok\", 2)], found [(\"conflict\", 3), (\"ok\", 1)]",
    ),
    (
        r#"{ together = [{ create_network = "green" }], times = 2 }"#,
        "in { create_network = \"green\" }: expected success, found Conflict",
    ),
    (
        r#"{ together = [{ create_network = "green", says = "purple", may_fail = ["conflict"] }], times = 2, outcomes = { ok = 1, conflict = 1 } }"#,
        "says: expected \"purple\"",
    ),
    (r#"{ repeat = [{ create_network = "green" }], times = 2 }"#, "expected success, found Conflict"),
];

#[tokio::test]
async fn whatever_is_expected_wrongly_is_found() {
    for (step, told) in WRONG {
        let scenario = scenario(&format!("{STAGE}{step},")).expect("it can be read");
        let (outcome, _) = play(&mut SimMachine::new(), &scenario).await;
        let failure = outcome.expect_err(step);
        assert_eq!(failure.step, Some(11), "{step}: {failure}");
        assert!(failure.why.contains(told), "{step} must say {told:?}: {failure}");
        let verb = scenario.steps[10].text.split(' ').nth(1).expect("a verb");
        assert!(failure.text.contains(verb) && failure.to_string().starts_with("step 11 {"), "{failure}");
    }
}

/// What nobody has deleted is the scenario's to clear up; what is not the engine's is a failure.
#[tokio::test]
async fn what_is_left_at_the_end_is_found() {
    let scenario = scenario(STAGE).expect("it can be read");
    play(&mut SimMachine::new(), &scenario).await.0.expect("it is cleared up");
    let mut machine = Untidy(SimMachine::new());
    let failure = play(&mut machine, &scenario).await.0.expect_err("something is left");
    assert_eq!(failure.step, None);
    assert!(failure.to_string().contains("left: a crumb"), "{failure}");
    let scenario = self::scenario("{ foreign_namespace = \"p1\" },").expect("it can be read");
    let failure = play(&mut Untidy(SimMachine::new()), &scenario).await.0.expect_err("something is left");
    assert!(failure.to_string().contains("left in the namespace of p1: eth7"), "{failure}");
}

/// A machine on which something is always left.
struct Untidy(SimMachine);

impl Machine for Untidy {
    fn kernel(&self) -> &dyn netloom::kernel::Kernel {
        self.0.kernel()
    }

    fn look_anew(&mut self) {
        self.0.look_anew();
    }

    async fn start(
        &mut self,
        builder: impl Fn() -> netloom::EngineBuilder,
    ) -> netloom::Result<netloom::Engine> {
        self.0.start(builder).await
    }

    async fn make_namespace(&mut self, name: &str) -> std::path::PathBuf {
        self.0.make_namespace(name).await
    }

    async fn end_namespace(&mut self, name: &str) -> Vec<String> {
        assert!(self.0.end_namespace(name).await.is_empty());
        vec!["eth7".to_owned()]
    }

    async fn kill(&mut self, engine: netloom::Engine) {
        self.0.kill(engine).await;
    }

    async fn reboot(&mut self) {
        self.0.reboot().await;
    }

    async fn reaches(&self, from: &netloom::Sandbox, to: std::net::IpAddr, expected: bool) -> bool {
        self.0.reaches(from, to, expected).await
    }

    async fn left(&self) -> Vec<String> {
        vec!["a crumb".to_owned()]
    }
}

#[test]
fn what_is_not_understood_is_an_error_with_its_place() {
    for (step, told) in [
        (r#"{ create_network = "a", subnett = "10.0.0.0/24" }"#, "subnett"),
        (r#"{ create_endpoint = "a/b", ip = "10.0.0.2" }"#, "ip"),
        (r#"{ create_endpoint = "b" }"#, "not network/endpoint"),
        (r#"{ delete_network = "a", forse = true }"#, "unknown key \"forse\""),
        (r#"{ join = "a/b" }"#, "sandbox is missing"),
        (r#"{ join = "a/b", sandbox = "c", prio = 1 }"#, "prio"),
        (r#"{ inside = "c", links = {} }"#, "links"),
        (r#"{ inside = "c", interfaces = { eth0 = { macs = "02" } } }"#, "macs"),
        ("{ on_host = { bridge = {} } }", "bridge"),
        (r#"{ inspect_sandbox = "c", gatway = "none" }"#, "gatway"),
        ("{ inspect_engine = { leeks = [] } }", "leeks"),
        (r#"{ dance = "a" }"#, "\"dance\" is none of"),
        (r#"{ sandbox = "c", join = "a/b" }"#, "begins with its verb"),
        ("{}", "a step has a verb"),
        (r#"{ create_network = "a", fails = "sad" }"#, "sad"),
        (r#"{ create_network = "a", says = "b" }"#, "give fails or may_fail"),
        (r#"{ inside = "c", fails = "not_found" }"#, "no error of its own"),
        ("{ drain = 3 }", "the value true"),
        (r#"{ stop = "gently" }"#, "gently"),
        (r#"{ restart = "gently" }"#, "gently"),
        (r#"{ together = [{ restart = "kill" }] }"#, "done alone"),
        (r#"{ repeat = [{ create_network = "a", x = 1 }] }"#, "x"),
        (r#"{ set_key = "c" }"#, "either namespace or path"),
        (r#"{ set_key = "c", namespace = "p", path = "/a" }"#, "either namespace or path"),
        (r#"{ reload = { limit = 1 } }"#, "limit"),
        (r#"{ configuration = { debug = 1 } }"#, "debug"),
        (r#"{ configuration = {}, fails = "forbidden" }"#, "no error of its own"),
        (r#"{ reconcile = [], freed = ["c"] }"#, "freed"),
        (r#"{ restart = "kill", alive = ["c"] }"#, "unknown key \"alive\""),
        (r#"{ start = true, live = "c" }"#, "live"),
        (r#"{ create_sandbox = "c", namespace = "mine" }"#, "mine"),
        (r#"{ create_sandbox = "c", settings = { dns_serch = [] } }"#, "dns_serch"),
        (r#"{ together = [{ foreign_namespace = "p" }] }"#, "done alone"),
    ] {
        let error = scenario(step).expect_err(step);
        assert!(error.contains(told), "{step} must say {told:?}: {error}");
        assert!(error.starts_with("a file \"a test\", step 1: "), "{error}");
    }
    for (text, told) in [
        ("[[scenario]]\nname = \"a\"\ncovers = []\nsteps = []", "covers nothing"),
        ("[[scenario]]\nname = \"a\"\nsteps = []", "covers"),
        ("[[scenario]]\nname = \"a\"\ncovers = [\"b\"]\nsteps = []\nstep = 1", "step"),
        ("[[scenario]]\nname = \"a\"\ncovers = [\"b\"]\nsteps = []\nconfig = { limit = 1 }", "limit"),
        (
            "[[scenario]]\nname = \"a\"\ncovers = [\"b\"]\nsteps = []\nconfig = { instance = \"A\" }",
            "instance",
        ),
        ("[[scenario]]\nname = \"a\"\ncovers = [\"b\"]\nsteps = []\ndrivers = [\"warp\"]", "warp"),
        ("[[scenarios]]", "scenarios"),
    ] {
        let error = parse("a file", text).expect_err(text);
        assert!(error.contains(told) && error.starts_with("a file"), "{error}");
    }
}

/// Every verb is understood, and used by a scenario.
#[test]
fn every_verb_is_in_a_scenario() {
    let all = load();
    for verb in VERBS {
        let begins = format!("{{ {verb} = ");
        assert!(
            all.iter().any(|scenario| scenario.steps.iter().any(|step| step.text.contains(&begins))),
            "{verb}"
        );
    }
    assert!(all.iter().all(|scenario| scenario.covers.iter().all(|row| !row.trim().is_empty())));
    assert!(all.len() >= 100, "{} scenarios", all.len());
}

/// Nothing of what is to be covered is without a scenario.
#[test]
fn every_topic_is_covered_by_a_scenario() {
    let all = load();
    let open: Vec<_> =
        TOPICS.iter().filter(|topic| !all.iter().any(|scenario| covers(scenario, topic))).collect();
    assert!(open.is_empty(), "no scenario covers {open:?}");
    let named = scenario("{ drain = true }").expect("it can be read");
    let named = |entry: &str| Scenario { covers: vec![entry.to_owned()], ..named.clone() };
    assert!(covers(&named("pains R1"), "pains R1") && covers(&named("pains R1: the store"), "pains R1"));
    assert!(!covers(&named("pains R10"), "pains R1") && !covers(&named("R1"), "pains R1"));
}
