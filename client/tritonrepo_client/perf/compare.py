"""Two runs side by side: the ratio of each figure, its interval, and whether it got worse."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from tritonrepo_client.perf.errors import DataError

Json = dict[str, Any]
TOLERANCE = 0.05
_FIGURES = ("mean", "p50", "p90", "p95", "p99", "p99.9")


@dataclass(frozen=True)
class Difference:
    """A figure of a point in both runs."""

    load: str
    figure: str
    old: float
    new: float
    ratio: float
    """new / old."""
    low: float | None
    """Interval of the ratio (95%); None where a run says nothing about it."""
    high: float | None
    verdict: str
    """same, better, worse, or unknown."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    differences: tuple[Difference, ...]
    missing: tuple[str, ...]
    """Loads of the old run that the new one has not."""
    changed: tuple[str, ...]
    """Settings that differ."""

    @property
    def worse(self) -> tuple[Difference, ...]:
        """Significant regressions."""
        return tuple(each for each in self.differences if each.verdict == "worse")


def load_result(path: Path) -> Json:
    """A result that was written with --json.

    Raises:
        DataError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict) or "points" not in content or "schema" not in content:
        raise DataError(f"{path}: this is no result of `tritonrepo perf --json`")
    if content["schema"] != 1:
        raise DataError(f"{path}: its schema is version {content['schema']}, and this program reads version 1")
    return content


def compare(old: Json, new: Json, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two results.

    A figure is worse (or better) when the interval of the ratio leaves out 1 and the ratio differs from 1 by more than
    the tolerance.
    """
    olds, news = ({_key(point): point for point in result["points"]} for result in (old, new))
    differences = []
    for key, point in news.items():
        if key in olds:
            differences += _point(olds[key], point, tolerance)
    missing = tuple(point["load"]["text"] for key, point in olds.items() if key not in news)
    names = ("models", "batch", "urls", "streaming", "sequence_length", "shared_memory", "shapes", "data", "distinct")
    changed = tuple(
        f"{name}: {old['settings'].get(name)} before, {new['settings'].get(name)} now"
        for name in names
        if old["settings"].get(name) != new["settings"].get(name)
    )
    return Comparison(tuple(differences), missing, changed)


def _key(point: Json) -> str:
    load = point["load"]
    return json.dumps([load["kind"], load["value"], load["arrival"], load["start"], load["burst"]])


def _point(old: Json, new: Json, tolerance: float) -> list[Difference]:
    text = new["load"]["text"]
    found = [_difference(text, "throughput", old["throughput"], new["throughput"], tolerance, more_is_better=True)]
    found += [
        _difference(text, name, old["latency_us"][name], new["latency_us"][name], tolerance, more_is_better=False)
        for name in _FIGURES
    ]
    return [each for each in found if each is not None]


def _difference(
    load: str, figure: str, old: Json, new: Json, tolerance: float, *, more_is_better: bool
) -> Difference | None:
    before, now = old["value"], new["value"]
    if not before or not now:
        return None
    ratio = now / before
    if old["error"] is None or new["error"] is None:
        return Difference(load, figure, before, now, ratio, None, None, "unknown")
    z = NormalDist().inv_cdf(0.975)
    spread = z * math.hypot(old["error"] / before, new["error"] / now)
    low, high = ratio * math.exp(-spread), ratio * math.exp(spread)
    verdict = "same"
    if (low > 1 or high < 1) and abs(ratio - 1) > tolerance:
        verdict = "better" if (ratio > 1) == more_is_better else "worse"
    return Difference(load, figure, before, now, ratio, low, high, verdict)
