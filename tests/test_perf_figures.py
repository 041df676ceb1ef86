"""Arrivals, percentiles, intervals and warm-up of the load generator: numbers against what theory says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tritonrepo_client.perf._plan import OpenLoop
from tritonrepo_client.perf.arrivals import arrivals
from tritonrepo_client.perf.compare import compare
from tritonrepo_client.perf.figures import (
    Digest,
    Distribution,
    mean_figure,
    quantile_figure,
    steady_from,
    student,
)
from tritonrepo_client.perf.measure import widest
from tritonrepo_client.perf.statistics import Reading, breakdown, instances_of, parse_metrics
from tritonrepo_client.perf.timeline import Slice


def taken(load: OpenLoop, count: int, worker: int = 0, workers: int = 1) -> np.ndarray:
    return np.array(list(itertools.islice(arrivals(load, worker, workers), count)), np.int64)


@pytest.mark.parametrize("rate", [100, 1000, 5000])
def test_poisson_arrivals_pass_a_kolmogorov_smirnov_test(rate: int) -> None:
    gaps = np.sort(np.diff(taken(OpenLoop("poisson", rate, 3, 1), 20_001))) / 1e9
    expected = 1 - np.exp(-rate * gaps)
    ranks = np.arange(1, len(gaps) + 1) / len(gaps)
    distance = max(np.abs(ranks - expected).max(), np.abs(ranks - 1 / len(gaps) - expected).max())
    assert distance < 1.63 / math.sqrt(len(gaps))  # 1%
    other = taken(OpenLoop("poisson", rate, 4, 1), 100)
    assert (other != taken(OpenLoop("poisson", rate, 3, 1), 100)).any()


def test_workers_share_one_schedule() -> None:
    load = OpenLoop("poisson", 700.0, 5, 1)
    parts = [taken(load, 50, worker, 3) for worker in range(3)]
    assert np.array_equal(np.sort(np.concatenate(parts)), taken(load, 150))


def test_other_schedules() -> None:
    assert taken(OpenLoop("constant", 4.0, 0, 1), 3).tolist() == [0, 250_000_000, 500_000_000]
    assert taken(OpenLoop("burst", 10.0, 0, 1, burst=5), 6).tolist() == [0] * 5 + [500_000_000]
    assert taken(OpenLoop("trace", 1.0, 0, 1, trace=(0, 7, 9)), 9).tolist() == [0, 7, 9]
    ramp = taken(OpenLoop("ramp", 100.0, 0, 1, end_rate=300.0, duration=10.0), 9999) / 1e9
    assert len(ramp) == 2000
    assert (ramp < 5).sum() == pytest.approx(750, abs=1)  # the integral of 100 + 20 t
    assert ramp[-1] < 10
    assert (np.diff(ramp) > 0).all()
    flat = taken(OpenLoop("ramp", 50.0, 0, 1, end_rate=50.0, duration=2.0), 9999)
    assert np.allclose(np.diff(flat), 2e7)


def test_quantiles_are_those_of_the_sorted_values() -> None:
    digest = Digest()
    digest.add(np.array([5, 1, 3], np.int64))
    digest.add(np.array([2, 4], np.int64))
    whole = digest.sorted()
    assert [whole.quantile(share) for share in (0.0, 0.2, 0.21, 0.5, 1.0)] == [1, 1, 2, 3, 5]
    assert (whole.mean, whole.at_most(3.5), digest.mean) == (3.0, 3, 3.0)
    assert math.isnan(Digest().sorted().quantile(0.5))


def test_folding_keeps_three_digits() -> None:
    random = np.random.default_rng(0)
    values = random.lognormal(14, 2, 50_000).astype(np.int64)
    folded, raw = Digest(), Digest()
    for part in np.array_split(values, 7):
        folded.add(part)
        raw.add(part)
        folded.fold()
    assert folded.raw == 0
    a, b = folded.sorted(), raw.sorted()
    assert a.count == b.count == len(values)
    assert len(a.values) < 15_000
    for share in (0.001, 0.5, 0.99, 0.9999, 1.0):
        assert a.quantile(share) == pytest.approx(b.quantile(share), rel=1e-3)
    merged = Digest()
    merged.merge(folded)
    merged.merge(raw)
    assert merged.sorted().count == 2 * len(values)


@pytest.mark.parametrize(("df", "t"), [(4, 2.776), (9, 2.262), (19, 2.093), (100, 1.984)])
def test_student(df: int, t: float) -> None:
    assert student(df) == pytest.approx(t, rel=5e-3)


@pytest.mark.parametrize("correlated", [False, True])
def test_intervals_cover_a_second_run(correlated: bool) -> None:
    """19 times in 20 for independent requests; also when requests that follow each other are alike."""
    random = np.random.default_rng(1)
    hits = {"p50": 0, "p99": 0, "rate": 0}
    runs = 300

    def run() -> tuple[list[Distribution], Distribution, list[int]]:
        counts = random.poisson(400, 10)
        batches = []
        for count in counts:
            values = random.exponential(1e6, count)
            if correlated:
                values = values + np.repeat(random.exponential(1e6, -(-count // 20)), 20)[:count]
            digest = Digest()
            digest.add(values.astype(np.int64))
            batches.append(digest)
        whole = Digest()
        for batch in batches:
            whole.merge(batch)
        return [batch.sorted() for batch in batches], whole.sorted(), counts.tolist()

    for _ in range(runs):
        parts, whole, counts = run()
        _, second, other = run()
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            figure = quantile_figure(parts, whole, share)
            high = math.inf if figure.high is None else figure.high
            assert figure.low is not None
            hits[name] += figure.low <= second.quantile(share) <= high
        rate = mean_figure(counts, [1.0] * 10)
        assert rate.low is not None
        assert rate.high is not None
        hits["rate"] += rate.low <= sum(other) / 10 <= rate.high
    assert all(0.90 * runs <= count for count in hits.values()), hits
    assert hits["rate"] < runs  # and it is no interval of everything


def test_few_batches_say_nothing() -> None:
    assert mean_figure([10, 12], [1, 1]).low is None
    one = Distribution(np.array([1, 2], np.int64), np.array([1, 1], np.int64))
    assert quantile_figure([one] * 3, one, 0.5).low is None
    assert math.isinf(mean_figure([10, 12], [1, 1]).half_width)


def test_warm_up_is_found() -> None:
    random = np.random.default_rng(2)
    steady = 100 + random.normal(0, 3, 60)
    assert steady_from([steady]) <= 8
    warm = steady.copy()
    warm[:12] += np.linspace(200, 20, 12)
    assert 10 <= steady_from([warm]) <= 20
    assert steady_from([steady, warm]) == max(steady_from([steady]), steady_from([warm]))
    assert steady_from([np.arange(60.0)]) == 30  # it only ever grows: no steady part


def entry(success: int, batches: dict[int, tuple[int, int]]) -> dict[str, object]:
    return {
        "inference_count": str(success),
        "execution_count": sum(count for count, _ in batches.values()),
        "inference_stats": {
            "success": {"count": success, "ns": success * 1000},
            "queue": {"count": success, "ns": 500},
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_infer": {"count": count, "ns": ns},
                "compute_input": {"count": count, "ns": 10},
            }
            for size, (count, ns) in batches.items()
        ],
    }


def test_the_servers_time_comes_from_its_batches() -> None:
    before = Reading.of([entry(10, {1: (2, 100), 4: (2, 900)})])
    after = Reading.of([entry(110, {1: (2, 100), 4: (20, 9900), 8: (4, 8000)})])
    found = breakdown(after - before, 2.0, 2)
    assert found["batches"] == {"4": 18, "8": 4}
    assert found["mean_batch"] == pytest.approx((18 * 4 + 4 * 8) / 22)
    assert found["execution_us"]["infer"] == pytest.approx((9000 + 8000) / 22 / 1e3)
    assert found["requests"] == 100
    assert found["busy"] == pytest.approx((17000 + 10) / 1e9 / 2 / 2)
    assert (
        instances_of({"instance_group": [{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1]}, {"kind": "KIND_CPU"}]}) == 5
    )


def test_metrics_are_read() -> None:
    text = (
        '# HELP x\nnv_gpu_utilization{gpu_uuid="GPU-1"} 0.5\nnv_inference_count{model="m"} 3\n'
        'nv_cpu_utilization 0.25\nnv_cpu_memory_used_bytes 1e9\nnv_gpu_power_usage{gpu_uuid="GPU-1"} NaN?\n'
    )
    assert parse_metrics(text) == {
        "nv_gpu_utilization{GPU-1}": 0.5, "nv_cpu_utilization": 0.25, "nv_cpu_memory_used_bytes": 1e9,
    }  # fmt: skip


def result(rate: float, p99: float, error: float) -> dict[str, object]:
    load = {"kind": "rate", "value": 100, "arrival": "poisson", "start": None, "burst": None, "text": "100/s poisson"}
    figure = {"value": p99, "low": None, "high": None, "error": error * p99}
    names = ("mean", "p50", "p90", "p95", "p99", "p99.9")
    latency = {name: dict(figure) for name in names}
    latency["p99.9"]["error"] = None
    throughput = {"value": rate, "low": None, "high": None, "error": error * rate}
    return {
        "schema": 1, "settings": {"batch": 1},
        "points": [{"load": load, "latency_us": latency, "throughput": throughput}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "p99", "error", "verdicts"),
    [
        (100, 20, 0.01, {"throughput": "same", "p99": "same"}),
        (100, 30, 0.01, {"throughput": "same", "p99": "worse"}),
        (80, 15, 0.01, {"throughput": "worse", "p99": "better"}),
        (100, 30, 0.3, {"throughput": "same", "p99": "same"}),  # noise
        (98, 20.5, 0.001, {"throughput": "same", "p99": "same"}),  # significant, and within the tolerance
    ],
)
def test_regressions(rate: float, p99: float, error: float, verdicts: dict[str, str]) -> None:
    comparison = compare(result(100, 20, error), result(rate, p99, error))
    found = {each.figure: each.verdict for each in comparison.differences}
    assert {name: found[name] for name in verdicts} == verdicts
    assert found["p99.9"] == "unknown"
    assert bool(comparison.worse) == ("worse" in verdicts.values())
    ratio = next(each for each in comparison.differences if each.figure == "p99")
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.ratio < ratio.high


def served(rate: float, capacity: float, **more: object) -> dict[str, object]:
    """What a point of a server with that capacity looks like; latency grows as a queue's does."""
    answered = min(rate, capacity)
    slow = 10_000.0 if rate < capacity else 5e6
    value = 10_000.0 / max(1 - rate / capacity, 1e-3) if rate < capacity else slow
    point = {
        "latency_us": {"p99": {"value": value}}, "requests": {"total": 1000, "ok": 1000}, "valid": True,
        "offered_per_second": rate, "throughput": {"value": answered},
    }  # fmt: skip
    return {**point, **more}


