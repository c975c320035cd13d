"""Checks of what the comparison computes, without a network and without privileges.

python3 -B -m unittest discover benches/peers
"""

from __future__ import annotations

import copy
import json
import threading
import time
import unittest

import report
from measure import Sample, in_parallel, load, percentile
from netloom import netloom_sample
from processes import netavark_request

STEPS = ("up", "down", "create", "sandbox", "join", "leave", "delete", "delete_sandbox")
# What `netloom bench churn --json` writes.
BENCH = {
    "mode": "churn",
    "driver": "bridge",
    "endpoints": 64,
    "concurrency": 16,
    "networks": 1,
    "up_per_s": 521.5,
    "down_per_s": 902,
    "lifecycles_per_s": 410.25,
    "floor": {"up_per_s": 700.0, "down_per_s": 1400.0, "lifecycles_per_s": 600.0},
    "ratio": {"up": 0.745, "down": 0.644, "churn": 0.684},
    "steps": {
        step: {
            "mean_us": 1250 + index,
            "p50_us": 1000 + index,
            "p95_us": 2000 + index,
            "p99_us": 3000.5 + index,
            "max_us": 4000 + index,
        }
        for index, step in enumerate(STEPS)
    },
    "fsyncs": 9,
    "netlink": {"messages": 512, "sends": 130, "deletions": 3},
    "cpu_us_per_lifecycle": 812.5,
    "peak_rss_kib": 20480,
}


class NetloomTest(unittest.TestCase):
    def read(self, told: dict) -> Sample:
        return netloom_sample(told, lives=64, callers=16, mode="churn")

    def test_its_json_becomes_a_sample(self) -> None:
        sample = self.read(json.loads(json.dumps(BENCH)))
        self.assertEqual(sample.lifecycles_per_s, 410.25)
        self.assertEqual((sample.up_per_s, sample.down_per_s), (16e6 / 1250, 16e6 / 1251))
        self.assertEqual((sample.up_p50_us, sample.up_p99_us), (1000.0, 3000.5))
        self.assertEqual((sample.down_p50_us, sample.down_p99_us), (1001.0, 3001.5))
        self.assertEqual(sample.details, BENCH)

    def test_phases_of_hold_are_told_by_it(self) -> None:
        sample = netloom_sample({**BENCH, "mode": "hold"}, lives=64, callers=16, mode="hold")
        self.assertEqual((sample.up_per_s, sample.down_per_s), (521.5, 902.0))

    def test_another_measurement_than_asked_for_is_refused(self) -> None:
        others = {"mode": "hold", "driver": "null", "endpoints": 65, "concurrency": 1, "networks": 4}
        for key, value in others.items():
            with self.subTest(key), self.assertRaisesRegex(ValueError, f"{key} = {value!r}"):
                self.read({**BENCH, key: value})

    def test_what_is_missing_is_named(self) -> None:
        for path in (("lifecycles_per_s",), ("steps", "up", "mean_us"), ("steps", "down", "p99_us"), ("steps", "up")):
            told = copy.deepcopy(BENCH)
            inner = told
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
            with self.subTest(path), self.assertRaisesRegex(ValueError, "has no " + r"\.".join(path)):
                self.read(told)

    def test_what_is_no_figure_is_refused(self) -> None:
        for value in (None, "410", True, 0, -1, float("nan")):
            with self.subTest(value), self.assertRaisesRegex(ValueError, "no positive number"):
                self.read({**BENCH, "lifecycles_per_s": value})


class Fake:
    """Notes who is up, and fails on demand."""

    def __init__(self, fails_at: int | None = None, slow_to_drain: int = 0) -> None:
        self.lock = threading.Lock()
        self.is_up: set[int] = set()
        self.most = 0
        self.ups = self.downs = 0
        self.fails_at = fails_at
        self.undrained = slow_to_drain

    def up(self, life: int) -> None:
        if life == self.fails_at:
            raise RuntimeError("refused")
        with self.lock:
            assert life not in self.is_up
            self.is_up.add(life)
            self.most = max(self.most, len(self.is_up))
            self.ups += 1
        time.sleep(0.001)

    def down(self, life: int) -> None:
        time.sleep(0.002)
        with self.lock:
            self.is_up.remove(life)
            self.downs += 1

    def drained(self) -> bool:
        self.undrained -= 1
        return self.undrained < 0 and not self.is_up


