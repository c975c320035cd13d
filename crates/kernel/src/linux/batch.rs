//! Carries out operations of one namespace on its socket, in as few sends as their order allows.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use netloom_model::{IfName, MacAddr, NetnsName};
use nix::errno::Errno;
use rustc_hash::FxHashMap;

use super::decode;
use super::encode::{self, Places};
use super::failure::Failure;
use super::numbers::Numbers;
use super::transport::{Answer, Transport};
use crate::op::{Netns, Op};

/// Opens a namespace that a link is put into; `None` for one that needs no mention, being the socket's own.
pub(super) type OpenNetns<'a> = &'a dyn Fn(Netns) -> Result<Option<OwnedFd>, Failure>;

/// Carries out operations in order and answers each.
///
/// Links that are needed by number are looked up first, all in one send. Where an earlier operation may
/// change what a lookup says, the lookup comes after it. `numbers` are those of new links, for a socket
/// of the thread's own namespace; without, links are not made.
pub(super) fn carry_out(
    transport: &mut Transport,
    ops: &[&Op],
    open: OpenNetns<'_>,
    mut numbers: Option<&mut Numbers>,
    deadline: Instant,
) -> Vec<Result<(), Failure>> {
    let mut answers = Vec::with_capacity(ops.len());
    while answers.len() < ops.len() {
        let rest = &ops[answers.len()..];
        let together = &rest[..wave_length(rest)];
        answers.extend(wave(transport, together, open, numbers.as_deref_mut(), deadline));
    }
    answers
}

/// How many operations go together: up to the first for which a link is looked up that an earlier one
/// touches.
fn wave_length(ops: &[&Op]) -> usize {
    let depends = |at: usize| {
        looked_up(ops[at]).any(|link| ops[..at].iter().any(|earlier| encode::affects(earlier, link)))
    };
    (1..ops.len()).find(|at| depends(*at)).unwrap_or(ops.len())
}

/// The links that must be looked up before an operation.
fn looked_up(op: &Op) -> impl Iterator<Item = IfName> {
    encode::needs(op).into_iter().chain(encode::unbridges(op))
}

fn wave(
    transport: &mut Transport,
    ops: &[&Op],
    open: OpenNetns<'_>,
    mut numbers: Option<&mut Numbers>,
    deadline: Instant,
) -> Vec<Result<(), Failure>> {
    let links = find_links(transport, ops, deadline);
    // The namespaces stay open until the kernel has read their numbers.
    let mut namespaces: FxHashMap<Netns, Result<Option<OwnedFd>, Failure>> = FxHashMap::default();
    for netns in ops.iter().filter_map(|op| encode::puts_into(op)) {
        namespaces.entry(netns).or_insert_with(|| open(netns));
    }
    let mut prepare = |op: &Op| {
        let netns = encode::puts_into(op).and_then(|netns| namespaces.get(&netns));
        let netns = netns.map(|opened| opened.as_ref().map_err(Clone::clone)).transpose()?;
        let look = |link: Option<IfName>| link.and_then(|link| links.get(&link)).cloned().transpose();
        let needed = look(encode::needs(op))?;
        let (index, mac) = (needed.map(|found| found.index), needed.and_then(|found| found.mac));
        let master = look(encode::unbridges(op))?.and_then(|found| found.master);
        let take = |name| match &mut numbers {
            Some(numbers) => numbers.take(name),
            None => Err(Failure::errno(Errno::EOPNOTSUPP)),
        };
        let number = encode::makes(op).map(take).transpose()?;
        let netns = netns.and_then(Option::as_ref).map(AsFd::as_fd);
        Ok((number, master, encode::requests(op, Places { index, mac, netns, number, peer: None })?))
    };
    let mut requests = Vec::with_capacity(2 * ops.len());
    let mut answers: Vec<Result<(), Failure>> = Vec::with_capacity(ops.len());
    let mut sent = Vec::with_capacity(ops.len());
    for (at, op) in ops.iter().enumerate() {
        answers.push(prepare(op).map(|(number, master, mut own)| {
            sent.push((at, number, master, own.len()));
            requests.append(&mut own);
        }));
    }
    let mut arrived = transport.exchange(&requests, deadline).into_iter();
    for (at, number, master, count) in sent {
        let mut own = arrived.by_ref().take(count);
        let first = own.next().unwrap_or_else(|| Err(Failure::Lost("no answer".into()))).map(drop);
        let finished = own.collect();
        answers[at] = match (number, encode::unbridges(ops[at]).zip(master)) {
            (Some(number), _) => complete(transport, number, first, finished, deadline),
            (None, Some((link, master))) => {
                first.map_err(|failure| put_back(transport, link, master, failure, deadline))
            }
            (None, None) => first,
        };
    }
    answers
}

