"""Reads the server's counters and gauges at regular moments, in a thread of its own."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tritonrepo_client.perf.errors import ServerError
from tritonrepo_client.perf.server import Server
from tritonrepo_client.perf.settings import ModelShare
from tritonrepo_client.perf.statistics import Reading, parse_metrics
from tritonrepo_client.perf.timeline import Readings


class Moment(NamedTuple):
    """Counters at a moment. ``readings`` by index of the model, all servers together; None: they could not be read."""

    time: int
    readings: Readings | None
    gauges: Mapping[str, float]


class Poller:
    """Reads until it is closed. A context manager.

    Args:
        servers: all that requests go to.
        models: whose statistics are read.
        metrics_url: the metrics page, or "".
        interval: seconds between readings.
    """

    def __init__(
        self, servers: Sequence[Server], models: Sequence[ModelShare], metrics_url: str, interval: float = 0.25
    ) -> None:
        self._servers, self._models, self._metrics = servers, models, metrics_url
        self._interval = interval
        self._moments: deque[Moment] = deque()
        self._stop = threading.Event()
        self.trouble = ""
        """Why the last reading failed, or ""."""
        self.unreachable_since = 0
        """Since when (ns) no reading succeeded; 0: the last one did."""
        self.refused = False
        """Whether the last reading failed because nobody listens, or the connection was cut."""
        self._thread = threading.Thread(target=self._run, name="perf-poller", daemon=True)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def take(self) -> list[Moment]:
        """What has been read since the last call."""
        moments = []
        while self._moments:
            moments.append(self._moments.popleft())
        return moments

    def _run(self) -> None:
        following = time.monotonic()
        while not self._stop.is_set():
            self._moments.append(self._read())
            following = max(following + self._interval, time.monotonic() + self._interval / 10)
            self._stop.wait(following - time.monotonic())

    def _read(self) -> Moment:
        gauges = read_metrics(self._metrics) if self._metrics else {}
        before = time.monotonic_ns()
        try:
            readings = read_counters(self._servers, self._models)
        except ServerError as error:
            self.trouble = error.message
            self.unreachable_since = self.unreachable_since or before
            self.refused = isinstance(error.__cause__, ConnectionError)
            return Moment(time.monotonic_ns(), None, gauges)
        self.trouble, self.unreachable_since = "", 0
        return Moment((before + time.monotonic_ns()) // 2, readings, gauges)


def read_counters(servers: Sequence[Server], models: Sequence[ModelShare]) -> dict[int, Reading]:
    """Counters of each model, summed over the servers.

    Raises:
        ServerError: one of them does not answer.
    """
    return {
        number: Reading.of([entry for server in servers for entry in server.statistics(model.name, model.version)])
        for number, model in enumerate(models)
    }


def read_metrics(url: str) -> dict[str, float]:
    """Gauges of the machine from a metrics page; {} where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310  the user's own http URL
            return parse_metrics(reply.read().decode("utf-8", "replace"))
    except (OSError, ValueError, urllib.error.URLError):
        return {}
