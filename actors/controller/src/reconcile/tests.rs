//! Every rule of the start plan, a case each.

mod addresses;

use netloom_kernel::LinkKind;
use netloom_model::record::{AttachmentRecord, WayOut};
use netloom_model::snapshot::SandboxEndpoint;
use netloom_model::{EndpointSpec, JoinId, NetworkSpec, ObjectKind, SandboxSpec};
use uuid::Uuid;

use super::*;

const US: &str = "us";

/// A machine and its records, built up line by line.
#[derive(Default)]
struct Case {
    records: Records,
    inventory: Inventory,
    intents: Vec<Intent>,
}

fn network_id(n: u8) -> NetworkId {
    format!("{n:064x}").parse().expect("an id")
}

fn endpoint_id(n: u8) -> EndpointId {
    format!("{n:064x}").parse().expect("an id")
}

fn sandbox_id(n: u8) -> SandboxId {
    format!("{n:064x}").parse().expect("an id")
}

fn netns(n: u8) -> NetnsName {
    format!("netns{n}").parse().expect("a name")
}

fn ifname(name: &str) -> IfName {
    name.parse().expect("a name")
}

fn network_record(n: u8) -> NetworkRecord {
    let spec = NetworkSpec::new(format!("network {n}"));
    NetworkRecord::asked(network_id(n), spec)
}

impl Case {
    fn network(mut self, n: u8) -> Self {
        self.records.networks.insert(network_id(n), network_record(n));
        self
    }

    fn sandbox(mut self, n: u8) -> Self {
        let record = SandboxRecord::new(sandbox_id(n), netns(n), SandboxSpec::new("c"));
        self.records.sandboxes.insert(sandbox_id(n), record);
        self
    }

    fn endpoint(mut self, n: u8, network: u8, attachment: Option<(u8, &str)>) -> Self {
        let attachment = attachment.map(|(sandbox, link)| AttachmentRecord {
            sandbox: sandbox_id(sandbox),
            join: JoinId(1),
            ifname: ifname("eth0"),
            priority: 0,
            link: (!link.is_empty()).then(|| ifname(link)),
            gateway: None,
            gateway6: None,
            routes: Vec::new(),
            way_out: WayOut::Wanted,
            reserved: false,
        });
        let spec = EndpointSpec::new(format!("endpoint {n}"));
        let record = EndpointRecord {
            prefix: Some("eth".into()),
            attachment,
            ..EndpointRecord::asked(endpoint_id(n), network_id(network), spec)
        };
        self.records.endpoints.insert(endpoint_id(n), record);
        self
    }

    fn link(mut self, name: &str, alias: Option<LinkTag>) -> Self {
        self.inventory.links.push(LinkView {
            index: 1,
            name: ifname(name),
            kind: LinkKind::Veth,
            mac: None,
            mtu: 1500,
            up: true,
            master: None,
            port: None,
            isolated: false,
            hairpin: false,
            peer: None,
            alias: alias.map(|tag| tag.to_string()),
            group: 0,
        });
        self
    }

    fn netns(mut self, n: u8) -> Self {
        self.inventory.namespaces.push(netns(n));
        self
    }

    fn intent(mut self, verb: &str, network: u8) -> Self {
        let detail = serde_json::to_value(network_record(network)).expect("encoded");
        self.intents.push(intent(verb, detail));
        self
    }

    fn plan(self) -> Plan {
        plan(self.records, &self.intents, &self.inventory, US, &[])
    }
}

fn intent(verb: &str, detail: serde_json::Value) -> Intent {
    let op = OpId(Uuid::from_u128(7));
    Intent { op, verb: verb.into(), object: ObjectKind::Network, id: "n".into(), detail }
}

fn deleted(plan: &Plan) -> Vec<(RecordKind, String)> {
    let deletion = |change: &Change| match change {
        Change::Delete { key } => Some((key.kind, key.id.clone())),
        Change::Put { .. } => None,
    };
    plan.changes.iter().filter_map(deletion).collect()
}

