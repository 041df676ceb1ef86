"""A measured point -> the figures of the report, as plain values (docs/perf.schema.json). Times are microseconds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tritonrepo_client.perf.figures import PERCENTILES, Digest, Distribution, Figure, mean_figure
from tritonrepo_client.perf.measure import LEAST_REQUESTS, Measured, group, latency_figures, merged, rate_figure
from tritonrepo_client.perf.settings import Settings
from tritonrepo_client.perf.statistics import Reading, breakdown
from tritonrepo_client.perf.timeline import Health

_SECOND = 1_000_000_000
_MOST_POINTS = 240
_BUSY = 0.9
_WAITED = 0.25
_STATES = {
    "precise": "the intervals are as narrow as was asked",
    "time": "time was up",
    "interrupted": "interrupted",
    "server gone": "the server went away",
    "ended": "all of the load was sent",
}
Json = dict[str, Any]


def summarize(measured: Measured, settings: Settings, rows: float, instances: Mapping[int, int]) -> Json:
    """All figures of a point.

    Args:
        measured: the point.
        settings: of the run.
        rows: of a request, on average.
        instances: of each model on all servers together, by index; 0 where unknown.
    """
    slices, timeline = measured.slices, measured.timeline
    begin, end = measured.window
    seconds = (end - begin) / _SECOND
    edges = timeline.edges[measured.first : measured.last + 1]
    spans = [(after - before) / _SECOND for before, after in itertools.pairwise(edges)]
    batches = group(slices, spans)
    latency, whole, parts = latency_figures(batches, [share / 100 for share in PERCENTILES])
    counts: Counter[tuple[int, int, str]] = Counter()
    for each in slices:
        counts.update(each.counts)
    kinds: Counter[str] = Counter()
    for (_, _, kind), count in counts.items():
        kinds[kind] += count
    throughput = rate_figure(batches) if slices else Figure(math.nan)
    client = _client(measured, sum(kinds.values()))
    point: Json = {
        "load": _load(measured, settings),
        "window": {
            "seconds": seconds,
            "warmup_seconds": max(0.0, (begin - measured.started) / _SECOND) if slices else None,
            "warmup": "fixed" if measured.warmup_fixed else "detected" if measured.steady else "not steady",
            "stopped": measured.stopped,
            "stopped_because": _STATES[measured.stopped],
            "batches": len(batches),
        },
        "throughput": _figure(throughput, 1.0),
        "inferences_per_second": _number(throughput.value * rows),
        "offered_per_second": _number(sum(kinds.values()) / seconds if seconds else math.nan),
        "requests": {
            "total": sum(kinds.values()),
            "ok": kinds["ok"],
            "errors": {
                kind: {"count": count, "sample": timeline.samples.get(kind, "")}
                for kind, count in sorted(kinds.items())
                if kind != "ok"
            },
        },
        "latency_us": _latency(latency, whole, parts, kinds),
        "goodput": _goodput(whole, kinds, seconds, settings.deadline),
        "percentile_curve": _curve(whole),
        "histogram": _histogram(whole),
        "series": _series(measured),
        "models": _models(measured, settings, counts, seconds),
        "endpoints": _endpoints(settings, counts, seconds),
        "server": _server(measured, settings, seconds, instances),
        "client": client,
        "machine": _machine(measured),
    }
    if timeline.open_loop:
        lag = merged(slices, "lag")
        service = merged(slices, "service")
        point["service_latency_us"] = _percentiles(service)
        point["lag_us"] = _percentiles(lag)
        point["queue"] = _queue(measured)
    if settings.streaming:
        point["first_response_us"] = _percentiles(merged(slices, "first"))
        point["between_responses_us"] = _percentiles(merged(slices, "gaps"))
        responses = sum(each.responses for each in slices)
        point["responses_per_second"] = _number(responses / seconds if seconds else math.nan)
    point["checks"] = _checks(measured, settings, throughput.value, kinds)
    point["problems"], point["notes"] = _judge(measured, settings, point)
    point["valid"] = not point["problems"]
    return point


def _load(measured: Measured, settings: Settings) -> Json:
    load = measured.load
    return {
        "kind": load.kind,
        "value": load.value,
        "arrival": load.arrival if load.kind == "rate" else None,
        "start": load.start if load.kind == "ramp" else None,
        "burst": load.burst if load.arrival == "burst" and load.kind == "rate" else None,
        "text": str(load),
        "open": load.open,
        "workers": measured.workers,
        "batch": settings.batch,
        "max_in_flight": settings.max_in_flight if load.open else None,
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _figure(figure: Figure, scale: float) -> Json:
    values = {"value": figure.value, "low": figure.low, "high": figure.high, "error": figure.error}
    return {name: _number(None if value is None else value * scale) for name, value in values.items()}


def _latency(
    figures: Sequence[Figure], whole: Distribution, parts: Sequence[Distribution], kinds: Mapping[str, int]
) -> Json:
    mean = mean_figure([part.total for part in parts], [part.count for part in parts]) if whole.count else None
    values: Json = {"mean": _figure(mean or Figure(math.nan), 1e-3)}
    for share, figure in zip(PERCENTILES, figures, strict=True):
        values[f"p{share:g}"] = _figure(figure, 1e-3)
    values["max"] = _figure(Figure(whole.quantile(1.0)), 1e-3)
    values["min"] = _figure(Figure(whole.quantile(0.0)), 1e-3)
    deviations = (whole.values.astype(np.float64) - whole.mean) ** 2 * whole.counts if whole.count else np.zeros(1)
    values["standard_deviation"] = _number(math.sqrt(float(deviations.sum()) / max(whole.count, 1)) / 1e3)
    unanswered = kinds.get("unfinished", 0) + kinds.get("timeout", 0)
    # Whoever was not answered waited at least as long as is recorded: percentiles in their reach are lower bounds.
    values["lower_bounds"] = [
        name
        for name, share in [*((f"p{share:g}", share / 100) for share in PERCENTILES), ("max", 1.0)]
        if unanswered and whole.count and unanswered / whole.count >= 1 - share
    ]
    return values


def _percentiles(distribution: Distribution) -> Json:
    shares = {f"p{share:g}": share / 100 for share in PERCENTILES}
    values = {name: _number(distribution.quantile(share) / 1e3) for name, share in shares.items()}
    return {"mean": _number(distribution.mean / 1e3), **values, "max": _number(distribution.quantile(1.0) / 1e3)}


def _goodput(whole: Distribution, kinds: Mapping[str, int], seconds: float, deadline: float | None) -> Json | None:
    if deadline is None or not seconds:
        return None
    # Those that were not answered are in the distribution too; none of them was in time.
    bad = kinds.get("unfinished", 0) + kinds.get("timeout", 0)
    good = min(whole.at_most(deadline * 1e9), whole.count - bad)
    total = sum(kinds.values())
    return {
        "deadline_us": deadline * 1e6,
        "per_second": good / seconds,
        "share": good / total if total else None,
    }


def _curve(whole: Distribution) -> list[list[float]]:
    """Percentiles as an HDR plot has them: denser the closer they come to 100."""
    points: list[list[float]] = []
    if not whole.count:
        return points
    step = 0
    while True:
        share = 1 - 0.5 ** (step / 6)
        points.append([round(share * 100, 6), whole.quantile(share) / 1e3])
        if (1 - share) * whole.count < 1:
            points[-1] = [100.0, whole.quantile(1.0) / 1e3]
            return points
        step += 1


def _histogram(whole: Distribution) -> Json:
    """The distribution in classes of three significant digits, and as an HDR histogram in its own encoding."""
    digest = Digest()
    digest.add(np.repeat(whole.values, whole.counts) if whole.count < 3_000_000 else np.empty(0, np.int64))
    digest.fold()
    classes = digest.sorted()
    if not classes.count:
        classes = whole
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:  # the extra is not installed: everything but this works
        encoded = None
    else:
        histogram = HdrHistogram(1, 3_600_000_000, 3)
        for value, count in zip(classes.values.tolist(), classes.counts.tolist(), strict=True):
            histogram.record_value(max(1, min(round(value / 1e3), 3_600_000_000)), count)
        encoded = histogram.encode().decode()
    return {"unit": "us", "hdr": encoded}


def _series(measured: Measured) -> list[Json]:
    """Figures over time, warm-up included."""
    timeline = measured.timeline
    begin = measured.started
    many = -(-len(timeline.slices) // _MOST_POINTS) or 1
    series = []
    for at in range(0, len(timeline.slices), many):
        part = timeline.slices[at : at + many]
        start, end = timeline.edges[at], timeline.edges[min(at + many, len(timeline.edges) - 1)]
        latency = merged(part, "latency")
        health = [each for each in timeline.health if start <= each.time < end]
        failed = sum(count for each in part for (_, _, kind), count in each.counts.items() if kind != "ok")
        series.append(
            {
                "t": round((start - begin) / _SECOND, 3),
                "seconds": round((end - start) / _SECOND, 3),
                "rate": sum(each.done for each in part) / ((end - start) / _SECOND),
                "p50": _number(latency.quantile(0.5) / 1e3),
                "p99": _number(latency.quantile(0.99) / 1e3),
                "max": _number(latency.quantile(1.0) / 1e3),
                "errors": failed,
                "in_flight": _average([each.in_flight for each in health], measured.workers),
                "backlog": _average([each.backlog for each in health], measured.workers),
                "measured": measured.first <= at < measured.last,
            }
        )
    return series


def _average(values: Sequence[float], workers: int) -> float | None:
    return float(np.mean(values)) * workers if values else None


def _models(
    measured: Measured, settings: Settings, counts: Mapping[tuple[int, int, str], int], seconds: float
) -> list[Json]:
    result = []
    for number, model in enumerate(settings.models):
        mine = {key: count for key, count in counts.items() if key[0] == number}
        entry: Json = {
            "name": model.name,
            "version": model.version,
            "weight": model.weight,
            "ok": sum(count for (_, _, kind), count in mine.items() if kind == "ok"),
            "errors": sum(count for (_, _, kind), count in mine.items() if kind != "ok"),
        }
        entry["per_second"] = _number(entry["ok"] / seconds if seconds else math.nan)
        if len(settings.models) > 1:
            digest = Digest()
            for each in measured.slices:
                if number in each.by_model:
                    digest.merge(each.by_model[number])
            entry["latency_us"] = _percentiles(digest.sorted())
        result.append(entry)
    return result


def _endpoints(settings: Settings, counts: Mapping[tuple[int, int, str], int], seconds: float) -> list[Json]:
    return [
        {
            "url": url,
            "ok": (ok := sum(count for key, count in counts.items() if key[1] == number and key[2] == "ok")),
            "errors": sum(count for key, count in counts.items() if key[1] == number and key[2] != "ok"),
            "per_second": _number(ok / seconds if seconds else math.nan),
        }
        for number, url in enumerate(settings.urls)
    ]


def _readings(measured: Measured) -> tuple[int, int] | None:
    """The outermost edges of the window at which the counters were read."""
    readings = measured.timeline.readings[measured.first : measured.last + 1]
    known = [number for number, each in enumerate(readings) if each is not None]
    return (measured.first + known[0], measured.first + known[-1]) if len(known) > 1 else None


def _server(measured: Measured, settings: Settings, seconds: float, instances: Mapping[int, int]) -> Json | None:
    span = _readings(measured)
    if span is None:
        return None
    first, last = (measured.timeline.readings[edge] or {} for edge in span)
    between = (measured.timeline.edges[span[1]] - measured.timeline.edges[span[0]]) / _SECOND
    models = {
        model.name: breakdown(last[number] - first[number], between, instances.get(number, 0))
        for number, model in enumerate(settings.models)
        if number in first and number in last
    }
    return {"seconds": between, "models": models}


def _client(measured: Measured, requests: int) -> Json:
    begin, end = measured.window
    cpu = waited = 0.0
    busiest = most_waited = 0.0
    for worker in range(measured.workers):
        mine = [each for each in measured.timeline.health if each.worker == worker]
        inside = [each for each in mine if begin <= each.time <= end]
        if len(inside) < 2:
            continue
        span = inside[-1].time - inside[0].time
        used, stood = inside[-1].cpu - inside[0].cpu, inside[-1].waited - inside[0].waited
        cpu += used
        waited += stood
        busiest, most_waited = max(busiest, used / span), max(most_waited, stood / span)
    latest: dict[int, Health] = {each.worker: each for each in measured.timeline.health}
    inside_share = (end - begin) / max(time_span(measured), 1)
    parent = measured.parent_cpu * 1e9 * min(inside_share, 1.0)
    return {
        "cpu_us_per_request": _number((cpu + parent) / requests / 1e3 if requests else math.nan),
        "worker_cpu_us_per_request": _number(cpu / requests / 1e3 if requests else math.nan),
        "busiest_worker_cpu": busiest,
        "waited_for_core": most_waited,
        "memory_bytes": sum(each.memory for each in latest.values()),
        "workers": measured.workers,
    }


def time_span(measured: Measured) -> int:
    """Nanoseconds from the first to the last report of the workers."""
    health = measured.timeline.health
    return health[-1].time - health[0].time if health else 0


def _machine(measured: Measured) -> Json:
    begin, end = measured.window
    values: dict[str, list[float]] = {}
    for moment in measured.gauges:
        if begin <= moment.time <= end:
            for name, value in moment.gauges.items():
                values.setdefault(name, []).append(value)
    return {name: {"mean": float(np.mean(each)), "max": max(each)} for name, each in sorted(values.items())}


def _queue(measured: Measured) -> Json:
    """What was under way at both ends of the window, and in between."""
    begin, end = measured.window
    inside = [each for each in measured.timeline.health if begin <= each.time <= end]
    many = measured.workers
    first, last = inside[: many * 3], inside[-many * 3 :]

    def waiting(part: Sequence[Health]) -> float | None:
        return _average([each.in_flight + each.backlog for each in part], many)

    return {
        "at_begin": waiting(first),
        "at_end": waiting(last),
        "most_in_flight": max((each.most_in_flight for each in inside), default=0),
        "held": sum(each.held for each in measured.slices),
    }


def _checks(measured: Measured, settings: Settings, rate: float, kinds: Mapping[str, int]) -> Json:
    begin, end = measured.window
    inside = [each for each in measured.timeline.health if begin <= each.time <= end]
    in_flight = _average([each.in_flight for each in inside], measured.workers)
    name = "service" if measured.timeline.open_loop else "latency"
    mean = merged(measured.slices, name).mean
    expected = rate * mean / 1e9
    samples = [each.in_flight * measured.workers for each in inside]
    # In-flight is looked at ten times a second: its mean is only known so well.
    noise = 3 * float(np.std(samples)) / math.sqrt(len(samples)) if samples else math.inf
    little = {
        "in_flight": _number(in_flight),
        "rate_times_latency": _number(expected),
        "ratio": _number(expected / in_flight if in_flight else math.nan),
        "agree": not in_flight or not abs(expected - in_flight) > noise + 0.05 * expected + 0.5,
    }
    span = _readings(measured)
    counts: Json | None = None
    if span is not None:
        slices = measured.timeline.slices[span[0] : span[1]]
        client = sum(each.done for each in slices)
        first, last = (measured.timeline.readings[edge] or {} for edge in span)
        window = [last[number] - first.get(number, Reading()) for number in last]
        server = sum(each.success for each in window)
        slack = max((each.in_flight for each in inside), default=0) * measured.workers + 0.01 * client + 2
        counts = {"client": client, "server": server, "agree": abs(client - server) <= slack}
    return {"little": little, "counts": counts}


def _judge(measured: Measured, settings: Settings, point: Json) -> tuple[list[str], list[str]]:
    """What makes a point invalid, and what one should know of it."""
    problems, notes = [], []
    requests = point["requests"]
    if requests["ok"] < LEAST_REQUESTS:
        what = "no request succeeded" if not requests["ok"] else f"only {requests['ok']} requests succeeded"
        problems.append(f"{what} in {point['window']['seconds']:.1f} s: too few for any statement")
    elif point["window"]["batches"] < 5:
        problems.append("the measured time is too short for intervals; give a longer --duration")
    if requests["errors"].get("wrong reply"):
        problems.append(f"{requests['errors']['wrong reply']['count']} replies were not what was expected")
    client = point["client"]
    if client["busiest_worker_cpu"] > _BUSY:
        problems.append(
            f"the client was the limit: a worker process used {client['busiest_worker_cpu']:.0%} of a core; "
            "add --workers"
        )
    elif client["waited_for_core"] > _WAITED:
        notes.append(
            f"the client waited for a core {client['waited_for_core']:.0%} of the time: this machine is too busy"
        )
    if measured.timeline.open_loop:
        problems += _schedule(settings, point)
        notes += _overload(settings, point)
    if point["window"]["warmup"] == "not steady":
        notes.append("the figures did not become steady: rates or latencies still changed at the end of the warm-up")
    counts = point["checks"]["counts"]
    if counts and not counts["agree"] and measured.stopped != "server gone":
        notes.append(
            f"the server counted {counts['server']} requests and this client {counts['client']}: "
            "others use the model, or replies were lost"
        )
    little = point["checks"]["little"]
    if not little["agree"] and little["ratio"] is not None and not requests["errors"]:
        notes.append(f"Little's law does not hold: rate times latency is {little['ratio']:.2f} of what was in flight")
    if point["latency_us"]["lower_bounds"]:
        names = ", ".join(point["latency_us"]["lower_bounds"])
        notes.append(f"{names} are lower bounds: requests were not answered before the end or the time-out")
    if measured.stopped == "server gone":
        problems.append(f"the server went away: {measured.trouble or 'it no longer answers'}")
    return problems, notes


def _overload(settings: Settings, point: Json) -> list[str]:
    notes = []
    queue = point["queue"]
    begin, end = queue["at_begin"] or 0.0, queue["at_end"] or 0.0
    answered, offered = point["throughput"]["value"] or 0.0, point["offered_per_second"] or 0.0
    if answered < 0.98 * offered and end - begin > 10:
        notes.append(
            f"overload: {answered:.0f}/s were answered of {offered:.0f}/s; "
            f"the queue grew from {begin:.0f} to {end:.0f} requests"
        )
    if queue["held"]:
        notes.append(
            f"{queue['held']} requests waited in the client, because {settings.max_in_flight} were in flight "
            "(--max-in-flight); their time ran"
        )
    return notes


def _schedule(settings: Settings, point: Json) -> list[str]:
    lag = point["lag_us"]["p99"]
    if lag is None:
        return []
    allowed = max(settings.lag_limit * 1e6, 0.1 * (point["latency_us"]["p99"]["value"] or 0))
    if lag > allowed:
        return [
            f"the client did not keep its schedule: 1 in 100 requests left more than {lag / 1e3:.2f} ms late "
            f"({allowed / 1e3:.2f} ms are allowed)"
        ]
    return []
