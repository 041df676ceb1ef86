"""Every operator of ONNX in FP16 and BF16: what comes out is valid ONNX, and runs.

The cases are those of the onnx package. `make test` takes every 40th; the slow test takes all.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tritonrepo.errors import ModelError
from tritonrepo.prepare.precision import choose, emulate, graph, lower, weights
from tritonrepo.verify import Session

#: Where FP16 gives another answer, as it must: large inputs that it rounds, a product beyond its range, masks that
#: are infinite there, and an integer result that turns on the last digit.
OTHER = ("large_number", "reduce_prod", "qk_matmul_bias", "dynamicquantizelinear", "_causal", "mask")

TOLERANCE = {graph.FLOAT16: 0.02, graph.BFLOAT16: 0.1}


@cache
def cases() -> list[tuple[Any, list[Any]]]:
    """Cases whose inputs are arrays, with their inputs."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, where a case computes with NaN or infinity
        found = [case for case in collect_testcases(None) if case.model is not None]
    fed = [(case, list(case.data_sets[0][0])) for case in found if case.data_sets]
    return [(case, inputs) for case, inputs in fed if all(isinstance(value, np.ndarray) for value in inputs)]


def outcome(case: Any, inputs: list[Any], folder: Path, dtype: int, *, convert_io: bool) -> str:
    """``skipped`` where ONNX Runtime does not run the case or nothing can be lowered; ``lowered`` where all is well.

    Everything else fails the test.
    """
    original = folder / "original.onnx"
    original.write_bytes(case.model.SerializeToString())
    feeds = dict(zip([value.name for value in case.model.graph.input], inputs, strict=False))
    try:
        want = Session(original, optimize=False).run(feeds)
        model = graph.inline_functions(onnx.load(original))
        graph.lift_constants(model)
        graph.name_nodes(model)
        graph.sort_nodes(model.graph)
        weights.spill(model, original, folder)
        model = graph.infer_types(model)
        onnx.checker.check_model(model, full_check=True)
    except (ModelError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):  # or a sequence
        return "skipped"
    chosen = choose.by_default(model, choose.survey(model, dtype), mixed=False)
    if not chosen:
        return "skipped"
    result = lower.lower(model, chosen, weights.Lowered(folder, dtype), convert_io=convert_io)
    written = weights.write(result, folder, folder, one_file=True)
    onnx.checker.check_model(str(written), full_check=True)
    if dtype == graph.FLOAT16:
        Session(written, optimize=False)
    (folder / "emulated.onnx").write_bytes(emulate.emulate(result).SerializeToString())
    given = {value.name: value.type.tensor_type.elem_type for value in emulate.emulate(result).graph.input}
    fitting = {name: each.astype(np.float32) if given[name] == 1 else each for name, each in feeds.items()}
    got = Session(folder / "emulated.onnx", optimize=False).run(fitting)
    for name, array in want.items():
        assert got[name].shape == array.shape, case.name
        if not any(part in case.name for part in OTHER) and array.dtype.kind in "fiub":
            _compare(got[name], array, TOLERANCE[dtype], case.name)
    return "lowered"


def _compare(got: Any, want: Any, share: float, name: str) -> None:
    exact = want.astype(np.float64)
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=1e-6)
    np.testing.assert_allclose(got.astype(np.float64), exact, atol=share * largest, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "convert_io"), [(graph.FLOAT16, False), (graph.FLOAT16, True), (graph.BFLOAT16, False)]
)
@pytest.mark.parametrize(
    "every",
    [pytest.param(40, id="sample"), pytest.param(1, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_operators(tmp_path: Path, every: int, dtype: int, convert_io: bool) -> None:
    counts = {"lowered": 0, "skipped": 0}
    faults = []
    for number, (case, inputs) in enumerate(cases()[::every]):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            with np.errstate(all="ignore"):
                counts[outcome(case, inputs, folder, dtype, convert_io=convert_io)] += 1
        except Exception as error:  # of onnx, ONNX Runtime, or an assertion: each is a fault of the case
            faults.append(f"{case.name}: {' '.join(str(error).split())[:200]}")
    assert not faults, f"{len(faults)} faults: {faults}"
    assert counts["lowered"] >= len(cases()) // every // 3, counts
