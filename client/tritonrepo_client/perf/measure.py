"""One load point: send, watch, and stop when the figures are precise enough or time is up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tritonrepo_client.perf import _plan
from tritonrepo_client.perf.figures import (
    BATCHES,
    LEAST_BATCHES,
    Digest,
    Distribution,
    Figure,
    mean_figure,
    quantile_figure,
    steady_from,
)
from tritonrepo_client.perf.poller import Moment, Poller
from tritonrepo_client.perf.settings import Load, Settings
from tritonrepo_client.perf.timeline import Slice, Timeline
from tritonrepo_client.perf.workers import Workers

_SECOND = 1_000_000_000
_CHECK = _SECOND * 3 // 4
_EDGE_AT_LATEST = _SECOND
_GONE_AFTER = 2 * _SECOND
_SILENT_AFTER = 20 * _SECOND  # an overloaded server may take long to answer even that
_HEAD_START = 50_000_000
LEAST_REQUESTS = 20
_DRAIN = 5.0


@dataclass
class Progress:
    """How a point stands, for a live view."""

    load: Load
    seconds: float
    phase: str
    """warm-up, measuring, or draining."""
    rate: float = 0.0
    p50: float = 0.0
    """ms."""
    p99: float = 0.0
    in_flight: int = 0
    backlog: int = 0
    errors: int = 0
    width: float = float("inf")
    """Widest half interval so far, as a share of its figure."""
    history: Sequence[float] = ()
    """Requests a second of recent slices."""


@dataclass
class Measured:
    """A point as it was measured: the timeline, and which of its slices count."""

    load: Load
    timeline: Timeline
    first: int
    """Number of the first slice that counts."""
    last: int
    """One after the last."""
    stopped: str
    """precise, time, interrupted, server gone, or ended."""
    steady: bool
    """Whether the warm-up was over, as far as the data show."""
    warmup_fixed: bool
    workers: int
    started: int
    gauges: list[Moment] = field(default_factory=list)
    parent_cpu: float = 0.0
    """Seconds of CPU time of the parent process, while it was measured."""
    trouble: str = ""

    @property
    def slices(self) -> list[Slice]:
        """The slices that count."""
        return self.timeline.slices[self.first : self.last]

    @property
    def window(self) -> tuple[int, int]:
        """When they begin and end, ns."""
        edges = self.timeline.edges
        return (edges[self.first], edges[self.last]) if self.last > self.first else (0, 0)


OnProgress = Callable[[Progress], None] | None


class Interrupted(Exception):  # noqa: N818  it is no error
    """The user pressed Ctrl-C; what was measured is in ``measured``."""

    def __init__(self, measured: Measured) -> None:
        super().__init__("interrupted")
        self.measured = measured


def engine_load(load: Load, settings: Settings, workers: int, seed: int) -> _plan.Load:
    """The load as a worker takes it."""
    if load.kind == "concurrency":
        return _plan.ClosedLoop(int(load.value))
    limit = max(1, settings.max_in_flight // workers)
    kind: str = load.arrival if load.kind == "rate" else load.kind
    first = load.start if load.kind == "ramp" else load.value
    return _plan.OpenLoop(
        kind, first, seed, limit, burst=load.burst, end_rate=load.value, duration=settings.duration, trace=load.trace
    )


def measure(
    load: Load, settings: Settings, workers: Workers, poller: Poller, on_progress: OnProgress, seed: int
) -> Measured:
    """Measure one point.

    Args:
        load: what to send.
        settings: how long, how precisely.
        workers: started with the plan, and idle.
        poller: running.
        on_progress: called about four times a second, or None.
        seed: of the arrivals.

    Raises:
        Interrupted: by Ctrl-C; with what was measured.
    """
    return _Point(load, settings, workers, poller, on_progress).run(seed)


class _Point:
    def __init__(
        self, load: Load, settings: Settings, workers: Workers, poller: Poller, on_progress: OnProgress
    ) -> None:
        self._load, self._settings, self._workers, self._poller = load, settings, workers, poller
        self._on_progress = on_progress
        self._timeline = Timeline(open_loop=load.open, models=len(settings.models))
        self._gauges: list[Moment] = []
        self._started = self._stopped = 0
        self._cut, self._count, self._steady = 0, 0, False
        self._width = float("inf")
        self._whole = load.kind in ("ramp", "trace")
        """Whether all of the load is to be sent, and nothing of it left out."""

    def run(self, seed: int) -> Measured:
        cpu = time.process_time()
        interrupted = False
        self._poller.take()
        self._started = time.monotonic_ns() + _HEAD_START
        if self._whole:
            self._timeline.add_edge(self._started - 1, None)
        try:
            self._workers.start(engine_load(self._load, self._settings, self._workers.count, seed), self._started)
            stopped = self._watch()
        except KeyboardInterrupt:
            interrupted, stopped = True, "interrupted"
        try:
            self._drain(1.0 if interrupted or stopped == "server gone" else _DRAIN)
        except KeyboardInterrupt:
            interrupted, stopped = True, "interrupted"
            self._workers.tell("stop")
            self._workers.tell("abandon")
        if self._whole:
            self._timeline.add_edge(self._end() + 1, None)
        self._decide_window(stopped)
        measured = Measured(
            self._load, self._timeline, self._cut, self._count, stopped, self._steady,
            self._settings.warmup is not None or self._whole, self._workers.count, self._started, self._gauges,
            time.process_time() - cpu, self._poller.trouble,
        )  # fmt: skip
        if interrupted:
            raise Interrupted(measured)
        return measured

    def _watch(self) -> str:
        """Take in what comes until it is time to stop; returns why."""
        checked = shown = 0
        while True:
            self._take(0.05)
            now = time.monotonic_ns()
            if now - checked > _CHECK:
                checked = now
                reason = self._decide(now)
                if reason:
                    return reason
            if self._on_progress and now - shown > _SECOND // 4:
                shown = now
                self._on_progress(self._progress(now))

    def _take(self, timeout: float) -> None:
        for chunk in self._workers.poll(timeout):
            self._timeline.add(chunk)
        for moment in self._poller.take():
            if moment.time >= self._started:
                self._gauges.append(moment)
                self._timeline.add_edge(moment.time, moment.readings)
        now = time.monotonic_ns()
        edges = self._timeline.edges
        if now - max(edges[-1] if edges else 0, self._started) > _EDGE_AT_LATEST:
            self._timeline.add_edge(now, None)  # the server does not answer now

    def _decide(self, now: int) -> str:
        timeline, settings = self._timeline, self._settings
        if self._server_gone(now):
            return "server gone"
        if self._whole:
            return self._load_is_over(now)
        self._decide_window()
        first, last = timeline.edges[self._cut : self._cut + 1], timeline.edges[self._count : self._count + 1]
        measured = (last[0] - first[0]) / _SECOND if first and last else 0.0
        # Overload: requests that are due in the window may take longer than the window to end.
        waited = (now - first[0]) / _SECOND if first else 0.0
        if self._phase() == "warm-up":
            return ""
        if measured >= settings.duration or waited >= settings.duration + 1:
            return "time"
        if measured >= settings.min_duration and settings.precision > 0:
            self._width = widest(self._timeline.slices[self._cut : self._count], self._spans())
            if self._width <= settings.precision:
                return "precise"
        return ""

    def _load_is_over(self, now: int) -> str:
        """A ramp and a trace are sent to their end."""
        return "ended" if now > self._end() + _EDGE_AT_LATEST // 2 else ""

    def _end(self) -> int:
        """When the last request of a ramp or a trace is due, at the latest."""
        if self._load.kind == "ramp":
            return self._started + round(self._settings.duration * _SECOND)
        return self._started + self._load.trace[-1]

    def _decide_window(self, stopped: str = "") -> None:
        """Where the measurement begins, and how many slices are complete."""
        timeline, settings = self._timeline, self._settings
        self._count = timeline.complete()
        if self._stopped and not self._whole:
            self._count = min(self._count, timeline.index(self._stopped))
            if stopped in ("time", "precise"):  # what was decided on stays
                self._cut = min(self._cut, self._count)
                return
        if self._whole:
            self._cut, self._steady = 0, True
            if stopped == "ended":
                past = (number for number, edge in enumerate(timeline.edges) if edge > self._end())
                self._count = next(past, len(timeline.slices))
            return
        if not timeline.edges:
            return
        if settings.warmup is not None:
            begin = self._started + round(settings.warmup * _SECOND)
            self._cut = next((n for n, edge in enumerate(timeline.edges) if edge >= begin), len(timeline.edges) - 1)
            self._steady = True
        else:
            latest = timeline.index(self._started + round(settings.max_warmup * _SECOND))
            done = [each.done for each in timeline.slices[: self._count]]
            spans = np.diff(timeline.edges[: self._count + 1]) / _SECOND
            rates = np.asarray(done, np.float64) / spans
            means = np.asarray([each.latency.mean for each in timeline.slices[: self._count]], np.float64)
            cut = steady_from([rates, means]) if self._count >= 4 else 0
            self._steady = cut < self._count // 2 or self._count < 4
            self._cut = min(cut, latest)
        self._cut = min(self._cut, self._count)

    def _phase(self) -> str:
        if self._whole:
            return "measuring"
        now = time.monotonic_ns()
        if self._settings.warmup is not None:
            return "warm-up" if now < self._started + self._settings.warmup * _SECOND else "measuring"
        late = now > self._started + self._settings.max_warmup * _SECOND
        return "measuring" if (self._steady and self._count >= 4) or late else "warm-up"

    def _server_gone(self, now: int) -> bool:
        """Nothing succeeds any more, and the server does not answer the poller either."""
        since = self._poller.unreachable_since
        success = max(self._timeline.last_success, self._started)
        limit = _GONE_AFTER if self._poller.refused else _SILENT_AFTER
        return bool(since) and now - since > limit and now - success > limit

    def _spans(self) -> list[float]:
        edges = self._timeline.edges[self._cut : self._count + 1]
        return [(after - before) / _SECOND for before, after in itertools.pairwise(edges)]

    def _drain(self, limit: float) -> None:
        """Let what is in flight end; give up what does not in time."""
        self._stopped = time.monotonic_ns()
        if self._server_gone(self._stopped):
            self._stopped = max(self._timeline.last_success, self._started)
        self._workers.tell("stop")
        drained = self._empty(limit)
        if not drained:
            self._workers.tell("abandon")
            self._empty(2.0)
        elif self._settings.sequence_length:
            self._workers.tell("end_sequences")
            self._empty(2.0)

    def _empty(self, limit: float) -> bool:
        """Whether nothing is in flight any more, after at most so many seconds."""
        asked, deadline = time.monotonic_ns(), time.monotonic() + limit
        idle: set[int] = set()
        while len(idle) < self._workers.count and time.monotonic() < deadline:
            for chunk in self._workers.poll(0.05):
                self._timeline.add(chunk)
                if chunk.time > asked and not chunk.in_flight and not chunk.sending:
                    idle.add(chunk.worker)
            for moment in self._poller.take():
                self._gauges.append(moment)
                self._timeline.add_edge(moment.time, moment.readings)
        return len(idle) == self._workers.count

    def _progress(self, now: int) -> Progress:
        timeline = self._timeline
        recent = timeline.slices[-8:]
        progress = Progress(self._load, (now - self._started) / _SECOND, self._phase(), width=self._width)
        if recent:
            spans = np.diff(timeline.edges[-len(recent) - 1 :]) / _SECOND
            progress.rate = sum(each.done for each in recent) / float(spans.sum())
            latency = merged(recent, "latency")
            progress.p50, progress.p99 = (latency.quantile(share) / 1e6 for share in (0.5, 0.99))
            last = timeline.slices[-60:]
            spans = np.diff(timeline.edges[-len(last) - 1 :]) / _SECOND
            progress.history = [each.done / float(span) for each, span in zip(last, spans, strict=True)]
        latest = {health.worker: health for health in timeline.health[-2 * self._workers.count :]}
        progress.in_flight = sum(health.in_flight for health in latest.values())
        progress.backlog = sum(health.backlog for health in latest.values())
        progress.errors = sum(count for kind, count in timeline.total.items() if kind != "ok")
        return progress


def merged(slices: Sequence[Slice], name: str) -> Distribution:
    """One of the slices' distributions, of all of them together: latency, service, lag, first or gaps."""
    digest = Digest()
    for each in slices:
        digest.merge(getattr(each, name))
    return digest.sorted()


