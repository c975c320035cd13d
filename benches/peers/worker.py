"""One peer in namespaces of its own. Started by load.py; one line of JSON in, one line of JSON out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

from isolation import refuse_machine, settle
from peer import Setting
from peers import PEERS


def answer(**told: object) -> None:
    print(json.dumps(told), flush=True)


def main() -> None:
    name, machine, setting = json.loads(sys.argv[1])
    refuse_machine(machine)
    try:
        setting = Setting(**setting)
        settle(setting.work)
        peer = PEERS[name](setting)
        peer.open()
        answer(version=peer.version())
        for line in sys.stdin:
            sample = peer.measure(json.loads(line)["callers"])
            answer(sample=dataclasses.asdict(sample))
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as failure:
        # Whoever reads it ends everything.
        answer(error=f"{type(failure).__name__}: {failure}")
        sys.exit(1)


if __name__ == "__main__":
    main()
