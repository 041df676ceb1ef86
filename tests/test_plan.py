"""Which engine, batch and shapes are chosen, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import graphs
from tritonrepo._tensorrt import Availability
from tritonrepo.errors import EngineError, MissingRangeError, ModelError
from tritonrepo.introspect import introspect
from tritonrepo.plan import Plan, plan
from tritonrepo.prepare import Prepared
from tritonrepo.spec import ModelSpec

NO_TENSORRT = Availability(False, "TensorRT cannot be used here: it is not installed")
TENSORRT = Availability(True, "TensorRT 11.1.0.106", "11.1.0.106")


def no_guess(axes: tuple[str, ...]) -> Mapping[str, int] | None:
    raise AssertionError(f"sizes were asked for: {axes}")


def planned(
    path: Path,
    *,
    guess: Any = no_guess,
    rows_mix: str | None = None,
    tensorrt: Availability = NO_TENSORRT,
    gpus: tuple[str, ...] = (),
    **settings: Any,
) -> Plan:
    spec = ModelSpec.model_validate({"name": "m", "onnx": path, **settings})
    signature = introspect(path)
    prepared = Prepared(path, signature.external_data, (), signature)
    return plan(
        spec,
        signature,
        prepared,
        tensorrt,
        guess=guess,
        output_shapes=lambda: {"y": ("batch", 3)},
        rows_mix=rows_mix,
        gpus=gpus,
    )


def test_auto_falls_to_python_and_says_why(tmp_path: Path) -> None:
    chosen = planned(graphs.mlp(tmp_path))
    assert (chosen.engine, chosen.engine_reason) == ("python", f"auto: {NO_TENSORRT.reason}")


def test_auto_batch_takes_the_default_and_a_profile_fits_it(tmp_path: Path) -> None:
    chosen = planned(graphs.mlp(tmp_path))
    assert chosen.max_batch_size == 32
    profile = chosen.profiles[0]
    assert (profile.min["x"], profile.opt["x"], profile.max["x"]) == ((1, 4), (8, 4), (32, 4))


def test_files_of_external_data_keep_their_place(tmp_path: Path) -> None:
    path = graphs.external_data_in_subfolder(tmp_path)
    data = path.parent / "weights" / "data.bin"
    assert planned(path).files == {"model.onnx": path, "weights/data.bin": data}


def test_ranges_by_symbol(tmp_path: Path) -> None:
    shapes = {"height": {"min": 8, "opt": 16, "max": 32}, "width": {"min": 4, "max": 64}}
    profile = planned(graphs.dynamic_height_width(tmp_path), shapes=shapes, batching={"max_batch_size": 4}).profiles[0]
    assert (profile.min["x"], profile.opt["x"], profile.max["x"]) == ((1, 3, 8, 4), (4, 3, 16, 64), (4, 3, 32, 64))


@pytest.mark.parametrize("batch", [[], [2]])
def test_ranges_by_tensor_with_and_without_the_batch_axis(batch: list[int], tmp_path: Path) -> None:
    shapes = {"x": {"min": [*batch, 3, 8, 8], "max": [*batch, 3, 16, 16]}}
    chosen = planned(graphs.unnamed_axes(tmp_path), shapes=shapes)
    assert chosen.max_batch_size == (2 if batch else 32)
    assert chosen.profiles[0].min["x"] == (1, 3, 8, 8)
    assert chosen.profiles[0].max["x"] == (chosen.max_batch_size, 3, 16, 16)


def test_a_range_of_the_batch_axis_sets_the_batch(tmp_path: Path) -> None:
    chosen = planned(graphs.mlp(tmp_path), shapes={"batch": {"min": 1, "opt": 3, "max": 6}})
    assert (chosen.max_batch_size, chosen.profiles[0].opt["x"]) == (6, (3, 4))


def test_axes_without_a_range_are_guessed_and_noted(tmp_path: Path) -> None:
    chosen = planned(graphs.dynamic_height_width(tmp_path), guess=lambda axes: dict.fromkeys(axes, 64))
    assert chosen.profiles[0].max["x"] == (32, 3, 64, 64)
    assert chosen.notes == (
        "height has no range in the spec: verified at 64 only",
        "width has no range in the spec: verified at 64 only",
    )


def test_without_a_working_guess_the_lines_to_add_are_shown(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no range is given for the dynamic axes height, width") as caught:
        planned(graphs.dynamic_height_width(tmp_path), guess=lambda axes: None)
    assert "shapes:\n        height: {min: ..., opt: ..., max: ...}\n        width:" in str(caught.value)
    with pytest.raises(ModelError) as caught:
        planned(graphs.unnamed_axes(tmp_path), guess=lambda axes: None)
    assert "x: {min: [..., 3, ..., ...], opt:" in str(caught.value)


def test_rows_that_mix_switch_batching_off(tmp_path: Path) -> None:
    chosen = planned(graphs.mlp(tmp_path), rows_mix="output y mixes rows", guess=lambda axes: dict.fromkeys(axes, 1))
    assert (chosen.max_batch_size, chosen.batch_reason) == (0, "auto: output y mixes rows")
    assert chosen.profiles[0].max["x"] == (1, 4)


def test_batching_that_was_demanded_and_cannot_be_is_an_error(tmp_path: Path) -> None:
    for path, rows_mix in ((graphs.static_batch(tmp_path), None), (graphs.mlp(tmp_path), "output y mixes rows")):
        with pytest.raises(ModelError, match="max_batch_size 8 was asked for, but the model does not batch"):
            planned(path, rows_mix=rows_mix, batching={"max_batch_size": 8})


def test_max_batch_size_and_range_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="max_batch_size is 8, but the range of the batch axis ends at 4"):
        planned(graphs.mlp(tmp_path), shapes={"batch": {"min": 1, "max": 4}}, batching={"max_batch_size": 8})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"depth": {"min": 1, "max": 2}}, "symbolic axis 'depth', which the model does not have"),
        ({"z": {"min": [1], "max": [2]}}, "input 'z', which the model does not have"),
        ({"x": {"min": [1], "max": [1]}}, "has 1 axes, the model has 4"),
        ({"x": {"min": [4, 8, 8], "max": [4, 8, 8]}}, "is fixed at 3, the range says otherwise"),
    ],
)
def test_ranges_that_do_not_fit_the_model(shapes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        planned(graphs.dynamic_height_width(tmp_path), shapes=shapes)
    assert words in caught.value.message


def test_an_engine_that_cannot_be_built_here(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="engine tensorrt was asked for, but TensorRT cannot be used here"):
        planned(graphs.mlp(tmp_path), engine="tensorrt")


@pytest.mark.parametrize("engine", ["auto", "python", "onnxruntime"])
def test_bf16_is_for_tensorrt_only(tmp_path: Path, engine: str) -> None:
    with pytest.raises(EngineError, match="precision bf16 needs engine tensorrt, because ONNX Runtime cannot run BF16"):
        planned(graphs.mlp(tmp_path), precision="bf16", engine=engine)


def test_scalars_without_batching_are_for_the_python_engine(tmp_path: Path) -> None:
    path = graphs.scalar_output(tmp_path)
    guess = lambda axes: dict.fromkeys(axes, 1)  # noqa: E731
    assert planned(path, guess=guess).max_batch_size == 0
    with pytest.raises(ModelError, match="y is a scalar, which engine onnxruntime cannot serve"):
        planned(path, guess=guess, engine="onnxruntime")


def test_output_shapes_are_asked_for_the_onnx_runtime_backend_only(tmp_path: Path) -> None:
    assert planned(graphs.mlp(tmp_path)).output_shapes == {}
    assert planned(graphs.mlp(tmp_path), engine="onnxruntime").output_shapes == {"y": ("batch", 3)}


# ---- plans of TensorRT -----------------------------------------------------------------------------------------------


def test_auto_takes_tensorrt_where_plans_can_be_built(tmp_path: Path) -> None:
    chosen = planned(graphs.mlp(tmp_path), tensorrt=TENSORRT)
    assert (chosen.engine, chosen.engine_reason, chosen.files) == ("tensorrt", "TensorRT 11.1.0.106", {})
    assert chosen.notes == ("each of the 32 shapes that may come lies in the profile",)
    assert (chosen.plan_file("9.0"), chosen.profiles_for("9.0")) == ("model.plan", chosen.profiles)


def test_an_axis_without_a_range_is_never_guessed_for_a_plan(tmp_path: Path) -> None:
    with pytest.raises(MissingRangeError, match="no range is given for the dynamic axes height, width") as caught:
        planned(graphs.dynamic_height_width(tmp_path), tensorrt=TENSORRT)
    assert "height: {min: ..., opt: ..., max: ...}" in str(caught.value)
    alone = {"alone": {"batching": {"max_batch_size": 0}}}  # its first axis is one like the others
    with pytest.raises(MissingRangeError, match="no range is given for the dynamic axes batch"):
        planned(graphs.mlp(tmp_path), tensorrt=TENSORRT, configs=alone)


def test_further_configs_have_their_profiles_behind_those_of_the_model(tmp_path: Path) -> None:
    configs = {
        "a100": {"gpus": ["sm80"], "batching": {"max_batch_size": 16}},
        "same": {"instances": [{"count": 2}]},
        "h200": {"gpus": ["sm90"], "batching": {"max_batch_size": 64}, "profiles": "latency+throughput"},
    }
    chosen = planned(
        graphs.mlp(tmp_path),
        tensorrt=TENSORRT,
        gpus=("7.5", "8.0", "9.0"),
        batching={"max_batch_size": 8},
        configs=configs,
    )
    assert [each.max["x"][0] for each in chosen.profiles] == [8, 16, 1, 64]
    assert chosen.serving.selected == (0,)
    selected = {name: (each.max_batch_size, each.serving.selected) for name, each in chosen.configs.items()}
    assert selected == {"a100": (16, (1,)), "same": (8, (0,)), "h200": (64, (2, 3))}
    # A plan has what its GPU's configs select, and what stands before that: configs count profiles.
    assert [len(chosen.profiles_for(gpu)) for gpu in chosen.gpus] == [1, 2, 4]
    assert [chosen.plan_file(gpu) for gpu in chosen.gpus] == ["model_sm75.plan", "model_sm80.plan", "model_sm90.plan"]


def test_a_further_config_does_not_batch_where_the_model_was_not_proven_to(tmp_path: Path) -> None:
    configs = {"large": {"batching": {"max_batch_size": 8}}}
    with pytest.raises(ModelError, match="config large batches, but the model itself does not"):
        planned(
            graphs.mlp(tmp_path),
            batching={"max_batch_size": 0},
            configs=configs,
            guess=lambda axes: dict.fromkeys(axes, 1),
        )


def test_a_further_config_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    configs = {"h200": {"profiles": [{"batch": {"min": 2, "max": 8}}]}}
    with pytest.raises(ModelError, match="no profile holds batch size 1"):
        planned(graphs.mlp(tmp_path), tensorrt=TENSORRT, batching={"max_batch_size": 8}, configs=configs)
    with pytest.raises(ModelError, match="symbolic axis 'depth', which the model does not have"):
        planned(graphs.mlp(tmp_path), tensorrt=TENSORRT, profiles=[{"shapes": {"depth": {"min": 1, "max": 2}}}])
