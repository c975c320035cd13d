"""Namespaces: the ones a measurement plays in, and those that stand for containers."""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def network_namespace() -> str:
    """Which network namespace this process is in."""
    return os.readlink("/proc/self/ns/net")


def refuse_machine(machine: str) -> None:
    """Ends the program when it is in the machine's own network namespace."""
    if network_namespace() == machine:
        raise SystemExit("refusing to work in the machine's own network namespace")


def settle(work: str) -> None:
    """Makes this process's fresh network and mount namespaces usable, and hides the machine's /sys and /run.

    Without the machine's /run nothing here finds its D-Bus (and through it its firewalld), its containerd or its
    iptables lock. Without its /sys nothing here finds its links.
    """
    cgroups = os.path.join(work, "cgroup")
    os.makedirs(cgroups)
    commands = [
        ["mount", "--rbind", "/sys/fs/cgroup", cgroups],
        ["mount", "-t", "sysfs", "sysfs", "/sys"],
        ["mount", "--rbind", cgroups, "/sys/fs/cgroup"],
        ["umount", "--lazy", cgroups],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        ["ip", "link", "set", "lo", "up"],
    ]
    for command in commands:
        subprocess.run(command, check=True)
    os.makedirs("/run/lock")


class Containers:
    """Makes and deletes the network namespaces that stand for containers, without a process for each."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder)
        self._folder = folder
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def path(self, name: str) -> str:
        """The file on which a container's namespace is mounted."""
        return os.path.join(self._folder, name)

    def make(self, name: str) -> str:
        """Makes a namespace; the calling thread is back home afterwards."""
        path = self.path(name)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o600))
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            mounted = _libc.mount(b"/proc/thread-self/ns/net", path.encode(), None, MS_BIND, None)
            _check(mounted, f"mount on {path}")
        finally:
            _check(_libc.setns(self._home, CLONE_NEWNET), "setns")
        return path

    def delete(self, name: str) -> None:
        """Lets go of a namespace, which the kernel then destroys in the background."""
        path = self.path(name)
        _check(_libc.umount2(path.encode(), MNT_DETACH), f"umount of {path}")
        os.unlink(path)


def inside(namespace: str, *command: str) -> str:
    """What a command says that runs in a network namespace."""
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", "--", *command], capture_output=True, text=True, timeout=30
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} in {namespace}: {done.stdout.strip()} {done.stderr.strip()}")
    return done.stdout


def veths() -> int:
    """How many veths this network namespace has (it has no other links than these, lo and the bridge)."""
    names = os.listdir("/sys/class/net")
    return sum(not os.path.isdir(f"/sys/class/net/{name}/bridge") and name != "lo" for name in names)
