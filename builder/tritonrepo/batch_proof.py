"""The proof that rows of a batch are independent, without which no model is served with max_batch_size > 0.

The reference answers rows one by one. The artefact answers the same rows in batches of several sizes: the profile's
smallest, typical and largest one, and a prime between them, which no constant of the graph is likely to divide. The
batches are put together so that a row stands in different places, beside different rows, beside copies of itself, and
beside rows of zeros and of large values. Every answer must be the reference's, within the tolerance, and every output
must have one row for each row of the input.

The cost is bounded: ``MOST_ROWS`` rows are answered alone, larger batches repeat them; a batch that would run longer
than ``MOST_SECONDS`` is made smaller, and the proof says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tritonrepo.compare import FLOATS, OutputError
from tritonrepo.errors import ModelError
from tritonrepo.introspect import Signature

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

#: Different rows that are answered alone, for each shape.
MOST_ROWS = 8
#: How long one batch may take, on an idle machine.
MOST_SECONDS = 60.0
#: Threads of one ONNX Runtime session; the pipeline shares the cores among models that are built at once.
THREADS_VARIABLE = "TRITONREPO_THREADS"
#: What generated values are multiplied by for a row of large values.
_LOUD = 1000


class Runs(Protocol):
    """A session of the model, or of its reference."""

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs by name."""


@dataclass(frozen=True)
class Rows:
    """Rows of one shape, and the batches that are made of them."""

    rows: tuple[Arrays, ...]
    """Each with a first axis of 1."""
    sizes: tuple[tuple[str, int], ...]
    """What a batch is called, and its size."""
    thorough: bool = True
    """Whether a prime size and unusual neighbours are tried as well."""
    largest: int = 1
    """The largest batch that may be formed."""


@dataclass(frozen=True)
class BatchProof:
    """What was shown."""

    sizes: tuple[int, ...]
    """Batch sizes that were run, in order."""
    rows: int
    """Different rows, each answered alone and in batches."""
    bounded: tuple[str, ...] = ()
    """What was left out, and why."""


@dataclass
class Outcome:
    """Errors of every comparison, and what spoke against a batch."""

    errors: list[OutputError] = field(default_factory=list)
    mixed: str | None = None
    """Why rows are not independent; None where they are."""
    sizes: set[int] = field(default_factory=set)
    rows: int = 0
    bounded: list[str] = field(default_factory=list)

    @property
    def proof(self) -> BatchProof:
        """What was shown."""
        return BatchProof(tuple(sorted(self.sizes)), self.rows, tuple(dict.fromkeys(self.bounded)))


Compare = Callable[[str, "Arrays", "Arrays"], tuple[OutputError, ...]]


def answers_alone(groups: Sequence[Rows], reference: Runs, signature: Signature) -> list[list[Arrays]] | str:
    """The reference's answers to the rows of every group; or which output is not one row for one row, in words.

    Where rows take long, fewer than all of them are answered, but two at least.
    """
    answers = []
    for group in groups:
        begun = _seconds()
        alone: list[Arrays] = []
        for row in group.rows:
            if len(alone) >= 2 and _seconds() - begun > MOST_SECONDS:
                break
            alone.append(reference.run(row))
        answers.append(alone)
    for rows in answers:
        for output in signature.outputs:
            shapes = {row[output.name].shape for row in rows}
            for shape in shapes:
                if not shape or shape[0] != 1:
                    shown = f"output {output.name} has shape {list(shape)} for a batch of 1"
                    return f"{shown}: its first axis is not the batch"
            if len(shapes) > 1:
                return f"output {output.name} has another shape for another row"
    return answers


