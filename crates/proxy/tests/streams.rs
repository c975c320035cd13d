//! Any two streams through the proxy, in any pieces, with small buffers on the way and ends at any time: what was
//! written is read, an end is an end, a reset is a reset.

mod common;

use std::net::TcpListener as StdListener;

use common::{LOCAL, backend, byte, bytes, eventually};
use netloom_proxy::{Options, Proxy};
use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Smaller ones make the kernel wait for timers.
const SMALL: usize = 16 * 1024;

/// What one side does.
#[derive(Clone, Debug)]
struct Side {
    /// Pieces that it writes, each after so many turns for the others.
    pieces: Vec<(usize, u8)>,
    /// How much it reads at most in one go, and how many turns it leaves out then.
    gulp: usize,
    lazy: u8,
    /// It ends its direction only after it has read the other's end.
    polite: bool,
    /// Kernel buffers towards it are small, so that what is written is taken in parts.
    small: bool,
}

fn side() -> impl Strategy<Value = Side> {
    let length = prop_oneof![3 => 1..200_usize, 2 => 200..20_000_usize, 1 => 60_000..400_000_usize];
    let pieces = prop::collection::vec((length, 0..4_u8), 0..12);
    (pieces, prop_oneof![256..1_000_usize, 1_000..300_000_usize], 0..3_u8, any::<bool>(), any::<bool>())
        .prop_map(|(pieces, gulp, lazy, polite, small)| Side { pieces, gulp, lazy, polite, small })
}

async fn turns(count: u8) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Plays a side: writes and reads at once, and returns how much it wrote. Every byte that is read is compared.
async fn play(stream: TcpStream, side: &Side, own: u64, other: u64, expected: u64) {
    if side.small {
        let socket = SockRef::from(&stream);
        socket.set_send_buffer_size(SMALL).expect("an option");
        socket.set_recv_buffer_size(SMALL).expect("an option");
    }
    let (mut reader, mut writer) = stream.into_split();
    let (tell, mut told) = tokio::sync::oneshot::channel::<()>();
    let write = async {
        let mut at = 0;
        for (length, pause) in &side.pieces {
            turns(*pause).await;
            writer.write_all(&bytes(own, at, *length)).await.expect("goes out");
            at += *length as u64;
        }
        if side.polite {
            (&mut told).await.expect("the reader says when");
        }
        writer.shutdown().await.expect("ends");
    };
    let read = async {
        let mut buffer = vec![0; side.gulp];
        let mut at = 0;
        loop {
            turns(side.lazy).await;
            let read = reader.read(&mut buffer).await.expect("comes in");
            if read == 0 {
                break;
            }
            for (offset, got) in buffer[..read].iter().enumerate() {
                assert_eq!(*got, byte(other, at + offset as u64), "the byte at {}", at + offset as u64);
            }
            at += read as u64;
        }
        assert_eq!(at, expected, "the other's length");
        // An impolite writer waits for nobody.
        let _ = tell.send(());
    };
    tokio::join!(write, read);
}

fn length(side: &Side) -> u64 {
    side.pieces.iter().map(|(length, _)| *length as u64).sum()
}

async fn run(client: Side, mut server: Side, splice: bool) {
    // Two that wait for each other's end would wait for ever, proxy or not.
    server.polite &= !client.polite;
    let backend = backend().await;
    let listener = StdListener::bind((LOCAL, 0)).expect("a port");
    if client.small {
        // Those that are accepted inherit it.
        SockRef::from(&listener).set_send_buffer_size(SMALL).expect("an option");
    }
    let options = Options { splice, ..Options::default() };
    let to = backend.local_addr().expect("bound");
    let proxy = Proxy::start(listener, to, options, &Handle::current()).expect("starts");
    let (near, far) = common::connected(&proxy, &backend).await;
    let (up, down) = (length(&client), length(&server));
    tokio::join!(play(near, &client, 1, 2, down), play(far, &server, 2, 1, up));
    let counts = eventually(&proxy, "closed", |counts| counts.open == 0).await;
    assert_eq!((counts.to_backend, counts.to_clients), (up, down));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_and_ends_are_ends(client in side(), server in side(), splice: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(client, server, splice));
    }
}
