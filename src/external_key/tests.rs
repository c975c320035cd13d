//! Clients of every kind, and the file that they find.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::symlink;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::*;

const REQUEST: &str = r#"{"ContainerID": "c1", "Key": "/proc/4711/ns/net"}"#;

/// A run directory with a socket.
struct Place {
    config: EngineConfig,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = EngineConfig { run_dir: dir.path().into(), ..EngineConfig::default() };
        Self { config, dir }
    }

    fn id() -> ControllerId {
        "7".repeat(64).parse().expect("an id")
    }

    fn path(&self) -> PathBuf {
        self.config.run_dir.join(format!("{}.sock", Self::id()))
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.expect("somebody listens")
    }

    /// Sends this and returns the answer.
    async fn ask(&self, request: &[u8]) -> String {
        let mut client = self.connect().await;
        client.write_all(request).await.expect("it is read");
        rest(client).await
    }
}

async fn rest(mut client: impl AsyncRead + Unpin) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.expect("an answer and then the end, not a reset");
    text
}

/// Runs a test beside a listener.
async fn serving(set_key: SetKey, test: impl AsyncFnOnce(&Place)) {
    let place = Place::new();
    let (listener, _socket) = bind(&place.config, Place::id()).expect("bound");
    let local = LocalSet::new();
    local.spawn_local(serve(listener, set_key));
    local.run_until(test(&place)).await;
}

/// Answers each request with this, and keeps them.
fn answering(answer: Result<(), String>) -> (SetKey, Rc<RefCell<Vec<Request>>>) {
    let requests = Rc::<RefCell<Vec<_>>>::default();
    let kept = requests.clone();
    let set_key = Rc::new(move |request| {
        kept.borrow_mut().push(request);
        let answer = answer.clone();
        Box::pin(std::future::ready(answer)) as LocalBoxFuture<'static, _>
    });
    (set_key, requests)
}

