"""Docker: a daemon of its own, asked over its REST API."""

from __future__ import annotations

import http.client
import io
import json
import os
import queue
import socket
import subprocess
import tarfile
import threading
import time

from measure import in_parallel
from peer import BRIDGE, CALL_SECONDS, GATEWAY, NETWORK, SUBNET, Connector, debian_version

BUSYBOX = "/bin/busybox"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Docker(Connector):
    """A Docker daemon. Its containers run all the time; what is measured is `network connect` and `disconnect`."""

    name = "docker"
    title = "iptables, masquerade, DNS, a daemon; no namespace made or deleted"
    firewall = True
    API = "/v1.41"
    START_SECONDS = 60

    def version(self) -> str:
        return debian_version("docker.io")

    def prepare(self) -> None:
        self.socket = os.path.join(self.setting.work, "docker.sock")
        self.local = threading.local()
        self._start_daemon()
        self._import_image()
        network = {
            "Name": NETWORK,
            "Driver": "bridge",
            "IPAM": {"Config": [{"Subnet": str(SUBNET), "Gateway": str(GATEWAY)}]},
            "Options": {
                "com.docker.network.bridge.name": BRIDGE,
                "com.docker.network.bridge.enable_ip_masquerade": "true" if self.firewall else "false",
            },
        }
        self.network = self.call("POST", "/networks/create", network)["Id"]
        # One for the anchor, which is connected beside all others.
        count = self.setting.at_once + 1
        self.idle: queue.SimpleQueue[str] = queue.SimpleQueue()
        in_parallel(4, lambda _: self.idle.put(self._start_container()), count)
        self.used: dict[int, str] = {}

    def _start_daemon(self) -> None:
        work = self.setting.work
        config = os.path.join(work, "daemon.json")
        with open(config, "w", encoding="utf-8") as file:
            # Its key is /etc/docker/key.json otherwise.
            json.dump({"deprecated-key-path": os.path.join(work, "key.json")}, file)
        firewall = "true" if self.firewall else "false"
        command = [
            "/usr/sbin/dockerd",
            *("--config-file", config),
            *("--data-root", os.path.join(work, "data")),
            *("--exec-root", os.path.join(work, "exec")),
            *("-p", os.path.join(work, "docker.pid")),
            *("-H", f"unix://{self.socket}"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            *("--cgroup-parent", f"/{self.setting.cgroup}"),
            "--bridge=none",
            f"--iptables={firewall}",
            f"--ip-masq={firewall}",
        ]
        self.log = os.path.join(work, "dockerd.log")
        with open(self.log, "wb") as log:
            self.daemon = subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"], "HOME": work},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + self.START_SECONDS
        while True:
            try:
                self.call("GET", "/version")
                return
            except OSError as error:
                if self.daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd does not answer ({error}): {self._last_words()}") from error
                self.local = threading.local()
                time.sleep(0.05)

    def _last_words(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()[-2000:]

    def _import_image(self) -> None:
        root = io.BytesIO()
        with tarfile.open(fileobj=root, mode="w") as archive:
            archive.add(BUSYBOX, "bin/busybox")
            link = tarfile.TarInfo("bin/sleep")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        self.call("POST", "/images/create?fromSrc=-&repo=peers", root.getvalue())

    def _start_container(self) -> str:
        """Starts a container that does nothing and is connected to nothing."""
        wanted = {
            "Image": "peers",
            "Cmd": ["/bin/sleep", "1000000"],
            "HostConfig": {"NetworkMode": NETWORK, "LogConfig": {"Type": "none"}},
        }
        container = self.call("POST", "/containers/create", wanted)["Id"]
        self.call("POST", f"/containers/{container}/start")
        self.call("POST", f"/networks/{self.network}/disconnect", {"Container": container})
        return container

    def call(self, method: str, path: str, body: dict | bytes | None = None) -> dict:
        """Asks the daemon, over this thread's own connection."""
        if not hasattr(self.local, "connection"):
            self.local.connection = UnixConnection(self.socket)
        connection = self.local.connection
        is_tar = isinstance(body, bytes)
        headers = {"Content-Type": "application/x-tar" if is_tar else "application/json"}
        connection.request(method, self.API + path, body if is_tar or body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"docker: {method} {path}: {response.status} {text.decode(errors='replace').strip()}")
        return json.loads(text) if text.startswith(b"{") and not is_tar else {}

    def up(self, life: int) -> None:
        container = self.used[life] = self.idle.get_nowait()
        self.call("POST", f"/networks/{self.network}/connect", {"Container": container})

    def down(self, life: int) -> None:
        container = self.used.pop(life)
        self.call("POST", f"/networks/{self.network}/disconnect", {"Container": container})
        self.idle.put(container)

    def namespace(self, life: int) -> str:
        pid = self.call("GET", f"/containers/{self.used[life]}/json")["State"]["Pid"]
        return f"/proc/{pid}/ns/net"


class DockerPlain(Docker):
    """A Docker daemon that leaves the firewall alone."""

    name = "docker-plain"
    title = "as docker, without iptables and masquerade on the host"
    firewall = False
