//! A neighbour's address, asked for by its name as programs in a container ask.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail};
use netloom::Sandbox;

/// Where the engine's name server is in each sandbox.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The number of the question, recursion desired, one question and no more.
const HEADER: [u8; 12] = [0x4e, 0x4c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
/// An A record of the Internet's.
const KIND: [u8; 4] = [0, 1, 0, 1];

/// Asks from a sandbox for the address of an endpoint.
pub(super) async fn by_name(
    from: &Sandbox,
    name: &'static str,
    address: IpAddr,
) -> anyhow::Result<((), String)> {
    let open = || {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| {
            socket.connect(SERVER)?;
            socket.set_read_timeout(Some(PATIENCE)).map(|()| socket)
        })
    };
    let socket = from.run(open).await?.context("cannot open a socket")?;
    let asked = tokio::task::spawn_blocking(move || ask(&socket, name)).await?;
    let found = asked.with_context(|| format!("nobody says what {name} is"))?;
    if found != address {
        bail!("{name} is {address}, and {found} was the answer");
    }
    Ok(((), format!("{found}")))
}

/// The last address of an answer.
fn ask(socket: &UdpSocket, name: &str) -> anyhow::Result<IpAddr> {
    let mut question = HEADER.to_vec();
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    question.push(0);
    question.extend(KIND);
    socket.send(&question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let answer = &answer[..length];
    let (Some(code), Some(octets)) = (answer.get(3), answer.last_chunk::<4>()) else {
        bail!("the answer is too short")
    };
    // Without a record the question is the end of it.
    if code & 15 != 0 || answer.get(6..8) == Some(&[0, 0]) {
        bail!("the answer is code {}", code & 15);
    }
    Ok(IpAddr::from(*octets))
}
