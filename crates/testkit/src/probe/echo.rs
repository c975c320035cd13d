//! Echo requests over a raw socket.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::packet::{self, Echo};
use super::until;

/// The largest payload of an echo request, in bytes: what fits into an IPv4 packet without options.
pub const MAX_ECHO_PAYLOAD: usize = 65_535 - 20 - 8;

/// A raw socket for echo requests, in the namespace it was opened in. Needs `CAP_NET_RAW` there.
#[derive(Debug)]
pub struct EchoSocket {
    socket: Socket,
    target: IpAddr,
}

impl EchoSocket {
    /// Opens a socket for one target; to be called inside a namespace. Sends nothing.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets; `NetworkUnreachable` or `HostUnreachable` when
    /// the namespace has no route to the target.
    pub fn open(target: IpAddr) -> io::Result<Self> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        // A connected raw socket hears its target only, and reports when that cannot be reached.
        socket.connect(&SockAddr::from(SocketAddr::new(target, 0)))?;
        Ok(Self { socket, target })
    }

    /// Sends one echo request with a payload of so many bytes, and waits for the reply to it. Returns the
    /// round-trip time. Blocks.
    ///
    /// Other replies, such as late ones to earlier requests, are passed over.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; `InvalidData` when the payload came back changed; `InvalidInput` for a
    /// payload above [`MAX_ECHO_PAYLOAD`]; otherwise what the socket says, such as `HostUnreachable`.
    pub fn ping(&self, id: u16, sequence: u16, payload: usize, deadline: Instant) -> io::Result<Duration> {
        if payload > MAX_ECHO_PAYLOAD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the payload does not fit into a packet",
            ));
        }
        let sent = pattern(sequence, payload);
        let request = packet::request(self.target, Echo { id, sequence, payload: &sent });
        let begin = Instant::now();
        until(deadline, |left| {
            self.socket.set_write_timeout(Some(left))?;
            (&self.socket).write(&request)
        })?;
        let mut buffer = vec![0; request.len() + 128];
        loop {
            let length = until(deadline, |left| {
                self.socket.set_read_timeout(Some(left))?;
                (&self.socket).read(&mut buffer)
            })?;
            let elapsed = begin.elapsed();
            match packet::reply(self.target, &buffer[..length]) {
                Some(reply) if (reply.id, reply.sequence) == (id, sequence) => {
                    if reply.payload == sent {
                        return Ok(elapsed);
                    }
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the payload came back changed"));
                }
                _ => {}
            }
        }
    }
}

/// Bytes that differ from one request to the next.
fn pattern(sequence: u16, length: usize) -> Vec<u8> {
    sequence.to_be_bytes().into_iter().chain(0..=u8::MAX).cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_payload_has_its_length() {
        for length in [0, 1, 56, 1400, MAX_ECHO_PAYLOAD] {
            assert_eq!(pattern(3, length).len(), length);
        }
        assert_ne!(pattern(1, 8), pattern(2, 8));
    }

    /// The loopback answers where raw sockets are permitted; where they are not, the refusal says so.
    #[test]
    fn the_loopback_answers_or_the_socket_is_refused() {
        for target in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let deadline = Instant::now() + Duration::from_secs(10);
            match EchoSocket::open(target) {
                Ok(socket) => {
                    for (sequence, length) in [(1, 0), (2, 56), (3, 1400)] {
                        socket.ping(0x4e4c, sequence, length, deadline).expect("the loopback answers");
                    }
                    let past = Instant::now();
                    let error = socket.ping(0x4e4c, 4, 56, past).expect_err("the deadline has passed");
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    let error = socket.ping(0, 0, MAX_ECHO_PAYLOAD + 1, deadline).expect_err("too long");
                    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                }
                Err(error) => assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied
                            | io::ErrorKind::NetworkUnreachable
                            | io::ErrorKind::AddrNotAvailable
                    ) || error.raw_os_error() == Some(97),
                    "{target}: {error}"
                ),
            }
        }
    }
}
