"""What preparation costs in memory: it never holds the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

MIB = 1 << 20

#: Prepares the model that it is given, and prints how much memory that took beyond what importing did, and the bytes.
MEASURE = """
import resource, sys
from pathlib import Path

import onnx, onnxruntime
from tritonrepo import prepare as preparation
from tritonrepo.introspect import introspect
from tritonrepo.spec import ModelSpec


def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10


path, out = Path(sys.argv[1]), Path(sys.argv[2])
spec = ModelSpec.model_validate({"name": "m", "onnx": path})
signature = introspect(path)
introspected = peak()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = peak()


def keep(fill):
    out.mkdir()
    fill(out)
    return out


prepared = preparation.prepare(preparation.Context(spec, signature, "python"), keep)
print(*sorted(prepared.changed_by), sep=",")
print(introspected, peak() - before, sum(file.stat().st_size for file in out.rglob("*") if file.is_file()))
"""


def large(folder: Path, size: int, *, external: bool) -> Path:
    """x FP32 [1, 4096] -> y FP32 [1, 4096]: layers of 64 MiB with a fixed batch, a Dropout and two equal weights."""
    layer = 4096 * 4096 * 4
    count = size // layer
    nodes, tensors, value = [], [], "x"
    for number in range(count):
        nodes += [
            helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]),
            helper.make_node("Reshape", [f"m{number}", "shape"], [f"r{number}"]),
            helper.make_node("Dropout", [f"r{number}"], [f"d{number}"]),
        ]
        value = f"d{number}"
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[4096, 4096])
        if external:
            tensor.data_location = TensorProto.EXTERNAL
            offset = (number if number != 1 else 0) * layer  # the second is the first
            for key, entry in (("location", "w.bin"), ("offset", offset), ("length", layer)):
                tensor.external_data.add(key=key, value=str(entry))
        else:
            tensor.raw_data = np.full(layer // 4, max(1, number), np.float32).tobytes()
        tensors.append(tensor)
    nodes[-1].output[0] = "y"
    shape = onnx.numpy_helper.from_array(np.array([1, 4096]), "shape")
    graph = helper.make_graph(
        nodes, "large", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4096])], [shape, *tensors],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    if external:
        with (folder / "w.bin").open("wb") as file:
            file.truncate(count * layer)  # sparse: zeros, which take no disk
    return folder / "large.onnx"


def measured(path: Path, out: Path) -> tuple[list[str], int, int, int]:
    """The passes that changed something; peaks of introspection and of preparation; bytes written."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(out)], capture_output=True, text=True, check=True
    )
    changed, numbers = done.stdout.splitlines()
    introspected, peak, size = map(int, numbers.split())
    print(f"introspect {introspected / MIB:.0f} MiB, prepare {peak / MIB:.0f} MiB, {size / MIB:.0f} MiB written")  # noqa: T201 - for docs/benchmarks.md
    return changed.split(","), introspected, peak, size


PASSES = ["duplicates", "dynamic_batch", "training", "unused"]


def test_a_model_with_its_weights_inside(tmp_path: Path) -> None:
    """256 MiB in one file: the passes take a small part of it, and reading what was written under three times."""
    path = large(tmp_path, 256 * MIB, external=False)
    changed, introspected, peak, size = measured(path, tmp_path / "out")
    assert changed == PASSES
    assert introspected < 3 * path.stat().st_size
    assert size < 200 * MIB, "the equal weights are written once"
    assert peak < 3 * path.stat().st_size


def test_a_model_with_its_weights_beside_it(tmp_path: Path) -> None:
    path = large(tmp_path, 256 * MIB, external=True)
    changed, _, peak, size = measured(path, tmp_path / "out")
    assert changed == PASSES
    assert size > 256 * MIB
    assert peak < 64 * MIB


@pytest.mark.slow
def test_a_model_over_two_gib(tmp_path: Path) -> None:
    """2.5 GiB beside the model: more than protobuf can hold."""
    path = large(tmp_path, 2560 * MIB, external=True)
    changed, introspected, peak, size = measured(path, tmp_path / "out")
    assert changed == PASSES
    assert size > 2560 * MIB
    assert introspected < 256 * MIB
    assert peak < 64 * MIB
