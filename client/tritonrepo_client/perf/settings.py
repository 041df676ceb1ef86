"""What is to be measured: values, and how they are read from text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tritonrepo_client.perf.data import Axis
from tritonrepo_client.perf.errors import DataError, UsageError

Arrival = Literal["constant", "poisson", "burst"]
MOST_POINTS = 200


@dataclass(frozen=True)
class ModelShare:
    """A model and its weight in a mix."""

    name: str
    version: str = ""
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> ModelShare:
        """Read ``NAME``, ``NAME:VERSION``, ``NAME=WEIGHT`` or ``NAME:VERSION=WEIGHT``.

        Raises:
            UsageError: the weight is no positive number.
        """
        rest, equals, weight = text.rpartition("=")
        share = _number(weight, f"the weight in '{text}'") if equals else 1.0
        if share <= 0 or not (rest if equals else text):
            raise UsageError(f"cannot use '{text}'", hint="Give MODEL, or MODEL=WEIGHT with a weight above 0.")
        name, colon, version = (rest if equals else text).rpartition(":")
        if colon and version.isdecimal():
            return cls(name, version, share)
        return cls(rest if equals else text, "", share)


@dataclass(frozen=True)
class Load:
    """One load to be measured."""

    kind: Literal["concurrency", "rate", "ramp", "trace"]
    value: float
    """Requests in flight, or requests a second (ramp: at its end)."""
    arrival: Arrival = "poisson"
    start: float = 0.0
    """ramp: requests a second at its beginning."""
    burst: int = 1
    trace: tuple[int, ...] = ()
    """Nanoseconds from the beginning."""

    @property
    def open(self) -> bool:
        """Whether requests come at set times, whatever the server does."""
        return self.kind != "concurrency"

    def __str__(self) -> str:
        if self.kind == "concurrency":
            return f"{self.value:g} in flight"
        if self.kind == "ramp":
            return f"{self.start:g} to {self.value:g}/s"
        if self.kind == "trace":
            return f"trace of {len(self.trace)}"
        many = f" in bursts of {self.burst}" if self.arrival == "burst" else f" {self.arrival}"
        return f"{self.value:g}/s{many}"


@dataclass(frozen=True)
class Settings:
    """All settings of a run, as `run` takes them. Seconds unless stated."""

    models: tuple[ModelShare, ...]
    loads: tuple[Load, ...] = (Load("concurrency", 1),)
    urls: tuple[str, ...] = ("http://127.0.0.1:8000",)
    batch: int = 1
    data: Mapping[str, Path] = field(default_factory=dict)
    """Files or directories of request data by model; random where there are none."""
    expect: Mapping[str, Path] = field(default_factory=dict)
    """.npz files of expected outputs by model."""
    rtol: float = 0.0
    atol: float = 0.0
    shapes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    distinct: int = 16
    """Different random requests."""
    low: float | None = None
    high: float | None = None
    text_length: int = 16
    seed: int = 0
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, str | bool | int | float] = field(default_factory=dict)
    streaming: bool = False
    sequence_length: int = 0
    """Requests in a sequence, on average; 0: no sequences."""
    sequence_variation: float = 0.2
    """The length varies by this share, uniformly."""
    sequence_first_id: int = 1
    shared_memory: Literal["none", "system", "cuda"] = "none"
    output_shared_memory: int = 102_400
    """Bytes for an output whose size the model does not say."""
    duration: float = 20.0
    """Most seconds that a point is measured, after warm-up."""
    min_duration: float = 4.0
    """Least seconds."""
    precision: float = 0.05
    """Stop when the intervals of rate, p50 and p99 are within this share of the figure; 0: always the full duration."""
    warmup: float | None = None
    """Seconds before the measurement; None: until the figures are steady, as the data show."""
    max_warmup: float = 10.0
    timeout: float = 60.0
    """A request is given up after this."""
    deadline: float | None = None
    """Replies within this are good ones (goodput)."""
    max_in_flight: int = 1024
    """Open loop: as many requests at a server at once, in all workers together; more wait here."""
    workers: int = 0
    """Worker processes; 0: one, and more when it was not enough."""
    connections: int = 0
    """gRPC: connections of each worker to each endpoint; 0: 4, or as many as requests in flight."""
    metrics_url: str | None = None
    """Of the metrics page; None: port 8002 of the first server; "": none."""
    slo: Slo | None = None
    lag_limit: float = 0.001
    """Open loop: a point whose requests left later than this (p99) is invalid."""

    @property
    def protocol(self) -> str:
        """http or grpc."""
        return self.urls[0].partition(":")[0]


@dataclass(frozen=True)
class Slo:
    """A limit on a figure, such as p99=20ms."""

    figure: str
    limit: float
    """Seconds."""

    def __str__(self) -> str:
        return f"{self.figure}={self.limit * 1e3:g}ms"


def check(settings: Settings) -> None:
    """Refuse settings that make no sense together.

    Raises:
        UsageError: the first fault.
    """
    protocols = {url.partition(":")[0] for url in settings.urls}
    rules = (
        (not settings.models, "no model was given", "Name the model to measure."),
        (len(protocols) > 1, "--url mixes gRPC and HTTP", "Measure one after the other, and compare the results."),
        (settings.batch < 1, f"--batch {settings.batch}: a request has at least one row", ""),
        (settings.streaming and settings.protocol != "grpc", "--streaming needs gRPC", "Give --url grpc://HOST:PORT."),
        (
            settings.duration < 1,
            f"--duration {settings.duration:g} s is too short for any statement",
            "Give at least 1 s; intervals come from at least 5 parts of the measured time.",
        ),
        (
            settings.min_duration > settings.duration,
            f"--min-duration {settings.min_duration:g} is longer than --duration {settings.duration:g}",
            "",
        ),
        (settings.timeout <= 0, f"--timeout {settings.timeout:g}: it must be above 0", ""),
        (settings.precision < 0, f"--precision {settings.precision:g}: it must not be negative", ""),
        (settings.max_in_flight < 1, "--max-in-flight must be at least 1", ""),
        (len(settings.loads) > MOST_POINTS, f"{len(settings.loads)} points are too many", f"At most {MOST_POINTS}."),
        (
            bool(settings.sequence_length) and len(settings.models) > 1,
            "sequences and several models do not go together",
            "Measure the sequence model alone.",
        ),
        (
            bool(settings.expect) and settings.shared_memory != "none",
            "--expect cannot look into shared memory",
            "Check without --shared-memory.",
        ),
        (
            settings.slo is not None and any(load.kind != "concurrency" for load in settings.loads),
            "--slo finds the rate itself",
            "Leave --rate, --ramp and --trace out; --arrival says how requests come.",
        ),
    )
    for wrong, message, hint in rules:
        if wrong:
            raise UsageError(message, hint=hint)


def parse_range(text: str, option: str, *, whole: bool) -> tuple[float, ...]:
    """Read ``1,4,16``, ``1:64:x2`` or ``100:1000:100`` (the end belongs to it), or several of them with commas.

    Raises:
        UsageError: it is none of them, or has a value that is not above 0.
    """
    values: list[float] = []
    for part in text.split(","):
        pieces = part.strip().split(":")
        if len(pieces) == 1:
            values.append(_number(pieces[0], option))
        elif len(pieces) in (2, 3):
            first, last = (_number(piece, option) for piece in pieces[:2])
            values += _steps(first, last, pieces[2] if len(pieces) == 3 else "x2", option)
        else:
            raise UsageError(f"cannot read {option} {text}", hint="Give 1,4,16, or 1:64:x2, or 100:1000:100.")
        if len(values) > MOST_POINTS:
            raise UsageError(f"{option} {text} makes more than {MOST_POINTS} points", hint="Use larger steps.")
    for value in values:
        if value <= 0 or not math.isfinite(value):
            raise UsageError(f"{option} {text}: {value:g} is not above 0", hint="Nothing can be measured without load.")
        if whole and value != int(value):
            raise UsageError(f"{option} {text}: {value:g} is not a whole number")
    return tuple(values)


def _steps(first: float, last: float, step: str, option: str) -> list[float]:
    values = [first]
    by = _number(step.removeprefix("x"), option)
    grows = by > 1 if step.startswith("x") else by > 0
    if first <= 0 or last < first or not grows:
        raise UsageError(
            f"cannot go from {first:g} to {last:g} in steps of {step}",
            hint="Give FIRST:LAST:STEP or FIRST:LAST:xFACTOR.",
        )
    while len(values) <= MOST_POINTS:
        following = values[-1] * by if step.startswith("x") else values[-1] + by
        if following > last * (1 + 1e-9):
            return values
        values.append(following)
    return values


def parse_slo(text: str) -> Slo:
    """Read ``p99=20ms``; also mean, p50, p90, p95, p99.9, max, and s, ms, us.

    Raises:
        UsageError: it is no such thing.
    """
    match = re.fullmatch(r"(mean|max|p50|p90|p95|p99|p99\.9)\s*[=<]\s*([0-9.]+)\s*(s|ms|us)", text.strip())
    if not match or not _is_number(match[2]) or float(match[2]) <= 0:
        raise UsageError(f"cannot read --slo {text}", hint="Give for instance p99=20ms.")
    return Slo(match[1], float(match[2]) * {"s": 1, "ms": 1e-3, "us": 1e-6}[match[3]])


def parse_seconds(text: str, option: str) -> float:
    """Read ``20ms``, ``1.5s``, ``300us`` or plain seconds.

    Raises:
        UsageError: it is none of them.
    """
    match = re.fullmatch(r"([0-9.]+)\s*(s|ms|us|m|h)?", text.strip())
    if not match or not _is_number(match[1]):
        raise UsageError(f"cannot read {option} {text}", hint="Give seconds, or for instance 20ms.")
    return float(match[1]) * {"s": 1, "ms": 1e-3, "us": 1e-6, "m": 60, "h": 3600}[match[2] or "s"]


def read_trace(path: Path) -> tuple[int, ...]:
    """Arrival times from a file: seconds from the beginning, one a line; what follows a comma or blank is ignored.

    Raises:
        DataError: it cannot be read, or times go back.
    """
    times: list[float] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            word = re.split(r"[,\s]", line.strip(), maxsplit=1)[0]
            if not word or word.startswith("#"):
                continue
            if not _is_number(word):
                if number == 1:
                    continue  # a heading
                raise DataError(f"{path}:{number}: '{word}' is no time", hint="Give seconds, one arrival a line.")
            times.append(float(word))
            if len(times) > 1 and times[-1] < times[-2]:
                raise DataError(f"{path}:{number}: the time goes back", hint="Sort the trace.")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not times:
        raise DataError(f"{path}: there are no arrivals in it")
    return tuple(round((when - times[0]) * 1e9) for when in times)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(text: str, option: str) -> float:
    if not _is_number(text.strip()):
        raise UsageError(f"{option}: '{text}' is no number")
    return float(text)
