//! firewalld over D-Bus, on a thread of its own: an actor waits for nothing, and the bus may be slow, or away.
//!
//! Calls go to whoever has firewalld's name at that moment, by its unique name: a call to the name itself may have the bus
//! start firewalld, and whether it runs is the host's to say. A firewalld of another network namespace, whose bus is merely
//! visible here, is taken for none.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::stream::{Stream, StreamExt, select};
use futures::{FutureExt, channel::mpsc as pipe};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, timeout_at};
use zbus::message::Type as Kind;
use zbus::{Connection, DynamicType, MatchRule, Message, MessageStream, Variant};

use crate::{Answer, Call, EVENTS, Event, Events, Firewalld, Request, Running, Trouble, code};

/// How many requests may wait.
const QUEUE: usize = 64;
/// How long connecting to the bus may take, and what is asked of the bus itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a bus that is away rests before it is tried again: twice as long each time, up to the last.
const REST: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const NAME: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const CONFIG_PATH: &str = "/org/fedoraproject/FirewallD1/config";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The firewalld of a bus. Its clones speak through one thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct DbusFirewalld {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Call { request: Request, deadline: Instant, reply: oneshot::Sender<Result<Answer, Trouble>> },
    Listen(pipe::Sender<Event>),
}

impl DbusFirewalld {
    /// Starts the thread, in the caller's namespaces. It looks for the host's bus (`DBUS_SYSTEM_BUS_ADDRESS`, or
    /// `/run/dbus/system_bus_socket`) for as long as it lives; that there is none is no error.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::over(None)
    }

    /// The same with a bus of this address, such as `unix:path=/run/dbus/system_bus_socket`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn at(address: impl Into<String>) -> io::Result<Self> {
        Self::over(Some(address.into()))
    }

    fn over(address: Option<String>) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("nl-firewalld".into()).spawn(move || {
            let link = Rc::new(Link::default());
            *link.why_not.borrow_mut() = "D-Bus has not answered yet".into();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listening = tokio::task::spawn_local(listen(Rc::clone(&link), address));
                work(&link, jobs).await;
                listening.abort();
            });
        })?;
        Ok(Self { jobs: sender })
    }
}

impl Firewalld for DbusFirewalld {
    fn call(&self, request: Request, deadline: Instant) -> Call {
        let (reply, answer) = oneshot::channel();
        let given = self.jobs.try_send(Job::Call { request, deadline, reply });
        async move {
            match given {
                Err(mpsc::error::TrySendError::Full(_)) => Err(Trouble::Busy(QUEUE)),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {
                    answer.await.unwrap_or(Err(Trouble::Lost))
                }
            }
        }
        .boxed()
    }

    fn events(&self) -> Events {
        let (sender, events) = pipe::channel(EVENTS);
        // Without room there the stream ends at once, which whoever reads it sees.
        let _ = self.jobs.try_send(Job::Listen(sender));
        events
    }
}

/// The connection, and what is known by it.
#[derive(Default)]
struct Link {
    /// The connection, or why there is none.
    bus: RefCell<Option<Connection>>,
    why_not: RefCell<String>,
    /// Who has firewalld's name.
    owner: RefCell<Option<String>>,
    listeners: RefCell<Vec<pipe::Sender<Event>>>,
}

impl Link {
    fn tell(&self, event: Event) {
        // A reader that has not read what there is needs no more.
        self.listeners
            .borrow_mut()
            .retain_mut(|listener| !listener.try_send(event).is_err_and(|error| error.is_disconnected()));
    }

    fn own(&self, owner: Option<String>) {
        let comes = owner.is_some();
        let before = self.owner.replace(owner);
        if before == *self.owner.borrow() {
            return;
        }
        if before.is_some() {
            self.tell(Event::Gone);
        }
        if comes {
            self.tell(Event::Appeared);
        }
    }
}

// === Listening ===

