"""`tritonrepo perf --spec`: shapes from models.yaml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tritonrepo.errors import UsageError
from tritonrepo.perf import arguments_with_spec
from tritonrepo_client.perf.data import parse_shape, random_data
from tritonrepo_client.tensor import Signature, TensorSpec

SPEC = """
models:
  - onnx: image.onnx
    shapes:
      h: {min: 32, opt: 64, max: 96}
      w: {min: 8, max: 8}
  - onnx: other.onnx
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    for name in ("image", "other"):
        x, y = (helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", 3, "h", "w"]) for each in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], name, [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / f"{name}.onnx")
    file = tmp_path / "models.yaml"
    file.write_text(SPEC, encoding="utf-8")
    return file


def test_ranges_become_shapes(spec: Path) -> None:
    arguments = arguments_with_spec(["image:1=2", "--spec", str(spec), "-c", "4"])
    assert arguments == ["image:1=2", "-c", "4", "--shape", "image/x=*,3,32:96,8"]
    _, axes = parse_shape(arguments[-1])
    batching = Signature((TensorSpec("x", "FP32", (-1, 3, -1, -1)),), (), 8)
    plain = Signature((TensorSpec("x", "FP32", (-1, 3, -1, -1)),), (), 0)
    for signature, batch in ((batching, 4), (plain, 1)):
        data = random_data(signature, shapes={"x": axes}, batch=batch, count=20, seed=0)
        shapes = {row.inputs["x"].shape for row in data.rows}
        assert all(shape[:2] == (batch, 3) and 32 <= shape[2] <= 96 and shape[3] == 8 for shape in shapes)
        assert len(shapes) > 5


def test_axes_without_a_range_have_to_be_given(spec: Path) -> None:
    assert arguments_with_spec(["other", f"--spec={spec}"]) == ["other"]
    assert arguments_with_spec(["other"]) == ["other"]


def test_a_spec_without_the_model(spec: Path) -> None:
    with pytest.raises(UsageError, match="none of these models"):
        arguments_with_spec(["third", "--spec", str(spec)])
    with pytest.raises(UsageError, match="needs a file"):
        arguments_with_spec(["image", "--spec"])


def test_the_command_says_what_is_wrong() -> None:
    line = [sys.executable, "-m", "tritonrepo", "perf", "m", "--spec", "/no/such/models.yaml"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "models.yaml" in done.stderr
    helped = subprocess.run([*line[:4], "--help"], capture_output=True, text=True, check=True)
    assert "--concurrency" in helped.stdout