def prove(
    groups: Sequence[Rows],
    answers: Sequence[Sequence[Arrays]],
    artefact: Runs,
    signature: Signature,
    compare: Compare,
    *,
    strict: bool = True,
) -> Outcome:
    """Run the artefact on batches and hold every row against the reference's answer to it.

    Args:
        groups: the rows, by shape.
        answers: the reference's answer to each of them.
        artefact: what will be served.
        signature: of the artefact.
        compare: holds outputs against the reference: what they are called, got, wanted.
        strict: whether answers that are all the same count against a batch.

    Raises:
        ModelError: the artefact does not even run on single rows.
    """
    outcome = Outcome(rows=sum(map(len, answers)))
    pace = 0.0  # seconds for an element of the inputs
    for group, alone in zip(groups, answers, strict=True):
        if len(alone) < len(group.rows):
            outcome.bounded.append(f"rows take long: {len(alone)} were answered alone instead of {len(group.rows)}")
        weight = sum(array.size for array in group.rows[0].values())
        for label, planned in _batches(group, len(alone)):
            places = _bounded(label, planned, pace * weight, outcome)
            begun = _seconds()
            _one_batch(group, alone, artefact, label, places, compare, outcome)
            pace = (_seconds() - begun) / max(1, len(places) * weight)
            if outcome.mixed or any(not error.ok for error in outcome.errors):
                return outcome
        if group.thorough and group.largest > 1:
            _unusual_neighbours(group, alone, artefact, signature, compare, outcome)
            if outcome.mixed:
                return outcome
    same = [output.name for output in signature.outputs if alike(answers, output.name)]
    tried = f"for each of the {outcome.rows} rows that were tried, so that mixed rows would not show"
    hint = "give verification.samples with different answers"
    if strict and len(same) == len(signature.outputs) and max(outcome.sizes, default=1) > 1:
        outcome.mixed = f"every output is the same {tried}; {hint}"
    elif same:
        outcome.bounded += [f"output {name} is the same {tried} in it; {hint} to prove more" for name in same]
    return outcome


def _seconds() -> float:
    """A clock that stands still while others use the cores: what is left out must not depend on them."""
    return time.process_time() / (int(os.environ.get(THREADS_VARIABLE, "0")) or os.cpu_count() or 1)


def prime_between(low: int, high: int) -> int | None:
    """The smallest odd prime above ``low`` and below ``high``."""
    for number in range(max(3, low + 1), high):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            return number
    return None


def _batches(group: Rows, known: int) -> Iterator[tuple[str, list[int]]]:
    """What each batch is called, and the places of its rows in the group: in order at first, then shuffled."""
    import numpy as np

    random = np.random.default_rng(0)
    sizes = list(group.sizes)
    prime = prime_between(1, group.largest) if group.thorough else None
    if prime is not None and all(size != prime for _, size in sizes):
        sizes.append((f"batch of {prime}", prime))
    for number, (label, size) in enumerate(sorted(sizes, key=lambda each: each[1])):
        places: list[int] = []
        while len(places) < size:
            order = np.arange(known) if number == 0 and size <= known else random.permutation(known)
            places += order.tolist()
        yield label, places[:size]


def _bounded(label: str, places: list[int], seconds_per_row: float, outcome: Outcome) -> list[int]:
    """The batch, or as much of it as can be run in time."""
    if seconds_per_row * len(places) <= MOST_SECONDS:
        return places
    fits = max(2, int(MOST_SECONDS / seconds_per_row))
    if fits >= len(places):
        return places
    takes = f"a batch of {len(places)} ({label}) would run about {seconds_per_row * len(places):.0f} s"
    outcome.bounded.append(f"{takes}: {fits} rows were run")
    return places[:fits]


def _one_batch(
    group: Rows,
    alone: Sequence[Arrays],
    artefact: Runs,
    label: str,
    places: list[int],
    compare: Compare,
    outcome: Outcome,
) -> None:
    batch = joined([group.rows[place] for place in places])
    try:
        got = artefact.run(batch)
    except ModelError as error:
        if len(places) == 1:
            raise
        artefact.run(group.rows[places[0]])
        outcome.mixed = f"single rows run, but {error.message}"
        return
    outcome.mixed = _not_its_rows(got, alone[0], len(places))
    if outcome.mixed:
        return
    errors = compare(label, got, joined([alone[place] for place in places]))
    outcome.sizes.add(len(places))
    wrong = next((error for error in errors if not error.ok), None)
    if wrong is None or len(places) == 1:
        outcome.errors += errors
        return
    # Either the artefact is wrong, or a row's answer depends on its neighbours: alone, a wrong artefact is wrong too.
    row = places[wrong.worst_index[0]] if wrong.worst_index else places[0]
    by_itself = compare(label, artefact.run(group.rows[row]), alone[row])
    if all(error.ok for error in by_itself):
        outcome.mixed = mixed_row(wrong, label)
    else:
        outcome.errors += by_itself