def group(slices: Sequence[Slice], spans: Sequence[float]) -> list[tuple[list[Slice], float]]:
    """Slices joined into batches of about equal time, and the seconds of each."""
    count = min(BATCHES, len(slices))
    if count < LEAST_BATCHES:
        return [(list(slices), float(sum(spans)))] if slices else []
    each = sum(spans) / count
    batches: list[tuple[list[Slice], float]] = []
    members: list[Slice] = []
    seconds = at = 0.0
    for part, span in zip(slices, spans, strict=True):
        members.append(part)
        seconds += span
        at += span
        if at >= each * (len(batches) + 1) - 1e-9 and len(batches) < count - 1:
            batches.append((members, seconds))
            members, seconds = [], 0.0
    if members:
        batches.append((members, seconds))
    return batches


def rate_figure(batches: Sequence[tuple[list[Slice], float]]) -> Figure:
    """Requests that succeeded a second."""
    return mean_figure([sum(each.done for each in part) for part, _ in batches], [seconds for _, seconds in batches])


def latency_figures(
    batches: Sequence[tuple[list[Slice], float]], shares: Sequence[float], name: str = "latency"
) -> tuple[list[Figure], Distribution, list[Distribution]]:
    """Percentiles in ns, the distribution, and that of each batch."""
    parts = [merged(part, name) for part, _ in batches]
    whole = merged([each for part, _ in batches for each in part], name)
    return [quantile_figure(parts, whole, share) for share in shares], whole, parts


def widest(slices: Sequence[Slice], spans: Sequence[float]) -> float:
    """The widest of the half intervals of rate, p50 and p99, as a share of the figure."""
    batches = group(slices, spans)
    if len(batches) < LEAST_BATCHES or sum(each.succeeded for each in slices) < LEAST_REQUESTS:
        return float("inf")
    figures, whole, _ = latency_figures(batches, (0.5, 0.99))
    if not whole.count:
        return float("inf")
    return max(figure.half_width for figure in (rate_figure(batches), *figures))
