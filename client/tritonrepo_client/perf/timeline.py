"""What happened when: requests sorted into slices of time; at their edges the server's counters were read."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tritonrepo_client.perf._records import (
    ENDPOINT_SHIFT,
    HELD_BIT,
    INDEX_MASK,
    KIND_MASK,
    KINDS,
    MODEL_SHIFT,
    UNFINISHED,
)
from tritonrepo_client.perf._worker import Chunk
from tritonrepo_client.perf.figures import Digest, Ints
from tritonrepo_client.perf.statistics import Reading

_MOST_SLICES = 600
_MOST_RAW = 3_000_000

Readings = Mapping[int, Reading]


class Slice:
    """What belongs to a piece of time."""

    def __init__(self) -> None:
        self.latency, self.service, self.lag = Digest(), Digest(), Digest()
        self.first, self.gaps = Digest(), Digest()
        self.by_model: dict[int, Digest] = {}
        self.counts: Counter[tuple[int, int, str]] = Counter()
        """Requests by model, endpoint and kind."""
        self.done = 0
        """Requests that succeeded in this time, whenever they were due."""
        self.responses = 0
        self.held = 0

    def digests(self) -> list[Digest]:
        """All of them."""
        return [self.latency, self.service, self.lag, self.first, self.gaps, *self.by_model.values()]

    def merge(self, other: Slice) -> None:
        """Take what the following slice has."""
        for mine, others in zip(self.digests()[:5], other.digests()[:5], strict=True):
            mine.merge(others)
        for model, digest in other.by_model.items():
            self.by_model.setdefault(model, Digest()).merge(digest)
        self.counts.update(other.counts)
        self.done += other.done
        self.responses += other.responses
        self.held += other.held

    @property
    def succeeded(self) -> int:
        """Requests that succeeded."""
        return sum(count for (_, _, kind), count in self.counts.items() if kind == "ok")


@dataclass(frozen=True)
class Health:
    """How a worker fared at a moment; times in ns."""

    worker: int
    time: int
    in_flight: int
    most_in_flight: int
    backlog: int
    cpu: int
    waited: int
    memory: int


@dataclass
class Requests:
    """Requests that ended, as arrays."""

    key: Ints
    """The time that says to which slice each belongs."""
    intended: Ints
    sent: Ints
    ended: Ints
    kind: Ints
    meta: Ints
    first: Ints
    responses: Ints
    names: Sequence[str] = field(default_factory=list)

    def select(self, which: NDArray[np.bool_]) -> Requests:
        """Some of them."""
        arrays = (self.key, self.intended, self.sent, self.ended, self.kind, self.meta, self.first, self.responses)
        key, intended, sent, ended, kind, meta, first, responses = (
            each[which] if len(each) else each for each in arrays
        )
        return Requests(key, intended, sent, ended, kind, meta, first, responses, self.names)


class Timeline:
    """Slices of one load point.

    Args:
        open_loop: requests belong to the time when they were due; else to the time when they ended.
        models: how many are mixed.
    """

    def __init__(self, *, open_loop: bool, models: int = 1) -> None:
        self.open_loop, self._models = open_loop, models
        self.edges: list[int] = []
        self.readings: list[Readings | None] = []
        self.slices: list[Slice] = []
        self.health: list[Health] = []
        self.samples: dict[str, str] = {}
        """Words of the first error of each kind."""
        self.complete_until = 0
        self.last_success = 0
        self.total = Counter[str]()
        """All requests that ended, by kind, also outside of the slices."""
        self.gap_total = 0
        self._oldest: dict[int, int] = {}
        self._waiting: list[Requests] = []
        self._done: list[Ints] = []
        self._gaps: list[Ints] = []

    def add_edge(self, when: int, readings: Readings | None) -> None:
        """End a slice, and begin the next."""
        if self.edges and when <= self.edges[-1]:
            return
        if self.edges:
            self.slices.append(Slice())
        self.edges.append(when)
        self.readings.append(readings)
        waiting, self._waiting = self._waiting, []
        for requests in waiting:
            self._assign(requests)
        done, self._done = self._done, []
        for ended in done:
            self._count_done(ended)
        gaps, self._gaps = self._gaps, []
        if self.slices:
            for each in gaps:
                self.slices[-1].gaps.add(each)
        if len(self.slices) > _MOST_SLICES:
            self._halve()

    def add(self, chunk: Chunk) -> None:
        """Take what a worker reports."""
        self.health.append(
            Health(
                chunk.worker, chunk.time, chunk.in_flight, chunk.most_in_flight, chunk.backlog, chunk.cpu, chunk.waited,
                chunk.memory,
            )
        )  # fmt: skip
        self._oldest[chunk.worker] = chunk.oldest
        self.complete_until = min(self._oldest.values())
        names = [name for name, _ in sorted(chunk.kinds.items(), key=lambda item: item[1])]
        for code, words in chunk.samples.items():
            self.samples.setdefault(names[code], words)
        intended, sent, ended = (np.frombuffer(data, np.int64) for data in chunk.records[:3])
        meta = np.frombuffer(chunk.records[3], np.uint32).astype(np.int64)
        first = np.frombuffer(chunk.records[4], np.int64)
        responses = np.frombuffer(chunk.records[5], np.uint32).astype(np.int64)
        gaps = np.frombuffer(chunk.records[6], np.int64)
        if len(gaps):
            self._gaps.append(gaps)
        if not len(ended):
            return
        kind = meta & KIND_MASK
        for code, count in enumerate(np.bincount(kind).tolist()):
            if count:
                self.total[names[code]] += count
        succeeded = ended[kind == 0]
        if len(succeeded):
            self.last_success = max(self.last_success, int(succeeded[-1]))
            self._count_done(succeeded)
        key = intended if self.open_loop else ended
        self._assign(Requests(key, intended, sent, ended, kind, meta, first, responses, names))

    def _assign(self, requests: Requests) -> None:
        """Put requests into slices; those after the last edge wait."""
        if not self.edges:
            self._waiting.append(requests)
            return
        index = np.searchsorted(self.edges, requests.key, "right") - 1
        last = len(self.edges) - 1
        late = index >= last
        if late.any():
            self._waiting.append(requests.select(late))
        for number in np.unique(index[(index >= 0) & ~late]).tolist():
            self._put(self.slices[number], requests.select(index == number))

    def _count_done(self, ended: Ints) -> None:
        if not self.edges or ended[-1] >= self.edges[-1]:
            last = self.edges[-1] if self.edges else 0
            self._done.append(ended[ended >= last])
            ended = ended[ended < last]
        if len(ended) and self.edges:
            index = np.searchsorted(self.edges, ended, "right") - 1
            for number, count in zip(*np.unique(index, return_counts=True), strict=True):
                if number >= 0:
                    self.slices[int(number)].done += int(count)

    def _put(self, into: Slice, requests: Requests) -> None:
        good = requests.kind == 0
        # What was given up unanswered took at least this long: left out, it would make a slow server look fast.
        counted = good | (requests.kind == UNFINISHED) | (requests.kind == KINDS.index("timeout"))
        latency = requests.ended - requests.intended
        into.latency.add(latency[counted])
        held = (requests.meta & HELD_BIT) != 0
        into.held += int(held.sum())
        if self.open_loop:
            into.service.add((requests.ended - requests.sent)[good])
            into.lag.add((requests.sent - requests.intended)[~held])
        if len(requests.responses):
            into.first.add((requests.first - requests.intended)[good & (requests.responses > 0)])
            into.responses += int(requests.responses.sum())
        if self._models == 1 and not requests.meta.any():  # nothing but successes of one model at one server
            into.counts[(0, 0, "ok")] += len(requests.meta)
            return
        groups = (requests.meta & (INDEX_MASK << MODEL_SHIFT | INDEX_MASK << ENDPOINT_SHIFT)) | requests.kind
        for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
            key = (int(group) >> MODEL_SHIFT & INDEX_MASK, int(group) >> ENDPOINT_SHIFT & INDEX_MASK)
            into.counts[(key[0], key[1], requests.names[int(group) & KIND_MASK])] += int(count)
        if self._models > 1:
            model = requests.meta >> MODEL_SHIFT & INDEX_MASK
            for number in np.unique(model).tolist():
                into.by_model.setdefault(number, Digest()).add(latency[counted & (model == number)])

    def _halve(self) -> None:
        """Join slices in pairs, from the back, so that the edges at both ends stay."""
        edges, readings, slices = [self.edges[-1]], [self.readings[-1]], []
        number = len(self.slices) - 1
        while number >= 0:
            joined = self.slices[max(number - 1, 0)]
            if number > 0:
                joined.merge(self.slices[number])
            slices.append(joined)
            start = max(number - 1, 0)
            edges.append(self.edges[start])
            readings.append(self.readings[start])
            number -= 2
        self.edges, self.readings, self.slices = edges[::-1], readings[::-1], slices[::-1]
        if sum(digest.raw for each in self.slices for digest in each.digests()) > _MOST_RAW:
            for each in self.slices:
                for digest in each.digests():
                    digest.fold()

    def index(self, when: int) -> int:
        """Number of the edge at or before a time."""
        return max(bisect_right(self.edges, when) - 1, 0)

    def complete(self) -> int:
        """How many slices, from the first, will get no more requests."""
        return sum(1 for edge in self.edges[1:] if edge <= self.complete_until)
