//! The files of all sandboxes of an engine, and what they are to say: by a sandbox's spec, by what is plugged into it, and
//! by what the host's resolv.conf says at the moment.
//!
//! Whoever wants something of a sandbox's files says how they are to be, as a whole ([`Wanted`]), and not what is to be
//! changed in them: so what was missed, lost or half done once is right with the next word about it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_model::{Error, NamespaceSpec, Reason, Result, SandboxId, SandboxSettings, SandboxSpec};

use super::host::{HostFile, HostResolv};
use super::hosts_file::LONGEST_HOSTS;
use super::resolv_file::LONGEST_RESOLV;
use super::sandbox::{Files, SandboxFiles, read_origin};
use crate::hosts::{self, Change, Entry, Own};
use crate::resolv::{Built, Given, Mode, Ndots, Upstream, build};

/// The hosts file of the host, which a sandbox has that is the host's own namespace.
const HOSTS_OF_HOST: &str = "/etc/hosts";
/// How many sandboxes follow a change of the host's file in one piece: others wait for so long at most.
const AT_A_TIME: usize = 32;

/// How the files of a sandbox are to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What was asked for.
    pub spec: Arc<SandboxSpec>,
    /// The addresses under which the sandbox finds itself by its host name.
    pub addresses: Vec<IpAddr>,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Where its own name server listens. Without one its programs ask the others themselves.
    pub server: Option<IpAddr>,
}

/// Whom a sandbox's own name server asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// In this order.
    pub upstreams: Vec<Upstream>,
    /// What the sandbox's resolv.conf says of dots in names.
    pub ndots: Ndots,
}

/// What the host's resolv.conf says.
#[derive(Clone, Debug)]
pub enum HostSays {
    /// Somebody tells of its changes ([`Keeper::host_changed`]).
    Told(Arc<HostResolv>),
    /// Nobody does, so it is read each time.
    Look,
}

/// The one writer of the files of every sandbox.
#[derive(Debug)]
pub struct Keeper {
    files: Files,
    host: HostFile,
    says: HostSays,
    /// How often it has said something else.
    changes: u64,
    kept: HashMap<SandboxId, Kept>,
    containers: HashMap<String, SandboxId>,
    /// Whose resolv.conf does not say yet what the host's says now.
    behind: Vec<SandboxId>,
}

/// What is known of a sandbox's files.
#[derive(Debug)]
struct Kept {
    files: SandboxFiles,
    wanted: Wanted,
    /// What its resolv.conf was made of; `None` before it was, or when that failed.
    made_of: Option<MadeOf>,
    asked: Option<Asked>,
}

/// What decides on the content of a resolv.conf, beside the spec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct MadeOf {
    ipv6: bool,
    server: Option<IpAddr>,
    changes: u64,
}

impl Keeper {
    /// The files below a run directory. Nothing is looked at or made.
    #[must_use]
    pub fn new(files: Files, host: HostFile, says: HostSays) -> Self {
        let (kept, containers) = Default::default();
        Self { files, host, says, changes: 0, kept, containers, behind: Vec::new() }
    }

    /// Makes the files of a sandbox anew, whatever is there, and enters it in the hosts files of others where its spec
    /// says so. Those that an earlier spec of it had elsewhere go.
    ///
    /// # Errors
    /// Those of the operating system, with the path; `InvalidParameter` for what is in the way. Some may have been
    /// written; [`Keeper::remove`] takes them away, and not what was entered in files of others.
    pub fn make(&mut self, sandbox: SandboxId, wanted: Wanted) -> Result<Option<Asked>> {
        let mut files = self.files.of(sandbox, wanted.spec.settings.as_deref())?;
        self.forget(sandbox, Some(&files))?;
        files.make_directory()?;
        files.hosts.create(hosts_of(&wanted)?)?;
        let Content { bytes, asked, .. } = self.resolv(&wanted)?;
        files.resolv.create(bytes)?;
        self.enter_in_others(&wanted.spec)?;
        self.keep(sandbox, files, wanted, asked.clone());
        Ok(asked)
    }

    /// Has the files of a sandbox be as they are to be: in the hosts file only what the sandbox itself is called and the
    /// lines of IPv6, in resolv.conf everything unless a user has changed it. A file that is not there is made.
    ///
    /// # Errors
    /// As [`Keeper::make`].
    pub fn settle(&mut self, sandbox: SandboxId, wanted: Wanted) -> Result<Option<Asked>> {
        let known = self.kept.remove(&sandbox).filter(|kept| kept.wanted.spec == wanted.spec);
        let (mut files, made_of, asked) = match known {
            Some(Kept { files, made_of, asked, .. }) => (files, made_of, asked),
            None => (self.files.of(sandbox, wanted.spec.settings.as_deref())?, None, None),
        };
        let outcome = self.settle_files(&mut files, &wanted, made_of);
        let (made_of, asked, outcome) = match outcome {
            Ok(None) => (made_of, asked, Ok(())),
            Ok(Some(asked)) => (Some(self.made_of(&wanted)), asked, Ok(())),
            Err(error) => (None, asked, Err(error)),
        };
        self.containers.insert(wanted.spec.container_id.clone(), sandbox);
        self.kept.insert(sandbox, Kept { files, wanted, made_of, asked: asked.clone() });
        outcome.map(|()| asked)
    }

