//! Errors name what is needed to act on them.

use super::*;

#[test]
fn errors_name_object_holder_and_remedy() {
    let error: Error = Reason::NameTaken {
        name: "blue".into(),
        holder: Holder::new(ObjectKind::Network, "0123456789abcdef", "blue"),
    }
    .into();
    assert_eq!(
        error.to_string(),
        "network with name \"blue\" already exists: held by network \"blue\" (0123456789ab)"
    );
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.certainty(), Certainty::Aborted);
    assert!(error.remedy().is_some());
}

#[test]
fn an_answer_that_never_came_is_uncertain() {
    let error: Error = Reason::Gone { who: "network blue".into() }.into();
    assert_eq!(error.certainty(), Certainty::Uncertain);
    assert_eq!(error.unwound().certainty(), Certainty::Aborted);
}

#[test]
fn what_is_not_found_is_to_be_looked_up_in_a_list_with_a_right_plural() {
    use ObjectKind::*;
    // Has to be told of each new kind, or does not compile.
    let next = |kind| match kind {
        Controller => Some(Network),
        Network => Some(Endpoint),
        Endpoint => Some(Sandbox),
        Sandbox => Some(Driver),
        Driver => Some(IpamDriver),
        IpamDriver => Some(AddressSpace),
        AddressSpace => Some(Pool),
        Pool => Some(Reservation),
        Reservation => None,
    };
    let remedies = std::iter::successors(Some(Controller), |kind| next(*kind))
        .map(|kind| (kind, Error::not_found(kind, "x").remedy().expect("a remedy")));
    let mut told = Vec::new();
    for (kind, remedy) in remedies {
        if kind == AddressSpace {
            // One is not made, but belongs to a driver, or comes with a cluster.
            assert!(remedy.contains("GlobalDefault where the engine is in a cluster"), "{remedy}");
            continue;
        }
        let listed =
            remedy.strip_prefix("list the ").and_then(|rest| rest.split_once(" and ")).expect(&remedy).0;
        assert!(listed.starts_with(&kind.to_string()), "{remedy}");
        told.push(listed.to_owned());
    }
    let expected = [
        "controllers",
        "networks",
        "endpoints",
        "sandboxes",
        "drivers",
        "ipam drivers",
        "pools",
        "reservations",
    ];
    assert_eq!(told, expected);
}

#[test]
fn long_lists_of_holders_are_cut() {
    let endpoints = (0..20).map(|i| Holder::new(ObjectKind::Endpoint, format!("{i:064}"), "e")).collect();
    let id = "n".parse().expect("a given id");
    let error: Error = Reason::ActiveEndpoints { network: id, name: "n".into(), endpoints }.into();
    assert!(error.to_string().ends_with("and 12 more"), "{error}");
}
