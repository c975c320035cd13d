"""What an engine under comparison is, and what all of them are given."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import subprocess
from typing import ClassVar

from isolation import inside, veths
from measure import Sample, load

# The one network, and what each container on it gets: a veth to its bridge, an address, a default route.
SUBNET = ipaddress.ip_network("10.89.0.0/16")
GATEWAY = SUBNET[1]
NETWORK = "peers"
BRIDGE = "peers0"
# How long one call may take.
CALL_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the whole comparison has in common."""

    # A folder of the peer's own, on the disk.
    work: str
    # Containers in one measurement.
    lives: int
    # The most callers that any measurement has.
    callers: int
    # `churn` or `hold`.
    mode: str
    # The netloom program.
    netloom: str | None
    # Under which control group Docker's containers go.
    cgroup: str

    @property
    def at_once(self) -> int:
        """How many containers are connected at the same time at most."""
        return self.lives if self.mode == "hold" else self.callers


def run(command: list[str], text: str = "", env: dict[str, str] | None = None, seconds: int = CALL_SECONDS) -> str:
    """What a command says. A failure carries everything that it said."""
    done = subprocess.run(command, input=text, env=env, capture_output=True, text=True, timeout=seconds)
    if done.returncode != 0:
        said = f"{done.stdout.strip()} {done.stderr.strip()}".strip()
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


def debian_version(package: str) -> str:
    """The version of an installed package."""
    return run(["dpkg-query", "--show", "--showformat=${Version}", package])


class Peer:
    """An engine under comparison."""

    name: ClassVar[str]
    # What is special about it, for the table.
    title: ClassVar[str]
    # Is it an engine, or only there for orientation?
    competes: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def version(self) -> str:
        raise NotImplementedError

    def open(self) -> None:
        """Makes the network, and proves that two containers on it reach each other."""
        raise NotImplementedError

    def measure(self, callers: int) -> Sample:
        raise NotImplementedError


class Connector(Peer):
    """A peer that connects and disconnects one container when it is asked to.

    Container -1 stays connected from the beginning to the end, so that no engine makes or removes the network
    itself while it is measured.
    """

    ANCHOR: ClassVar[int] = -1
    PROBE: ClassVar[int] = -2
    has_default_route: ClassVar[bool] = True
    _veths_at_rest: int

    def prepare(self) -> None:
        """What has to be there before the first container."""

    def up(self, life: int) -> None:
        """Makes a container's namespace and connects it."""
        raise NotImplementedError

    def down(self, life: int) -> None:
        """Disconnects a container and deletes its namespace."""
        raise NotImplementedError

    def namespace(self, life: int) -> str:
        """A path to the namespace of a container that is up."""
        raise NotImplementedError

    def open(self) -> None:
        self.prepare()
        self.up(self.ANCHOR)
        self._veths_at_rest = veths()
        self.up(self.PROBE)
        self.prove()
        self.down(self.PROBE)
        if not self.drained():
            raise RuntimeError(f"{self.name}: a link is left after disconnecting")

    def prove(self) -> None:
        """Two containers reach each other, and each has the routes that it should have."""
        namespaces = [self.namespace(self.ANCHOR), self.namespace(self.PROBE)]
        if os.stat(namespaces[0]).st_ino == os.stat(namespaces[1]).st_ino:
            raise RuntimeError(f"{self.name}: two containers share one namespace")
        addresses = [self._address(namespace) for namespace in namespaces]
        for namespace, address in zip(namespaces, reversed(addresses)):
            inside(namespace, "ping", "-n", "-c", "1", "-W", "2", address)
        if self.has_default_route:
            for namespace in namespaces:
                route = inside(namespace, "ip", "-4", "route", "show", "default")
                if f"via {GATEWAY} " not in route:
                    raise RuntimeError(f"{self.name}: no default route by way of {GATEWAY}: {route!r}")

    def _address(self, namespace: str) -> str:
        told = json.loads(inside(namespace, "ip", "-json", "-4", "address", "show", "scope", "global"))
        addresses = [entry["local"] for link in told for entry in link["addr_info"]]
        if len(addresses) != 1 or ipaddress.ip_address(addresses[0]) not in SUBNET:
            raise RuntimeError(f"{self.name}: one address of {SUBNET} expected, not {addresses}")
        return addresses[0]

    def drained(self) -> bool:
        """Are all links gone but the anchor's?"""
        return veths() == self._veths_at_rest

    def measure(self, callers: int) -> Sample:
        return load(self, self.setting.lives, callers, self.setting.mode)
