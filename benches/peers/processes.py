"""Engines that are a process for each call: netavark and the CNI plugins."""

from __future__ import annotations

import json
import os

from isolation import Containers
from peer import BRIDGE, GATEWAY, NETWORK, SUBNET, Connector, debian_version, run

NETAVARK = "/usr/lib/podman/netavark"
CNI_PLUGINS = "/usr/lib/cni"


class ProcessPeer(Connector):
    """A peer that is one process for each call, and is given a namespace that somebody else made."""

    def prepare(self) -> None:
        self.containers = Containers("/run/containers")

    def up(self, life: int) -> None:
        name = container_name(life)
        self.connect(life, name, self.containers.make(name))

    def down(self, life: int) -> None:
        name = container_name(life)
        self.disconnect(life, name, self.containers.path(name))
        self.containers.delete(name)

    def namespace(self, life: int) -> str:
        return self.containers.path(container_name(life))

    def connect(self, life: int, name: str, namespace: str) -> None:
        raise NotImplementedError

    def disconnect(self, life: int, name: str, namespace: str) -> None:
        raise NotImplementedError


def container_name(life: int) -> str:
    """A container's name; those beside the load have negative numbers."""
    return f"c{life}" if life >= 0 else f"beside{-life}"


class Nothing(ProcessPeer):
    """What the load itself costs: a namespace, and a process for each call that does nothing."""

    name = "nothing"
    title = "no network: a namespace, and /bin/true for each call"
    competes = False

    def version(self) -> str:
        return "-"

    def prove(self) -> None:
        """There is nothing to prove."""

    def connect(self, life: int, name: str, namespace: str) -> None:
        run(["/bin/true"])

    def disconnect(self, life: int, name: str, namespace: str) -> None:
        run(["/bin/true"])


def netavark_request(name: str, life: int, internal: bool) -> str:
    """What podman would hand to netavark. It gives no addresses out: whoever calls it does."""
    # Those beside the load are below 10.89.1.0, all others above.
    address = SUBNET[256 + life if life >= 0 else 1 - life]
    network = {
        "name": NETWORK,
        "id": "6e65746c6f6f6d" + "0" * 50,
        "driver": "bridge",
        "network_interface": BRIDGE,
        "subnets": [{"subnet": str(SUBNET), "gateway": str(GATEWAY)}],
        "ipv6_enabled": False,
        "internal": internal,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }
    return json.dumps(
        {
            "container_id": name,
            "container_name": name,
            "networks": {NETWORK: {"static_ips": [str(address)], "interface_name": "eth0"}},
            "network_info": {NETWORK: network},
        }
    )


class Netavark(ProcessPeer):
    """podman's network program, with its iptables rules."""

    name = "netavark"
    title = "iptables, masquerade, a process per call, addresses given"
    internal = False

    def version(self) -> str:
        return debian_version("netavark")

    def prepare(self) -> None:
        super().prepare()
        self.env = {"PATH": os.environ["PATH"], "NETAVARK_FW": "iptables"}

    def _call(self, verb: str, life: int, name: str, namespace: str) -> None:
        command = [NETAVARK, "--config", "/run/netavark", verb, namespace]
        run(command, netavark_request(name, life, self.internal), self.env)

    def connect(self, life: int, name: str, namespace: str) -> None:
        self._call("setup", life, name, namespace)

    def disconnect(self, life: int, name: str, namespace: str) -> None:
        self._call("teardown", life, name, namespace)


class NetavarkPlain(Netavark):
    """netavark without a firewall. 1.4 has no such driver, but it leaves internal networks without rules."""

    name = "netavark-plain"
    title = "an internal network: no firewall, no default route"
    internal = True
    has_default_route = False


class Cni(ProcessPeer):
    """The CNI reference plugins: `bridge`, which calls `host-local` for the address."""

    name = "cni"
    title = "no firewall, no masquerade, two processes per call"

    def version(self) -> str:
        return debian_version("containernetworking-plugins")

    def prepare(self) -> None:
        super().prepare()
        self.config = json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": NETWORK,
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "isDefaultGateway": True,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": os.path.join(self.setting.work, "addresses"),
                    "ranges": [[{"subnet": str(SUBNET), "gateway": str(GATEWAY)}]],
                },
            }
        )

    def _call(self, verb: str, name: str, namespace: str) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": namespace,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": CNI_PLUGINS,
        }
        run([os.path.join(CNI_PLUGINS, "bridge")], self.config, env)

    def connect(self, life: int, name: str, namespace: str) -> None:
        self._call("ADD", name, namespace)

    def disconnect(self, life: int, name: str, namespace: str) -> None:
        self._call("DEL", name, namespace)