    /// What resolv.conf was made of now, if it was.
    fn settle_files(
        &self,
        files: &mut SandboxFiles,
        wanted: &Wanted,
        made_of: Option<MadeOf>,
    ) -> Result<Option<Option<Asked>>> {
        files.make_directory()?;
        files.hosts.settle(&changes(wanted)?, || hosts_of(wanted))?;
        if made_of == Some(self.made_of(wanted)) {
            return Ok(None);
        }
        self.follow(files, wanted).map(Some)
    }

    /// Writes a resolv.conf that may be a user's by now.
    fn follow(&self, files: &mut SandboxFiles, wanted: &Wanted) -> Result<Option<Asked>> {
        let Content { bytes, asked, readable } = self.resolv(wanted)?;
        // What cannot be read says nothing: what was said last holds, if anything was.
        if readable || !files.resolv.path().exists() {
            files.resolv.update(bytes)?;
        }
        Ok(asked)
    }

    /// Removes the files of a sandbox that are the engine's own, and what is known of it. Nothing where there is nothing.
    ///
    /// # Errors
    /// Those of the operating system, with the path.
    pub fn remove(&mut self, sandbox: SandboxId, spec: &SandboxSpec) -> Result<()> {
        self.forget(sandbox, None)?;
        self.files.of(sandbox, spec.settings.as_deref())?.remove()
    }

    /// Removes the directories of sandboxes that are none of these: left from a crash. What is not named like a
    /// sandbox is somebody else's. A sandbox whose record was rebuilt may only be known by how its identifier begins.
    ///
    /// # Errors
    /// Those of the operating system, with the path.
    pub fn sweep(&self, known: &[SandboxId]) -> Result<Vec<SandboxId>> {
        let known: BTreeSet<_> = known.iter().map(|id| id.short().to_string()).collect();
        let mut removed = Vec::new();
        for name in self.files.list()? {
            let Ok(sandbox) = name.parse::<SandboxId>() else { continue };
            if !known.contains(&*sandbox.short()) {
                self.files.remove(&name)?;
                removed.push(sandbox);
            }
        }
        Ok(removed)
    }

    /// The host's resolv.conf says something else. Nothing is written yet: [`Keeper::catch_up`]. Tells whether anybody
    /// has to. One that cannot be read changes nothing: sandboxes keep what it said last.
    pub fn host_changed(&mut self, says: Arc<HostResolv>) -> bool {
        if says.is_unreadable() {
            return false;
        }
        self.says = HostSays::Told(says);
        self.changes += 1;
        self.behind = self.kept.keys().copied().collect();
        !self.behind.is_empty()
    }

    /// Has some sandboxes say what the host's resolv.conf says now. Tells whether there are more, and for whom it failed:
    /// those are tried again with the next word about them.
    pub fn catch_up(&mut self) -> (bool, Vec<(SandboxId, Error)>) {
        let some = self.behind.split_off(self.behind.len().saturating_sub(AT_A_TIME));
        let mut failed = Vec::new();
        for sandbox in some {
            let Some(mut kept) = self.kept.remove(&sandbox) else { continue };
            let now = self.made_of(&kept.wanted);
            if kept.made_of != Some(now) {
                match self.follow(&mut kept.files, &kept.wanted) {
                    Ok(asked) => (kept.made_of, kept.asked) = (Some(now), asked),
                    Err(error) => {
                        kept.made_of = None;
                        failed.push((sandbox, error));
                    }
                }
            }
            self.kept.insert(sandbox, kept);
        }
        (!self.behind.is_empty(), failed)
    }

    /// Whom a sandbox's own name server asks; `None` for one that has none.
    #[must_use]
    pub fn asked(&self, sandbox: SandboxId) -> Option<&Asked> {
        self.kept.get(&sandbox)?.asked.as_ref()
    }

    fn keep(&mut self, sandbox: SandboxId, files: SandboxFiles, wanted: Wanted, asked: Option<Asked>) {
        let made_of = Some(self.made_of(&wanted));
        self.containers.insert(wanted.spec.container_id.clone(), sandbox);
        self.kept.insert(sandbox, Kept { files, wanted, made_of, asked });
    }

    /// Forgets a sandbox, and removes its files where they are not those that it has next.
    fn forget(&mut self, sandbox: SandboxId, next: Option<&SandboxFiles>) -> Result<()> {
        let Some(kept) = self.kept.get(&sandbox) else { return Ok(()) };
        if next.is_none_or(|next| *next != kept.files) {
            kept.files.remove()?;
        }
        if let Some(Kept { wanted, .. }) = self.kept.remove(&sandbox)
            && self.containers.get(&wanted.spec.container_id) == Some(&sandbox)
        {
            self.containers.remove(&wanted.spec.container_id);
        }
        Ok(())
    }

