"""When requests of an open loop are due."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tritonrepo_client.perf._plan import OpenLoop

_BLOCK = 4096
_SECOND = 1_000_000_000


def arrivals(load: OpenLoop, worker: int = 0, workers: int = 1) -> Iterator[int]:
    """Times of arrival, in nanoseconds from the beginning: every ``workers``-th, from ``worker`` on.

    All workers compute the same schedule, so that together they make exactly that schedule, however many they are.
    Without end, except for a trace and a ramp.
    """
    for number, when in enumerate(_SCHEDULES[load.kind](load)):
        if number % workers == worker:
            yield when


def _constant(load: OpenLoop) -> Iterator[int]:
    number = 0
    while True:
        yield round(number * _SECOND / load.rate)
        number += 1


def _poisson(load: OpenLoop) -> Iterator[int]:
    random = np.random.default_rng(load.seed)
    base = 0.0
    while True:
        times = base + np.cumsum(random.exponential(_SECOND / load.rate, _BLOCK))
        base = float(times[-1])
        yield from times.astype(np.int64).tolist()


def _burst(load: OpenLoop) -> Iterator[int]:
    number = 0
    while True:
        due = round(number * load.burst * _SECOND / load.rate)
        for _ in range(load.burst):
            yield due
        number += 1


def _ramp(load: OpenLoop) -> Iterator[int]:
    # The n-th request is due when the integral of the rate, first*t + (last-first)*t*t/(2*duration), has reached n.
    first, slope = load.rate, (load.end_rate - load.rate) / load.duration
    total = int((load.rate + load.end_rate) / 2 * load.duration)
    for number in range(total):
        if abs(slope) < 1e-12:
            seconds = number / first
        else:
            seconds = (math.sqrt(max(0.0, first * first + 2 * slope * number)) - first) / slope
        yield round(seconds * _SECOND)


def _trace(load: OpenLoop) -> Iterator[int]:
    yield from load.trace


_SCHEDULES = {"constant": _constant, "poisson": _poisson, "burst": _burst, "ramp": _ramp, "trace": _trace}