fn is_empty(plan: &Plan) -> bool {
    plan.changes.is_empty()
        && plan.links.is_empty()
        && plan.namespaces.is_empty()
        && plan.take_down.is_empty()
        && plan.repairs.is_empty()
}

#[test]
fn while_something_could_not_be_looked_at_nothing_is_taken_for_a_remain() {
    let tag = LinkTag::new(US, "endpoint", endpoint_id(9));
    let remains = || Case::default().link("veth9", Some(tag.clone())).netns(9).netns(8);
    assert_eq!(remains().plan().namespaces, [netns(9), netns(8)]);
    let mut case = remains();
    case.inventory.unseen.push(netns(8));
    let plan = case.plan();
    assert!(plan.links.is_empty() && plan.namespaces.is_empty(), "{plan:?}");
    assert!(matches!(&plan.repairs[..], [Repair::SweepSkipped { why }] if why.contains(netns(8).as_str())));
}

#[test]
fn what_agrees_is_left_alone() {
    let case = Case::default()
        .network(1)
        .sandbox(1)
        .endpoint(1, 1, Some((1, "veth1")))
        .endpoint(2, 1, None)
        .endpoint(3, 1, Some((1, "")))
        .netns(1)
        .link("br-1", Some(LinkTag::new(US, "network", network_id(1))))
        .link("veth1", Some(LinkTag::new(US, "endpoint", endpoint_id(1))));
    let plan = case.plan();
    assert!(is_empty(&plan), "{plan:?}");
    let (record, endpoints) = plan.records.network(network_id(1)).expect("kept");
    assert_eq!((record.id, endpoints.len()), (network_id(1), 3));
    let (_, members) = plan.records.sandbox(sandbox_id(1)).expect("kept");
    assert_eq!(members.len(), 2, "the idle one is in no sandbox");
    assert!(members.iter().all(|member| &*member.network_name == "network 1"));
}

#[test]
fn nothing_at_all_needs_nothing() {
    assert!(is_empty(&Case::default().plan()));
    assert!(Records::default().network(network_id(1)).is_none());
    assert!(Records::default().sandbox(sandbox_id(1)).is_none());
}

#[test]
fn a_creation_that_never_committed_is_taken_down() {
    let plan = Case::default().intent("create_network", 1).plan();
    assert_eq!(plan.take_down, [(OpId(Uuid::from_u128(7)), network_record(1))]);
    assert!(matches!(&plan.repairs[..], [Repair::OperationUnwound { verb, .. }] if verb == "create_network"));
    assert!(plan.ended.is_empty(), "its intent stays open until it is taken down");
    assert!(plan.changes.is_empty());
}

#[test]
fn a_creation_that_committed_only_lacks_its_end() {
    let plan = Case::default().network(1).intent("create_network", 1).plan();
    assert!(is_empty(&plan), "{plan:?}");
    assert_eq!(plan.ended.len(), 1);
    assert!(plan.records.networks.contains_key(&network_id(1)));
}

#[test]
fn a_deletion_whose_record_went_is_finished() {
    let plan = Case::default().intent("delete_network", 1).plan();
    assert_eq!(plan.take_down, [(OpId(Uuid::from_u128(7)), network_record(1))]);
    assert!(matches!(&plan.repairs[..], [Repair::DeletionFinished { .. }]), "{:?}", plan.repairs);
    assert!(plan.changes.is_empty() && plan.ended.is_empty(), "its intent stays open until it is taken down");
}

/// The record goes first, so nothing else has gone either, and the network may have been used since.
#[test]
fn a_deletion_whose_record_is_there_has_not_happened() {
    let plan = Case::default().network(1).intent("delete_network", 1).plan();
    assert!(plan.records.networks.contains_key(&network_id(1)));
    assert!(plan.take_down.is_empty() && plan.changes.is_empty());
    assert_eq!(plan.ended, [OpId(Uuid::from_u128(7))]);
    assert!(matches!(&plan.repairs[..], [Repair::OperationUnwound { .. }]), "{:?}", plan.repairs);
}