/// Keeps the connection, and tells what is heard by it.
async fn listen(link: Rc<Link>, address: Option<String>) {
    let mut rest = REST[0];
    loop {
        match timeout(PATIENCE, connect(address.as_deref())).await {
            Ok(Ok((bus, signals))) => {
                rest = REST[0];
                hear(&link, bus, signals).await;
                *link.why_not.borrow_mut() = "the bus has closed the connection".into();
                *link.bus.borrow_mut() = None;
                link.own(None);
            }
            Ok(Err(error)) => *link.why_not.borrow_mut() = format!("no connection to D-Bus ({error})"),
            Err(_) => *link.why_not.borrow_mut() = "D-Bus does not answer".into(),
        }
        tracing::debug!(why = %link.why_not.borrow(), "firewalld is not listened to");
        sleep(rest).await;
        rest = (rest * 2).min(REST[1]);
    }
}

async fn connect(address: Option<&str>) -> zbus::Result<(Connection, impl Stream<Item = Message> + Unpin)> {
    let builder = match address {
        Some(address) => zbus::connection::Builder::address(address),
        None => zbus::connection::Builder::system(),
    };
    let bus = builder.build().await?;
    // Not by the sender, which is a name that the client cannot compare: see `hear`.
    let reloads =
        MatchRule::builder().msg_type(Kind::Signal).interface(NAME).path(PATH).member("Reloaded").build()?;
    let owners = MatchRule::builder()
        .msg_type(Kind::Signal)
        .sender(BUS)
        .interface(BUS)
        .path(BUS_PATH)
        .member("NameOwnerChanged")
        .add_arg(NAME)
        .build()?;
    let reloads = MessageStream::for_match_rule(reloads, &bus, None).await?;
    let owners = MessageStream::for_match_rule(owners, &bus, None).await?;
    Ok((bus, select(reloads, owners).filter_map(|message| std::future::ready(message.ok()))))
}

/// Tells what comes, until the connection ends.
async fn hear(link: &Link, bus: Connection, mut signals: impl Stream<Item = Message> + Unpin) {
    // Whoever comes or goes from now on is heard of by a signal.
    let asked = async {
        let message = bus.call_method(Some(BUS), BUS_PATH, Some(BUS), "GetNameOwner", &NAME).await.ok()?;
        message.body().deserialize::<String>().ok()
    };
    let owner = timeout(PATIENCE, asked).await.unwrap_or_default();
    *link.bus.borrow_mut() = Some(bus);
    link.own(owner);
    while let Some(signal) = signals.next().await {
        let header = signal.header();
        if header.member().is_some_and(|member| member.as_str() == "NameOwnerChanged") {
            if let Ok((_, _, owner)) = signal.body().deserialize::<(String, String, String)>() {
                link.own(Some(owner).filter(|owner| !owner.is_empty()));
            }
            continue;
        }
        // Anybody on the bus can send such a signal.
        let from = header.sender().map(ToString::to_string);
        if from.is_some() && from == *link.owner.borrow() {
            link.tell(Event::Reloaded);
        }
    }
}

// === Working ===

/// Carries out what is asked for, one after another, until nobody can ask any more.
async fn work(link: &Link, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Listen(mut listener) => {
                if link.owner.borrow().is_some() {
                    // The first of a channel always finds room.
                    let _ = listener.try_send(Event::Appeared);
                }
                link.listeners.borrow_mut().push(listener);
            }
            Job::Call { request, deadline, reply } => {
                let began = Instant::now();
                let answer = match timeout_at(deadline.into(), carry_out(link, &request)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Trouble::Late { request, waited: began.elapsed() }),
                };
                // The caller may have stopped waiting.
                let _ = reply.send(answer);
            }
        }
    }
}