def mixed_row(error: OutputError, label: str) -> str:
    """Why rows are not independent, from a comparison of a batch with its rows that failed."""
    if not error.worst_index:
        return f"output {error.output} has {error.worst_got} for a batch and {error.worst_want} from its rows ({label})"
    return f"row {error.worst_index[0]} of output {error.output} changes with the other rows of its batch ({label})"


def _not_its_rows(got: Arrays, alone: Arrays, size: int) -> str | None:
    """Which output is not one row for each row of the batch; None where all are."""
    for name, array in got.items():
        want = (size, *alone[name].shape[1:])
        if array.shape != want:
            shown = f"output {name} has shape {list(array.shape)} for a batch of {size}, its rows {list(want[1:])}"
            return f"{shown}: it is not one row for each"
    return None


def _unusual_neighbours(
    group: Rows, alone: Sequence[Arrays], artefact: Runs, signature: Signature, compare: Compare, outcome: Outcome
) -> None:
    """Rows beside a row of zeros, one of large values, and a copy."""
    import numpy as np

    first, last = 0, len(alone) - 1
    floats = {tensor.name for tensor in signature.inputs if tensor.dtype in FLOATS}
    numbers = {tensor.name for tensor in signature.inputs if tensor.dtype not in (*FLOATS, "STRING")}
    zeros = {
        name: np.zeros_like(array) if name in floats | numbers else array for name, array in group.rows[last].items()
    }
    with np.errstate(over="ignore"):
        loud = {name: array * array.dtype.type(_LOUD) if name in floats else array
                for name, array in group.rows[last].items()}  # fmt: skip
    line: list[tuple[int | None, Arrays]] = [
        (first, group.rows[first]), (None, zeros), (last, group.rows[last]), (None, loud), (first, group.rows[first]),
    ]  # fmt: skip
    line = line[: group.largest]
    try:
        got = artefact.run(joined([row for _, row in line]))
    except ModelError:
        return  # zeros are no input for this model
    outcome.mixed = _not_its_rows(got, alone[0], len(line))
    if outcome.mixed:
        return
    kept = [at for at, (place, _) in enumerate(line) if place is not None]
    label = "beside rows of zeros and of large values"
    want = joined([alone[place] for place, _ in line if place is not None])
    wrong = next((e for e in compare(label, {n: a[kept] for n, a in got.items()}, want) if not e.ok), None)
    if wrong is not None:
        outcome.mixed = mixed_row(wrong, label)


def alike(answers: Sequence[Sequence[Arrays]], output: str) -> bool:
    """Whether an output is the same for every row that was tried: mixed rows would not show in it."""
    rows = [row[output] for alone in answers for row in alone]
    return all(_equal(rows[0], row) for row in rows)


def wider(rows: Sequence[Arrays], signature: Signature) -> tuple[Arrays, ...]:
    """Rows whose floats are spread around zero, each wider than the one before: for a model that answers the usual ones
    all alike.
    """
    floats = {tensor.name for tensor in signature.inputs if tensor.dtype in FLOATS}
    return tuple(
        {
            name: ((array - array.mean()) * array.dtype.type(4**number)).astype(array.dtype)
            if name in floats
            else array
            for name, array in row.items()
        }
        for number, row in enumerate(rows)
    )


def _equal(a: Array, b: Array) -> bool:
    import numpy as np

    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def joined(rows: Sequence[Arrays]) -> Arrays:
    """Rows as a batch."""
    import numpy as np

    if len(rows) == 1:
        return rows[0]
    try:
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    except MemoryError:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in rows[0].items())
        raise ModelError(
            f"a batch of {len(rows)} rows does not fit into memory: {shapes} each",
            hint="Narrow the ranges under `shapes:` or max_batch_size, or give verification.samples.",
        ) from None
