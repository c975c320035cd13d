"""The figures of all rounds, as one table and as one JSON object."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable

from measure import Sample

OURS = "netloom"


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    @property
    def noise(self) -> float:
        """How far the rounds lie apart, in parts of the median."""
        return (self.high - self.low) / self.median


@dataclasses.dataclass(frozen=True)
class Result:
    """All rounds of one peer with one number of callers."""

    peer: str
    competes: bool
    callers: int
    samples: list[Sample]

    def spread(self, field: str) -> Spread:
        return Spread.of(getattr(sample, field) for sample in self.samples)


def best_peer(results: list[Result], callers: int) -> Result | None:
    """The fastest engine that is not ours."""
    rivals = [r for r in results if r.callers == callers and r.competes and r.peer != OURS]
    return max(rivals, key=lambda rival: rival.spread("lifecycles_per_s").median, default=None)


def ours(results: list[Result], callers: int) -> Result | None:
    return next((r for r in results if r.callers == callers and r.peer == OURS), None)


def ratio(ahead: Result, behind: Result) -> Spread:
    """How many times as many lifecycles `ahead` does. Each round is compared with its own neighbour."""
    pairs = zip(ahead.samples, behind.samples)
    return Spread.of(mine.lifecycles_per_s / theirs.lifecycles_per_s for mine, theirs in pairs)


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def aligned(rows: list[list[str]], left: set[int]) -> list[str]:
    """Rows of equal length with their columns under each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def table(results: list[Result]) -> str:
    """Every peer with every number of callers. Times are in milliseconds."""
    head = ["callers", "peer", "lifecycles/s", "min-max", "up/s", "down/s"]
    head += ["up p50", "up p99", "down p50", "down p99", f"{OURS} is"]
    rows = [head]
    for callers in sorted({result.callers for result in results}):
        mine = ours(results, callers)
        for result in (r for r in results if r.callers == callers):
            rate = result.spread("lifecycles_per_s")
            row = [str(callers), result.peer, number(rate.median), f"{number(rate.low)}-{number(rate.high)}"]
            row += [number(result.spread(field).median) for field in ("up_per_s", "down_per_s")]
            for field in ("up_p50_us", "up_p99_us", "down_p50_us", "down_p99_us"):
                row.append(number(result.spread(field).median / 1000))
            is_rival = mine is not None and result.competes and result is not mine
            row.append(f"{number(ratio(mine, result).median)} x" if is_rival else "")
            rows.append(row)
    lines = aligned(rows, left={1})
    width = max(len(line) for line in lines)
    ruled = [lines[0]]
    for line, row, before in zip(lines[1:], rows[1:], rows):
        if row[0] != before[0]:
            ruled.append("-" * width)
        ruled.append(line)
    return "\n".join(ruled)


def verdicts(results: list[Result]) -> list[dict]:
    """For every number of callers: ours against the best of the others, and against the kernel's floor."""
    found = []
    for callers in sorted({result.callers for result in results}):
        mine, best = ours(results, callers), best_peer(results, callers)
        if mine is None or best is None:
            continue
        found.append(
            {
                "callers": callers,
                "best_peer": best.peer,
                "ratio": dataclasses.asdict(ratio(mine, best)),
                "of_floor": floor_share(mine),
            }
        )
    return found


def floor_share(mine: Result) -> dict | None:
    """Which part of the bare kernel's rate our engine says it reached, if it says so."""
    shares = [(sample.details or {}).get("ratio", {}).get("churn") for sample in mine.samples]
    if any(not isinstance(share, (int, float)) for share in shares):
        return None
    return dataclasses.asdict(Spread.of(shares))


def summary(results: list[Result]) -> list[str]:
    """What the table comes to, and how much to trust it."""
    lines = []
    for verdict in verdicts(results):
        spread = verdict["ratio"]
        line = (
            f"{OURS} / best peer, {verdict['callers']} callers: {number(spread['median'])} x {verdict['best_peer']}"
            f" (rounds: {number(spread['low'])}-{number(spread['high'])})"
        )
        if floor := verdict["of_floor"]:
            line += f"; {number(floor['median'])} of the kernel's floor by its own measure"
        lines.append(line)
    if all(len(result.samples) == 1 for result in results):
        return [*lines, "noise: unknown after one round"]
    noisiest = max(results, key=lambda result: result.spread("lifecycles_per_s").noise)
    noise = noisiest.spread("lifecycles_per_s").noise
    lines.append(
        f"noise: the rounds of one row lie up to {100 * noise:.0f} % of their median apart"
        f" ({noisiest.peer}, {noisiest.callers} callers)"
    )
    return lines


def as_json(results: list[Result]) -> list[dict]:
    """Everything, with every round."""
    fields = [field.name for field in dataclasses.fields(Sample) if field.name != "details"]
    return [
        {
            "peer": result.peer,
            "callers": result.callers,
            **{field: dataclasses.asdict(result.spread(field)) for field in fields},
            "rounds": [dataclasses.asdict(sample) for sample in result.samples],
        }
        for result in results
    ]
