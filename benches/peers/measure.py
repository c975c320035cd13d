"""The load, and the figures that are taken from it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from typing import Callable, Protocol

# How long links may take to disappear after the last call has returned.
DRAIN_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement of one peer. Rates are per second of wall time, times are in microseconds."""

    lifecycles_per_s: float
    up_per_s: float
    down_per_s: float
    up_p50_us: float
    up_p99_us: float
    down_p50_us: float
    down_p99_us: float
    # What the peer says beyond this; only netloom does.
    details: dict | None = None


class Connects(Protocol):
    """What can be put under load."""

    def up(self, life: int) -> None: ...

    def down(self, life: int) -> None: ...

    def drained(self) -> bool: ...


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def in_parallel(callers: int, work: Callable[[int], None], count: int) -> float:
    """Does `work` for 0..count from so many threads; tells how many seconds it took. The first failure ends it."""
    numbers = itertools.count()  # next() on it is atomic
    failures: list[BaseException] = []
    start = threading.Barrier(callers + 1)

    def caller() -> None:
        start.wait()
        while not failures and (number := next(numbers)) < count:
            try:
                work(number)
            except BaseException as failure:  # handed to the thread that asked
                failures.append(failure)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    return took


def drain(peer: Connects) -> float:
    """Waits until every link is really gone; tells how many seconds that took."""
    began = time.perf_counter()
    while not peer.drained():
        if time.perf_counter() - began > DRAIN_SECONDS:
            raise RuntimeError(f"links are still there {DRAIN_SECONDS:.0f} s after the last disconnect")
        time.sleep(0.001)
    return time.perf_counter() - began


def load(peer: Connects, lives: int, callers: int, mode: str) -> Sample:
    """`churn`: every caller takes one container after the other up and down. `hold`: all up, then all down."""
    up_times, down_times = [], []  # append() is atomic

    def timed(act: Callable[[int], None], times: list[float]) -> Callable[[int], None]:
        def run(life: int) -> None:
            began = time.perf_counter()
            act(life)
            times.append((time.perf_counter() - began) * 1e6)

        return run

    up, down = timed(peer.up, up_times), timed(peer.down, down_times)
    if mode == "hold":
        up_wall = in_parallel(callers, up, lives)
        down_wall = in_parallel(callers, down, lives) + drain(peer)
        wall = up_wall + down_wall
        up_per_s, down_per_s = lives / up_wall, lives / down_wall
    else:

        def life(number: int) -> None:
            up(number)
            down(number)

        wall = in_parallel(callers, life, lives) + drain(peer)
        # Ups and downs of different callers overlap: the rate at which they would go on without the other kind.
        up_per_s = callers * lives * 1e6 / sum(up_times)
        down_per_s = callers * lives * 1e6 / sum(down_times)
    return Sample(
        lifecycles_per_s=lives / wall,
        up_per_s=up_per_s,
        down_per_s=down_per_s,
        up_p50_us=percentile(up_times, 0.50),
        up_p99_us=percentile(up_times, 0.99),
        down_p50_us=percentile(down_times, 0.50),
        down_p99_us=percentile(down_times, 0.99),
    )