def test_the_search_ends_next_to_the_limit() -> None:
    """10 ms / (1 - rate / 100) keeps 50 ms up to 80 a second."""
    from tritonrepo_client.perf.search import search
    from tritonrepo_client.perf.settings import Load, ModelShare, Settings, Slo

    asked: list[float] = []

    def measure(load: Load) -> dict[str, object]:
        if load.kind == "concurrency":
            return served(7.0, 100.0)
        asked.append(load.value)
        return served(load.value, 100.0)

    found = search(Slo("p99", 0.05), Settings((ModelShare("m"),)), measure)
    assert 80 / 1.05 <= found["rate"] <= 80
    assert len(found["steps"]) == len(asked) + 1
    nothing = search(Slo("p99", 0.001), Settings((ModelShare("m"),)), measure)
    assert nothing["rate"] is None

    def limited(load: Load) -> dict[str, object]:
        """A client that cannot send more than 30 a second."""
        point = measure(load)
        return {**point, "valid": load.value <= 30} if load.kind == "rate" else point

    client = search(Slo("p99", 0.05), Settings((ModelShare("m"),)), limited)
    assert client["rate"] <= 30
    assert "client" in client["ended"]


def test_it_stops_when_the_figures_are_known_well_enough() -> None:
    random = np.random.default_rng(5)

    def slices(count: int, requests: int, spread: float) -> list[Slice]:
        made = []
        for _ in range(count):
            part = Slice()
            part.latency.add((1e6 * random.normal(10, spread, requests).clip(1)).astype(np.int64))
            part.done = requests
            part.counts[(0, 0, "ok")] = requests
            made.append(part)
        return made

    quiet = widest(slices(20, 500, 0.5), [0.25] * 20)
    assert quiet < 0.05
    assert widest(slices(20, 500, 5.0), [0.25] * 20) > quiet
    assert math.isinf(widest(slices(3, 500, 0.5), [0.25] * 3))
    assert math.isinf(widest(slices(10, 1, 0.5), [0.25] * 10))
