//! The host's name servers, which are asked unless a sandbox has some of its own: read once, and again whenever the host's
//! resolv.conf changes.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use netloom_dns::forward::{Place, Upstream};
use netloom_dns::io::{HostFile, HostResolv, News, Watch};
use netloom_dns::resolv::{
    AskedFrom, EMBEDDED_SERVER, Given, Mode, NameServer, Ndots, ResolvConf, Source, build,
};
use netloom_kernel::{Kernel, Netns};
use netloom_model::{IfName, SandboxSettings};
use netloom_runtime::{Addr, Cause, OpCtx};
use tokio::sync::watch;

use super::actor::NamesActor;
use super::message::HostServersRead;
use super::rules::ASKED;

/// How long a look at the host may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a file is read that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Name servers that a file of the host names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HostServers {
    resolv: Arc<HostResolv>,
    /// The host's links that name servers are on, with their numbers.
    links: Vec<(Box<str>, u32)>,
}

/// Whom a sandbox's name server asks, by what was given for it and what the host has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Servers {
    pub(super) upstreams: Vec<Upstream>,
    /// Whether names without a dot that nobody here has are nobody's.
    pub(super) keeps_single_labels: bool,
}

/// Whom a sandbox asks. A host that is not known has nobody to ask.
pub(super) fn servers(host: Option<&HostServers>, settings: Option<&SandboxSettings>) -> Servers {
    let given = settings.map_or_else(Given::default, |settings| Given {
        name_servers: &settings.dns,
        search: &settings.dns_search,
        options: &settings.dns_options,
    });
    let unknown = (ResolvConf::default(), Source::new("/etc/resolv.conf"));
    let (conf, source) = match host {
        Some(host) => (&host.resolv.conf, &host.resolv.source),
        None if given.name_servers.is_empty() => return Servers::default(),
        None => (&unknown.0, &unknown.1),
    };
    let built = build(conf, source, &given, Mode::Embedded(EMBEDDED_SERVER));
    let upstreams = built.upstreams.iter().map(|upstream| Upstream {
        address: address(host, &upstream.server),
        place: match upstream.from {
            AskedFrom::Host => Place::Host,
            AskedFrom::Sandbox => Place::Sandbox,
        },
    });
    Servers {
        upstreams: upstreams.collect(),
        keeps_single_labels: matches!(built.ndots, Ndots::Said(dots) if dots > 0),
    }
}

fn address(host: Option<&HostServers>, server: &NameServer) -> SocketAddr {
    let link = server.zone.as_deref().zip(host).and_then(|(zone, host)| {
        let of_name = host.links.iter().find(|(name, _)| **name == *zone).map(|(_, index)| *index);
        of_name.or_else(|| zone.parse().ok())
    });
    match server.address {
        IpAddr::V6(v6) => SocketAddrV6::new(v6, ASKED, 0, link.unwrap_or(0)).into(),
        IpAddr::V4(v4) => (v4, ASKED).into(),
    }
}

/// What looking at the host's file comes to.
enum Look {
    /// A simulation has no files.
    NoHost,
    Watched(Watch, watch::Receiver<Arc<HostResolv>>),
    /// It cannot be watched now.
    Read(Arc<HostResolv>),
    Failed,
}

