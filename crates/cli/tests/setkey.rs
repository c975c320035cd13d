//! The hook, with an engine played by the test.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::{NETLOOM, text};

const CONTROLLER: &str = "7777777777777777777777777777777777777777777777777777777777777777";
const STATE: &str = r#"{"ociVersion":"1.0.2","id":"c1","status":"creating","pid":4711,"bundle":"/b"}"#;

/// The hook, about to run.
fn hook(run_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(NETLOOM);
    command.arg("setkey").args(arguments).arg("--run-dir").arg(run_dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it with this on its standard input.
fn run(mut hook: Command, state: &str) -> Output {
    let mut child = hook.spawn().expect("it starts");
    // A hook that has seen enough ends early.
    let _ = child.stdin.take().expect("a pipe").write_all(state.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn assert_refused(output: &Output, why: &str) {
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("error: ") && told.contains(why), "{told:?} does not say {why:?}");
    assert!(output.stdout.is_empty() && !told.contains("panicked"), "{output:?}");
}

/// Runs the hook before an engine that does this with its client, and returns what the engine was sent.
fn before(engine: impl FnOnce(&mut UnixStream) + Send + 'static, check: impl FnOnce(Output)) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = UnixListener::bind(dir.path().join(format!("{CONTROLLER}.sock"))).expect("bound");
    let engine = thread::spawn(move || {
        let (mut client, _) = socket.accept().expect("the hook comes");
        let mut request = vec![0; 4096];
        let length = client.read(&mut request).expect("it asks");
        engine(&mut client);
        String::from_utf8(request[..length].to_vec()).expect("text")
    });
    check(run(hook(dir.path(), &["c1", CONTROLLER]), STATE));
    engine.join().expect("it plays on")
}

#[test]
fn the_engine_is_told_the_namespace_of_the_containers_process() {
    let asked = before(
        |client| client.write_all(b"success").expect("taken"),
        |output| assert!(output.status.success() && output.stderr.is_empty(), "{output:?}"),
    );
    let asked: serde_json::Value = serde_json::from_str(&asked).expect("one object");
    assert_eq!(asked, serde_json::json!({ "ContainerID": "c1", "Key": "/proc/4711/ns/net" }));
}

#[test]
fn whatever_else_an_engine_answers_is_told_and_fails() {
    for answer in ["no sandbox present for c1", "success!", "unsuccessful", "x y\nz"] {
        before(
            move |client| client.write_all(answer.as_bytes()).expect("taken"),
            |output| assert_refused(&output, answer),
        );
    }
    before(|_| (), |output| assert_refused(&output, "the engine ended before it answered"));
    before(
        |client| client.write_all(&[0xff, 0xfe, b'x']).expect("taken"),
        |output| assert_refused(&output, "x"),
    );
    // No more than is agreed upon is read.
    before(
        |client| {
            let _ = client.write_all("y".repeat(1 << 20).as_bytes());
        },
        |output| {
            assert_refused(&output, "yyy");
            assert_eq!(text(&output.stderr).matches('y').count(), 1024);
        },
    );
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_refused(&run(hook(dir.path(), &["c1", CONTROLLER]), STATE), CONTROLLER);
    let nowhere = dir.path().join("nowhere");
    assert_refused(&run(hook(&nowhere, &["c1", CONTROLLER]), STATE), "nowhere");
    // A dead engine's socket.
    drop(UnixListener::bind(dir.path().join(format!("{CONTROLLER}.sock"))).expect("bound"));
    assert_refused(&run(hook(dir.path(), &["c1", CONTROLLER]), STATE), "Connection refused");
    assert_refused(&run(hook(dir.path(), &["c1", &"7".repeat(200)]), STATE), "no engine 777");
}

#[test]
fn a_state_that_makes_no_sense_is_refused_before_anybody_is_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let ask = |state: &str| run(hook(dir.path(), &["c1", CONTROLLER]), state);
    assert_refused(&ask(""), "there is no container state on standard input");
    assert_refused(&ask("{}"), "names no process (pid 0)");
    assert_refused(&ask(r#"{"pid": 0}"#), "names no process (pid 0)");
    assert_refused(&ask("pid 7"), "standard input is no container state");
    assert_refused(&ask(&"{".repeat(5 << 20)), "is larger than");
    assert_refused(&run(hook(dir.path(), &[&"c".repeat(1280), CONTROLLER]), STATE), "name is too long");
    let mut without = hook(dir.path(), &["c1", CONTROLLER]);
    without.stdin(Stdio::null());
    assert_refused(&without.output().expect("it runs"), "there is no container state on standard input");
    let wrong = hook(dir.path(), &["c1"]).output().expect("it runs");
    assert_eq!(wrong.status.code(), Some(2), "an argument is missing: {wrong:?}");
}

#[test]
fn nobody_waits_longer_than_is_allowed() {
    let dir = tempfile::tempdir().expect("a directory");
    let _silent = UnixListener::bind(dir.path().join(format!("{CONTROLLER}.sock"))).expect("bound");
    let soon = ["c1", CONTROLLER, "--timeout", "1"];
    assert_refused(&run(hook(dir.path(), &soon), STATE), "no answer within 1 s");
    // Whoever starts it may never end the state.
    let mut child = hook(dir.path(), &soon).spawn().expect("it starts");
    let mut open = child.stdin.take().expect("a pipe");
    open.write_all(b"{").expect("there is room");
    assert_refused(&child.wait_with_output().expect("it ends"), "no answer within 1 s");
    drop(open);
}
