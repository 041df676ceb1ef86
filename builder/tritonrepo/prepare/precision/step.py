"""The step of a build: what the conversion is judged on, from the spec and the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo import verify
from tritonrepo.introspect import Signature
from tritonrepo.plan import Plan, Shape
from tritonrepo.prepare import Prepared
from tritonrepo.prepare.precision import Case, Reached, Request, reduce
from tritonrepo.spec import ModelSpec, precision_of

if TYPE_CHECKING:
    from tritonrepo.prepare.precision.gate import Arrays

#: Samples that the gate judges every choice on; verification afterwards takes all of them.
MOST_CASES = 16

#: Rows of a batch that the gate judges on at first; where verification on whole batches fails after that, on all.
FEW_ROWS = 2


@dataclass(frozen=True)
class Reduced:
    """The model in its precision, and what was reached."""

    prepared: Prepared
    reached: Reached


def reduce_precision(
    model: ModelSpec,
    signature: Signature,
    prepared: Prepared,
    plan: Plan,
    rows: int | None,
    keep: Callable[[Callable[[Path], None]], Path],
    say: Callable[[str], None],
    work: Path | None = None,
) -> Reduced:
    """Bring a model to the precision that its spec asks for.

    Args:
        model: the settings.
        signature: of the original file, which is the reference.
        prepared: the model to serve, proven in FP32.
        plan: gives the shapes.
        rows: the largest batch that the gate judges on; None: as large as verification's.
        keep: gives a folder for the changed model.
        say: told what is going on.
        work: where the working folder is made; it holds the model twice for a while.

    Raises:
        ModelError: see ``reduce``.
        VerificationError: see ``reduce``; a sample does not fit the model.
    """
    settings = precision_of(model)

    def calibration() -> Iterator[Arrays]:
        for path in settings.calibration or model.verification.samples:
            yield verify.load_sample(path, prepared.signature)

    def cases() -> list[Case]:
        reference = verify.Reference(signature, prepared)
        outputs = {tensor.name: tensor for tensor in prepared.signature.outputs}
        found = []
        fp32 = verify.Session(prepared.path, optimize=False)
        samples = verify.samples(model, prepared.signature, _with_rows(plan, rows), fp32)
        for at, given in islice(samples, MOST_CASES):
            inputs = given
            if plan.max_batch_size and not reference.takes(given):  # the original's batch is fixed
                inputs = {name: array[:1] for name, array in given.items()}
            want = reference.run(inputs)
            found.append(Case(at, inputs, {name: (tensor, want[name]) for name, tensor in outputs.items()}))
        return found

    request = Request(model.name, settings, model.verification, cases, calibration, work, say)
    return Reduced(*reduce(request, prepared, keep))


def _with_rows(plan: Plan, most: int | None) -> Plan:
    """The plan with batches of at most this many rows."""
    if not plan.max_batch_size or most is None:
        return plan

    def rows(shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        return {name: (min(shape[0], most), *shape[1:]) for name, shape in shapes.items()}

    small = (replace(each, min=rows(each.min), opt=rows(each.opt), max=rows(each.max)) for each in plan.profiles)
    return replace(plan, profiles=tuple(small))
