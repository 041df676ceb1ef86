"""How a plan is run, with the real driver and GPU, and TensorRT's double between: needs no TensorRT."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphs
import tensorrt_double as double
from tritonrepo import _cuda, _tensorrt
from tritonrepo._plan_session import PlanSession
from tritonrepo.errors import ModelError
from tritonrepo.plan import BuildRequest, Profile
from tritonrepo.spec import TensorRT

pytestmark = pytest.mark.gpu


@pytest.fixture
def plan(tmp_path: Path, gpu: _cuda.Gpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The double's "plan" of the mlp, for batches of 1 to 8."""
    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT itself is loaded")
    monkeypatch.setenv("TENSORRT_DOUBLE_GPU", "1")
    monkeypatch.syspath_prepend(str(double.install(tmp_path / "site")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(Path(double.__file__).parent)]))
    profile = Profile({"x": (1, 4)}, {"x": (4, 4)}, {"x": (8, 4)})
    onnx = graphs.mlp(tmp_path)
    request = BuildRequest("m", onnx, (profile,), "fp32", TensorRT(), tmp_path / "model.plan", tmp_path / "cache")
    yield _tensorrt.build(request, lambda event: None).plan
    del sys.modules["tensorrt"]


def rows(count: int) -> Mapping[str, Any]:
    return {"x": np.random.default_rng(1).random((count, 4), np.float32)}


@pytest.mark.parametrize("unsized", ["", "y"])
def test_values_go_to_the_gpu_and_come_back(
    tmp_path: Path, plan: Path, unsized: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setenv("TENSORRT_DOUBLE_UNSIZED", unsized)
    reference = onnxruntime.InferenceSession(tmp_path / "mlp.onnx", providers=["CPUExecutionProvider"])
    with PlanSession(plan, TensorRT(), tmp_path / "mlp.onnx") as session:
        for count in (1, 5, 8, 1):
            want = reference.run(None, dict(rows(count)))[0]
            np.testing.assert_allclose(session.run(rows(count))["y"], want, rtol=1e-5)
        with pytest.raises(ModelError, match="is not in profile 0"):
            session.run(rows(9))
        assert session._device._memory == set()
