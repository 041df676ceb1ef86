"""The verdict: what passes, what fails, and whether rows are independent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphs
from tritonrepo.errors import ModelError, VerificationError
from tritonrepo.introspect import introspect
from tritonrepo.plan import Plan, Profile
from tritonrepo.prepare import Prepared
from tritonrepo.spec import ModelSpec
from tritonrepo.verify import Verdict, explain, find_sizes, verify


def plan_for(batch: int, profile: Profile) -> Plan:
    return Plan("m", "python", "", batch, "", (profile,), {})


def rows(batch: int, *shape: int, name: str = "x") -> Profile:
    return Profile({name: (1, *shape)}, {name: (min(2, batch), *shape)}, {name: (batch, *shape)})


def verdict_of(path: Path, plan: Plan, artefact: Path | None = None, **how: Any) -> Verdict:
    spec = ModelSpec.model_validate({"name": "m", "onnx": path, "verification": how})
    return verify(spec, introspect(path), unchanged(path, artefact), plan)


def unchanged(path: Path, artefact: Path | None = None) -> Prepared:
    return Prepared(artefact or path, (), (), introspect(path))


def test_a_model_agrees_with_itself_at_min_opt_and_max(tmp_path: Path) -> None:
    verdict = verdict_of(graphs.mlp(tmp_path), plan_for(4, rows(4, 4)))
    assert verdict.ok
    assert verdict.rows_independent is True
    assert [(error.at, error.shape) for error in verdict.errors] == [
        ("min", (1, 3)), ("opt", (2, 3)), ("batch of 3", (3, 3)), ("max", (4, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("write", "shape", "words"),
    [
        (graphs.softmax_over_batch, (3,), "of output y changes with the other rows of its batch (opt)"),
        (graphs.mean_over_batch, (3,), "of output y changes with the other rows of its batch (opt)"),
        (graphs.conditional, (3,), "of output y changes with the other rows of its batch"),
    ],
)
def test_models_that_mix_rows_are_found(
    write: graphs.Write, shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    verdict = verdict_of(write(tmp_path), plan_for(8, rows(8, *shape)), low=-1, seed=1)
    assert (verdict.ok, verdict.rows_independent) == (False, False)
    assert words in str(verdict.rows_reason)


def test_two_rows_out_of_one_are_not_a_batch(tmp_path: Path) -> None:
    """Rows are independent here, and still the first axis of the output is not the batch."""
    verdict = verdict_of(graphs.reshape_mixes_rows(tmp_path), plan_for(4, rows(4, 4)))
    assert verdict.rows_independent is False
    assert "output y has shape [2, 2] for a batch of 1" in str(verdict.rows_reason)


def test_a_batch_that_does_not_run_is_no_batch(tmp_path: Path) -> None:
    path = graphs.static_batch_in_reshape(tmp_path)
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    verdict = verdict_of(path, plan_for(4, rows(4, 2, 3)))
    assert verdict.rows_independent is False
    assert "single rows run, but the model does not run on x [2, 2, 3]" in str(verdict.rows_reason)


def test_an_artefact_that_answers_otherwise_fails_with_index_and_values(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path)
    model = onnx.load(path)
    bias = next(weight for weight in model.graph.initializer if weight.name == "b2")
    changed = onnx.numpy_helper.to_array(bias) + np.array([0, 0.5, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, "b2"))
    onnx.save(model, tmp_path / "changed.onnx")
    verdict = verdict_of(path, plan_for(4, rows(4, 4)), tmp_path / "changed.onnx")
    assert not verdict.ok
    assert verdict.rows_reason is None
    error = explain(verdict, ModelSpec(name="m", onnx=path), introspect(path))
    assert "worst: output y at min: element [0, 1] of [1, 3]" in str(error)
    assert str(path) in str(error)


def test_nan_in_both_is_agreement(tmp_path: Path) -> None:
    assert verdict_of(graphs.nan_output(tmp_path), plan_for(0, rows(1, 3))).ok


def test_samples_of_the_user_are_used(tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.arange(8, dtype=np.float32).reshape(2, 4))
    verdict = verdict_of(graphs.mlp(tmp_path), plan_for(4, rows(4, 4)), samples=[sample])
    assert [error.at for error in verdict.errors] == ["sample.npz", "batch of 3"]


def test_a_sample_of_one_row_still_proves_a_batch(tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.array([[1, 2, 3]], np.float32))
    verdict = verdict_of(graphs.softmax_over_batch(tmp_path), plan_for(4, rows(4, 3)), samples=[sample])
    assert verdict.rows_independent is False


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.ones((1, 4), np.float32)}, "the sample holds z; the model's inputs are x"),
        ({"x": np.ones((1, 5), np.float32)}, "is float32[1, 5]; the input is x FP32[batch,4]"),
        ({"x": np.ones((1, 4), np.float64)}, "is float64[1, 4]; the input is x FP32[batch,4]"),
    ],
)
def test_samples_that_do_not_fit(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "sample.npz", **arrays)
    with pytest.raises(VerificationError) as caught:
        verdict_of(graphs.mlp(tmp_path), plan_for(4, rows(4, 4)), samples=[tmp_path / "sample.npz"])
    assert words in str(caught.value)


def test_a_sample_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "sample.npz").write_text("not a zip")
    with pytest.raises(VerificationError, match="the sample cannot be read"):
        verdict_of(graphs.mlp(tmp_path), plan_for(4, rows(4, 4)), samples=[tmp_path / "sample.npz"])


def test_generated_values_stay_in_their_range_and_repeat(tmp_path: Path) -> None:
    path = graphs.identity(tmp_path, "INT64")
    verdicts = [verdict_of(path, plan_for(4, rows(4, 3)), low=5, high=7, generated=2) for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert {error.worst_want for error in verdicts[0].errors} <= {5.0, 6.0}
    assert len(verdicts[0].errors) == 7


@pytest.mark.parametrize("dtype", ["FP16", "FP64", "INT8", "UINT8", "INT32", "BOOL", "STRING"])
def test_every_type_is_generated_and_compared(dtype: str, tmp_path: Path) -> None:
    assert verdict_of(graphs.identity(tmp_path, dtype), plan_for(4, rows(4, 3))).ok


@pytest.mark.parametrize("write", [graphs.unknown_operator, graphs.custom_domain_operator, graphs.cyclic])
def test_what_onnx_runtime_cannot_load(write: graphs.Write, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        verdict_of(write(tmp_path), plan_for(2, rows(2, 3)))


def test_shapes_that_do_not_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model does not run on x \[1, 5\]"):
        verdict_of(graphs.mlp(tmp_path), plan_for(0, rows(1, 5)))


def test_sizes_are_found_by_trying(tmp_path: Path) -> None:
    assert find_sizes(unchanged(graphs.dynamic_height_width(tmp_path)), ("height", "width")) == {
        "height": 64,
        "width": 64,
    }
    assert find_sizes(unchanged(graphs.no_batch(tmp_path)), ("tokens",)) == {"tokens": 1}
    with pytest.raises(ModelError):
        find_sizes(unchanged(graphs.unknown_operator(tmp_path)), ("batch",))


def test_sizes_are_those_of_the_users_sample(tmp_path: Path) -> None:
    prepared = unchanged(graphs.dynamic_height_width(tmp_path))
    np.savez(tmp_path / "s.npz", x=np.zeros((1, 3, 5, 7), np.float32))
    assert find_sizes(prepared, ("height", "width"), samples=[tmp_path / "s.npz"]) == {"height": 5, "width": 7}


@pytest.mark.parametrize(
    ("write", "operator"), [(graphs.random_uniform, "RandomUniformLike"), (graphs.training_dropout, "Dropout")]
)
def test_what_is_drawn_at_random_is_refused(write: graphs.Write, operator: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"operator {operator} gives other answers at every run"):
        verdict_of(write(tmp_path), plan_for(4, rows(4, 3)))


def test_a_shape_that_hangs_on_the_longest_text_is_no_batch(tmp_path: Path) -> None:
    verdict = verdict_of(graphs.split_words(tmp_path), plan_for(8, rows(8)))
    assert verdict.rows_independent is False
    assert "output y has another shape for another row" in str(verdict.rows_reason)


def test_a_model_that_does_not_run_on_zeros_is_found(tmp_path: Path) -> None:
    sizes = dict.fromkeys(("x", "z"), (2, 3))
    verdict = verdict_of(graphs.divides(tmp_path), plan_for(2, Profile(sizes, sizes, sizes)))
    assert verdict.ok and verdict.rows_independent
    assert "operator Div" in str(verdict.refuses_zeros)
    assert verdict_of(graphs.mlp(tmp_path), plan_for(4, rows(4, 4))).refuses_zeros is None
