//! Carries out operations of one namespace on its socket, in as few sends as their order allows.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use netloom_model::{IfName, NetnsName};
use rustc_hash::FxHashMap;

use super::decode;
use super::encode;
use super::failure::Failure;
use super::transport::{Answer, Transport};
use crate::op::{Netns, Op};

/// Opens a namespace that a link is put into; `None` for one that needs no mention, being the socket's own.
pub(super) type OpenNetns<'a> = &'a dyn Fn(Netns) -> Result<Option<OwnedFd>, Failure>;

/// Carries out operations in order and answers each.
///
/// Links that are needed by number are looked up first, all in one send. Where an earlier operation may
/// give the name to another link, the lookup comes after it.
pub(super) fn carry_out(
    transport: &mut Transport,
    ops: &[&Op],
    open: OpenNetns<'_>,
    deadline: Instant,
) -> Vec<Result<(), Failure>> {
    let mut answers = Vec::with_capacity(ops.len());
    while answers.len() < ops.len() {
        let rest = &ops[answers.len()..];
        answers.extend(wave(transport, &rest[..wave_length(rest)], open, deadline));
    }
    answers
}

/// How many operations go together: up to the first that needs the number of a link whose name an earlier
/// one touches.
fn wave_length(ops: &[&Op]) -> usize {
    let depends = |at: usize| {
        encode::needs(ops[at])
            .is_some_and(|link| ops[..at].iter().any(|earlier| encode::renames(earlier, link)))
    };
    (1..ops.len()).find(|at| depends(*at)).unwrap_or(ops.len())
}

fn wave(
    transport: &mut Transport,
    ops: &[&Op],
    open: OpenNetns<'_>,
    deadline: Instant,
) -> Vec<Result<(), Failure>> {
    let links = find_links(transport, ops, deadline);
    // The namespaces stay open until the kernel has read their numbers.
    let mut namespaces: FxHashMap<Netns, Result<Option<OwnedFd>, Failure>> = FxHashMap::default();
    for netns in ops.iter().filter_map(|op| encode::puts_into(op)) {
        namespaces.entry(netns).or_insert_with(|| open(netns));
    }
    let mut requests = Vec::with_capacity(ops.len());
    let mut answers: Vec<Result<(), Failure>> = Vec::with_capacity(ops.len());
    let mut sent = Vec::with_capacity(ops.len());
    for (at, op) in ops.iter().enumerate() {
        let index = encode::needs(op).and_then(|link| links.get(&link)).cloned().transpose();
        let netns = encode::puts_into(op).and_then(|netns| namespaces.get(&netns));
        let netns =
            netns.map_or(Ok(None), |opened| opened.as_ref().map_err(Clone::clone).map(Option::as_ref));
        let request = netns.and_then(|netns| encode::request(op, index?, netns.map(AsFd::as_fd)));
        answers.push(request.map(|request| {
            requests.push(request);
            sent.push(at);
        }));
    }
    for (at, answer) in sent.into_iter().zip(transport.exchange(&requests, deadline)) {
        answers[at] = answer.map(drop);
    }
    finish(transport, ops, &mut answers, deadline);
    answers
}

/// Looks up the numbers of the links that the operations need.
fn find_links(
    transport: &mut Transport,
    ops: &[&Op],
    deadline: Instant,
) -> FxHashMap<IfName, Result<u32, Failure>> {
    let mut names: Vec<IfName> = ops.iter().filter_map(|op| encode::needs(op)).collect();
    names.sort_unstable();
    names.dedup();
    let requests: Vec<_> = names.iter().map(|name| encode::get_link(*name)).collect();
    let answers = transport.exchange(&requests, deadline);
    names.into_iter().zip(answers.into_iter().map(number)).collect()
}

/// Reads the number of a link from the answer to [`encode::get_link`]. Whatever went wrong, nothing has
/// been changed yet.
pub(super) fn number(answer: Answer) -> Result<u32, Failure> {
    let unreadable = || Failure::refused(libc::EBADMSG, Some("the link's number is missing".into()));
    match answer {
        Ok(body) => body.as_deref().and_then(decode::link_index).ok_or_else(unreadable),
        Err(Failure::Lost(text)) => Err(Failure::refused(libc::EIO, Some(text))),
        Err(Failure::TimedOut) => Err(Failure::NotStarted),
        Err(failure) => Err(failure),
    }
}

/// Marks the links that were just made, and takes back those that cannot be marked: an unmarked link would
/// be nobody's.
fn finish(transport: &mut Transport, ops: &[&Op], answers: &mut [Result<(), Failure>], deadline: Instant) {
    let made = |(at, op): (usize, &&Op)| {
        let (name, request) = answers[at].is_ok().then(|| encode::finishing(op))??;
        Some((at, name, request))
    };
    let made: Vec<_> = ops.iter().enumerate().filter_map(made).collect();
    let requests: Vec<_> = made.iter().map(|(_, _, request)| request.clone()).collect();
    for ((at, name, _), answer) in made.into_iter().zip(transport.exchange(&requests, deadline)) {
        let Err(failure) = answer else { continue };
        answers[at] = match transport.ask(&encode::delete_named(name), deadline) {
            Ok(_) => Err(failure),
            Err(undo) => {
                Err(Failure::Lost(format!("made but not marked ({failure:?}), nor removed ({undo:?})")))
            }
        };
    }
}

/// Opens namespaces by their mounts, for sockets that live in the host's namespace.
pub(super) fn opener<'a>(
    open: impl Fn(NetnsName) -> Result<OwnedFd, Failure> + 'a,
) -> impl Fn(Netns) -> Result<Option<OwnedFd>, Failure> + 'a {
    move |netns| match netns {
        Netns::Host => Ok(None),
        Netns::Named(name) => open(name).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::LinkTag;

    fn name(text: &str) -> IfName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_lookup_waits_only_for_what_touches_its_name() {
        let tag = LinkTag::new("t", "network", "n");
        let bridge = |text| Op::CreateBridge { name: name(text), mac: None, mtu: None, tag: tag.clone() };
        let up = |text| Op::SetLink { netns: Netns::Host, name: name(text), up: true };
        let address = |text| Op::AddAddress {
            netns: Netns::Host,
            link: name(text),
            address: "10.0.0.1/24".parse().expect("an address"),
        };
        let length = |ops: &[Op]| wave_length(&ops.iter().collect::<Vec<_>>());
        assert_eq!(length(&[bridge("a"), up("a"), address("a"), address("b")]), 2);
        assert_eq!(length(&[bridge("a"), up("a"), address("b")]), 3);
        assert_eq!(length(&[address("a"), bridge("a")]), 2);
        assert_eq!(length(&[address("a")]), 1);
    }
}