#[test]
fn the_device_of_a_network_that_is_taken_down_is_its_drivers_business() {
    let tag = LinkTag::new(US, "network", network_id(1));
    let plan = Case::default().intent("create_network", 1).link("br-1", Some(tag)).plan();
    assert_eq!((plan.links.len(), plan.take_down.len(), plan.repairs.len()), (0, 1, 1));
}

#[test]
fn an_intent_that_cannot_be_read_is_reported_and_ended() {
    let intents = [intent("create_network", serde_json::json!({"what": "ever"}))];
    let plan = plan(Records::default(), &intents, &Inventory::default(), US, &[]);
    assert!(matches!(&plan.repairs[..], [Repair::RecordDropped { .. }]), "{:?}", plan.repairs);
    assert_eq!((plan.take_down.len(), plan.ended.len()), (0, 1));
}

/// A record of this format that is damaged, and one of a format that is yet to come.
const DAMAGED: &[u8] = b"\x01damaged";
const NEWER: &[u8] = b"\xffunknown";

/// The records of two networks, of which the first cannot be read, and the bridge of the first.
fn one_unreadable(bytes: &[u8]) -> Case {
    let key = |n| Key::new(RecordKind::Network, network_id(n).to_string());
    let whole = encode(&network_record(2)).expect("encoded");
    let records = Records::decode(vec![(key(1), bytes.to_vec()), (key(2), whole)]);
    let tag = LinkTag::new(US, "network", network_id(1));
    Case { records, ..Case::default() }.link("br-1", Some(tag))
}

#[test]
fn a_damaged_record_is_reported_and_dropped_and_what_cannot_be_rebuilt_removed() {
    let case = one_unreadable(DAMAGED);
    assert!(case.records.damaged());
    let plan = case.plan();
    assert_eq!(plan.links.len(), 1);
    let [Repair::RecordDropped { record, .. }, Repair::KernelObjectRemoved { .. }] = &plan.repairs[..] else {
        panic!("{:?}", plan.repairs);
    };
    assert!(record.contains(&*network_id(1).text()), "{record}");
    assert!(matches!(&plan.changes[..], [Change::Delete { key }] if key.id == *network_id(1).text()));
}

#[test]
fn a_record_of_a_newer_engine_is_kept_with_whatever_it_is_about() {
    let case = one_unreadable(NEWER);
    assert!(!case.records.damaged(), "it is whole, only not for this engine");
    let plan = case.plan();
    assert!(plan.links.is_empty() && plan.namespaces.is_empty() && plan.changes.is_empty());
    assert!(matches!(&plan.repairs[..], [Repair::RecordIgnored { .. }, Repair::SweepSkipped { .. }]));
}

#[test]
fn records_are_read_back_as_they_were_written() {
    let case = Case::default().network(1).sandbox(2).endpoint(3, 1, Some((2, "veth3")));
    let put = |kind, id: &str, value| (Key::new(kind, id), value);
    let raw = vec![
        put(RecordKind::Network, "n", encode(&case.records.networks[&network_id(1)]).expect("encoded")),
        put(RecordKind::Sandbox, "s", encode(&case.records.sandboxes[&sandbox_id(2)]).expect("encoded")),
        put(RecordKind::Endpoint, "e", encode(&case.records.endpoints[&endpoint_id(3)]).expect("encoded")),
        put(RecordKind::Engine, "identity", b"something else".to_vec()),
        put(RecordKind::Driver, "bridge", b"something else".to_vec()),
    ];
    let records = Records::decode(raw);
    assert_eq!(records.networks, case.records.networks);
    assert_eq!(records.sandboxes, case.records.sandboxes);
    assert_eq!(records.endpoints, case.records.endpoints);
    assert!(records.unreadable.is_empty());
}