/// What a lookup says of a link.
#[derive(Clone, Copy, Debug)]
struct Found {
    index: u32,
    /// The number of the bridge that it is a port of.
    master: Option<u32>,
    mac: Option<MacAddr>,
}

/// Looks up the links for which the operations ask.
fn find_links(
    transport: &mut Transport,
    ops: &[&Op],
    deadline: Instant,
) -> FxHashMap<IfName, Result<Found, Failure>> {
    let mut names: Vec<IfName> = ops.iter().flat_map(|op| looked_up(op)).collect();
    names.sort_unstable();
    names.dedup();
    let requests: Vec<_> = names.iter().map(|name| encode::get_link(*name)).collect();
    let answers = transport.exchange(&requests, deadline);
    let found = answers.into_iter().map(|answer| {
        let body = answer.as_ref().ok().and_then(Option::as_deref);
        let (master, mac) = (body.and_then(decode::link_master), body.and_then(decode::link_mac));
        Ok(Found { index: number(answer)?, master, mac })
    });
    names.into_iter().zip(found).collect()
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

/// Judges a new link by the answers to its requests, and takes back one that is not complete: without its
/// mark it would be nobody's.
fn complete(
    transport: &mut Transport,
    number: u32,
    made: Result<(), Failure>,
    finished: Vec<Answer>,
    deadline: Instant,
) -> Result<(), Failure> {
    let accepted = finished.iter().any(Answer::is_ok);
    match (made, finished.into_iter().find_map(Result::err)) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(failure)) => match transport.ask(&encode::delete_index(number), deadline) {
            Ok(_) | Err(Failure::Refused { errno: libc::ENODEV, .. }) => Err(failure),
            Err(undo) => {
                Err(Failure::Lost(format!("made but not complete ({failure:?}), nor removed ({undo:?})")))
            }
        },
        (Err(failure @ Failure::Refused { .. }), _) if accepted => {
            tracing::error!(number, ?failure, "another link has just got this number, and our mark with it");
            Err(Failure::refused(libc::EBUSY, Some("the link's number was taken meanwhile".into())))
        }
        (Err(failure), _) => Err(failure),
    }
}

/// Puts a link back into its bridge when another one has refused it, and says what came of it: the kernel
/// takes it out of the one before it asks the other.
fn put_back(
    transport: &mut Transport,
    link: IfName,
    master: u32,
    failure: Failure,
    deadline: Instant,
) -> Failure {
    if !matches!(failure, Failure::Refused { .. }) {
        return failure;
    }
    match transport.ask(&encode::set_master(link, master), deadline) {
        Ok(_) => failure,
        Err(undo) => Failure::Lost(format!("refused ({failure:?}), but not as it was ({undo:?})")),
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
        let port = |text, master: Option<&str>| Op::SetMaster { name: name(text), master: master.map(name) };
        assert_eq!(length(&[bridge("a"), port("b", Some("a"))]), 1);
        assert_eq!(length(&[bridge("a"), port("a", None)]), 1);
        assert_eq!(length(&[port("a", Some("c")), port("b", Some("c")), up("a"), port("a", None)]), 3);
    }
}
