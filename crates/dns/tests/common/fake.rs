//! Upstreams of every manner, on real sockets.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::base::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What an upstream does with a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// It answers, cut to the client's size over UDP.
    Honest,
    /// It takes questions and says nothing.
    Dead,
    /// It answers when [`Fake::release`] is called.
    Held,
    /// It answers with a code and nothing else.
    Code(u8),
    /// It answers with a code, without the question.
    Short(u8),
    /// First come answers with other numbers.
    WrongId,
    /// First come answers to another question.
    WrongQuestion,
    /// First come bytes that are no message.
    Garbage,
    /// First comes the right answer, but from another port.
    WrongSource,
    /// Over UDP every answer is cut to nothing.
    Cuts,
    /// It sends everything over UDP, however small the client is.
    Oversized,
    /// Nobody listens on the UDP port.
    TcpOnly,
    /// The UDP port takes questions and says nothing; TCP answers.
    TcpAnswers,
    /// Nobody listens on the TCP port.
    UdpOnly,
}

/// An upstream. It ends when it is dropped.
pub(crate) struct Fake {
    pub(crate) at: SocketAddr,
    state: Arc<State>,
    tasks: JoinSet<()>,
}

struct State {
    manner: Mutex<Manner>,
    seen: AtomicUsize,
    /// Who asked from where, with which number.
    clients: Mutex<Vec<(u16, u16)>>,
    held: Semaphore,
    number: u8,
}

impl Fake {
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::numbered(manner, 1).await
    }

    /// An upstream whose addresses end in this number.
    pub(crate) async fn numbered(manner: Manner, number: u8) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("bound")).await {
                break (tcp, udp);
            }
        };
        let at = tcp.local_addr().expect("bound");
        let state = Arc::new(State {
            manner: Mutex::new(manner),
            seen: AtomicUsize::new(0),
            clients: Mutex::default(),
            held: Semaphore::new(0),
            number,
        });
        let mut tasks = JoinSet::new();
        if manner != Manner::TcpOnly {
            tasks.spawn(over_udp(udp, Arc::clone(&state)));
        }
        if manner != Manner::UdpOnly {
            tasks.spawn(over_tcp(tcp, Arc::clone(&state)));
        }
        Self { at, state, tasks }
    }

    pub(crate) fn set(&self, manner: Manner) {
        *self.state.manner.lock().expect("sound") = manner;
    }

    /// How many questions came.
    pub(crate) fn seen(&self) -> usize {
        self.state.seen.load(Ordering::SeqCst)
    }

    /// Ports and numbers of the questions.
    pub(crate) fn clients(&self) -> Vec<(u16, u16)> {
        self.state.clients.lock().expect("sound").clone()
    }

    /// Lets this many held answers go.
    pub(crate) fn release(&self, count: usize) {
        self.state.held.add_permits(count);
    }

    pub(crate) async fn sees(&self, count: usize) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while self.seen() < count {
            assert!(std::time::Instant::now() < until, "{} of {count} questions came", self.seen());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl State {
    fn note(&self, client: SocketAddr, query: &[u8]) -> Manner {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let id = u16::from_be_bytes([query[0], query[1]]);
        self.clients.lock().expect("sound").push((client.port(), id));
        *self.manner.lock().expect("sound")
    }
}

async fn over_udp(socket: UdpSocket, state: Arc<State>) {
    let socket = Arc::new(socket);
    let other = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut buffer = vec![0; 65_535];
    let mut tasks = JoinSet::new();
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let query = buffer[..length].to_vec();
        let manner = state.note(client, &query);
        let whole = answer(&query, state.number);
        let limit = Message::from_slice(&query)
            .expect("a message")
            .opt()
            .map_or(512, |opt| usize::from(opt.udp_payload_size()).max(512));
        let fitting = if whole.len() > limit { cut(&query) } else { whole.clone() };
        let mut send = Vec::new();
        match manner {
            Manner::Dead | Manner::TcpAnswers => continue,
            Manner::Held => {
                let (state, socket) = (Arc::clone(&state), Arc::clone(&socket));
                tasks.spawn(async move {
                    state.held.acquire().await.expect("open").forget();
                    let _ = socket.send_to(&fitting, client).await;
                });
                continue;
            }
            Manner::Code(code) => send.push(coded(&query, code)),
            Manner::Short(code) => {
                let mut reply = coded(&query, code)[..12].to_vec();
                reply[4..12].fill(0);
                send.push(reply);
            }
            Manner::WrongId => {
                for wrong in 1..=20 {
                    let mut reply = fitting.clone();
                    reply[1] ^= wrong;
                    send.push(reply);
                }
                send.push(fitting);
            }
            Manner::WrongQuestion => {
                let mut reply = fitting.clone();
                reply[13] ^= 1;
                send.extend([reply.clone(), reply, fitting]);
            }
            Manner::Garbage => {
                send.extend([Vec::new(), vec![0xff], query.clone(), vec![0; 4000], fitting]);
            }
            Manner::WrongSource => {
                let mut lie = fitting.clone();
                let last = lie.len() - 1;
                lie[last] ^= 0xff;
                other.send_to(&lie, client).await.expect("sent");
                send.push(fitting);
            }
            Manner::Cuts => send.push(cut(&query)),
            Manner::Oversized => send.push(whole),
            Manner::Honest | Manner::UdpOnly | Manner::TcpOnly => send.push(fitting),
        }
        for reply in send {
            let _ = socket.send_to(&reply, client).await;
        }
    }
}

