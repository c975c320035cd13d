"""The engines that are compared, by name."""

from __future__ import annotations

from docker import Docker, DockerPlain
from netloom import Netloom
from peer import Peer
from processes import Cni, Netavark, NetavarkPlain, Nothing

# In the order in which they take their turns.
PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Nothing, Netavark, NetavarkPlain, Cni, Docker, DockerPlain, Netloom)
}
