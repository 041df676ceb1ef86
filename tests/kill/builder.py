"""Builds one repository again and again with `tritonrepo build`, each time from newer models, until it is killed.

    python -m kill.builder FOLDER [--tell]

With ``--tell`` it prints ``ready`` when the first build begins to publish, so that a kill can be aimed at that. The
models ``a`` and ``b`` answer with the number of their generation, which the next run takes up where this one ended.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = ("a", "b")
_PADDING = 1 << 20


def write_generation(folder: Path, generation: int) -> None:
    """Write both models, each in one step, and the spec. y = x * 0 + generation, besides 4 MB of weights."""
    for name in NAMES:
        weights = {
            "zero": np.zeros(1, np.float32),
            "generation": np.full(1, generation, np.float32),
            "padding": np.full(_PADDING, generation, np.float32),
        }
        nodes = [
            helper.make_node("Mul", ["x", "zero"], ["z"]),
            helper.make_node("Add", ["z", "generation"], ["sum"]),
            helper.make_node("ReduceMin", ["padding"], ["low"], keepdims=0),
            helper.make_node("Min", ["sum", "low"], ["y"]),
        ]
        values = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["batch", 1]) for each in "xy"]
        initializers = [numpy_helper.from_array(value, each) for each, value in weights.items()]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
        new = folder / f"{name}.new"
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), new)
        new.replace(folder / f"{name}.onnx")
    (folder / "models.yaml").write_text("models: [{onnx: a.onnx}, {onnx: b.onnx}]\n")
    (folder / "generation").write_text(str(generation))


class _Teller(io.StringIO):
    """Takes the place of standard output, and says there only when publishing begins."""

    def write(self, text: str) -> int:
        if '"step": "publish", "status": "start"' in text and sys.__stdout__ is not None:
            sys.__stdout__.write("ready\n")
            sys.__stdout__.flush()
        return len(text)


def main() -> None:
    from tritonrepo.cli import app

    folder, *tell = sys.argv[1:]
    if tell:
        sys.stdout = _Teller()
    run(app, Path(folder))


def run(app: Callable[..., object], folder: Path) -> None:
    while True:
        write_generation(folder, int((folder / "generation").read_text()) + 1)
        app(["build", str(folder / "models.yaml"), "--json"], standalone_mode=False)


if __name__ == "__main__":
    main()
