//! One question to one upstream: a socket of its own, a number of its own, and everything that is not the answer passed
//! over.

use std::future::Future;
use std::io;
use std::net::{TcpStream as StdTcp, UdpSocket as StdUdp};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::{cell::RefCell, io::ErrorKind};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

use super::Common;
use super::race::Exchange;
use super::reply::{Judged, judge};
use super::upstream::{Known, Place};
use crate::query::{LARGEST_TCP, Transport};

/// A socket that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = io::Result<OwnedFd>> + Send>>;

/// Opens sockets in network namespaces; the threads that run tasks never leave theirs.
pub trait Dial: Send + Sync + 'static {
    /// Opens a socket that is neither bound nor connected, of IPv6 or IPv4, close-on-exec. What is returned is dropped
    /// when its answer is not wanted any more.
    fn open(&self, place: Place, transport: Transport, v6: bool) -> Opening;
}

/// Opens every socket in the namespace of the thread that asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here;

impl Dial for Here {
    fn open(&self, _: Place, transport: Transport, v6: bool) -> Opening {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let kind = match transport {
            Transport::Udp => Type::DGRAM,
            Transport::Tcp => Type::STREAM,
        };
        let socket = Socket::new(domain, kind, None).map(OwnedFd::from);
        Box::pin(std::future::ready(socket))
    }
}

/// Real sockets.
pub(super) struct Sockets<'a> {
    pub(super) dial: &'a dyn Dial,
    pub(super) common: &'a Arc<Common>,
}

impl Exchange for Sockets<'_> {
    async fn ask(&self, known: &Known, transport: Transport, query: &[u8]) -> io::Result<(Judged, Vec<u8>)> {
        let draw = self.common.draw();
        let id = u16::try_from(draw & 0xffff).unwrap_or_default();
        let mut asked = query.to_vec();
        asked.iter_mut().zip(id.to_be_bytes()).for_each(|(to, from)| *to = from);
        match transport {
            Transport::Udp => self.over_udp(known, id, &asked).await,
            Transport::Tcp => self.over_tcp(known, id, &asked).await,
        }
    }
}

thread_local! {
    /// Where datagrams are received: one for each thread, because each is looked at before anything waits.
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST_TCP]);
}

impl Sockets<'_> {
    async fn over_udp(&self, known: &Known, id: u16, query: &[u8]) -> io::Result<(Judged, Vec<u8>)> {
        let address = known.upstream.address;
        let socket = self.dial.open(known.upstream.place, Transport::Udp, address.is_ipv6()).await?;
        let socket = StdUdp::from(socket);
        socket.set_nonblocking(true)?;
        // From here on the kernel passes nothing that another address sends, and says when nobody is there.
        socket.connect(address)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.send(query).await?;
        loop {
            socket.readable().await?;
            let received: io::Result<_> = RECEIVED.with_borrow_mut(|buffer| {
                let length = socket.try_recv(buffer)?;
                let reply = &buffer[..length];
                Ok(match judge(reply, id, query) {
                    Judged::Foreign => None,
                    judged => Some((judged, reply.to_vec())),
                })
            });
            match received {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => known.mismatched.add(1),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn over_tcp(&self, known: &Known, id: u16, query: &[u8]) -> io::Result<(Judged, Vec<u8>)> {
        let address = known.upstream.address;
        let socket = self.dial.open(known.upstream.place, Transport::Tcp, address.is_ipv6()).await?;
        let socket = StdTcp::from(socket);
        socket.set_nonblocking(true)?;
        let mut stream = TcpSocket::from_std_stream(socket).connect(address).await?;
        stream.set_nodelay(true)?;
        let length = u16::try_from(query.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
        loop {
            let length = stream.read_u16().await?;
            let mut reply = vec![0; usize::from(length)];
            stream.read_exact(&mut reply).await?;
            match judge(&reply, id, query) {
                Judged::Foreign => known.mismatched.add(1),
                judged => return Ok((judged, reply)),
            }
        }
    }
}
