"""Figures with intervals, out of samples in batches.

Requests that follow each other are not independent, so the spread of single requests says too little. The measured time
is cut into batches (method of batch means), and what the batches differ by says how far a second run of the same length
may differ: the interval is where that run's figure falls, 95 times in 100, if nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
BATCHES = 10
LEAST_BATCHES = 5
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_KEPT_BITS = 11  # 2048 steps in each power of two: three significant digits, as an HDR histogram keeps them

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure, and where a second run would find it."""

    value: float
    low: float | None = None
    """None: the run says nothing about it."""
    high: float | None = None
    error: float | None = None
    """Standard error of the value itself."""

    @property
    def half_width(self) -> float:
        """Half of the interval, as a share of the value; infinite where there is none."""
        if self.low is None or self.high is None or not self.value:
            return math.inf
        return (self.high - self.low) / 2 / abs(self.value)


class Digest:
    """Numbers: all of them, or folded into classes of three significant digits once they are too many."""

    def __init__(self) -> None:
        self._parts: list[Ints] = []
        self._folded: tuple[Ints, Ints] | None = None
        self.raw = 0
        """Numbers that are kept singly."""
        self.count = 0
        self.total = 0.0

    @property
    def mean(self) -> float:
        """0 without numbers."""
        return self.total / self.count if self.count else 0.0

    def add(self, numbers: Ints) -> None:
        """Take more numbers."""
        if len(numbers):
            self._parts.append(numbers)
            self.count += len(numbers)
            self.total += float(numbers.sum())
            self.raw += len(numbers)

    def merge(self, other: Digest) -> None:
        """Take what another one has."""
        self._parts += other._parts
        self.raw += other.raw
        self.count += other.count
        self.total += other.total
        if other._folded is not None:
            self._folded = other._folded if self._folded is None else _sum((self._folded, other._folded))

    def fold(self) -> None:
        """Keep classes and counts only."""
        if self.raw:
            values = np.concatenate(self._parts)
            shift = np.maximum(np.frexp(np.maximum(values, 1).astype(np.float64))[1] - _KEPT_BITS, 0)
            middle = np.where(shift > 0, (1 << shift) >> 1, 0)
            classes, counts = np.unique(((values >> shift) << shift) + middle, return_counts=True)
            new = (classes, counts.astype(np.int64))
            self._folded = new if self._folded is None else _sum((self._folded, new))
        self._parts, self.raw = [], 0

    def sorted(self) -> Distribution:
        """The distribution."""
        values = np.sort(np.concatenate(self._parts)) if self._parts else np.empty(0, np.int64)
        pairs = [(values, np.ones(len(values), np.int64))] if len(values) else []
        if self._folded is not None:
            pairs.append(self._folded)
        if not pairs:
            return Distribution(values, values)
        values, counts = pairs[0] if len(pairs) == 1 else _sum(pairs)
        return Distribution(values, counts)


class Distribution:
    """Sorted values and how often each occurs."""

    def __init__(self, values: Ints, counts: Ints) -> None:
        self.values, self.counts = values, counts
        self._ranks = np.cumsum(counts)
        self.count = int(self._ranks[-1]) if len(counts) else 0

    def quantile(self, share: float) -> float:
        """The smallest value that at least this share of all does not exceed. NaN without values."""
        if not self.count:
            return math.nan
        rank = min(max(math.ceil(share * self.count - 1e-9), 1), self.count)
        return float(self.values[int(np.searchsorted(self._ranks, rank))])

    def at_most(self, value: float) -> int:
        """How many do not exceed the value."""
        at = int(np.searchsorted(self.values, value, "right"))
        return int(self._ranks[at - 1]) if at else 0

    @property
    def total(self) -> float:
        """Sum of all."""
        return float(np.dot(self.values.astype(np.float64), self.counts.astype(np.float64)))

    @property
    def mean(self) -> float:
        """NaN without values."""
        return self.total / self.count if self.count else math.nan


def _sum(pairs: Sequence[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    values, where = np.unique(np.concatenate([pair[0] for pair in pairs]), return_inverse=True)
    counts = np.bincount(where, np.concatenate([pair[1] for pair in pairs]).astype(np.float64))
    return values, counts.astype(np.int64)


def student(df: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t (Cornish and Fisher's expansion; within 0.5% from 4 degrees on)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )


def mean_figure(values: Sequence[float], weights: Sequence[float]) -> Figure:
    """A ratio of sums over batches, such as requests over seconds.

    Args:
        values: numerator of each batch (requests).
        weights: denominator of each batch (seconds).
    """
    x, w = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if not w.sum():
        return Figure(math.nan)
    value = float(x.sum() / w.sum())
    n = len(x)
    if n < LEAST_BATCHES:
        return Figure(value)
    error = math.sqrt(n / (n - 1) * float(((x - value * w) ** 2).sum())) / float(w.sum())
    spread = student(n - 1) * math.sqrt(2) * error
    return Figure(value, value - spread, value + spread, error)


def quantile_figure(batches: Sequence[Distribution], whole: Distribution, share: float) -> Figure:
    """A percentile. The batches say how far the share below it varies, the distribution turns that into values.

    Args:
        batches: distribution of each batch.
        whole: all of them together.
        share: 0.99 for p99.
    """
    value = whole.quantile(share)
    filled = [batch for batch in batches if batch.count]
    n = len(filled)
    if n < LEAST_BATCHES or whole.count * (1 - share) < 1:
        return Figure(value)
    differences = [batch.at_most(value) - whole.at_most(value) / whole.count * batch.count for batch in filled]
    error = math.sqrt(n / (n - 1) * sum(each * each for each in differences)) / whole.count
    # Never less than independent requests would give.
    error = max(error, math.sqrt(share * (1 - share) / whole.count))
    spread = student(n - 1) * math.sqrt(2) * error
    low = whole.quantile(max(share - spread, 0.0))
    if share + spread >= 1:
        return Figure(value, low, None)
    high = whole.quantile(share + spread)
    return Figure(value, low, high, (high - low) / 2 / (student(n - 1) * math.sqrt(2)))


def steady_from(series: Sequence[Floats]) -> int:
    """From which element on all series are steady (MSER: where what is left has the smallest standard error).

    More than half is never left out; where the best cut is at the half, there is no steady part yet.
    """
    cut = 0
    for values in series:
        count = len(values)
        if count < 4:
            continue
        best, where = math.inf, 0
        for start in range(count // 2 + 1):
            rest = values[start:]
            score = float(((rest - rest.mean()) ** 2).sum()) / len(rest) ** 2
            if score < best * (1 - 1e-9):
                best, where = score, start
        cut = max(cut, where)
    return cut
