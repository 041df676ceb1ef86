"""The graphs that all other tests stand on are what their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import graphs

SIZES = {"batch": 2, "height": 6, "width": 5, "tokens": 3, None: 2}
KIND: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def run(path: Path, batch: int = 2) -> list[NDArray[np.generic]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    sizes = {**SIZES, "batch": batch}
    feeds: dict[str, NDArray[np.generic]] = {
        i.name: random.random([d if isinstance(d, int) else sizes[d] for d in i.shape]).astype(KIND[i.type])
        for i in session.get_inputs()
    }
    return session.run(None, feeds)  # type: ignore[no-any-return]


@pytest.mark.parametrize("write", graphs.GOOD, ids=lambda write: write.__name__)
def test_good_graphs_pass_the_checker_and_run(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    onnx.checker.check_model(path, full_check=True)
    outputs = run(path)
    declared = onnx.load(path).graph.output
    assert [len(o.type.tensor_type.shape.dim) for o in declared] == [o.ndim for o in outputs]


@pytest.mark.parametrize("write", [*graphs.GOOD, *graphs.BAD], ids=lambda write: write.__name__)
def test_two_calls_give_the_same_bytes(write: graphs.Write, tmp_path: Path) -> None:
    def content() -> dict[Path, bytes]:
        write(tmp_path / "m")
        return {file: file.read_bytes() for file in (tmp_path / "m").rglob("*") if file.is_file()}

    assert content() == content()


@pytest.mark.parametrize("dtype", [d for d in graphs.ONNX_TYPE if d != "BF16"])
def test_identity_of_every_type(dtype: str, tmp_path: Path) -> None:
    path = graphs.identity(tmp_path, dtype)
    kind = onnx.helper.tensor_dtype_to_np_dtype(graphs.ONNX_TYPE[dtype])
    x = np.array([["a", "b", "é"]], object) if dtype == "STRING" else np.ones((1, 3), kind)
    (y,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    assert y.tolist() == x.tolist()


# ONNX Runtime loads these: what is wrong with them, Triton, a rule of ours or the first request says.
LOADS = {
    graphs.no_inputs, graphs.no_outputs, graphs.duplicate_outputs, graphs.huge_shape, graphs.sequence_io,
    graphs.optional_io, graphs.map_io, graphs.float8_io,
}  # fmt: skip
# These load or not, depending on the release of ONNX Runtime.
DEPENDS = {graphs.external_data_symlink, graphs.int4_io}


@pytest.mark.parametrize("write", [w for w in graphs.BAD if w not in DEPENDS], ids=lambda write: write.__name__)
def test_bad_graphs_fail_where_they_should(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    assert path.is_file()
    try:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        loads = True
    except Exception:  # ONNX Runtime has a class of its own for every code
        loads = False
    assert loads == (write in LOADS)


@pytest.mark.parametrize("write", [graphs.external_data_parent, graphs.external_data_symlink])
def test_what_escapes_is_there(write: graphs.Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    location = onnx.load(path, load_external_data=False).graph.initializer[0].external_data[0].value
    assert (path.parent / location).resolve() == tmp_path / "outside.bin"
    assert (tmp_path / "outside.bin").stat().st_size == 48


@pytest.mark.parametrize(
    ("write", "independent"),
    [
        (graphs.mlp, True),
        (graphs.cnn, True),
        (graphs.loop, True),
        (graphs.softmax_over_batch, False),
        (graphs.mean_over_batch, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_rows_are_independent_where_the_name_says_so(write: graphs.Write, independent: bool, tmp_path: Path) -> None:
    path = write(tmp_path)
    session = onnxruntime.InferenceSession(path)
    shape = [4 if d == "batch" else d for d in session.get_inputs()[0].shape]
    x = np.random.default_rng(1).random(shape, np.float32)
    (together,) = session.run(None, {"x": x})
    alone = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    assert np.allclose(together, alone, atol=1e-6) == independent


@pytest.mark.slow
def test_over_two_gib_runs_and_takes_no_disk(tmp_path: Path) -> None:
    path = graphs.over_two_gib(tmp_path)
    data = path.with_suffix(".bin").stat()
    assert data.st_size > 2**31
    assert data.st_blocks * 512 < 2**20
    (y,) = onnxruntime.InferenceSession(path).run(None, {"x": np.ones((1, 16384), np.float32)})
    assert y.tolist() == [[0.0]]
