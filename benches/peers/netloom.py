"""netloom, as its own `netloom bench churn` sees it."""

from __future__ import annotations

import json
import os

from measure import Sample
from peer import CALL_SECONDS, Peer, run


def netloom_sample(told: dict, lives: int, callers: int, mode: str) -> Sample:
    """Reads what `netloom bench churn --json` writes."""
    asked = {"mode": mode, "driver": "bridge", "endpoints": lives, "concurrency": callers, "networks": 1}
    for key, value in asked.items():
        if told.get(key) != value:
            raise ValueError(f"netloom measured {key} = {told.get(key)!r} instead of {value!r}")

    def figure(*path: str) -> float:
        value = told
        for key in path:
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"netloom's JSON has no {'.'.join(path)}")
            value = value[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"netloom's {'.'.join(path)} is no positive number: {value!r}")
        return float(value)

    def rate(step: str) -> float:
        # In churn ups and downs overlap; then it is taken as for all others.
        return callers * 1e6 / figure("steps", step, "mean_us") if mode == "churn" else figure(f"{step}_per_s")

    return Sample(
        lifecycles_per_s=figure("lifecycles_per_s"),
        up_per_s=rate("up"),
        down_per_s=rate("down"),
        up_p50_us=figure("steps", "up", "p50_us"),
        up_p99_us=figure("steps", "up", "p99_us"),
        down_p50_us=figure("steps", "down", "p50_us"),
        down_p99_us=figure("steps", "down", "p99_us"),
        details=told,
    )


class Netloom(Peer):
    """This project's engine, measured by its own program, which drains before it counts."""

    name = "netloom"
    title = "firewall with masquerade, in process, durable store"

    def version(self) -> str:
        return run([self._program(), "--version"]).strip().removeprefix("netloom ")

    def _program(self) -> str:
        if self.setting.netloom is None:
            raise RuntimeError("no netloom program was given")
        return self.setting.netloom

    def _run(self, *arguments: str) -> str:
        # Its temporary files are on the disk that everybody else uses.
        env = {"PATH": os.environ["PATH"], "HOME": self.setting.work, "TMPDIR": self.setting.work}
        return run([self._program(), *arguments], env=env, seconds=3 * CALL_SECONDS)

    def open(self) -> None:
        told = self._run("demo", "--json")
        try:
            works = json.loads(told)["ok"] is True
        except (ValueError, TypeError, KeyError):
            works = False
        if not works:
            raise RuntimeError(f"netloom demo --json does not say that everything works: {told!r}")

    def measure(self, callers: int) -> Sample:
        lives, mode = self.setting.lives, self.setting.mode
        path = os.path.join(self.setting.work, "bench.json")
        if os.path.exists(path):
            os.unlink(path)
        self._run(
            *("bench", "churn", "--driver", "bridge", "--mode", mode, "--networks", "1"),
            *("--endpoints", str(lives), "--concurrency", str(callers), "--json", path),
        )
        with open(path, encoding="utf-8") as file:
            return netloom_sample(json.load(file), lives, callers, mode)
