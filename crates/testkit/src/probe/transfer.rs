//! Bulk transfers over TCP, verified byte by byte.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::until;
use crate::sim::next_random;

/// How many bytes travel in one write. A multiple of eight: the pattern is made of 64-bit words.
const CHUNK: usize = 64 * 1024;

/// A listening socket, in the namespace it was opened in.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address; port 0 lets the kernel choose one. To be called inside a namespace.
    ///
    /// # Errors
    /// `AddrInUse`, or `AddrNotAvailable` when the namespace does not have the address.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = stream_socket(address.ip())?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(16)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self { socket, address })
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self, deadline: Instant) -> io::Result<Socket> {
        until(deadline, |left| {
            // On Linux the receive timeout bounds accept too.
            self.socket.set_read_timeout(Some(left))?;
            self.socket.accept().map(|(socket, _)| socket)
        })
    }
}

/// A socket that has not connected yet, in the namespace it was opened in.
#[derive(Debug)]
pub struct Connector(Socket);

impl Connector {
    /// Makes a socket for a peer of this address's family; to be called inside a namespace. Sends nothing.
    ///
    /// # Errors
    /// When the system has no socket to give.
    pub fn open(peer: IpAddr) -> io::Result<Self> {
        stream_socket(peer).map(Self)
    }

    fn connect(self, target: SocketAddr, deadline: Instant) -> io::Result<Socket> {
        self.0.connect_timeout(&SockAddr::from(target), super::remaining(deadline)?)?;
        Ok(self.0)
    }
}

/// A transfer that arrived whole and unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// How many bytes arrived.
    pub bytes: u64,
    /// The checksum of what arrived.
    pub checksum: u64,
    /// From the start of connecting to the receiver's confirmation.
    pub elapsed: Duration,
}

/// Connects, sends so many bytes of a pattern that follows from the seed, and verifies on the other side that
/// they arrived. `target` is the listener's address as the connector sees it: behind a published port it
/// differs from [`Listener::address`]. Blocks; the receiving side runs on a thread that ends with the call.
/// The listener serves one transfer after another, until one fails to get through: that one closes it.
///
/// # Errors
/// `TimedOut` at the deadline, `ConnectionRefused` and the like when there is no way, `InvalidData` when
/// something else arrived than was sent.
pub fn transfer(
    listener: &Listener,
    connector: Connector,
    target: SocketAddr,
    bytes: u64,
    seed: u64,
    deadline: Instant,
) -> io::Result<Transfer> {
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let socket = listener.accept(deadline)?;
            let received = receive(&socket, deadline)?;
            // The sender learns from the receiver itself what arrived.
            write_all(&socket, &encode(received), deadline)?;
            io::Result::Ok(received)
        });
        let begin = Instant::now();
        let confirmed = connector.connect(target, deadline).and_then(|socket| {
            let sent = send(&socket, bytes, seed, deadline)?;
            let mut answer = [0; 16];
            read_exact(&socket, &mut answer, deadline)?;
            Ok((sent, decode(answer)))
        });
        let elapsed = begin.elapsed();
        if confirmed.is_err() {
            // Nobody will come any more: wake the receiver instead of letting it wait for the deadline.
            let _ = listener.socket.shutdown(Shutdown::Both);
        }
        let received = receiver.join().map_err(|_| io::Error::other("the receiving side panicked"))?;
        let (sent, confirmed) = confirmed?;
        let received = received?;
        if sent != received || sent != confirmed {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("sent {} bytes, and {} other ones arrived", sent.0, received.0),
            ));
        }
        let (bytes, checksum) = received;
        Ok(Transfer { bytes, checksum, elapsed })
    })
}

/// How many bytes, and their checksum.
type Summary = (u64, u64);

fn send(socket: &Socket, bytes: u64, seed: u64, deadline: Instant) -> io::Result<Summary> {
    let mut state = seed;
    let mut sum = Checksum::default();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let (words, _) = chunk.as_chunks_mut::<8>();
        for word in words {
            *word = next_random(&mut state).to_le_bytes();
        }
        let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        write_all(socket, &chunk[..now], deadline)?;
        sum.add(&chunk[..now]);
        left -= now as u64;
    }
    socket.shutdown(Shutdown::Write)?;
    Ok(sum.finish())
}

fn receive(socket: &Socket, deadline: Instant) -> io::Result<Summary> {
    let mut sum = Checksum::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = read(socket, &mut chunk, deadline)?;
        if length == 0 {
            return Ok(sum.finish());
        }
        sum.add(&chunk[..length]);
    }
}