#[test]
fn a_sandbox_without_its_namespace_is_released_with_its_endpoints() {
    let case = Case::default()
        .network(1)
        .sandbox(1)
        .sandbox(2)
        .netns(2)
        .endpoint(1, 1, Some((1, "veth1")))
        .endpoint(2, 1, Some((2, "veth2")))
        .endpoint(3, 1, None)
        .link("veth2", Some(LinkTag::new(US, "endpoint", endpoint_id(2))));
    let plan = case.plan();
    assert_eq!(plan.repairs, [Repair::SandboxReleased { sandbox: sandbox_id(1) }]);
    let expected = [
        (RecordKind::Sandbox, sandbox_id(1).to_string()),
        (RecordKind::Endpoint, endpoint_id(1).to_string()),
    ];
    assert_eq!(deleted(&plan), expected);
    assert_eq!(plan.records.endpoints.keys().copied().collect::<Vec<_>>(), [endpoint_id(2), endpoint_id(3)]);
    assert!(plan.namespaces.is_empty() && plan.links.is_empty());
}

#[test]
fn an_endpoint_without_its_link_or_its_sandbox_is_set_back_to_idle() {
    let lost_link = Case::default().network(1).sandbox(1).netns(1).endpoint(1, 1, Some((1, "veth1")));
    let lost_sandbox = Case::default()
        .network(1)
        .endpoint(1, 1, Some((9, "veth1")))
        .link("veth1", Some(LinkTag::new(US, "endpoint", endpoint_id(1))));
    for (case, remains) in [(lost_link, 0), (lost_sandbox, 1)] {
        let plan = case.plan();
        let first = plan.repairs.first();
        assert!(
            matches!(first, Some(Repair::EndpointDetached { endpoint, .. }) if *endpoint == endpoint_id(1))
        );
        let [Change::Put { key, value }] = &plan.changes[..] else { panic!("{:?}", plan.changes) };
        assert_eq!((key.kind, key.id.as_str()), (RecordKind::Endpoint, &*endpoint_id(1).text()));
        let written: EndpointRecord = decode(value).expect("readable");
        assert_eq!(written.attachment, None);
        assert_eq!(plan.records.endpoints[&endpoint_id(1)], written);
        assert_eq!(plan.links.len(), remains, "its link belongs to nobody now");
    }
}

#[test]
fn an_endpoint_without_its_network_is_dropped() {
    let plan = Case::default().sandbox(1).netns(1).endpoint(1, 1, Some((1, "veth1"))).plan();
    assert_eq!(deleted(&plan), [(RecordKind::Endpoint, endpoint_id(1).to_string())]);
    assert!(matches!(&plan.repairs[..], [Repair::RecordDropped { .. }]), "{:?}", plan.repairs);
    let (_, members) = plan.records.sandbox(sandbox_id(1)).expect("the sandbox stays");
    assert!(members.is_empty());
}

#[test]
fn what_is_ours_and_unknown_is_removed() {
    let network = LinkTag::new(US, "network", network_id(9));
    let endpoint = LinkTag::new(US, "endpoint", endpoint_id(9));
    let nonsense = LinkTag::new(US, "endpoint", "nonsense");
    let case = Case::default()
        .netns(1)
        .link("br-9", Some(network.clone()))
        .link("veth9", Some(endpoint.clone()))
        .link("veth8", Some(nonsense.clone()));
    let plan = case.plan();
    let links = [(ifname("br-9"), network), (ifname("veth9"), endpoint), (ifname("veth8"), nonsense)];
    assert_eq!(plan.links, links);
    assert_eq!(plan.namespaces, [netns(1)]);
    let removed = |repair: &Repair| matches!(repair, Repair::KernelObjectRemoved { .. });
    assert_eq!(plan.repairs.iter().filter(|repair| removed(repair)).count(), 4);
    assert_eq!(plan.repairs.len(), 4);
}

