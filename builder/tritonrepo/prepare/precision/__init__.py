"""A lower precision in the ONNX graph itself, judged against FP32 before it is taken.

TensorRT 11 builds a plan in the types that the graph has, and in no others. ``reduce`` takes a prepared model and gives
one in FP16, BF16 or INT8, or in a mix with FP32, together with what was reached and why operators were kept. Nothing is
taken that fails: where no choice of operators is within the tolerance, that is an error.

    graph, weights      a model as a small graph, its weights in files
    choose, lower       which nodes, and FP16 or BF16 for them
    quantize, calibrate Q/DQ pairs for INT8, and their ranges
    emulate, gate       what an FP16 or BF16 graph gives, rounded after every operator, and how far that is off
    search              which operators to keep in FP32 when it is too far
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tritonrepo.errors import ModelError, TritonrepoError, Where
from tritonrepo.introspect import introspect
from tritonrepo.prepare import Change, Prepared
from tritonrepo.prepare.precision import graph, weights
from tritonrepo.prepare.precision.floats import low_float
from tritonrepo.prepare.precision.gate import Case
from tritonrepo.prepare.precision.ints import int8
from tritonrepo.prepare.precision.report import Reached
from tritonrepo.prepare.precision.request import Request
from tritonrepo.prepare.weights import open_model

__all__ = ["Case", "Reached", "Request", "reduce"]

_WORK = ".tritonrepo-precision-"


def reduce(
    request: Request, prepared: Prepared, keep: Callable[[Callable[[Path], None]], Path]
) -> tuple[Prepared, Reached]:
    """Bring a model to the precision that is asked for.

    Afterwards the model passes onnx's full check, its nodes are in topological order, and its error against FP32 is
    within the tolerance on every case.

    Args:
        request: what is asked for.
        prepared: the model, which runs in FP32.
        keep: gives a folder for the changed model; it is called with a function that writes into that folder.

    Raises:
        ModelError: the model cannot be brought to it: nothing in it can be lowered, a name in ``keep_fp32`` is wrong.
        VerificationError: no choice of operators is within the tolerance.
    """
    model = graph.inline_functions(open_model(prepared.path))
    with _said_of(prepared.signature.path), _working_folder(request.work) as work:
        graph.drop_weight_inputs(model)
        graph.lift_constants(model)
        graph.name_nodes(model)
        graph.sort_nodes(model.graph)
        weights.spill(model, prepared.path, work)
        model = graph.infer_types(model)
        done = int8(request, model, work) if request.precision.type == "int8" else low_float(request, model, work)
        if done.model is None:
            return prepared, done.reached
        result = done.model

        def fill(folder: Path) -> None:
            path = weights.write(result, work, folder, one_file=not prepared.external_data)
            _check(path, prepared)

        path = keep(fill) / "model.onnx"
    served = introspect(path)
    change = Change("precision", done.reached.summary(), "the spec asks for it")
    return (
        replace(
            prepared,
            path=path,
            external_data=served.external_data,
            changes=(*prepared.changes, change),
            signature=replace(served, path=prepared.signature.path),
        ),
        done.reached,
    )


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Errors that name no file are of this one."""
    try:
        yield
    except TritonrepoError as error:
        error.where = error.where or Where(path)
        raise


@contextmanager
def _working_folder(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards. Those of processes that were killed go now."""
    parent = parent or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_WORK}*-*"):
        owner = left.name[len(_WORK) :].partition("-")[0]
        if owner.isdigit() and not _runs(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f"{_WORK}{os.getpid()}-") as temporary:
        yield Path(temporary)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def _check(path: Path, prepared: Prepared) -> None:
    """Hold what was written against the standard: types, shapes and the order of nodes.

    Where the model before it fails the check of shapes, as some valid ones do, the rest is checked.
    """
    fault = _fault(path, shapes=True)
    if fault and _fault(prepared.path, shapes=True):
        fault = _fault(path, shapes=False)
    if fault:
        raise ModelError(
            f"the model in the lower precision is not valid ONNX: {fault}",
            where=prepared.signature.path,
            hint="This is a defect of the conversion: use `precision: fp32`, or name its node in precision.keep_fp32.",
        )


def _fault(path: Path, *, shapes: bool) -> str | None:
    """What onnx's checker says of a model; None where it is content."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=shapes)
    except Exception as error:  # onnx raises several classes, of Python and of C++
        return " ".join(str(error).split())[:400]
    return None