async fn carry_out(link: &Link, request: &Request) -> Result<Answer, Trouble> {
    let Some(bus) = link.bus.borrow().clone() else {
        return Err(Trouble::Away(link.why_not.borrow().clone()));
    };
    let Some(owner) = link.owner.borrow().clone() else {
        return Err(Trouble::Away("nobody on D-Bus has its name".into()));
    };
    let to = To { bus: &bus, owner: &owner, request };
    match request {
        Request::Running => {
            same_namespace(&to).await?;
            let version = to.property(PATH, NAME, "version").await?;
            let backend = to.property(CONFIG_PATH, &format!("{NAME}.config"), "FirewallBackend").await?;
            Ok(Answer::Running(Some(Running { version, backend })))
        }
        Request::Zones => to.names("zone", "getZones", &()).await,
        Request::Policies => to.names("policy", "getPolicies", &()).await,
        Request::AddZone(zone) => to.add_zone(zone).await,
        Request::AddPolicy { policy, zone } => {
            let settings = HashMap::from([
                ("version", Variant::from("1.0")),
                ("description", Variant::from("to containers: what reaches them, the engine's rules say")),
                ("ingress_zones", Variant::from(vec!["ANY"])),
                ("egress_zones", Variant::from(vec![*zone])),
                ("target", Variant::from("ACCEPT")),
            ]);
            to.done(CONFIG_PATH, "config", "addPolicy", &(*policy, settings)).await
        }
        Request::Reload => to.done(PATH, "", "reload", &()).await,
        Request::ZoneOf(interface) => {
            let answer = to.call(PATH, "zone", "getZoneOfInterface", &interface.as_str()).await?;
            let zone: String = to.read(&answer)?;
            Ok(Answer::Names(Some(zone).filter(|zone| !zone.is_empty()).into_iter().collect()))
        }
        Request::Interfaces(zone) => to.names("zone", "getInterfaces", zone).await,
        Request::AddInterface { zone, interface } => {
            to.done(PATH, "zone", "addInterface", &(*zone, interface.as_str())).await
        }
        Request::RemoveInterface { zone, interface } => {
            to.done(PATH, "zone", "removeInterface", &(*zone, interface.as_str())).await
        }
    }
}

/// Refuses a firewalld that is not of this thread's network namespace: the zones of its host are no business of ours.
async fn same_namespace(to: &To<'_>) -> Result<(), Trouble> {
    let answer = to.bus.call_method(Some(BUS), BUS_PATH, Some(BUS), "GetConnectionUnixProcessID", &to.owner);
    let pid: u32 = to.read(&answer.await.map_err(|error| to.refused(&error))?)?;
    let (theirs, own) =
        (fs::read_link(format!("/proc/{pid}/ns/net")), fs::read_link("/proc/thread-self/ns/net"));
    match (theirs, own) {
        (Ok(theirs), Ok(own)) if theirs == own => Ok(()),
        (Ok(_), Ok(_)) => Err(Trouble::Away("that of this bus is another network namespace's".into())),
        (Err(error), _) | (_, Err(error)) => Err(Trouble::Away(format!(
            "it cannot be told whether that of this bus is this network namespace's ({error})"
        ))),
    }
}

/// Whom a request goes to.
struct To<'a> {
    bus: &'a Connection,
    owner: &'a str,
    request: &'a Request,
}

