//! Two kernels side by side.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netloom::MacAddr;
use netloom::kernel::{Kernel, KernelError, LinkView, LinuxConfig, LinuxKernel, Netns, Op, isolate};
use netloom::testkit::{SimKernel, errno};

use crate::lab::soon;

/// How long Linux has to arrive where the simulated kernel is at once: it destroys a deleted namespace after
/// the answer, and looks at the carrier of links in the background.
const PATIENCE: Duration = Duration::from_secs(5);

/// What lies outside of the engine's reach, by the paths that operations are given: namespaces of others, and
/// something that is no network namespace.
pub(super) const OUTSIDE: [&str; 3] = ["/outside/first", "/outside/second", "/outside/file"];

/// The real kernel in fresh network and mount namespaces, with its loopback up.
pub(super) async fn machine(run_dir: PathBuf) -> LinuxKernel {
    let start = || {
        isolate::enter_own_namespaces().expect("namespaces can be made");
        LinuxKernel::start(LinuxConfig { run_dir }).expect("the kernel opens")
    };
    let kernel = std::thread::spawn(start).join().expect("it starts");
    let up = Op::SetLink { netns: Netns::Host, name: "lo".parse().expect("a name"), up: true };
    kernel.execute(vec![up], soon()).await.remove(0).expect("loopback is up");
    kernel
}

/// A namespace that only its descriptor keeps alive.
fn namespace_of_others() -> File {
    let make = || {
        isolate::enter_own_namespaces().expect("namespaces can be made");
        File::open("/proc/thread-self/ns/net").expect("there")
    };
    std::thread::spawn(make).join().expect("made")
}

/// A real and a simulated kernel that are told the same.
pub(super) struct Pair {
    real: LinuxKernel,
    /// What lies at each of [`OUTSIDE`] for the real kernel.
    outside: [File; 3],
    simulated: SimKernel,
    history: Vec<String>,
    /// The hardware addresses that operations gave to links: only these are compared, the others are drawn.
    given: BTreeSet<MacAddr>,
}

impl Pair {
    pub(super) fn new(real: LinuxKernel) -> Self {
        let simulated = SimKernel::new();
        let [first, second, file] = OUTSIDE;
        simulated.external_netns(first).expect("added");
        simulated.external_netns(second).expect("added");
        simulated.external_file(file).expect("added");
        let other_kind = File::open("/proc/thread-self/ns/mnt").expect("there");
        let outside = [namespace_of_others(), namespace_of_others(), other_kind];
        Self { real, outside, simulated, history: Vec::new(), given: BTreeSet::new() }
    }

    /// An operation with the paths that the real kernel finds things at.
    fn for_real(&self, op: &Op) -> Op {
        if let Op::AdoptNetns { name, source } = op
            && let Some(place) = OUTSIDE.iter().position(|path| source == Path::new(path))
        {
            let source = format!("/proc/self/fd/{}", self.outside[place].as_raw_fd()).into();
            return Op::AdoptNetns { name: *name, source };
        }
        op.clone()
    }

    /// Everything asked so far with its answers, a line each.
    pub(super) fn history(&self) -> String {
        self.history.join("\n")
    }

    /// Whether an operation would make both ends of a pair ports: what one of them sends might go round for
    /// ever.
    pub(super) async fn would_loop(&self, op: &Op) -> bool {
        let Op::SetMaster { name, master: Some(_) } = op else { return false };
        let links = self.simulated.links(Netns::Host, soon()).await.expect("links are listed");
        let Some(link) = links.iter().find(|link| link.name == *name) else { return false };
        let is_end = |other: &LinkView| other.peer == Some(link.index) && link.peer == Some(other.index);
        links.iter().any(|other| other.master.is_some() && is_end(other))
    }

    /// Carries out operations on both kernels and answers each with `ok` or the name of its error. A report
    /// when the answers differ, or what is there afterwards.
    pub(super) async fn carry_out(&mut self, ops: Vec<Op>) -> Result<Vec<String>, String> {
        self.given.extend(ops.iter().filter_map(|op| match op {
            Op::CreateBridge { mac, .. } | Op::CreateVeth { mac, .. } => *mac,
            _ => None,
        }));
        let real = self.real.execute(ops.iter().map(|op| self.for_real(op)).collect(), soon()).await;
        let simulated = self.simulated.execute(ops.clone(), soon()).await;
        let mut answers = Vec::with_capacity(ops.len());
        for (op, (real, simulated)) in ops.iter().zip(real.iter().zip(&simulated)) {
            let answer = name(real);
            self.history.push(format!("  {:>3}. {op}: {answer}", self.history.len() + 1));
            if answer != name(simulated) {
                let says = |answer: &Result<(), KernelError>| answer.clone().map_err(|error| error.message);
                let (real, simulated) = (says(real), says(simulated));
                return Err(self.report(&format!("real:      {real:?}\nsimulated: {simulated:?}\n{op:?}")));
            }
            answers.push(answer);
        }
        self.compare().await?;
        Ok(answers)
    }

