"""The least that building a repository for the python engine can cost: read each model, run it in ONNX Runtime as
written and as optimized on the same inputs at the smallest, typical and largest shapes, compare, write it to disk.

    python benchmarks/floor.py SPEC TARGET

Nothing of what makes the result safe or repeatable: no keys, no digests, no config, no atomic exchange.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tritonrepo import _tensorrt
from tritonrepo.introspect import introspect
from tritonrepo.plan import plan
from tritonrepo.prepare import Prepared
from tritonrepo.spec import load_spec


def main() -> None:
    spec = load_spec(Path(sys.argv[1]))
    random = np.random.default_rng(0)
    for model in spec.models:
        signature = introspect(model.onnx)
        prepared, tensorrt = Prepared(model.onnx, (), (), signature), _tensorrt.availability()
        chosen = plan(model, signature, prepared, tensorrt, guess=lambda axes: {}, output_shapes=dict)
        content = model.onnx.read_bytes()
        plain = ort.SessionOptions()
        plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        plain.log_severity_level = 4
        sessions = [
            ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            for options in (plain, ort.SessionOptions())
        ]
        profile = chosen.profiles[0]
        for shapes in (profile.min, profile.opt, profile.max):
            inputs = {
                tensor.name: random.random(shapes[tensor.name]).astype(np.float32)
                if tensor.dtype == "FP32"
                else random.integers(0, 2, shapes[tensor.name]).astype(np.int32)
                for tensor in signature.inputs
            }
            want, got = (session.run(None, inputs) for session in sessions)
            for a, b in zip(want, got, strict=True):
                np.abs(a - b).max()
        target = Path(sys.argv[2]) / model.name
        target.mkdir(parents=True)
        with (target / "model.onnx").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