class LoadTest(unittest.TestCase):
    def test_churn_takes_each_container_up_and_down_once(self) -> None:
        peer = Fake(slow_to_drain=3)
        sample = load(peer, lives=20, callers=4, mode="churn")
        self.assertEqual((peer.ups, peer.downs, peer.is_up), (20, 20, set()))
        self.assertLessEqual(peer.most, 4)
        self.assertLess(peer.undrained, 0)
        self.assertGreaterEqual(sample.up_p50_us, 1000)
        self.assertGreaterEqual(sample.down_p50_us, 2000)
        self.assertLess(sample.lifecycles_per_s, sample.down_per_s)
        self.assertLess(sample.down_per_s, sample.up_per_s)

    def test_hold_has_all_up_at_once(self) -> None:
        peer = Fake()
        sample = load(peer, lives=20, callers=4, mode="hold")
        self.assertEqual((peer.most, peer.downs), (20, 20))
        both = 1 / (1 / sample.up_per_s + 1 / sample.down_per_s)
        self.assertAlmostEqual(sample.lifecycles_per_s, both, places=6)

    def test_a_failure_ends_the_measurement(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "refused"):
            load(Fake(fails_at=5), lives=1000, callers=4, mode="churn")

    def test_work_is_divided(self) -> None:
        done: list[int] = []
        in_parallel(8, done.append, 100)
        self.assertEqual(sorted(done), list(range(100)))

    def test_percentiles_are_values_that_occurred(self) -> None:
        values = [float(value) for value in range(100, 0, -1)]
        self.assertEqual([percentile(values, share) for share in (0.5, 0.99, 1.0)], [50.0, 99.0, 100.0])
        self.assertEqual(percentile([7.0], 0.5), 7.0)


def result(peer: str, rates: list[float], callers: int = 4, competes: bool = True, churn: float | None = None):
    details = None if churn is None else {"ratio": {"churn": churn}}
    samples = [Sample(rate, 2 * rate, 3 * rate, 1000.0, 2000.0, 3000.0, 4000.0, details) for rate in rates]
    return report.Result(peer, competes, callers, samples)


class ReportTest(unittest.TestCase):
    RESULTS = [
        result("nothing", [900, 900, 900], competes=False),
        result("cni", [30, 33, 36]),
        result("docker", [10, 10, 10]),
        result("netloom", [300, 330, 450], churn=0.7),
    ]

    def test_ours_is_compared_with_the_fastest_that_competes(self) -> None:
        (verdict,) = report.verdicts(self.RESULTS)
        self.assertEqual(verdict["best_peer"], "cni")
        self.assertEqual(verdict["ratio"], {"median": 10, "low": 10, "high": 12.5})
        self.assertEqual(verdict["of_floor"], {"median": 0.7, "low": 0.7, "high": 0.7})

    def test_there_is_no_verdict_without_ours_or_without_others(self) -> None:
        self.assertEqual(report.verdicts(self.RESULTS[:3]), [])
        self.assertEqual(report.verdicts([self.RESULTS[0], self.RESULTS[3]]), [])

    def test_the_table_has_a_row_for_each(self) -> None:
        lines = report.table(self.RESULTS).splitlines()
        self.assertEqual(len(lines), 2 + len(self.RESULTS))
        cni = next(line for line in lines if " cni " in line).split()
        self.assertEqual(cni[:6], ["4", "cni", "33.0", "30.0-36.0", "66.0", "99.0"])
        self.assertEqual(cni[6:], ["1.00", "2.00", "3.00", "4.00", "10.0", "x"])

    def test_the_noise_is_told(self) -> None:
        self.assertIn("45 % of their median apart (netloom, 4 callers)", report.summary(self.RESULTS)[-1])
        self.assertIn("unknown", report.summary([result("cni", [30])])[-1])

    def test_the_json_has_every_round(self) -> None:
        told = json.loads(json.dumps(report.as_json(self.RESULTS)))
        self.assertEqual([entry["peer"] for entry in told], ["nothing", "cni", "docker", "netloom"])
        self.assertEqual(told[1]["lifecycles_per_s"], {"median": 33, "low": 30, "high": 36})
        self.assertEqual(len(told[1]["rounds"]), 3)


class AddressTest(unittest.TestCase):
    def test_containers_have_different_addresses(self) -> None:
        def address(life: int) -> str:
            return json.loads(netavark_request("c", life, False))["networks"]["peers"]["static_ips"][0]

        self.assertEqual([address(life) for life in (-1, -2, 0)], ["10.89.0.2", "10.89.0.3", "10.89.1.0"])
        lives = [-1, -2, *range(2000)]
        self.assertEqual(len({address(life) for life in lives}), len(lives))


if __name__ == "__main__":
    unittest.main()
