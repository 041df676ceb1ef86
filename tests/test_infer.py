"""`tritonrepo infer`: what users type becomes what models take, and what comes back becomes files and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_python_model
from tritonrepo.errors import InferError, UsageError
from tritonrepo.infer import InferResult, infer, parse_shape, save, summarise
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import Signature, TensorSpec


def signature(*specs: TensorSpec, batch: int = 0) -> Signature:
    return Signature(specs, (), batch)


def built(
    known: Signature,
    *options: str,
    random: bool = False,
    shapes: dict[str, tuple[int, ...]] | None = None,
    config: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    from tritonrepo._input_values import build

    return build(known, config or {}, options, random=random, shapes=shapes or {}, seed=seed)


X = TensorSpec("x", "FP32", (-1, 3))
NAMES = TensorSpec("names", "BYTES", (-1,))


def same(got: Any, want: Any, dtype: Any = np.float32) -> None:
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)


# Files and JSON


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.npy", [[1, 2, 3]]), ("a.npz", [[1, 2, 3]]), ("a.json", [[1, 2, 3]]), ("a.bin", [[1, 2, 3]])],
)
@pytest.mark.parametrize("prefix", ["x=", ""])
def test_files_of_every_kind(tmp_path: Path, file: str, content: Any, prefix: str) -> None:
    path, array = tmp_path / file, np.array(content, np.float32)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, x=array)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(array.tobytes())
    arrays, notes = built(signature(X), f"{prefix}{path}")
    same(arrays["x"], content)
    assert not notes


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_one_file_for_several_inputs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"all{suffix}"
    values = {"x": [[1, 2, 3]], "n": [7]}
    if suffix == ".npz":
        np.savez(path, x=np.array(values["x"]), n=np.array(values["n"]))
    else:
        path.write_text(json.dumps(values))
    known = signature(X, TensorSpec("n", "INT64", (1,)))
    arrays, _ = built(known, str(path))
    same(arrays["x"], [[1, 2, 3]])
    same(arrays["n"], [7], np.int64)
    same(built(known, f"x={path}", f"n={path}")[0]["n"], [7], np.int64)


@pytest.mark.parametrize(
    ("spec", "text", "want"),
    [
        (X, "[[1, 2, 3]]", np.array([[1, 2, 3]], np.float32)),
        (TensorSpec("x", "INT32", (1,)), "5", np.array(5, np.int32)),
        (TensorSpec("x", "BOOL", (-1,)), "[true, false]", np.array([True, False])),
        (TensorSpec("x", "UINT64", (-1,)), "[18446744073709551615]", np.array([2**64 - 1], np.uint64)),
        (TensorSpec("x", "FP16", (-1,)), "[0.1]", np.array([0.1], np.float16)),
        (NAMES, "hello", np.array(["hello"], np.object_)),
        (NAMES, '["a", "b"]', np.array(["a", "b"], np.object_)),
        (NAMES, "[not json", np.array(["[not json"], np.object_)),
        (NAMES, "5", np.array(["5"], np.object_)),
        (NAMES, "a=b", np.array(["a=b"], np.object_)),
        (NAMES, "x" * 5000, np.array(["x" * 5000], np.object_)),
    ],
)
def test_values_on_the_command_line(spec: TensorSpec, text: str, want: Any) -> None:
    arrays, _ = built(signature(spec), f"{spec.name}={text}")
    same(arrays[spec.name], want, want.dtype)


def test_any_file_is_an_element_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\0")
    arrays, notes = built(signature(NAMES), f"names={tmp_path / 'photo.jpg'}")
    assert arrays["names"].tolist() == [b"\xff\xd8\0"]
    assert notes == ("names: the 3 bytes of photo.jpg as one element",)


def test_types_are_converted_where_nothing_is_lost(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.5, 2, 3]]))
    arrays, notes = built(signature(X), f"x={tmp_path / 'a.npy'}")
    same(arrays["x"], [[1.5, 2, 3]])
    assert notes == ("x: converted from float64 to float32",)
    byte = TensorSpec("x", "UINT8", (-1,))
    same(built(signature(byte), "x=[0, 255]")[0]["x"], [0, 255], np.uint8)
    for bad in ("[256]", "[-1]", "[1.5]", '["a"]'):
        with pytest.raises(InferError, match="do not fit input x: UINT8"):
            built(signature(byte), f"x={bad}")


def test_a_missing_batch_axis_is_added_and_said() -> None:
    arrays, notes = built(signature(X, batch=4), "x=[1, 2, 3]")
    same(arrays["x"], [[1, 2, 3]])
    assert notes == ("x: batch axis added, [3] -> [1, 3]",)
    assert built(signature(X, batch=4), "x=[[1, 2, 3], [4, 5, 6]]")[1] == ()
    names = signature(TensorSpec("names", "BYTES", (-1, 1)), batch=4)
    assert built(names, "names=hello")[0]["names"].tolist() == [["hello"]]


def test_raw_bytes_take_their_shape_from_the_model_or_the_option(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    np.arange(12, dtype="<f4").tofile(path)
    image = TensorSpec("x", "FP32", (-1, 3, -1, -1))
    with pytest.raises(InferError, match="raw bytes do not say the shape") as caught:
        built(signature(image, batch=2), f"x={path}")
    assert caught.value.hint == "give --shape x=?,3,?,? with a number for each ?"
    arrays, _ = built(signature(image, batch=2), f"x={path}", shapes={"x": (3, 2, 2)})
    assert arrays["x"].shape == (1, 3, 2, 2)
    assert built(signature(TensorSpec("x", "FP32", (-1, 3, -1, 2)), batch=2), f"x={path}")[0]["x"].shape == (1, 3, 2, 2)
    with pytest.raises(InferError, match=r"12 values do not make FP32\[5\]"):
        built(signature(TensorSpec("x", "FP32", (5,))), f"x={path}")
    path.write_bytes(b"12345")
    with pytest.raises(InferError, match="not a multiple of 4"):
        built(signature(X), f"x={path}")


# Images


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A PNG of 4x2 pixels: red on the left, blue on the right."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2, 0] = 255
    pixels[:, 2:, 2] = 255
    path = tmp_path / "photo.png"
    image.fromarray(pixels).save(path)
    return path


def test_an_image_in_the_layout_of_the_model(photo: Path) -> None:
    nchw, notes = built(signature(TensorSpec("x", "FP32", (-1, 3, -1, -1)), batch=1), f"x={photo}")
    assert nchw["x"].shape == (1, 3, 2, 4)
    assert nchw["x"][0, :, 0, 0].tolist() == [1, 0, 0]
    assert nchw["x"][0, :, 0, 3].tolist() == [0, 0, 1]
    assert notes == ("x: photo.png as RGB in CHW, scaled to 0..1, no mean or deviation",)
    nhwc, notes = built(signature(TensorSpec("x", "UINT8", (2, 4, 3))), f"x={photo}")
    np.testing.assert_array_equal(nhwc["x"], (nchw["x"][0] * 255).transpose(1, 2, 0))
    assert nhwc["x"].dtype == np.uint8
    assert notes == ("x: photo.png as RGB in HWC, 0..255",)
    grey, _ = built(signature(TensorSpec("x", "FP16", (1, 1, -1, -1))), f"x={photo}")
    assert grey["x"].shape == (1, 1, 2, 4)
    plane, _ = built(signature(TensorSpec("x", "UINT8", (-1, 2, 4)), batch=1), f"x={photo}")
    assert plane["x"].shape == (1, 2, 4)


def test_the_format_of_the_config_decides_before_the_numbers(photo: Path) -> None:
    known = signature(TensorSpec("x", "UINT8", (3, 4, 3)))
    stated = {"input": [{"name": "x", "format": "FORMAT_NHWC"}]}
    arrays, _ = built(known, f"x={photo}", config=stated)
    assert arrays["x"][0, 0].tolist() == [255, 0, 0]
    assert built(known, f"x={photo}")[0]["x"][:, 0, 0].tolist() == [255, 0, 0]


def test_images_are_resized_only_to_what_the_model_fixes(photo: Path) -> None:
    fixed, notes = built(signature(TensorSpec("x", "FP32", (-1, 3, 8, 8)), batch=1), f"x={photo}")
    assert fixed["x"].shape == (1, 3, 8, 8)
    assert notes[0] == "x: resized from 4x2 to 8x8"
    line, notes = built(signature(TensorSpec("x", "FP32", (-1, 3, 6, -1)), batch=1), f"x={photo}")
    assert line["x"].shape == (1, 3, 6, 12)
    assert notes[0] == "x: resized from 4x2 to 12x6"
    asked, _ = built(
        signature(TensorSpec("x", "FP32", (-1, 3, -1, -1)), batch=1), f"x={photo}", shapes={"x": (3, 5, 7)}
    )
    assert asked["x"].shape == (1, 3, 5, 7)


def test_images_that_do_not_go_in(photo: Path, tmp_path: Path) -> None:
    for shape, batch in [((-1, 784), 32), ((-1, 5, 5, 5), 1), ((-1, -1, -1), 0), ((2,), 0), ((1, 1, 3, 4, 4), 0)]:
        with pytest.raises(InferError, match="does not look like an image"):
            built(signature(TensorSpec("x", "FP32", shape), batch=batch), f"x={photo}")
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:40])
    with pytest.raises(InferError, match="this image cannot be read"):
        built(signature(TensorSpec("x", "FP32", (3, -1, -1))), f"x={broken}")


# Random values


def test_random_values_by_type_and_seed() -> None:
    specs = [
        TensorSpec(name, name, (-1, 5)) for name in ("BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES")
    ]
    known = signature(*specs, TensorSpec("more", "FP32", (1,), optional=True), batch=8)
    arrays, _ = built(known, random=True)
    again, _ = built(known, random=True)
    other, _ = built(known, random=True, seed=1)
    assert list(arrays) == [spec.name for spec in specs]
    for name, array in arrays.items():
        assert array.shape == (1, 5)
        np.testing.assert_array_equal(array, again[name])
    assert any((arrays[name] != other[name]).any() for name in arrays)
    assert (arrays["FP32"] >= 0).all() and (arrays["FP32"] < 1).all()
    assert set(arrays["INT64"].reshape(-1).tolist()) <= {0, 1}
    assert all(isinstance(item, bytes) for item in arrays["BYTES"].reshape(-1))


def test_random_shapes() -> None:
    known = signature(TensorSpec("x", "FP32", (-1, 3, -1, 8)), batch=4)
    with pytest.raises(InferError, match=r"axis 2 of input x: FP32\[-1, 3, -1, 8\] has no fixed size") as caught:
        built(known, random=True)
    assert caught.value.hint == "give --shape x=?,3,?,8 with a number for each ?"
    assert built(known, random=True, shapes={"x": (2, 3, 5, 8)})[0]["x"].shape == (2, 3, 5, 8)
    assert built(known, random=True, shapes={"x": (3, 5, 8)})[0]["x"].shape == (1, 3, 5, 8)
    with pytest.raises(InferError, match=r"shape \[3, 5, 9\] does not fit|shape \[1, 3, 5, 9\] does not fit"):
        built(known, random=True, shapes={"x": (3, 5, 9)})
    with pytest.raises(InferError, match="has no input 'y'"):
        built(known, random=True, shapes={"y": (1,)})


# Wrong input


@pytest.mark.parametrize(
    ("options", "words", "hint"),
    [
        ([], r"no value for input x: FP32\[-1, 3\]", "--input x=VALUE, or --random"),
        (["imgae=[1]"], "no input 'imgae'", "did you mean 'image'"),
        (["zzz=[1]"], "no input 'zzz'", r"the model's inputs: x: FP32"),
        (["x=[1]", "x=[2]"], "'x' is given twice", None),
        (["x=absent.npy"], "no such file for input 'x'", None),
        (["x=nonsense"], "neither a file nor JSON", r"x=\[1, 2, 3\]"),
        (['x={"a": 1}'], "neither a file nor JSON", None),
        (["absent.npy"], "neither NAME=VALUE nor a file", None),
        (["x=[[1, 2], [3]]"], "are no array", None),
        (["x=null"], "neither a file nor JSON", None),
    ],
)
def test_wrong_options(options: list[str], words: str, hint: str | None) -> None:
    known = signature(X, TensorSpec("image", "FP32", (1,), optional=True))
    with pytest.raises(InferError, match=words) as caught:
        built(known, *options)
    if hint:
        assert caught.value.hint is not None
        assert re.search(hint, caught.value.hint)


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not numpy")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.txt").write_text("1 2 3")
    np.save(tmp_path / "o.npy", np.array(["a"], np.object_), allow_pickle=True)
    np.savez(tmp_path / "two.npz", y=np.ones(1), z=np.ones(1))
    for file, words in [
        ("a.npy", "cannot be read"), ("a.json", "cannot be read"), ("a.txt", "what kind of file"),
        ("o.npy", "cannot be read"), ("two.npz", "no 'x' in this file"),
    ]:  # fmt: skip
        with pytest.raises(InferError, match=words) as caught:
            built(signature(X), f"x={tmp_path / file}")
        assert str(caught.value.where) == str(tmp_path / file)
    with pytest.raises(InferError, match="does not say for which of 2 inputs") as caught:
        built(signature(X, NAMES), str(tmp_path / "o.npy"))
    assert "--input x=" in str(caught.value.hint)


def test_shapes_on_the_command_line() -> None:
    assert parse_shape("x=1,3,224,224") == ("x", (1, 3, 224, 224))
    assert parse_shape("gpu_0/data_0=1x3") == ("gpu_0/data_0", (1, 3))
    assert parse_shape("x=") == ("x", ())
    for bad in ("1,3", "x=1,-1", "=1", "x=a"):
        with pytest.raises(UsageError, match="NAME=SIZE"):
            parse_shape(bad)


# Results


def result(**outputs: Any) -> InferResult:
    return InferResult("m", "", {}, {name.replace("__", "/"): array for name, array in outputs.items()}, (), 1.0)


OUTPUTS = {
    "y": np.arange(6, dtype=np.float32).reshape(2, 3),
    "gpu_0__softmax": np.array([[0.1, 0.9]]),
    "text": np.array([[b"a", b"long"]], np.object_),
    "none": np.empty((0,), np.object_),
}


def test_outputs_are_saved_to_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    for _ in range(2):
        paths = save(result(**OUTPUTS), target)
    assert [path.name for path in paths] == ["y.npy", "gpu_0%2Fsoftmax.npy", "text.npy", "none.npy"]
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in paths)
    same(np.load(paths[0]), OUTPUTS["y"])
    assert np.load(paths[2]).tolist() == [[b"a", b"long"]]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_outputs_are_saved_to_one_file(tmp_path: Path) -> None:
    (path,) = save(result(**OUTPUTS), tmp_path / "out.npz")
    with np.load(path) as saved:
        assert set(saved.files) == {"y", "gpu_0/softmax", "text", "none"}
        same(saved["y"], OUTPUTS["y"])
    assert [each.name for each in tmp_path.iterdir()] == ["out.npz"]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InferError, match="cannot be saved"):
        save(result(y=np.ones(1)), tmp_path / "file")
    with pytest.raises(InferError, match="end in NUL"):
        save(result(y=np.array([b"a\0"], np.object_)), tmp_path / "out")
    with pytest.raises(InferError, match="'file'"):
        save(result(file=np.ones(1)), tmp_path / "out.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outputs_in_figures() -> None:
    rows = summarise(
        {
            "scores": np.array([[0.1, 0.7, 0.2], [1, 0, 0]], np.float32),
            "broken": np.array([np.nan, np.inf, 2, 4]),
            "nothing": np.empty((0, 4), np.float32),
            "text": np.array([b"a"], np.object_),
            "ids": np.array([[3, 4]]),
        }
    )
    scores, broken, nothing, text, ids = rows
    assert (scores.dtype, scores.shape, scores.low, scores.high) == ("float32", (2, 3), 0, 1)
    assert [index for index, _ in scores.top] == [1, 2, 0]
    assert (broken.low, broken.high, broken.mean, broken.not_finite) == (2, 4, 3, 2)
    assert (nothing.low, nothing.mean, nothing.head, nothing.top) == (None, None, (), ())
    assert (text.dtype, text.head, text.low) == ("bytes", ("b'a'",), None)
    assert ids.top == ()


# A real server


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("infer") / "models"
    code = """
    import triton_python_backend_utils as pb


    class TritonPythonModel:
        def execute(self, requests):
            tensors = (pb.get_input_tensor_by_name(request, "x").to_dlpack() for request in requests)
            return [pb.InferenceResponse([pb.Tensor.from_dlpack("y", tensor)]) for tensor in tensors]
    """
    write_python_model(repository, "echo", code=code, max_batch_size=4)
    with EmbeddedServer(repository, runtime=runtime) as server:
        server.wait_ready(120, probe=False)
        yield server


@pytest.mark.server
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_from_option_to_output(server: EmbeddedServer, transport: str) -> None:
    url = f"{transport}://{server.grpc_url if transport == 'grpc' else server.http_url}"
    got = infer(url, "echo", ["x=[1, 2, 3]"])
    same(got.outputs["y"], [[1, 2, 3]])
    same(got.inputs["x"], [[1, 2, 3]])
    assert got.notes == ("x: batch axis added, [3] -> [1, 3]",)
    assert 0 < got.milliseconds < 60_000
    got = infer(url, "echo", random=True, shapes={"x": (2, 5)}, seed=3, version="1")
    np.testing.assert_array_equal(got.outputs["y"], got.inputs["x"])


@pytest.mark.server
def test_what_the_server_refuses_comes_with_a_hint(server: EmbeddedServer) -> None:
    url = f"http://{server.http_url}"
    with pytest.raises(InferError, match="unknown model: 'eccho'") as caught:
        infer(url, "eccho", random=True)
    assert caught.value.hint == "did you mean 'echo'?"
    with pytest.raises(InferError, match="version 9") as caught:
        infer(url, "echo", random=True, version="9")
    assert "not this version" in str(caught.value.hint)
    with pytest.raises(InferError, match=r"has 5 rows, and 1 to 4 are expected"):
        infer(url, "echo", random=True, shapes={"x": (5, 1)})
    with pytest.raises(InferError, match="in the time") as caught:
        infer(url, "echo", random=True, shapes={"x": (1, 1)}, timeout=1e-6)
    assert "--timeout" in str(caught.value.hint)


def test_no_server_and_no_url() -> None:
    with pytest.raises(InferError, match="refused") as caught:
        infer("http://127.0.0.1:1", "m", random=True)
    assert "tritonrepo serve" in str(caught.value.hint)
    with pytest.raises(UsageError, match="grpc://host:port"):
        infer("127.0.0.1:8000", "m", random=True)