#[tokio::test]
async fn a_request_is_handed_on_and_answered() {
    let (set_key, requests) = answering(Ok(()));
    serving(set_key, async |place| {
        // Clients keep their side open, and may end it.
        assert_eq!(place.ask(REQUEST.as_bytes()).await, "success");
        let mut client = place.connect().await;
        for piece in REQUEST.as_bytes().chunks(7) {
            client.write_all(piece).await.expect("it is read");
            tokio::task::yield_now().await;
        }
        client.shutdown().await.expect("still open");
        assert_eq!(rest(client).await, "success");
        // What is not known is somebody else's, and the end of a line is no second object.
        let more = r#"{"Key": "/x", "Extra": {"a": [1]}, "ContainerID": "c2"}"#.to_owned() + " \r\n";
        assert_eq!(place.ask(more.as_bytes()).await, "success");
        let padded = format!("{REQUEST:<MAX_REQUEST$}");
        assert_eq!(place.ask(padded.as_bytes()).await, "success");
    })
    .await;
    let first = Request { container: "c1".into(), key: "/proc/4711/ns/net".into() };
    let other = Request { container: "c2".into(), key: "/x".into() };
    assert_eq!(*requests.borrow(), [first.clone(), first.clone(), other, first]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let (set_key, requests) = answering(Ok(()));
    serving(set_key, async |place| {
        for (request, why) in [
            (&b"success"[..], "makes no sense"),
            (b"[]", "makes no sense"),
            (b"17 ", "makes no sense"),
            (b"{}", "missing field `ContainerID`"),
            (br#"{"ContainerID": "c1"}"#, "missing field `Key`"),
            (br#"{"ContainerID": 7, "Key": "/x"}"#, "expected a string"),
            (br#"{"ContainerID": "c1", "Key": null}"#, "expected path string"),
            (b"{\"ContainerID\": \"\xff\xfe\", \"Key\": \"/x\"}", "makes no sense"),
            (br#"{"ContainerID": "c1", "ContainerID": "c2", "Key": "/x"}"#, "duplicate field"),
            (
                br#"{"ContainerID": "c1", "Key": "/x"}{"ContainerID": "c2", "Key": "/x"}"#,
                "more than one object",
            ),
            ("[".repeat(1000).as_bytes(), "makes no sense"),
            (" ".repeat(MAX_REQUEST + 1).as_bytes(), "larger than 1280 bytes"),
            (format!("{REQUEST:<0$}", MAX_REQUEST + 1).as_bytes(), "larger than 1280 bytes"),
            ("{\"".repeat(100_000).as_bytes(), "larger than 1280 bytes"),
            (format!("{{\"Key\": \"{}", "/".repeat(500_000)).as_bytes(), "larger than 1280 bytes"),
        ] {
            let answer = place.ask(request).await;
            let begins = String::from_utf8_lossy(&request[..request.len().min(60)]);
            assert!(answer.contains(why), "{begins}: {answer:?}");
        }
        for (request, why) in
            [("", "is empty"), (" \n", "ends too early"), (&REQUEST[..30], "ends too early")]
        {
            let mut client = place.connect().await;
            client.write_all(request.as_bytes()).await.expect("it is read");
            client.shutdown().await.expect("still open");
            assert_eq!(rest(client).await, format!("the request {why}"));
        }
        // Who does not wait for the answer harms nobody.
        for sent in [&REQUEST[..0], &REQUEST[..9]] {
            place.connect().await.write_all(sent.as_bytes()).await.expect("it is read");
        }
        assert!(requests.borrow().is_empty());
        assert_eq!(place.ask(REQUEST.as_bytes()).await, "success");
    })
    .await;
}

#[tokio::test]
async fn an_error_is_told_in_at_most_1024_bytes() {
    for (text, told) in [
        ("no sandbox present for c1".to_owned(), "no sandbox present for c1".to_owned()),
        ("x".repeat(MAX_ANSWER), "x".repeat(MAX_ANSWER)),
        ("x".repeat(MAX_ANSWER + 1), "x".repeat(MAX_ANSWER)),
        // A letter of two bytes is not cut in half.
        ("x".to_owned() + &"ü".repeat(MAX_ANSWER), "x".to_owned() + &"ü".repeat(MAX_ANSWER / 2 - 1)),
    ] {
        let (set_key, _) = answering(Err(text));
        serving(set_key, async |place| assert_eq!(place.ask(REQUEST.as_bytes()).await, told)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_given_up() {
    let (set_key, requests) = answering(Ok(()));
    serving(set_key, async |place| {
        let silent = place.connect().await;
        let (dripped, mut dripping) = place.connect().await.into_split();
        let drip = async {
            for byte in REQUEST.as_bytes() {
                // In the end nobody reads any more.
                if dripping.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        let began = tokio::time::Instant::now();
        let (first, second, ()) = tokio::join!(rest(silent), rest(dripped), drip);
        for answer in [first, second] {
            assert_eq!(answer, "no complete request came within 5 s");
        }
        assert!(requests.borrow().is_empty());
        // One that does not take its answer is given up as well, and holds nobody's place for ever.
        let mut idle: Vec<UnixStream> = Vec::new();
        for _ in 0..MOST {
            let mut client = place.connect().await;
            client.write_all(REQUEST.as_bytes()).await.expect("there is room");
            idle.push(client);
        }
        assert_eq!(place.ask(REQUEST.as_bytes()).await, "success");
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test]
async fn many_at_once_are_attended_to_a_number_at_a_time() {
    const CLIENTS: usize = 3 * MOST;
    let gate = Arc::new(Semaphore::new(0));
    let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let held = (gate.clone(), now.clone(), most.clone());
    let set_key: SetKey = Rc::new(move |_| {
        let (gate, now, most) = held.clone();
        Box::pin(async move {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            gate.acquire().await.expect("open").forget();
            now.set(now.get() - 1);
            Ok(())
        })
    });
    serving(set_key, async |place| {
        let asking = (0..CLIENTS).map(|_| place.ask(REQUEST.as_bytes()));
        let opening = async {
            while now.get() < MOST {
                tokio::task::yield_now().await;
            }
            gate.add_permits(CLIENTS);
        };
        let (answers, ()) = tokio::join!(futures::future::join_all(asking), opening);
        assert!(answers.iter().all(|answer| answer == "success"));
    })
    .await;
    assert_eq!((most.get(), now.get()), (MOST, 0));
}

#[tokio::test]
async fn one_that_panics_takes_nobody_along() {
    let set_key: SetKey = Rc::new(|request: Request| {
        assert_ne!(request.container, "c1", "on purpose");
        Box::pin(std::future::ready(Ok(())))
    });
    serving(set_key, async |place| {
        assert_eq!(place.ask(REQUEST.as_bytes()).await, "");
        assert_eq!(place.ask(REQUEST.replace("c1", "c2").as_bytes()).await, "success");
    })
    .await;
}

#[tokio::test]
async fn the_socket_is_its_owners_and_goes_with_the_engine() {
    let place = Place::new();
    let path = place.path();
    let bound = bind(&place.config, Place::id()).expect("bound");
    let found = fs::symlink_metadata(&path).expect("there");
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    drop(bound);
    assert!(fs::symlink_metadata(&path).is_err(), "removed");
    // A killed engine leaves one behind.
    let (dead, _left) = bind(&place.config, Place::id()).expect("bound");
    drop(dead);
    assert!(UnixStream::connect(&path).await.is_err(), "nobody listens");
    let (_listener, file) = bind(&place.config, Place::id()).expect("bound over what a dead one left");
    UnixStream::connect(&path).await.expect("somebody listens");
    // What somebody else has put there since is not the engine's to remove.
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "precious").expect("written");
    drop(file);
    assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
}

#[tokio::test]
async fn what_is_no_socket_is_not_removed() {
    let place = Place::new();
    let path = place.path();
    let refused = || {
        let error = bind(&place.config, Place::id()).expect_err("not ours");
        assert_eq!(error.kind(), Kind::InvalidParameter, "{error:?}");
        assert!(error.to_string().contains("something else has this name"), "{error}");
    };
    fs::write(&path, "precious").expect("written");
    refused();
    assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    refused();
    fs::remove_dir(&path).expect("removed");
    symlink("/nowhere", &path).expect("linked");
    refused();
}

#[tokio::test]
async fn a_run_directory_may_have_a_long_name() {
    let mut place = Place::new();
    place.config.run_dir = place.dir.path().join("d".repeat(200));
    fs::create_dir(&place.config.run_dir).expect("made");
    let (_listener, _file) = bind(&place.config, Place::id()).expect("bound");
    assert!(place.path().exists());
    UnixStream::connect(place.path()).await.expect_err("too long for an ordinary client");
    let dir = File::open(&place.config.run_dir).expect("there");
    let short = format!("/proc/self/fd/{}/{}.sock", dir.as_raw_fd(), Place::id());
    UnixStream::connect(short).await.expect("somebody listens");
}