#[test]
fn the_link_of_an_earlier_join_is_removed_and_the_present_one_kept() {
    let tag = LinkTag::new(US, "endpoint", endpoint_id(1));
    let case = Case::default()
        .network(1)
        .sandbox(1)
        .netns(1)
        .endpoint(1, 1, Some((1, "veth2")))
        .link("veth1", Some(tag.clone()))
        .link("veth2", Some(tag.clone()));
    let plan = case.plan();
    assert_eq!(plan.links, [(ifname("veth1"), tag)]);
    assert!(plan.changes.is_empty());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let case = Case::default()
        .link("eth0", None)
        .link("br-other", Some(LinkTag::new("others", "network", network_id(9))))
        .link("vxlan1", Some(LinkTag::new(US, "overlay", "x")));
    let plan = case.plan();
    assert!(is_empty(&plan), "{plan:?}");
}

// === What lives ===

fn live(sandboxes: &[u8]) -> Option<LiveList> {
    Some(sandboxes.iter().map(|n| sandbox_id(*n)).collect())
}

#[test]
fn what_does_not_live_is_released_and_its_endpoints_are_left_to_that() {
    let mut case = Case::default().network(1).sandbox(1).netns(1).sandbox(2).netns(2);
    // The links of both are gone.
    case = case.endpoint(1, 1, Some((1, "veth1"))).endpoint(2, 1, Some((2, "veth2")));
    case.inventory.live = live(&[1, 7]);
    let plan = case.plan();
    assert_eq!(plan.dead, [(sandbox_id(2), None)].into());
    let [Repair::LiveSandboxUnknown { sandbox }, Repair::EndpointDetached { endpoint, .. }] =
        &plan.repairs[..]
    else {
        panic!("{:?}", plan.repairs);
    };
    assert_eq!((sandbox, *endpoint), (&sandbox_id(7).into(), endpoint_id(1)));
    assert!(plan.records.endpoints[&endpoint_id(2)].attachment.is_some(), "it goes with its sandbox");
}

#[test]
fn a_lost_sandbox_is_neither_dead_nor_unknown() {
    let mut case = Case::default().sandbox(1).sandbox(2);
    case.inventory.live = live(&[1]);
    let plan = case.plan();
    assert!(plan.dead.is_empty());
    let lost = [1, 2].map(|n| Repair::SandboxReleased { sandbox: sandbox_id(n) });
    assert_eq!(plan.repairs, lost);
}

#[test]
fn nobody_dies_whose_container_is_not_known() {
    let mut case = Case::default().sandbox(1).netns(1);
    let record = case.records.sandboxes.get_mut(&sandbox_id(1)).expect("there");
    record.spec = SandboxSpec::new(format!("recovered-{}", sandbox_id(1).short())).into();
    case.inventory.live = live(&[]);
    let plan = case.plan();
    assert!(plan.dead.is_empty());
    assert!(matches!(&plan.repairs[..], [Repair::DeadSandboxKept { .. }]), "{:?}", plan.repairs);
}

#[test]
fn beside_records_of_a_newer_engine_the_dead_are_kept() {
    let mut case = Case::default().sandbox(1).netns(1);
    case.records.newer = 1;
    case.inventory.live = live(&[]);
    let plan = case.plan();
    let why = plan.dead[&sandbox_id(1)].as_ref().expect("a reason");
    assert!(why.contains("newer"), "{why}");
}

#[test]
fn members_carry_what_a_sandbox_shows() {
    let case = Case::default().network(1).sandbox(1).endpoint(1, 1, Some((1, "veth1")));
    let (_, members) = case.records.sandbox(sandbox_id(1)).expect("there");
    let shown = members.iter().map(|member| SandboxEndpoint {
        endpoint: member.endpoint,
        network: member.network,
        ifname: member.ifname,
        priority: member.priority,
        way_out: member.way_out,
    });
    let expected = SandboxEndpoint {
        endpoint: endpoint_id(1),
        network: network_id(1),
        ifname: ifname("eth0"),
        priority: 0,
        way_out: WayOut::Wanted,
    };
    assert_eq!(shown.collect::<Vec<_>>(), [expected]);
}
