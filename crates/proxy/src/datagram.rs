//! The socket of a UDP port: who asked which address, and replies that leave from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Which of the host's addresses a client asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Asked {
    /// The one that the socket is bound to, or one that nobody can send from.
    Bound,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address; with its link where it means nothing without.
    V6(Ipv6Addr, u32),
}

/// A client, and whom it takes itself to be talking to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Caller {
    pub(crate) client: SocketAddr,
    pub(crate) asked: Asked,
}

/// The socket that clients send to.
#[derive(Debug)]
pub(crate) struct Front {
    socket: UdpSocket,
    /// It is bound to no address, so the kernel has to say which was asked.
    is_wildcard: bool,
}

impl Front {
    /// Inside of a runtime.
    pub(crate) fn new(socket: StdSocket) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        let is_wildcard = bound.ip().is_unspecified();
        if is_wildcard && bound.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else if is_wildcard {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self { socket: UdpSocket::from_std(socket)?, is_wildcard })
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Takes a datagram that is there.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Caller)> {
        if !self.is_wildcard {
            let (length, client) = self.socket.try_recv_from(buffer)?;
            return Ok((length, Caller { client, asked: Asked::Bound }));
        }
        self.socket.try_io(Interest::READABLE, || receive(&self.socket, buffer))
    }

    /// Sends a reply from the address that was asked.
    pub(crate) fn reply(&self, datagram: &[u8], to: Caller) -> io::Result<()> {
        if to.asked == Asked::Bound {
            return self.socket.try_send_to(datagram, to.client).map(|_| ());
        }
        self.socket.try_io(Interest::WRITABLE, || send(&self.socket, datagram, to))
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Caller)> {
    // Room for what the kernel says about either family.
    let mut control = [0; 64];
    let mut buffers = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let client = message.address.as_ref().and_then(address);
    let client = client.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let asked = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            // Of a broadcast this is the host's own address, which the reply comes from.
            Some(Asked::V4(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let link = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
            (!ip.is_multicast()).then_some(Asked::V6(ip, link))
        }
        _ => None,
    });
    Ok((message.bytes, Caller { client, asked: asked.unwrap_or(Asked::Bound) }))
}

fn send(socket: &UdpSocket, datagram: &[u8], to: Caller) -> io::Result<()> {
    let client = match to.client {
        SocketAddr::V4(client) => SockaddrStorage::from(client),
        SocketAddr::V6(client) => SockaddrStorage::from(client),
    };
    let (v4, v6);
    let control = match to.asked {
        Asked::Bound => None,
        Asked::V4(ip) => {
            let ip = libc::in_addr { s_addr: u32::from(ip).to_be() };
            v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ip, ipi_addr: libc::in_addr { s_addr: 0 } };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Asked::V6(ip, link) => {
            let ip = libc::in6_addr { s6_addr: ip.octets() };
            v6 = libc::in6_pktinfo { ipi6_addr: ip, ipi6_ifindex: link };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(datagram)], control.as_slice(), flags, Some(&client))?;
    Ok(())
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = |address: &SockaddrIn| SocketAddr::V4(SocketAddrV4::from(*address));
    let v6 = |address: &SockaddrIn6| SocketAddr::V6(SocketAddrV6::from(*address));
    storage.as_sockaddr_in().map(v4).or_else(|| storage.as_sockaddr_in6().map(v6))
}
