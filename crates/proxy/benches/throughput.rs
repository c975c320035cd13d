//! The proxy beside `socat` and beside no proxy at all: bytes a second of one TCP stream, connections a second, and
//! what an idle published port costs.
//!
//! Run with `cargo bench -p netloom-proxy`. Everything is on the loopback interface, and everybody shares the
//! machine's processors: the client, the back end and what is between them. Each figure is taken three times, in turns,
//! and the median is given with the least and the most. It fails when the proxy carries less than twice what `socat`
//! does, or a port costs more than 20 KiB. On a machine that is busy otherwise the first says little: everybody waits for
//! a processor then. What the processor spends on a GiB says more there.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netloom_proxy::{Bound, Options, Proxy};
use nix::unistd::{Pid, gettid};
use tokio::runtime::{Builder, Runtime};

/// How long one figure is measured.
const SPAN: Duration = Duration::from_secs(2);
/// How often each is taken.
const ROUNDS: usize = 3;
/// What a writer writes and a reader reads in one go.
const PIECE: usize = 256 * 1024;
/// Idle ports whose memory is measured.
const PORTS: usize = 1000;

fn main() -> io::Result<()> {
    let back_end = BackEnd::start()?;
    let spliced = OnItsOwnThread::start(back_end.address, true)?;
    let copied = OnItsOwnThread::start(back_end.address, false)?;
    let socat = Socat::start(back_end.address)?;
    let ways = [
        ("no proxy", back_end.address, None),
        ("netloom-proxy", spliced.proxy.listen(), Some(spliced.clock.clone())),
        ("netloom-proxy, copying", copied.proxy.listen(), Some(copied.clock.clone())),
        ("socat TCP-LISTEN,fork", socat.address, Some(Clock::Process(socat.process.id()))),
    ];
    let mut streams = vec![Vec::new(); ways.len()];
    let mut connections = vec![Vec::new(); ways.len()];
    let mut processor = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (at, (_, address, clock)) in ways.iter().enumerate() {
            let before = clock.as_ref().map_or(Ok(0.0), Clock::read)?;
            let (rate, sent) = stream(*address)?;
            streams[at].push(rate);
            let spent = clock.as_ref().map_or(Ok(0.0), |clock| clock.read_after(before))?;
            processor[at].push(1000.0 * spent * f64::from(1 << 30) / sent as f64);
            connections[at].push(connect(*address)?);
        }
    }
    println!("{:<24} {:>22} {:>24} {:>26}", "", "one stream, MiB/s", "processor, ms/GiB", "connections/s");
    for (at, (name, ..)) in ways.iter().enumerate() {
        let [stream, spent, connections] =
            [&mut streams[at], &mut processor[at], &mut connections[at]].map(|figures| shown(figures));
        println!("{name:<24} {stream:>22} {spent:>24} {connections:>26}");
    }
    let (least_of_ours, most_of_socat) = (streams[1][0], streams[3][ROUNDS - 1]);
    let times_socat = streams[1][ROUNDS / 2] / streams[3][ROUNDS / 2];
    println!(
        "{times_socat:.1} times socat; at its worst {:.1} times socat at its best",
        least_of_ours / most_of_socat
    );
    println!("of no proxy: {:.2}", streams[1][ROUNDS / 2] / streams[0][ROUNDS / 2]);
    let (tcp, udp) = (idle(false)?, idle(true)?);
    println!("an idle published port: {tcp} bytes (TCP), {udp} bytes (UDP)");
    assert!(times_socat >= 2.0, "less than twice socat");
    assert!(tcp.max(udp) <= 20 * 1024, "more than 20 KiB a port");
    Ok(())
}