    /// Compares what is there, until both agree.
    async fn compare(&self) -> Result<(), String> {
        let simulated = picture(&self.simulated, &self.given).await;
        let patience = Instant::now() + PATIENCE;
        loop {
            let real = picture(&self.real, &self.given).await;
            if real == simulated {
                return Ok(());
            }
            if Instant::now() > patience {
                let mut lines = vec!["what is there differs".to_owned()];
                lines.extend(real.difference(&simulated).map(|line| format!("only real:      {line}")));
                lines.extend(simulated.difference(&real).map(|line| format!("only simulated: {line}")));
                return Err(self.report(&lines.join("\n")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn report(&self, what: &str) -> String {
        format!(
            "the kernels disagree about operation {}\n{what}\nafter\n{}",
            self.history.len(),
            self.history()
        )
    }
}

fn name(answer: &Result<(), KernelError>) -> String {
    match answer {
        Ok(()) => "ok".to_owned(),
        Err(error) => errno::describe(error.errno)
            .map_or_else(|| format!("error {}", error.errno), |(name, _)| name.to_owned()),
    }
}

/// Everything that both kernels should have alike, in words.
async fn picture(kernel: &dyn Kernel, given: &BTreeSet<MacAddr>) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let named = kernel.namespaces(soon()).await.expect("namespaces are listed");
    for netns in [Netns::Host].into_iter().chain(named.into_iter().map(Netns::Named)) {
        let contents = contents(kernel, netns, |mac| given.contains(&mac)).await;
        lines.extend(contents.into_iter().map(|line| format!("{netns}: {line}")));
    }
    lines
}

/// What is in one namespace, with the hardware addresses that `shows` selects. Left out, since the simulated
/// kernel does without: link-local addresses and their routes, learned neighbours and forwarding entries.
pub(super) async fn contents(
    kernel: &dyn Kernel,
    netns: Netns,
    shows: impl Fn(MacAddr) -> bool,
) -> BTreeSet<String> {
    let links = kernel.links(netns, soon()).await.expect("links are listed");
    let name_of = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("number {index}"), |link| link.name.to_string())
    };
    let mut lines: BTreeSet<_> = links.iter().map(|link| link_line(link, name_of, &shows)).collect();
    for view in kernel.addresses(netns, soon()).await.expect("addresses are listed") {
        if !is_automatic(view.address.addr()) {
            lines.insert(format!("address {} of {}", view.address, name_of(view.link)));
        }
    }
    for view in kernel.routes(netns, soon()).await.expect("routes are listed") {
        if !is_automatic(view.destination.addr()) {
            let (via, link) = (view.via, view.link.map(name_of));
            lines.insert(format!("route {} via {via:?} by {link:?}", view.destination));
        }
    }
    for view in kernel.neighbours(netns, soon()).await.expect("neighbours are listed") {
        if view.permanent && !view.forwarding {
            let (link, address, mac) = (name_of(view.link), view.address, view.mac);
            lines.insert(format!("neighbour {address:?} of {link} at {mac:?}"));
        }
    }
    lines
}

fn link_line(link: &LinkView, name_of: impl Fn(u32) -> String, shows: impl Fn(MacAddr) -> bool) -> String {
    let LinkView {
        name,
        kind,
        mtu,
        up,
        master,
        alias,
        group,
        mac,
        peer,
        isolated,
        hairpin,
        port: _,
        index: _,
    } = link;
    let (master, mac) = (master.map(name_of), mac.filter(|mac| shows(*mac)));
    // A number in the namespace of the other end, whichever that is.
    let paired = peer.is_some();
    format!(
        "link {name} {kind:?} mtu {mtu} up {up} master {master:?} paired {paired} alias {alias:?} \
         group {group} mac {mac:?} isolated {isolated} hairpin {hairpin}"
    )
}

fn is_automatic(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}
