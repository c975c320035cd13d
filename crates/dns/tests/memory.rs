//! What a sandbox's name server costs while nobody asks it. Alone in its process: nothing else uses memory meanwhile.

mod common;
#[path = "common/site.rs"]
mod site;

use std::sync::Arc;
use std::time::Instant;

use common::{A, Question, endpoint, named, read};
use netloom_dns::forward::{Forwarding, Here};
use netloom_dns::records::{Attachment, View, ViewCell, ZoneWriter};
use netloom_dns::server::{Options, Server};
use site::{Client, isolated, sandbox, sockets};
use tokio::runtime::Handle;

/// The most that an idle sandbox may cost.
const MOST: u64 = 16 * 1024;
const SANDBOXES: u64 = 1000;

/// Memory of this process in bytes, and what the kernel has in its caches for everybody.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[test]
fn a_thousand_idle_sandboxes_cost_little() {
    isolated(|| async {
        // A socket each for datagrams and streams.
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .expect("there are limits");
        if soft < 4 * SANDBOXES {
            let more = hard.min(8 * SANDBOXES);
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, more, hard)
                .expect("up to the hard limit");
        }
        let server = Server::start(&Handle::current(), Options::default()).expect("starts");
        let mut writer = ZoneWriter::new("net");
        writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), Instant::now());
        let mut at = Vec::new();
        let mut serve = |number: u64| {
            let (sockets, address) = sockets("127.0.0.11");
            let view = View::new(vec![Attachment::new(writer.reader(), [("alias", "web")])]);
            let cell = Arc::new(ViewCell::new(view));
            let here = Arc::new(Here);
            server.serve(sandbox(number), sockets, cell, &Forwarding::default(), here).expect("serves");
            at.push(address);
        };
        // What everybody shares is paid by the first ones.
        (0..10).for_each(&mut serve);
        let before = resident();
        (10..10 + SANDBOXES).for_each(&mut serve);
        let idle = resident().saturating_sub(before) / SANDBOXES;
        // And after each has answered.
        for address in &at {
            let client = Client::new(*address).await;
            client.send(&Question::new("alias", A).bytes()).await;
            assert_eq!(read(&client.receive().await).answers.len(), 1);
        }
        let used = resident().saturating_sub(before) / SANDBOXES;
        assert!(idle <= MOST && used <= MOST, "{idle} bytes each, {used} after a question");
        #[allow(clippy::print_stdout, reason = "a figure for whoever runs the test with its output shown")]
        {
            println!("{idle} bytes for each idle sandbox, {used} after a question");
        }
    });
}