/// The median of the figures with the least and the most. Sorts them.
fn shown(figures: &mut [f64]) -> String {
    figures.sort_by(f64::total_cmp);
    format!("{:.0} ({:.0} to {:.0})", figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

/// MiB a second that the back end takes of one stream, and how many bytes that were.
fn stream(to: SocketAddr) -> io::Result<(f64, u64)> {
    let mut client = TcpStream::connect(to)?;
    client.write_all(b"s")?;
    let piece = vec![0x5a; PIECE];
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < SPAN {
        client.write_all(&piece)?;
        sent += piece.len() as u64;
    }
    client.shutdown(Shutdown::Write)?;
    // The back end says how much came, after all of it came.
    let mut came = [0; 8];
    client.read_exact(&mut came)?;
    assert_eq!(u64::from_be_bytes(came), sent, "bytes were lost");
    Ok((sent as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20), sent))
}

/// Connections a second, one after the other: a byte there, a byte back, an end from each side.
fn connect(to: SocketAddr) -> io::Result<f64> {
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < SPAN {
        let mut client = TcpStream::connect(to)?;
        client.write_all(b"c")?;
        client.read_exact(&mut [0])?;
        client.shutdown(Shutdown::Write)?;
        assert_eq!(client.read(&mut [0])?, 0);
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Where the processor time of what is between is to be seen. It tells what a way costs on a machine that has other
/// work, too.
#[derive(Clone)]
enum Clock {
    /// One thread of this process.
    Thread(Pid),
    /// A process with its children, once they have ended.
    Process(u32),
}

impl Clock {
    /// Seconds so far.
    fn read(&self) -> io::Result<f64> {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        match self {
            Self::Thread(thread) => {
                let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
                Ok(number(text.split(' ').next()) / 1e9)
            }
            Self::Process(process) => {
                let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
                // Behind the name: the state is the third field, and the times are the 14th to 17th, in ticks.
                let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split(' ').collect();
                Ok((12..16).map(|at| number(fields.get(at).copied())).sum::<f64>() / 100.0)
            }
        }
    }

    /// Seconds since a reading, once they are told.
    fn read_after(&self, before: f64) -> io::Result<f64> {
        for _ in 0..200 {
            let spent = self.read()? - before;
            if spent > 0.0 {
                return Ok(spent);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other("no processor time was told"))
    }
}

/// Bytes of memory that one of a thousand idle ports takes.
fn idle(udp: bool) -> io::Result<usize> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let to = "192.0.2.1:80".parse().expect("an address");
    let open = || -> io::Result<Proxy> {
        let bound = match udp {
            true => Bound::Udp(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?),
            false => Bound::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
        };
        Proxy::start(bound, to, Options::default(), runtime.handle()).map_err(io::Error::other)
    };
    let mut ports = vec![open()?];
    let turn = || runtime.block_on(tokio::task::yield_now());
    turn();
    let before = resident()?;
    for _ in 0..PORTS {
        ports.push(open()?);
    }
    turn();
    Ok(resident()?.saturating_sub(before) / PORTS)
}

fn resident() -> io::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    Ok(kib * 1024)
}

/// The back end, which does for one connection after the other what its first byte asks for.
struct BackEnd {
    address: SocketAddr,
}

impl BackEnd {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        // It ends with the process.
        drop(thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                // A client that asks for nothing only wanted to know whether somebody listens.
                let _ = serve(connection);
            }
        }));
        Ok(Self { address })
    }
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    let mut asked = [0];
    connection.read_exact(&mut asked)?;
    if &asked == b"c" {
        connection.write_all(&asked)?;
        assert_eq!(connection.read(&mut asked)?, 0, "the client ends");
        return Ok(());
    }
    let mut buffer = vec![0; PIECE];
    let mut came = 0_u64;
    loop {
        match connection.read(&mut buffer)? {
            0 => break,
            read => came += read as u64,
        }
    }
    connection.write_all(&came.to_be_bytes())
}

/// The proxy as the engine has it: a current-thread runtime on a thread of its own.
struct OnItsOwnThread {
    proxy: Proxy,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    clock: Clock,
}

impl OnItsOwnThread {
    fn start(to: SocketAddr, splice: bool) -> io::Result<Self> {
        let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let options = Options { splice, ..Options::default() };
        let proxy = Proxy::start(listener, to, options, runtime.handle()).map_err(io::Error::other)?;
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let (tell, thread_id) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(gettid()).expect("somebody waits");
            runtime.block_on(async {
                while !told.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        });
        let clock = Clock::Thread(thread_id.recv().map_err(io::Error::other)?);
        Ok(Self { proxy, ends, thread: Some(thread), clock })
    }
}

impl Drop for OnItsOwnThread {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

/// `socat` as people use it for a port: a process for each connection.
struct Socat {
    address: SocketAddr,
    process: Child,
}

impl Socat {
    fn start(to: SocketAddr) -> io::Result<Self> {
        // A port that was free a moment ago; somebody else would have to take it in this one.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new("socat")
            .arg(format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,backlog=128", address.port()))
            .arg(format!("TCP:{to}"))
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| {
                io::Error::other(format!("socat (the Debian package) does not start: {error}"))
            })?;
        let socat = Self { address, process };
        for _ in 0..1000 {
            if TcpStream::connect(address).is_ok() {
                return Ok(socat);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other("socat does not listen"))
    }
}

impl Drop for Socat {
    fn drop(&mut self) {
        // Its children end with their connections.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