impl To<'_> {
    fn call<'b, B: serde::Serialize + DynamicType>(
        &'b self,
        path: &'b str,
        part: &'b str,
        method: &'b str,
        body: &'b B,
    ) -> impl Future<Output = Result<Message, Trouble>> + 'b {
        let interface = if part.is_empty() { NAME.to_owned() } else { format!("{NAME}.{part}") };
        async move {
            let called = self.bus.call_method(Some(self.owner), path, Some(interface.as_str()), method, body);
            called.await.map_err(|error| self.refused(&error))
        }
    }

    async fn done<B: serde::Serialize + DynamicType>(
        &self,
        path: &str,
        part: &str,
        method: &str,
        body: &B,
    ) -> Result<Answer, Trouble> {
        self.call(path, part, method, body).await.map(|_| Answer::Done)
    }

    async fn names<B: serde::Serialize + DynamicType>(
        &self,
        part: &str,
        method: &str,
        body: &B,
    ) -> Result<Answer, Trouble> {
        let answer = self.call(PATH, part, method, body).await?;
        self.read(&answer).map(Answer::Names)
    }

    /// A text among the properties of an object; empty where it has no such one.
    async fn property(&self, path: &str, interface: &str, name: &str) -> Result<String, Trouble> {
        let what = (interface, name);
        let get = self.bus.call_method(Some(self.owner), path, Some(PROPERTIES), "Get", &what);
        match get.await.map_err(|error| self.refused(&error)) {
            Ok(answer) => {
                let body = answer.body();
                let value: Variant<'_> =
                    body.deserialize().map_err(|_| Trouble::Unclear(self.request.clone()))?;
                Ok(<&str>::try_from(&value).map(str::to_owned).unwrap_or_default())
            }
            Err(Trouble::Refused { .. }) => Ok(String::new()),
            Err(trouble) => Err(trouble),
        }
    }

    /// By the newer call, which takes what differs from the defaults; before firewalld 0.9 there is the older one alone, which
    /// takes all there is.
    async fn add_zone(&self, zone: &str) -> Result<Answer, Trouble> {
        let about = "bridges of containers: what reaches them, the engine's rules say";
        let settings = HashMap::from([
            ("version", Variant::from("1.0")),
            ("description", Variant::from(about)),
            ("target", Variant::from("ACCEPT")),
        ]);
        match self.done(CONFIG_PATH, "config", "addZone2", &(zone, settings)).await {
            Err(trouble) if trouble.is(code::UNKNOWN_METHOD) => {}
            done => return done,
        }
        let (texts, pairs) = (Vec::<&str>::new, Vec::<(&str, &str)>::new);
        let forwards = Vec::<(&str, &str, &str, &str)>::new();
        #[rustfmt::skip]
        let settings = (
            // Version, name, description, what is not used, target; services, ports, what of ICMP is blocked, masquerading.
            "1.0", zone, about, false, "ACCEPT", texts(), pairs(), texts(), false,
            // Forwarded ports; interfaces, sources, rules, protocols; ports of sources, what of ICMP is not blocked instead.
            forwards, texts(), texts(), texts(), texts(), pairs(), false,
        );
        self.done(CONFIG_PATH, "config", "addZone", &(zone, settings)).await
    }

    fn read<T: serde::de::DeserializeOwned + zbus::wire::Type>(
        &self,
        answer: &Message,
    ) -> Result<T, Trouble> {
        answer.body().deserialize().map_err(|_| Trouble::Unclear(self.request.clone()))
    }

    fn refused(&self, error: &zbus::Error) -> Trouble {
        let request = self.request.clone();
        let refused = |code: &str, message: &str| {
            // A traceback follows; the last line says it all.
            let message = message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            Trouble::Refused { request, code: code.to_owned(), message: message.to_owned() }
        };
        match error {
            zbus::Error::MethodError(name, text, _) => {
                let text = text.as_deref().unwrap_or_default();
                if name.as_str() != format!("{NAME}.Exception") {
                    return refused(name.as_str().rsplit('.').next().unwrap_or_default(), text);
                }
                // "CODE: message", or the code alone.
                let (code, message) = text.split_once(": ").unwrap_or((text, ""));
                refused(code, message)
            }
            zbus::Error::FDO(error) => match &**error {
                zbus::fdo::Error::UnknownMethod(text) => refused(code::UNKNOWN_METHOD, text),
                zbus::fdo::Error::ServiceUnknown(text)
                | zbus::fdo::Error::NameHasNoOwner(text)
                | zbus::fdo::Error::NoReply(text)
                | zbus::fdo::Error::Disconnected(text) => Trouble::Away(text.clone()),
                other => refused("D-Bus", &other.to_string()),
            },
            zbus::Error::InputOutput(error) => Trouble::Away(format!("the connection to D-Bus: {error}")),
            other => refused("D-Bus", &other.to_string()),
        }
    }
}