    /// Parity: libnetwork `sandbox.updateParentHosts`: a container without a sandbox is passed over, and so is a name
    /// that its file does not have.
    fn enter_in_others(&mut self, spec: &SandboxSpec) -> Result<()> {
        let updates = spec.settings.as_ref().map_or(&[][..], |settings| &settings.parent_updates);
        for update in updates {
            let parent = self.containers.get(&update.container_id).and_then(|id| self.kept.get_mut(id));
            let Some(parent) = parent else { continue };
            let change = Change::Update { name: update.name.clone(), address: update.address };
            parent.files.hosts.change(&[change])?;
        }
        Ok(())
    }

    fn made_of(&self, wanted: &Wanted) -> MadeOf {
        MadeOf { ipv6: wanted.ipv6, server: wanted.server, changes: self.changes }
    }

    /// What a sandbox's resolv.conf says.
    fn resolv(&self, wanted: &Wanted) -> Result<Content> {
        let nothing = SandboxSettings::default();
        let settings = wanted.spec.settings.as_deref().unwrap_or(&nothing);
        let given = Given {
            name_servers: &settings.dns,
            search: &settings.dns_search,
            options: &settings.dns_options,
        };
        let on_host = wanted.spec.namespace == NamespaceSpec::Host;
        let origin = settings.origin_resolv_conf_path.as_deref();
        if on_host && !given.is_anything() {
            // Byte for byte, with what only the host itself can reach.
            return Ok(match read_origin(origin.unwrap_or(self.host.path()), LONGEST_RESOLV) {
                Ok(bytes) => Content { bytes, asked: None, readable: true },
                Err(error) if is_missing(&error) => {
                    Content { bytes: Vec::new(), asked: None, readable: false }
                }
                Err(error) => return Err(error),
            });
        }
        let host = match (origin, &self.says) {
            (Some(origin), _) => Arc::new(HostFile::plain(origin).read()),
            (None, HostSays::Told(says)) => says.clone(),
            (None, HostSays::Look) => Arc::new(self.host.read()),
        };
        let mode = match wanted.server {
            _ if on_host => Mode::Host,
            Some(server) => Mode::Embedded(server),
            None => Mode::Direct { ipv6: wanted.ipv6 },
        };
        let Built { text, upstreams, ndots, .. } = build(&host.conf, &host.source, &given, mode);
        let asked = matches!(mode, Mode::Embedded(_)).then_some(Asked { upstreams, ndots });
        Ok(Content { bytes: text.into_bytes(), asked, readable: !host.is_unreadable() })
    }
}

/// What a resolv.conf is to say.
struct Content {
    bytes: Vec<u8>,
    asked: Option<Asked>,
    /// Whether what it is made of could be read.
    readable: bool,
}

fn is_missing(error: &Error) -> bool {
    matches!(error.reason(), Reason::Kernel { errno: nix::libc::ENOENT, .. })
}

/// Whether a hosts file is taken as it is: it is a copy.
fn is_copy(spec: &SandboxSpec) -> bool {
    spec.namespace == NamespaceSpec::Host || origin_of(spec).is_some()
}

fn origin_of(spec: &SandboxSpec) -> Option<&PathBuf> {
    spec.settings.as_ref().and_then(|settings| settings.origin_hosts_path.as_ref())
}

/// What a new hosts file says.
///
/// A sandbox that is the host's own namespace has the host's, with the extra hosts behind. (libnetwork leaves it to its
/// caller to name that file, and forgets it when there are extra hosts.)
fn hosts_of(wanted: &Wanted) -> Result<Vec<u8>> {
    let extra = wanted.spec.settings.as_ref().map_or(&[][..], |settings| &settings.extra_hosts);
    if let Some(origin) = origin_of(&wanted.spec) {
        return read_origin(origin, LONGEST_HOSTS);
    }
    if wanted.spec.namespace == NamespaceSpec::Host
        && let Some(text) = readable(read_origin(Path::new(HOSTS_OF_HOST), LONGEST_HOSTS))?
    {
        let added: Vec<_> =
            extra.iter().map(|host| Entry::extra(host).map(Change::Add)).collect::<Result<_>>()?;
        return Ok(hosts::edit(&text, &added).unwrap_or(text));
    }
    let text = hosts::build(wanted.ipv6, extra)?.into_bytes();
    Ok(hosts::edit(&text, &changes(wanted)?).unwrap_or(text))
}

fn readable(read: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match read {
        Err(error) if is_missing(&error) => Ok(None),
        read => read.map(Some),
    }
}

/// What a hosts file that is there has to have.
fn changes(wanted: &Wanted) -> Result<Vec<Change>> {
    if is_copy(&wanted.spec) {
        return Ok(Vec::new());
    }
    let settings = wanted.spec.settings.as_deref();
    let domain = settings.map_or("", |settings| &settings.domainname);
    let extra = settings.map_or(&[][..], |settings| &settings.extra_hosts);
    let own = Own::new(&wanted.spec.hostname, domain, &wanted.addresses, extra)?;
    Ok(std::iter::once(Change::Ipv6(wanted.ipv6)).chain(own.map(Change::Own)).collect())
}