/// Tells the actor of the host's name servers, for as long as it lives.
pub(super) async fn follow(me: Addr<NamesActor>, kernel: Arc<dyn Kernel>, file: HostFile) {
    let op = || OpCtx::new(Cause::Event("the host's name servers"), PATIENCE);
    while me.is_alive() {
        match look(&*kernel, file.clone()).await {
            Look::NoHost => return me.tell(&op(), HostServersRead(None)),
            Look::Watched(_watch, mut news) => loop {
                let resolv = news.borrow_and_update().clone();
                me.tell(&op(), HostServersRead(Some(resolved(&*kernel, resolv).await)));
                // It ends with its thread.
                if news.changed().await.is_err() || !me.is_alive() {
                    break;
                }
            },
            Look::Read(resolv) => me.tell(&op(), HostServersRead(Some(resolved(&*kernel, resolv).await))),
            Look::Failed => me.tell(&op(), HostServersRead(None)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(kernel: &dyn Kernel, file: HostFile) -> Look {
    let watching = move || {
        let (tell, news) = watch::channel(Arc::new(file.read()));
        let told = move |what| match what {
            News::Changed(resolv) => drop(tell.send_replace(resolv)),
            News::Trouble(error) => {
                tracing::warn!(%error, "changes of the host's name servers may be missed");
            }
        };
        match file.clone().watch(told) {
            Ok((watch, _)) => Look::Watched(watch, news),
            Err(error) => {
                tracing::warn!(%error, "the host's name servers are not watched, but looked at now and then");
                Look::Read(Arc::new(file.read()))
            }
        }
    };
    match on_host(kernel, watching).await {
        Some(Ok(look)) => look,
        Some(Err(error)) => {
            tracing::warn!(error, "the host's name servers cannot be looked at");
            Look::Failed
        }
        None => Look::NoHost,
    }
}

/// What another file than the host's says, which a caller named for a sandbox.
pub(super) async fn origin(kernel: &dyn Kernel, path: Option<PathBuf>) -> Option<Arc<HostServers>> {
    let path = path?;
    let read = move || Arc::new(HostFile::plain(path).read());
    let resolv = on_host(kernel, read).await?.ok()?;
    Some(resolved(kernel, resolv).await)
}

/// Runs something that blocks for a moment on a thread of the kernel's; `None` where there is no host.
async fn on_host<T: Send + 'static>(
    kernel: &dyn Kernel,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<Result<T, String>> {
    let (sender, done) = oneshot::channel();
    let job = Box::new(move || {
        // Nobody may wait for it any more.
        let _ = sender.send(job());
    });
    match kernel.run_in(Netns::Host, job, Instant::now() + PATIENCE).await {
        Ok(()) => Some(done.await.map_err(|_| "the answer was lost".to_owned())),
        Err(error) if error.unsupported() => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Finds the links that name servers are on.
async fn resolved(kernel: &dyn Kernel, resolv: Arc<HostResolv>) -> Arc<HostServers> {
    let zones = resolv.conf.name_servers.iter().filter_map(|server| server.zone.clone());
    let named: Vec<(Box<str>, IfName)> =
        zones.filter_map(|zone| zone.parse().ok().map(|name| (zone, name))).collect();
    let mut links = Vec::new();
    if !named.is_empty() {
        let names = named.iter().map(|(_, name)| *name).collect();
        let found = kernel.find_links(Netns::Host, names, Instant::now() + PATIENCE).await;
        for ((zone, _), link) in named.into_iter().zip(found.unwrap_or_default()) {
            links.extend(link.map(|link| (zone, link.index)));
        }
    }
    Arc::new(HostServers { resolv, links })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostServers {
        let conf = ResolvConf::parse(text.as_bytes());
        let resolv = HostResolv { conf, source: Source::new("/etc/resolv.conf") };
        HostServers { resolv: Arc::new(resolv), links: vec![("eth0".into(), 7)] }
    }

    fn shown(servers: &Servers) -> Vec<String> {
        let shown = |upstream: &Upstream| format!("{} {:?}", upstream.address, upstream.place);
        servers.upstreams.iter().map(shown).collect()
    }

    #[test]
    fn the_hosts_are_asked_from_the_host_and_given_ones_from_the_sandbox() {
        let known =
            host("nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver fe80::2%9\noptions ndots:2\n");
        let of_host = servers(Some(&known), None);
        assert_eq!(shown(&of_host), ["127.0.0.53:53 Host", "[fe80::1%7]:53 Host", "[fe80::2%9]:53 Host"]);
        assert!(of_host.keeps_single_labels);
        let mut settings =
            SandboxSettings { dns: vec!["192.0.2.1".parse().expect("valid")], ..Default::default() };
        let given = servers(Some(&known), Some(&settings));
        assert_eq!(shown(&given), ["192.0.2.1:53 Sandbox"]);
        settings.dns_options = vec!["ndots:0".into()];
        assert!(!servers(Some(&known), Some(&settings)).keeps_single_labels);
        // Where there is no host, given ones are all there is.
        assert_eq!(shown(&servers(None, Some(&settings))), ["192.0.2.1:53 Sandbox"]);
        assert_eq!(servers(None, None), Servers::default());
    }
}
