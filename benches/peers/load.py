"""Puts the same load on every peer in turn and compares. Started by `run`, inside fresh namespaces."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time

import report
from isolation import refuse_machine
from measure import Sample
from peer import Setting
from peers import PEERS


class Failure(Exception):
    """Why there are no figures."""


class Worker:
    """A peer that waits in its own namespaces for its turns."""

    def __init__(self, name: str, machine: str, setting: Setting) -> None:
        self.name = name
        os.makedirs(setting.work)
        task = json.dumps([name, machine, dataclasses.asdict(setting)])
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--", sys.executable, "-B", program, task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for `run`, which ends everything, and not for the daemons.
            start_new_session=True,
        )

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"{self.name}: ended without an answer")
        told = json.loads(line)
        if "error" in told:
            raise Failure(f"{self.name}: {told['error']}")
        return told

    def ready(self) -> str:
        """Waits until the peer has proved that it works; tells its version."""
        return self._answer()["version"]

    def measure(self, callers: int) -> Sample:
        self._process.stdin.write(json.dumps({"callers": callers}) + "\n")
        self._process.stdin.flush()
        return Sample(**self._answer()["sample"])


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def positives(text: str) -> list[int]:
    return sorted({positive(part) for part in text.split(",")})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/peers/run", usage="see benches/peers/run --help", add_help=False)
    parser.add_argument("--containers", type=positive, default=128)
    parser.add_argument("--callers", type=positives, default=[1, 4, 64])
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--mode", choices=["churn", "hold"], default="churn")
    parser.add_argument("--json")
    # From here on what `run` adds itself.
    parser.add_argument("--peers", required=True)
    parser.add_argument("--netloom")
    parser.add_argument("--work", required=True)
    parser.add_argument("--cgroup", required=True)
    parser.add_argument("--machine", required=True)
    parsed = parser.parse_args()
    if parsed.containers < max(parsed.callers):
        parser.error(f"--containers {parsed.containers} leaves some of {max(parsed.callers)} callers without work")
    # A bridge has 1023 ports; the anchor takes one.
    if parsed.mode == "hold" and parsed.containers > 1000:
        parser.error("--mode hold takes at most 1000 containers: a Linux bridge has 1023 ports")
    if parsed.containers > 60_000:
        parser.error("--containers takes at most 60000: the subnet is a /16")
    return parsed


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure_all(options: argparse.Namespace, workers: list[Worker]) -> list[report.Result]:
    """Peers take turns, so that a change of the machine's mood hits all of them."""
    samples: dict[tuple[int, str], list[Sample]] = {}
    for turn in range(options.repeats):
        for callers in options.callers:
            figures = []
            for worker in workers:
                sample = worker.measure(callers)
                samples.setdefault((callers, worker.name), []).append(sample)
                figures.append(f"{worker.name} {report.number(sample.lifecycles_per_s)}")
            progress(f"round {turn + 1}/{options.repeats}, {callers} callers, lifecycles/s: {', '.join(figures)}")
    return [
        report.Result(name, PEERS[name].competes, callers, taken) for (callers, name), taken in samples.items()
    ]


def compare(options: argparse.Namespace) -> None:
    # Read before anything is started.
    machine = {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "load_before": os.getloadavg(),
        "filesystem": filesystem(options.work),
    }
    began = time.monotonic()
    workers = []
    for name in options.peers.split(","):
        setting = Setting(
            work=os.path.join(options.work, name),
            lives=options.containers,
            callers=max(options.callers),
            mode=options.mode,
            netloom=options.netloom,
            cgroup=f"{options.cgroup}/{name}",
        )
        workers.append(Worker(name, options.machine, setting))
    versions = {worker.name: worker.ready() for worker in workers}
    progress(f"two containers reached each other with every peer, after {time.monotonic() - began:.0f} s")
    results = measure_all(options, workers)
    machine["load_after"] = os.getloadavg()
    machine["seconds"] = round(time.monotonic() - began)
    show(options, machine, versions, results)
    if options.json:
        write_json(options, machine, versions, results)


def filesystem(path: str) -> str:
    told = subprocess.run(["stat", "--file-system", "--format=%T", path], check=True, capture_output=True, text=True)
    return told.stdout.strip()


def show(options: argparse.Namespace, machine: dict, versions: dict, results: list[report.Result]) -> None:
    print(
        f"\n{options.containers} containers on one bridge, mode {options.mode}, medians of {options.repeats} rounds;"
        f" times in milliseconds, as the caller sees them\n"
    )
    print(report.table(results))
    print()
    print("\n".join(report.summary(results)))
    before, after = (" ".join(f"{load:.1f}" for load in machine[key]) for key in ("load_before", "load_after"))
    print(
        f"machine: {machine['processors']} processors, Linux {machine['kernel']}, files on {machine['filesystem']};"
        f" load {before} before, {after} after; {machine['seconds']} s\n"
    )
    rows = [[name, version, PEERS[name].title] for name, version in versions.items()]
    print("\n".join(report.aligned(rows, left={0, 1, 2})))


def write_json(options: argparse.Namespace, machine: dict, versions: dict, results: list[report.Result]) -> None:
    told = {
        "containers": options.containers,
        "mode": options.mode,
        "repeats": options.repeats,
        "machine": machine,
        "peers": {name: {"version": version, "title": PEERS[name].title} for name, version in versions.items()},
        "results": report.as_json(results),
        "verdicts": report.verdicts(results),
    }
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2)
        file.write("\n")


def main() -> None:
    options = arguments()
    refuse_machine(options.machine)
    # The first process of a process namespace ignores what it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        compare(options)
    except Failure as failure:
        sys.exit(f"benches/peers/run: {failure}")
    # The daemons are ended by the end of this process, which is the first of its process namespace.


if __name__ == "__main__":
    main()