fn read(mut socket: &Socket, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
    until(deadline, |left| {
        socket.set_read_timeout(Some(left))?;
        socket.read(buffer)
    })
}

fn read_exact(socket: &Socket, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let length = read(socket, buffer, deadline)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[length..];
    }
    Ok(())
}

fn write_all(mut socket: &Socket, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = until(deadline, |left| {
            socket.set_write_timeout(Some(left))?;
            socket.write(bytes)
        })?;
        if length == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

fn stream_socket(peer: IpAddr) -> io::Result<Socket> {
    let domain = if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
}

fn encode((bytes, checksum): Summary) -> [u8; 16] {
    (u128::from(bytes) << 64 | u128::from(checksum)).to_be_bytes()
}

fn decode(answer: [u8; 16]) -> Summary {
    let both = u128::from_be_bytes(answer);
    let low = both & u128::from(u64::MAX);
    // Both halves have 64 bits.
    (u64::try_from(both >> 64).unwrap_or(u64::MAX), u64::try_from(low).unwrap_or(u64::MAX))
}

/// FNV-1a over 64-bit words, the same however the bytes are cut into chunks.
#[derive(Debug)]
struct Checksum {
    hash: u64,
    bytes: u64,
    word: [u8; 8],
    filled: usize,
}

impl Default for Checksum {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, bytes: 0, word: [0; 8], filled: 0 }
    }
}

impl Checksum {
    fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.filled > 0 {
            let take = bytes.len().min(8 - self.filled);
            self.word[self.filled..self.filled + take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if self.filled < 8 {
                return;
            }
            self.mix(self.word);
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(*word);
        }
        self.word = [0; 8];
        self.word[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    fn mix(&mut self, word: [u8; 8]) {
        self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
    }

    fn finish(mut self) -> Summary {
        if self.filled > 0 {
            self.mix(self.word);
        }
        (self.bytes, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_checksum_does_not_depend_on_the_chunks() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1003).collect();
        let whole = |parts: &[&[u8]]| {
            let mut sum = Checksum::default();
            parts.iter().for_each(|part| sum.add(part));
            sum.finish()
        };
        let expected = whole(&[&bytes]);
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(whole(&[a, b]), expected, "cut at {cut}");
            assert_eq!(whole(&[&a[..cut / 2], &a[cut / 2..], b]), expected, "cut at {cut} and its half");
        }
        assert_ne!(whole(&[&bytes[1..]]), expected);
        assert_ne!(whole(&[]), whole(&[&[0]]));
    }

    #[test]
    fn a_summary_survives_the_wire() {
        for summary in [(0, 0), (1, u64::MAX), (u64::MAX, 7)] {
            assert_eq!(decode(encode(summary)), summary);
        }
    }

    #[test]
    fn what_is_sent_over_the_loopback_arrives() {
        for bytes in [0, 1, 8, CHUNK as u64 + 3, 5 * 1024 * 1024] {
            let listener = Listener::open(home(0)).expect("listens");
            let connector = Connector::open(listener.address().ip()).expect("a socket");
            let done =
                transfer(&listener, connector, listener.address(), bytes, 42, soon()).expect("arrives");
            assert_eq!(done.bytes, bytes);
        }
    }

    #[test]
    fn another_seed_gives_another_checksum() {
        let listener = Listener::open(home(0)).expect("listens");
        let sum = |seed| {
            let connector = Connector::open(listener.address().ip()).expect("a socket");
            transfer(&listener, connector, listener.address(), 4096, seed, soon()).expect("arrives").checksum
        };
        assert_eq!(sum(1), sum(1));
        assert_ne!(sum(1), sum(2));
    }

    #[test]
    fn nobody_there_is_an_error_at_once() {
        let listener = Listener::open(home(0)).expect("listens");
        // The port of a listener that is closed: nobody listens there.
        let closed = Listener::open(home(0)).expect("listens").address();
        let connector = Connector::open(closed.ip()).expect("a socket");
        let begin = Instant::now();
        let error = transfer(&listener, connector, closed, 1, 0, soon()).expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(begin.elapsed() < Duration::from_secs(20), "the receiver was woken");
    }

    #[test]
    fn a_receiver_without_sender_gives_up_at_the_deadline() {
        let listener = Listener::open(home(0)).expect("listens");
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = listener.accept(deadline).expect_err("nobody connects");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
