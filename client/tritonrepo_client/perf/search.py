"""The highest rate that keeps a limit on latency: doubled until it breaks, then halved in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tritonrepo_client.perf.settings import Load, Settings, Slo

Json = dict[str, Any]
_MOST_STEPS = 24
_FINE = 1.05


def search(slo: Slo, settings: Settings, measure: Callable[[Load], Json]) -> Json:
    """Find it. Every step is measured as a point of its own, in open loop.

    A rate keeps the limit when the figure is below it, fewer than 1 in 1,000 requests failed, and the server answered
    as many as were sent. A point that the client could not send as it should says nothing about the server, and ends
    the search there.

    Args:
        slo: the limit.
        settings: of the run; the first load's arrival is used.
        measure: measures a load and returns its point.

    Returns:
        ``rate`` (None: not even the lowest keeps it), ``limit``, ``figure``, ``steps``, ``ended``.
    """
    arrival = settings.loads[0].arrival if settings.loads else "poisson"
    steps: list[Json] = []

    def attempt(rate: float) -> bool | None:
        point = measure(Load("rate", rate, arrival))
        verdict = judge(point, slo)
        steps.append({"rate": rate, **verdict})
        kept: bool | None = verdict["kept"]
        return kept

    best, broken, ended = _bracket(attempt, _start(measure, slo, steps))
    while best and broken and broken / best > _FINE and len(steps) < _MOST_STEPS:
        middle = (best * broken) ** 0.5
        kept = attempt(middle)
        if kept is None:
            ended = "the client could not send more than that as it should"
            break
        if kept:
            best = middle
        else:
            broken = middle
    return {"figure": slo.figure, "limit_us": slo.limit * 1e6, "rate": best, "ended": ended, "steps": steps}


def _start(measure: Callable[[Load], Json], slo: Slo, steps: list[Json]) -> float:
    """A rate to begin with: half of what one request after the other reaches."""
    point = measure(Load("concurrency", 1))
    rate = point["throughput"]["value"] or 0.0
    steps.append({"rate": rate, "concurrency": 1, **judge(point, slo)})
    return max(rate / 2, 0.1)


def _bracket(attempt: Callable[[float], bool | None], rate: float) -> tuple[float | None, float | None, str]:
    """The highest rate that kept the limit, and the lowest that did not."""
    best: float | None = None
    kept = attempt(rate)
    while kept:
        best = rate
        rate *= 2
        kept = attempt(rate)
    if kept is None:
        return best, None, "the client could not send more than that as it should"
    broken = rate
    while best is None and rate > 0.05:
        rate /= 4
        if attempt(rate):
            best = rate
        else:
            broken = rate
    if best is None:
        return None, broken, "no rate keeps the limit"
    return best, broken, "the highest rate that keeps the limit and the lowest that does not lie within 5%"


def judge(point: Json, slo: Slo) -> Json:
    """Whether a point keeps the limit, and on what grounds. ``kept`` is None where it says nothing about the server."""
    value = point["latency_us"][slo.figure]["value"]
    total, ok = point["requests"]["total"], point["requests"]["ok"]
    sent = point["offered_per_second"] or 0.0
    answered = point["throughput"]["value"] or 0.0
    failed = (total - ok) / total if total else 1.0
    slow = value is None or value > slo.limit * 1e6
    behind = answered < 0.97 * sent
    kept: bool | None = not (slow or behind or failed > 0.001)
    if not kept and not point["valid"] and not behind and failed <= 0.001:
        kept = None
    if kept and not point["valid"]:
        kept = None
    return {"kept": kept, "value_us": value, "answered_per_second": answered, "failed_share": failed}
