"""The proof that every shape that may come lies in one optimization profile, and that Triton takes the right one.

Shapes are points in a space with one axis for the batch and one for each size that may change; a profile is a box in
it. What may come is cut into boxes that lie wholly inside or wholly outside of each profile, so that a handful of boxes
speaks for millions of shapes, and none is left out.

How the TensorRT backend chooses is read in its sources (instance_state.cc, GetMostOptimizedProfile and
EvaluateTensorRTContext; the same from r24.10 to r26.07): of the selected profiles that hold the shape it takes the one
whose opt shape is nearest, the first where several are; where none holds it, it logs an error and goes on with the
first, which then fails. Its distance compares the batch with the batch, but every other axis of opt with the axis
before it of the request. So only the batch can decide between profiles: where anything else would have to, they must
not overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Key of the batch axis among the axes of a box.
BATCH = "batch size"

Side = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """Sizes that go together: for each axis, by its key, the smallest and the largest; all boxes have the same keys."""

    sides: Mapping[str, Side]

    def __str__(self) -> str:
        return ", ".join(
            f"{key} {low if low == high else f'{low} to {high}'}" for key, (low, high) in self.sides.items()
        )

    def __contains__(self, other: Box) -> bool:
        return all(
            low <= other.sides[key][0] and other.sides[key][1] <= high for key, (low, high) in self.sides.items()
        )

    @property
    def shapes(self) -> int:
        """How many shapes it holds."""
        return math.prod(high - low + 1 for low, high in self.sides.values())

    def meets(self, other: Box) -> bool:
        """Whether there is a shape that both hold."""
        return all(
            low <= other.sides[key][1] and other.sides[key][0] <= high for key, (low, high) in self.sides.items()
        )


@dataclass(frozen=True)
class Tuned:
    """A profile as Triton sees it: what it holds, and the sizes that it is tuned to."""

    box: Box
    opt: Mapping[str, int]


@dataclass(frozen=True)
class Cell:
    """Shapes for which the same profile is chosen by the same rule."""

    shapes: Box
    profiles: tuple[int, ...]
    """Profiles that hold them all, by their place among the selected ones; of several the nearest batch decides."""


@dataclass(frozen=True)
class Proof:
    """What was shown: the cells together are all that may come."""

    cells: tuple[Cell, ...]

    @property
    def shapes(self) -> int:
        """How many shapes were covered."""
        return sum(cell.shapes.shapes for cell in self.cells)


@dataclass(frozen=True)
class Gap:
    """Shapes that may come and that no profile holds."""

    shapes: Box

    def __str__(self) -> str:
        return f"no profile holds {self.shapes}"


@dataclass(frozen=True)
class Clash:
    """Shapes for which Triton's choice between profiles is not the one that is meant."""

    shapes: Box
    profiles: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        held = " and ".join(str(number) for number in self.profiles)
        return f"profiles {held} both hold {self.shapes}, and {self.why}"


def prove(reach: Sequence[Box], profiles: Sequence[Tuned]) -> Proof | Gap | Clash:
    """Show that each shape of ``reach`` lies in a profile, and that which one is chosen is no accident.

    Args:
        reach: what the batcher and the allowed shapes can form; the boxes may overlap.
        profiles: those that the instances select, in their order.

    Returns:
        the proof, or the first thing that is wrong.
    """
    cells: list[Cell] = []
    for number, box in enumerate(reach):
        for piece in _outside(box, reach[:number]):  # what earlier boxes have settled is not looked at again
            for part, members in cut(piece, [profile.box for profile in profiles]):
                fault = _fault(part, members, profiles)
                if fault:
                    return fault
                cells.append(Cell(part, members))
    return Proof(tuple(cells))


def cut(box: Box, into: Sequence[Box]) -> Iterator[tuple[Box, tuple[int, ...]]]:
    """Cut a box into parts that lie wholly inside or wholly outside of each of others, with the numbers of those."""
    for other in into:
        if box.meets(other) and box not in other:
            for part in _split(box, other):
                yield from cut(part, into)
            return
    yield box, tuple(number for number, other in enumerate(into) if box in other)


def _split(box: Box, other: Box) -> tuple[Box, Box]:
    """Two parts of a box, cut where a side of the other one begins or ends."""
    for key, (low, high) in other.sides.items():
        first, last = box.sides[key]
        if first < low:
            return _with(box, key, (first, low - 1)), _with(box, key, (low, last))
        if high < last:
            return _with(box, key, (first, high)), _with(box, key, (high + 1, last))
    raise ValueError("the box lies in the other one")


def _with(box: Box, key: str, side: Side) -> Box:
    return Box({**box.sides, key: side})


def _outside(box: Box, others: Sequence[Box]) -> Iterator[Box]:
    """The parts of a box that none of the others holds."""
    return (part for part, members in cut(box, others) if not members)


def _fault(part: Box, members: tuple[int, ...], profiles: Sequence[Tuned]) -> Gap | Clash | None:
    if not members:
        return Gap(part)
    if len(members) == 1:
        return None
    for key in part.sides:
        if key != BATCH and len({profiles[number].opt[key] for number in members}) > 1:
            why = f"Triton does not choose by {key}: it compares each axis of opt with the wrong one of the request"
            return Clash(part, members, why)
    by_batch = sorted(members, key=lambda number: profiles[number].opt.get(BATCH, 0))
    for one, other in itertools.pairwise(by_batch):
        small, large = (profiles[number].opt.get(BATCH, 0) for number in (one, other))
        low, high = part.sides.get(BATCH, (0, 0))
        if small == large or ((small + large) % 2 == 0 and low <= (small + large) // 2 <= high):
            at = "" if small == large else f" for a batch of {(small + large) // 2}"
            pair = (min(one, other), max(one, other))
            return Clash(part, pair, f"their opt batches, {small} and {large}, are equally near{at}")
    return None
