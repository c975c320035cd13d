//! The way in for a container runtime's hook, which knows a container's process when the engine cannot know it yet:
//! a socket on which it hands over the process's network namespace (libnetwork's external key).
//!
//! The socket is `<run_dir>/<controller id>.sock`, for its owner only. Each connection carries one JSON object,
//! `{"ContainerID": "…", "Key": "/proc/<pid>/ns/net"}`, of at most 1280 bytes, and gets back `success` or the text
//! of an error, at most 1024 bytes.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Weak;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use netloom_model::{ControllerId, EngineConfig, Error, ErrorKind as Kind, Reason};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::controller::Controller;
use crate::core::Core;
use crate::sandbox::SandboxKey;

/// The largest request in bytes.
const MAX_REQUEST: usize = 1280;
/// The longest answer in bytes.
const MAX_ANSWER: usize = 1024;
/// What a client is told whose request was carried out.
const SUCCESS: &str = "success";
/// How many clients are attended to at once; others wait to be accepted.
const MOST: usize = 128;
/// How many clients may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long a client may take to ask, and then to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nobody is accepted after that has failed: no descriptor is free, say.
const PAUSE: Duration = Duration::from_millis(100);
/// How much of what a client sends too much is read, so that it gets its answer before it is cut off.
const EXCESS: u64 = 1 << 20;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Request {
    /// The container whose sandbox gets the namespace.
    #[serde(rename = "ContainerID")]
    pub(crate) container: String,
    /// Where the namespace is.
    #[serde(rename = "Key")]
    pub(crate) key: PathBuf,
}

/// Who carries requests out; the error's text is the client's answer.
pub(crate) type SetKey = Rc<dyn Fn(Request) -> LocalBoxFuture<'static, Result<(), String>>>;

// === The socket ===

/// The socket's file, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = remove_socket(&self.0);
    }
}

/// Makes the socket. The run directory is this engine's alone by now, so a socket that is there is a dead
/// engine's.
///
/// # Errors
/// `InvalidParameter` when it cannot be made.
pub(crate) fn bind(config: &EngineConfig, id: ControllerId) -> Result<(UnixListener, SocketFile), Error> {
    let path = config.run_dir.join(format!("{id}.sock"));
    let unusable = |error: io::Error| {
        let why = format!("cannot make the socket {}: {error}", path.display());
        Error::invalid("run_dir", config.run_dir.display(), why)
    };
    let listener = bind_at(&config.run_dir, &path).map_err(unusable)?;
    Ok((listener, SocketFile(path.clone())))
}

fn bind_at(run_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    remove_socket(path)?;
    let socket = UnixSocket::new_stream()?;
    // The file gets this mode when it is made: there is no moment at which others could connect.
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(0o600))?;
    // The name of a socket has at most 107 bytes, so its directory goes by a short one.
    let dir = File::open(run_dir)?;
    socket.bind(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), file_name(path)))?;
    socket.listen(BACKLOG)
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Removes a socket, if one is there; what else may be there is not ours.
fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(ErrorKind::AlreadyExists, "something else has this name; remove it")),
    }
}

// === The conversation ===

/// Attends to clients for ever: a number of them at once, each with a deadline.
pub(crate) async fn serve(listener: UnixListener, set_key: SetKey) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MOST => match accepted {
                Ok((client, _)) => drop(clients.spawn_local(attend(client, set_key.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the key socket");
                    sleep(PAUSE).await;
                }
            },
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a client of the key socket was not attended to");
                }
            }
        }
    }
}

async fn attend(mut client: UnixStream, set_key: SetKey) {
    let late = || Err(format!("no complete request came within {} s", PATIENCE.as_secs()));
    let outcome = match timeout(PATIENCE, read(&mut client)).await.unwrap_or_else(|_| late()) {
        Ok(request) => set_key(request).await,
        Err(why) => Err(why),
    };
    let text = match outcome {
        Ok(()) => SUCCESS.to_owned(),
        Err(why) => {
            tracing::warn!(why, "refused to set the key of a sandbox");
            abridged(why)
        }
    };
    // Who does not take its answer has gone.
    let _ = timeout(PATIENCE, answer(client, &text)).await;
}

/// Reads one request. A client need not end its side: what it has sent may be complete.
async fn read(client: &mut UnixStream) -> Result<Request, String> {
    let mut text = Vec::with_capacity(MAX_REQUEST + 1);
    loop {
        let room = (MAX_REQUEST + 1 - text.len()) as u64;
        let came = client.take(room).read_buf(&mut text).await.map_err(|error| error.to_string())?;
        if text.len() > MAX_REQUEST {
            return Err(format!("the request is larger than {MAX_REQUEST} bytes"));
        }
        match parse(&text) {
            Some(outcome) => return outcome,
            None if came > 0 => {}
            None if text.is_empty() => return Err("the request is empty".into()),
            None => return Err("the request ends too early".into()),
        }
    }
}

/// Reads what has come so far; `None` when more has to come.
fn parse(text: &[u8]) -> Option<Result<Request, String>> {
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Request>();
    let request = match objects.next()? {
        Ok(request) => request,
        Err(error) if error.is_eof() => return None,
        Err(error) => return Some(Err(format!("the request makes no sense: {error}"))),
    };
    if !text[objects.byte_offset()..].trim_ascii().is_empty() {
        return Some(Err("the request is more than one object".into()));
    }
    Some(Ok(request))
}

async fn answer(mut client: UnixStream, text: &str) -> io::Result<()> {
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await?;
    // To close a socket that holds something unread would cut the client off.
    copy(&mut client.take(EXCESS), &mut sink()).await.map(drop)
}

/// The beginning of a text that is too long for an answer.
fn abridged(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_ANSWER));
    text
}

// === The engine's part ===

/// Hands namespaces over to the sandboxes of an engine.
pub(crate) fn to_sandboxes(engine: Weak<Core>) -> SetKey {
    Rc::new(move |request| Box::pin(hand_over(engine.clone(), request)))
}

async fn hand_over(engine: Weak<Core>, Request { container, key }: Request) -> Result<(), String> {
    let core = engine.upgrade().ok_or_else(|| Error::from(Reason::ShuttingDown).to_string())?;
    let sandbox =
        Controller::new(core).sandbox_by_container(&container).map_err(|error| match error.kind() {
            Kind::NotFound => format!("no sandbox present for {container}"),
            _ => error.to_string(),
        })?;
    sandbox.set_key(SandboxKey::Path(key)).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
