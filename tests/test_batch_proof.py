"""The proof that rows are independent: what it finds, what it runs, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import graphs
from test_verify import plan_for, rows, verdict_of
from tritonrepo import batch_proof
from tritonrepo.batch_proof import prime_between
from tritonrepo.introspect import introspect
from tritonrepo.plan import Profile
from tritonrepo.verify import Verdict


def model(folder: Path, *nodes: Any, weights: dict[str, Any] | None = None, dtype: int = TensorProto.FLOAT) -> Path:
    """x [batch, 4] -> y [batch, ?]."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", dtype, ["batch", 4])],
        [helper.make_tensor_value_info("y", dtype, ["batch", None])],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def proven(path: Path, batch: int = 8, **how: Any) -> Verdict:
    return verdict_of(path, plan_for(batch, rows(batch, 4)), **how)


def test_what_is_run(tmp_path: Path) -> None:
    """The smallest, typical and largest batch, and a prime: eight rows alone, however large the batch is."""
    profile = Profile({"x": (1, 4)}, {"x": (8, 4)}, {"x": (32, 4)})
    verdict = verdict_of(graphs.mlp(tmp_path), plan_for(32, profile))
    assert verdict.ok
    assert verdict.proof == batch_proof.BatchProof((1, 3, 8, 32), 8)


@pytest.mark.parametrize(("low", "high", "prime"), [(1, 32, 3), (3, 32, 5), (1, 4, 3), (1, 3, None), (7, 10, None)])
def test_primes(low: int, high: int, prime: int | None) -> None:
    assert prime_between(low, high) == prime


N = helper.make_node
MIXING: dict[str, Callable[[Path], Path]] = {
    "the row before": lambda folder: model(
        folder, N("Slice", ["x", "zero", "last"], ["head"]), N("Slice", ["x", "last", "end"], ["tail"]),
        N("Concat", ["tail", "head"], ["y"], axis=0),
        weights={"zero": np.array([0]), "last": np.array([-1]), "end": np.array([2**62])},
    ),
    "sorted rows": lambda folder: model(
        folder, N("Shape", ["x"], ["shape"]), N("Gather", ["shape", "zero"], ["count"]),
        N("TopK", ["x", "count"], ["y", "places"], axis=0), weights={"zero": np.array([0])},
    ),
    "the largest of all rows": lambda folder: model(
        folder, N("ReduceMax", ["x"], ["most"], axes=[0]), N("Div", ["x", "most"], ["y"])
    ),
    "the first row": lambda folder: model(
        folder, N("Gather", ["x", "zero"], ["first"], axis=0), N("Add", ["x", "first"], ["y"]),
        weights={"zero": np.array([0])},
    ),
    "a scale for the whole batch": lambda folder: model(
        folder, N("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), N("DequantizeLinear", ["q", "s", "z"], ["y"])
    ),
    "rows that are joined to pairs where they can": lambda folder: model(
        folder, N("Reshape", ["x", "s"], ["r"]), N("CumSum", ["r", "zero"], ["c"]),
        N("Reshape", ["c", "t"], ["y"]),
        weights={"s": np.array([-1, 1]), "zero": np.array(0), "t": np.array([-1, 4])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_mixed_rows_are_found(name: str, tmp_path: Path) -> None:
    verdict = proven(MIXING[name](tmp_path), low=-1)
    assert (verdict.ok, verdict.rows_independent) == (False, False)
    assert "output y" in str(verdict.rows_reason)
    assert verdict.proof is None


def test_what_shows_only_beside_large_values(tmp_path: Path) -> None:
    """A millionth of the mean is within the tolerance, until a neighbour is large: that is another user's request."""
    nodes = (
        N("ReduceMean", ["x"], ["mean"], axes=[0]), N("Mul", ["mean", "little"], ["part"]),
        N("Add", ["x", "part"], ["y"]),
    )  # fmt: skip
    path = model(tmp_path, *nodes, weights={"little": np.array(5e-5, np.float32)})
    verdict = proven(path, tolerance={"atol": 1e-3})
    assert verdict.rows_reason is not None
    assert "(beside rows of zeros and of large values)" in verdict.rows_reason


def test_an_output_that_has_more_rows_than_the_batch(tmp_path: Path) -> None:
    path = model(tmp_path, N("Concat", ["x", "x"], ["y"], axis=0))
    assert "output y has shape [2, 4] for a batch of 1" in str(proven(path).rows_reason)


def test_an_output_that_has_a_batch_of_one_only_for_one_row(tmp_path: Path) -> None:
    """Its first axis is 1 whatever the batch is."""
    path = model(tmp_path, N("ReduceMean", ["x"], ["y"], axes=[0]))
    assert "output y has shape [1, 4] for a batch of 2" in str(proven(path).rows_reason)


def test_answers_that_are_all_the_same_prove_nothing(tmp_path: Path) -> None:
    path = model(tmp_path, N("Mul", ["x", "zero"], ["y"]), weights={"zero": np.zeros(1, np.float32)})
    said = str(proven(path).rows_reason)
    assert "every output is the same for each of the 16 rows that were tried" in said
    assert "give verification.samples with different answers" in said


def test_wider_values_tell_rows_apart_where_the_usual_ones_do_not(tmp_path: Path) -> None:
    path = model(
        tmp_path, N("Greater", ["x", "much"], ["g"]), N("Cast", ["g"], ["y"], to=TensorProto.FLOAT),
        weights={"much": np.array(5, np.float32)},
    )  # fmt: skip
    verdict = proven(path)
    assert verdict.ok
    assert verdict.errors[-1].at == "wide values"


def test_one_output_of_several_that_shows_nothing_is_named(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path)
    changed = onnx.load(path)
    changed.graph.node.append(N("Mul", ["y", "zero"], ["nothing"]))
    changed.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    changed.graph.output.append(helper.make_tensor_value_info("nothing", TensorProto.FLOAT, ["batch", 3]))
    onnx.save(changed, path)
    verdict = proven(path)
    assert verdict.ok
    assert verdict.proof is not None
    assert [note.split(" is ")[0] for note in verdict.proof.bounded] == ["output nothing"]


def test_a_batch_that_would_take_long_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_proof, "MOST_SECONDS", 1e-9)
    profile = Profile({"x": (1, 4)}, {"x": (8, 4)}, {"x": (32, 4)})
    verdict = verdict_of(graphs.mlp(tmp_path), plan_for(32, profile))
    assert verdict.ok
    assert verdict.proof is not None
    assert (verdict.proof.sizes, verdict.proof.rows) == ((1, 2), 2)
    assert any("a batch of 32 (max) would run about" in said for said in verdict.proof.bounded)
    assert any("2 were answered alone instead of 8" in said for said in verdict.proof.bounded)


@settings(max_examples=25, deadline=None)
@given(weight=st.floats(0.01, 10), axis=st.sampled_from([0, 1]), batch=st.integers(2, 9), seed=st.integers(0, 99))
def test_a_mean_over_rows_is_told_from_one_over_columns(
    weight: float, axis: int, batch: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nodes = (
        N("ReduceMean", ["x"], ["mean"], axes=[axis]), N("Mul", ["mean", "w"], ["part"]), N("Add", ["x", "part"], ["y"])
    )  # fmt: skip
    path = model(tmp_path_factory.mktemp("m"), *nodes, weights={"w": np.array(weight, np.float32)})
    assert introspect(path).batch
    assert proven(path, batch, seed=seed).ok is (axis == 1)
