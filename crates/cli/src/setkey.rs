//! `netloom setkey`: a container runtime's hook. It tells an engine the network namespace of a container that the
//! runtime has just made, and fails when the engine does not take it, so that the container does not start.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, stdin};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// The largest state in bytes. The annotations of a container are in it.
const MAX_STATE: u64 = 4 << 20;
/// The largest request that an engine takes, in bytes.
const MAX_REQUEST: usize = 1280;
/// The longest answer of an engine, in bytes.
const MAX_ANSWER: u64 = 1024;
/// What an engine answers when it took the namespace.
const SUCCESS: &str = "success";
/// How soon an engine that has too many clients is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Options of the hook.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The container whose sandbox gets the namespace.
    container: String,
    /// The engine's identifier: the file engine-id in its run directory has it.
    controller: String,
    /// The engine's run directory.
    #[arg(long, default_value = "/run/netloom")]
    run_dir: PathBuf,
    /// How many seconds all of it may take.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

/// What a runtime tells a hook on standard input: the state of the OCI runtime specification, or libcontainer's
/// older one. Only the process matters here.
#[derive(Debug, Deserialize)]
struct State {
    #[serde(default)]
    pid: i64,
}

/// Hands the namespace over; an error is what the engine refused it with.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(options.timeout);
    let outcome = runtime.block_on(async { timeout(limit, hand_over(options)).await });
    // Whoever should have written the state may never end it: nobody waits for that.
    runtime.shutdown_background();
    outcome.with_context(|| format!("no answer within {} s", options.timeout))?.map(|()| true)
}

async fn hand_over(options: &Options) -> anyhow::Result<()> {
    let mut state = Vec::new();
    stdin().take(MAX_STATE + 1).read_to_end(&mut state).await.context("cannot read standard input")?;
    let key = key(&state)?;
    let request = json!({ "ContainerID": options.container, "Key": key }).to_string();
    ensure!(request.len() <= MAX_REQUEST, "the container's name is too long");
    let answer = ask(&options.run_dir, &options.controller, &request).await.with_context(|| {
        format!("no engine {} answers in {}", options.controller, options.run_dir.display())
    })?;
    match answer.as_str() {
        SUCCESS => Ok(()),
        "" => bail!("the engine ended before it answered"),
        refused => bail!("{refused}"),
    }
}

/// The namespace of the process that a state is about.
fn key(state: &[u8]) -> anyhow::Result<String> {
    ensure!(!state.trim_ascii().is_empty(), "there is no container state on standard input");
    ensure!(state.len() as u64 <= MAX_STATE, "the container state is larger than {MAX_STATE} bytes");
    let State { pid } = serde_json::from_slice(state).context("standard input is no container state")?;
    ensure!(pid > 0, "the container state names no process (pid {pid}): the hook must run after it is made");
    Ok(format!("/proc/{pid}/ns/net"))
}

/// Sends an engine a request and returns its answer.
async fn ask(run_dir: &Path, controller: &str, request: &str) -> io::Result<String> {
    // The name of a socket has at most 107 bytes, so its directory goes by a short one.
    let dir = File::open(run_dir)?;
    let path = format!("/proc/self/fd/{}/{controller}.sock", dir.as_raw_fd());
    let mut engine = loop {
        match UnixStream::connect(&path).await {
            // Too many others wait for it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(AGAIN).await,
            connected => break connected?,
        }
    };
    // An engine that takes no more of it says why.
    let sent = engine.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    engine.take(MAX_ANSWER).read_to_end(&mut answer).await.or_else(|error| sent.and(Err(error)))?;
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn the_process_of_a_state_is_found() {
        for state in [
            // The OCI runtime specification's.
            r#"{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":4711,"bundle":"/b","annotations":{"pid":"1"}}"#,
            // libcontainer's, from before there was one.
            r#"{"version":"0.5.0-dev","id":"c1","pid":4711,"root":"/b/rootfs"}"#,
            " {\"pid\": 4711}\n",
        ] {
            assert_eq!(key(state.as_bytes()).expect(state), "/proc/4711/ns/net");
        }
    }

    #[test]
    fn a_state_without_a_process_is_refused() {
        for (state, why) in [
            ("", "no container state on standard input"),
            (" \n", "no container state on standard input"),
            ("{", "standard input is no container state"),
            ("null", "standard input is no container state"),
            ("{\"pid\": 1}{\"pid\": 2}", "standard input is no container state"),
            ("{\"pid\": \"4711\"}", "standard input is no container state"),
            ("{\"pid\": 1.5}", "standard input is no container state"),
            ("{\"pid\": 99999999999999999999}", "standard input is no container state"),
            ("{}", "names no process (pid 0)"),
            ("{\"pid\": 0}", "names no process (pid 0)"),
            ("{\"pid\": -1}", "names no process (pid -1)"),
            ("{\"id\": \"c1\", \"status\": \"stopped\"}", "names no process (pid 0)"),
        ] {
            let error = key(state.as_bytes()).expect_err(state);
            assert!(error.to_string().contains(why), "{state:?}: {error}");
        }
        let large = format!("{{\"pid\": 1, \"annotations\": \"{}\"}}", "x".repeat(4 << 20));
        assert!(key(large.as_bytes()).expect_err("large").to_string().contains("is larger than"));
    }
}
