"""Which operators must stay in FP32 so that the error is within what is allowed: found by trying, in a number of runs.

Three causes, looked for in this order, for the first ones spoil every measurement of the later ones:

1. Range: tensors that do not fit the low type, known from one FP32 run; what makes or reads them is kept.
2. NaN or infinity that no range explains: the first operator at which it appears is found by bisection over the order
   of the graph, kept, and so on.
3. Too large an error: the graph is cut into regions; each is measured alone, and those with the largest share of the
   error are kept, as few as will do. Then each kept region is bisected, and what need not be kept is released.

What is kept when the runs are used up is a choice that passed; it may only be larger than it had to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonrepo.compare import OutputError

#: Regions at first.
REGIONS = 8


@dataclass(frozen=True)
class Judgement:
    """How far one choice of operators is from the reference."""

    share: float
    """Largest error as a share of what is allowed: up to 1 passes; infinite for NaN, infinity or another shape."""
    errors: tuple[OutputError, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every output of every sample is within its tolerance."""
        return self.share <= 1

    @property
    def finite(self) -> bool:
        """Whether the error is a number at all."""
        return self.share != float("inf")


#: Judges the model with these nodes in the low type and all others in FP32.
Judge = Callable[[frozenset[str]], Judgement]


@dataclass(frozen=True)
class Found:
    """The outcome of a search."""

    low: frozenset[str]
    """The nodes to lower; empty where only FP32 passes."""
    kept: Mapping[str, str]
    """Node that stays in FP32 -> why, in the order of the graph."""
    runs: int
    """How many choices were judged."""
    first: Judgement
    """With all nodes lowered."""
    last: Judgement
    """Of ``low``."""
    complete: bool
    """Whether the search came to its end before the runs did."""
    tried: tuple[str, ...]
    """What was tried, in words."""


class _SpentError(Exception):
    """No more runs."""


@dataclass
class _Search:
    order: Sequence[str]
    judge: Judge
    max_runs: int
    known: dict[frozenset[str], Judgement] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    passed: frozenset[str] | None = None
    tried: list[str] = field(default_factory=list)

    def run(self, low: frozenset[str]) -> Judgement:
        """Judge a choice, once."""
        if low not in self.known:
            if len(self.known) >= self.max_runs:
                raise _SpentError
            self.known[low] = self.judge(low)
        return self.known[low]

    def low(self, kept: frozenset[str] | None = None) -> frozenset[str]:
        """All nodes but the kept ones."""
        return frozenset(self.order).difference(self.kept if kept is None else kept)


def search(
    order: Sequence[str],
    judge: Judge,
    *,
    suspects: Callable[[], Mapping[str, str]] = dict,
    max_runs: int = 40,
    say: Callable[[str], None] = lambda _: None,
) -> Found:
    """Find the nodes to keep in FP32.

    Args:
        order: the nodes that can be lowered, in topological order.
        judge: judges a choice.
        suspects: asked when the first choice fails: nodes that reach beyond the type's range -> why.
        max_runs: the largest number of choices that are judged, the first included.
        say: told what is tried.
    """
    state = _Search(order, judge, max(1, max_runs))
    first = last = state.run(frozenset(order))
    complete = True
    if not first.ok:
        try:
            last = _all_causes(state, suspects, say)
        except _SpentError:
            complete = False
            if state.passed is None:
                state.tried.append(f"gave up after {state.max_runs} runs")
                state.passed = frozenset()
            last = state.known.get(state.passed, Judgement(0.0))
    else:
        state.passed = state.low()
    low = state.passed if state.passed is not None else frozenset()
    kept = {name: state.kept.get(name, "error share") for name in order if name not in low}
    return Found(low, kept, len(state.known), first, last, complete, tuple(state.tried))


def _all_causes(state: _Search, suspects: Callable[[], Mapping[str, str]], say: Callable[[str], None]) -> Judgement:
    found = suspects()
    ranged = {name: found[name] for name in state.order if name in found}
    judged = state.run(state.low())
    if ranged:
        say(f"keeping {len(ranged)} operators whose tensors leave the range")
        state.kept.update(ranged)
        judged = state.run(state.low())
        state.tried.append(f"range: kept {len(ranged)} operators; error then {_times(judged)}")
    while not judged.finite and state.low():
        say("looking for the operator that first gives NaN or infinity")
        name = _first_not_finite(state)
        state.kept[name] = "NaN or infinity first appears here"
        judged = state.run(state.low())
        state.tried.append(f"NaN or infinity: kept {name}; error then {_times(judged)}")
    if judged.ok:
        state.passed = state.low()
        return judged
    return _by_error_share(state, say)


def _first_not_finite(state: _Search) -> str:
    """The first node, in the order of the graph, with which the result is NaN or infinite."""
    rest = [name for name in state.order if name not in state.kept]
    good, bad = 0, len(rest)
    while bad - good > 1:
        middle = (good + bad) // 2
        if state.run(frozenset(rest[:middle])).finite:
            good = middle
        else:
            bad = middle
    return rest[bad - 1]


def _by_error_share(state: _Search, say: Callable[[str], None]) -> Judgement:
    rest = [name for name in state.order if name not in state.kept]
    regions = _cut(rest, REGIONS)
    say(f"measuring the error of {len(regions)} regions")
    shares = [state.run(frozenset(region)).share for region in regions]
    ranked = sorted(range(len(regions)), key=lambda index: (-shares[index], index))
    base = dict(state.kept)
    # The fewest regions, worst first, without which the rest passes; with all of them kept nothing is low.
    few, many = 0, len(regions)
    while many - few > 1:
        middle = (few + many) // 2
        held = {name for index in ranked[:middle] for name in regions[index]}
        if state.run(state.low(frozenset({*base, *held}))).ok:
            many = middle
        else:
            few = middle
    kept_regions = [regions[index] for index in ranked[:many]]
    for index in ranked[:many]:
        why = f"error share: its region alone has {shares[index]:.2g} times the allowed error"
        state.kept.update(dict.fromkeys(regions[index], why))
    state.passed = state.low()
    state.tried.append(
        f"error share: {len(regions)} regions have {', '.join(f'{share:.2g}' for share in shares)} times the allowed "
        f"error alone; kept {many} of them"
    )
    _release(state, kept_regions, say)
    return state.known.get(state.low(), Judgement(0.0))


def _release(state: _Search, regions: list[list[str]], say: Callable[[str], None]) -> None:
    """Bisect what is kept, largest first, and release the halves that need not be."""
    queue = list(regions)
    while queue:
        queue.sort(key=len, reverse=True)
        region = queue.pop(0)
        if len(region) == 1:
            return
        say(f"narrowing down {len(region)} operators")
        halves = [region[: len(region) // 2], region[len(region) // 2 :]]
        released = []
        for half in halves:
            kept = frozenset(state.kept.keys() - set(half))
            if state.run(state.low(kept)).ok:
                for name in half:
                    del state.kept[name]
                state.passed = state.low()
                released.append(half)
        queue += [half for half in halves if half not in released]


def _cut(names: Sequence[str], count: int) -> list[list[str]]:
    """Contiguous parts of nearly equal length."""
    count = min(count, len(names))
    edges = [len(names) * part // count for part in range(count + 1)] if count else [0]
    return [list(names[low:high]) for low, high in pairwise(edges)]


def _times(judged: Judgement) -> str:
    return f"{judged.share:.2g} times the allowed" if judged.finite else "NaN or infinite"