async fn over_tcp(listener: TcpListener, state: Arc<State>) {
    let mut tasks = JoinSet::new();
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        tasks.spawn(one_stream(stream, client, Arc::clone(&state)));
    }
}

async fn one_stream(mut stream: TcpStream, client: SocketAddr, state: Arc<State>) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; usize::from(length)];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let mut send = vec![answer(&query, state.number)];
        match state.note(client, &query) {
            Manner::Dead => std::future::pending().await,
            Manner::Held => state.held.acquire().await.expect("open").forget(),
            Manner::Code(code) | Manner::Short(code) => send = vec![coded(&query, code)],
            Manner::WrongId => {
                let mut reply = send[0].clone();
                reply[1] ^= 1;
                send.insert(0, reply);
            }
            _ => {}
        }
        for reply in send {
            let length = u16::try_from(reply.len()).expect("short");
            if stream.write_all(&[&length.to_be_bytes(), &reply[..]].concat()).await.is_err() {
                return;
            }
        }
    }
}

/// Where the question ends.
fn question_end(query: &[u8]) -> usize {
    let name = query[12..].iter().position(|byte| *byte == 0).expect("no such bytes in names");
    12 + name + 1 + 4
}

/// The answer to a question: for TXT so many bytes as the name begins with, for others an address. With the OPT record
/// of the question, and flags that a recursive server has.
pub(crate) fn answer(query: &[u8], number: u8) -> Vec<u8> {
    let end = question_end(query);
    let rtype = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let label = std::str::from_utf8(&query[13..13 + usize::from(query[12])]).expect("text");
    let size: usize = label.parse().unwrap_or(0);
    let mut reply = query[..end].to_vec();
    reply[2] |= 0x80;
    reply[3] |= 0xa0;
    let mut count = 0_u16;
    let mut record = |rtype: u16, data: &[u8]| {
        reply.extend([0xc0, 12]);
        reply.extend(rtype.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 30]);
        reply.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        reply.extend(data);
        count += 1;
    };
    if rtype == 16 {
        let mut left = size;
        let mut mark = 0_u8;
        while left > 0 {
            let part = left.min(200);
            let mut data = vec![u8::try_from(part).expect("small")];
            mark = mark.wrapping_add(1);
            data.resize(part + 1, mark);
            record(16, &data);
            left -= part;
        }
    } else {
        record(1, &[192, 0, 2, number]);
    }
    let rest = &query[end..];
    reply.extend(rest);
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    reply
}

/// A reply with the word to come again.
fn cut(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x82;
    reply[3] |= 0x80;
    reply
}

fn coded(query: &[u8], code: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] = 0x80 | code;
    reply
}
