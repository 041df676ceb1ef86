"""The generated model.py, against a double of what Triton gives it, and in the real server."""

from __future__ import annotations

import io
import json
import shutil
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import graphs
from triton_python_double import InferenceResponse, Loaded, TritonModelException, arrays, loaded, request
from tritonrepo.introspect import introspect
from tritonrepo.plan import Plan
from tritonrepo.render import Rendered, render
from tritonrepo.spec import Batching, ModelSpec

if TYPE_CHECKING:
    from conftest import StartTriton

Arrays = dict[str, NDArray[Any]]


def rendered(onnx_file: Path, batch: int, name: str = "m", **settings: Any) -> Rendered:
    spec = ModelSpec(onnx=onnx_file, **settings)
    return render(
        spec, introspect(onnx_file), Plan(name, "python", "r", batch, "r", (), {"model.onnx": onnx_file}), None
    )


def write(repository: Path, onnx_file: Path, batch: int, name: str = "m", **settings: Any) -> Path:
    """Write a model's directory, version 1; returns the version's directory."""
    files = rendered(onnx_file, batch, name, **settings)
    version = repository / name / "1"
    version.mkdir(parents=True)
    shutil.copy(onnx_file, version / "model.onnx")
    for folder, contents in ((version.parent, files.model_files), (version, files.version_files)):
        for path, content in contents.items():
            assert isinstance(content, bytes)
            (folder / path).write_bytes(content)
    return version


class Spy:
    """Stands before a session and remembers what it was asked to run."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.runs: list[tuple[list[str], Arrays]] = []

    def run(self, names: Sequence[str], feeds: Arrays) -> list[NDArray[Any]]:
        self.runs.append((list(names), dict(feeds)))
        return list(self.session.run(names, feeds))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Loaded, Spy]]:
    """Write a model and load its model.py against the double."""

    def load(onnx_file: Path, batch: int, **options: Any) -> tuple[Loaded, Spy]:
        version = write(tmp_path / "repository", onnx_file, batch)
        with loaded((version / "model.py").read_text(), version, **options) as one:
            spy = Spy(one.model.session)
            one.model.session = spy
            return one, spy

    return load


Load = Callable[..., tuple[Loaded, Spy]]


def reference(onnx_file: Path, **feeds: NDArray[Any]) -> Arrays:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def rows(count: int, *shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)


def message(response: InferenceResponse) -> str:
    error = response.error()
    assert error is not None
    return error.message()


def gather(folder: Path) -> Path:
    """index INT64 [n] -> value FP32 [n]: an index above 3 fails the whole run."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 10.0, 20.0, 30.0])
    node = helper.make_node("Gather", ["table", "index"], ["value"])
    return save(folder / "gather.onnx", [node], ["index", TensorProto.INT64, ["n"]], ["value", 1, ["n"]], [table])


def both(folder: Path) -> Path:
    """x FP32 [] -> y FP32 []: x + 1, with no axis on either side."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    node = helper.make_node("Add", ["x", "one"], ["y"])
    return save(folder / "both.onnx", [node], ["x", 1, []], ["y", 1, []], [one])


def two_rows_for_one(folder: Path) -> Path:
    """x FP32 [n, 4] -> y FP32 [m, 2]: the first axis is dynamic and no batch."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2])
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    return save(folder / "two_rows.onnx", [node], ["x", 1, ["n", 4]], ["y", 1, ["m", 2]], [shape])


def save(file: Path, nodes: list[Any], source: list[Any], target: list[Any], weights: list[Any]) -> Path:
    inputs, outputs = ([helper.make_tensor_value_info(*value)] for value in (source, target))
    graph = helper.make_graph(nodes, file.stem, inputs, outputs, weights)
    opset = helper.make_opsetid("", graphs.OPSET)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=graphs.IR), file)
    return file


# ---- one call of execute ---------------------------------------------------------------------------------------------


def test_requests_of_a_call_share_one_run_and_get_their_own_rows(tmp_path: Path, load: Load) -> None:
    file = graphs.mlp(tmp_path)
    one, spy = load(file, 32)
    xs = [rows(count, 4, seed=count) for count in (1, 3, 2)]
    responses = one.model.execute([request(["y"], x=x) for x in xs])
    assert len(spy.runs) == 1
    for x, response in zip(xs, responses, strict=True):
        np.testing.assert_allclose(arrays(response)["y"], reference(file, x=x)["y"], rtol=1e-5)


def test_nothing_is_copied_that_need_not_be(tmp_path: Path, load: Load) -> None:
    one, spy = load(graphs.mlp(tmp_path), 32)
    x = rows(2, 4)
    one.model.execute([request(["y"], x=x)])
    assert spy.runs[0][1]["x"] is x  # a single request is not concatenated
    replies = [arrays(response)["y"] for response in one.model.execute([request(["y"], x=x), request(["y"], x=x)])]
    assert replies[0].base is not None and replies[0].base is replies[1].base  # rows are views of one result


def test_only_the_outputs_that_are_asked_for_are_computed(tmp_path: Path, load: Load) -> None:
    one, spy = load(graphs.two_inputs_two_outputs(tmp_path), 32)
    feeds = {"a": rows(1, 4), "b": rows(1, 4, seed=1)}
    [response] = one.model.execute([request(["product"], **feeds)])
    assert set(arrays(response)) == {"product"} and spy.runs[-1][0] == ["product"]
    answers = one.model.execute([request(["product"], **feeds), request(["product", "total"], **feeds)])
    assert [sorted(arrays(each)) for each in answers] == [["product"], ["product", "total"]]
    assert spy.runs[-1][0] == ["total", "product"]
    np.testing.assert_array_equal(arrays(answers[1])["total"], feeds["a"] + feeds["b"])


def test_inputs_come_by_name_in_any_order(tmp_path: Path, load: Load) -> None:
    one, _ = load(graphs.two_inputs_two_outputs(tmp_path), 0)
    a, b = rows(1, 4), rows(1, 4, seed=1)
    [response] = one.model.execute([request(["total"], b=b, a=a)])
    np.testing.assert_array_equal(arrays(response)["total"], a + b)


def test_requests_whose_shapes_differ_are_run_by_shape(tmp_path: Path, load: Load) -> None:
    file = graphs.dynamic_height_width(tmp_path)
    one, spy = load(file, 32)
    shapes = [(1, 3, 8, 8), (2, 3, 8, 16), (1, 3, 8, 8), (1, 3, 16, 8)]
    xs = [rows(*shape, seed=index) for index, shape in enumerate(shapes)]
    [output] = [each.name for each in introspect(file).outputs]
    responses = one.model.execute([request([output], x=x) for x in xs])
    assert len(spy.runs) == 3
    for x, response in zip(xs, responses, strict=True):
        np.testing.assert_allclose(arrays(response)[output], reference(file, x=x)[output], rtol=1e-5)


def test_a_model_without_a_batch_runs_each_request_alone(tmp_path: Path, load: Load) -> None:
    file = graphs.mlp(tmp_path)
    one, spy = load(file, 0)
    xs = [rows(2, 4), rows(2, 4, seed=1)]
    responses = one.model.execute([request(["y"], x=x) for x in xs])
    assert len(spy.runs) == 2 and spy.runs[0][1]["x"] is xs[0]
    for x, response in zip(xs, responses, strict=True):
        np.testing.assert_allclose(arrays(response)["y"], reference(file, x=x)["y"], rtol=1e-5)


# ---- one request spoils nothing for the others -----------------------------------------------------------------------


@pytest.mark.parametrize("batch", [32, 0])
def test_a_missing_input_fails_its_own_request_only(tmp_path: Path, load: Load, batch: int) -> None:
    one, _ = load(graphs.two_inputs_two_outputs(tmp_path), batch)
    a = rows(1, 4)
    bad, good = one.model.execute([request(["total"], a=a), request(["total"], a=a, b=a)])
    assert message(bad) == "input 'b' is missing"
    np.testing.assert_array_equal(arrays(good)["total"], a + a)


def test_a_request_that_fails_the_shared_run_fails_alone(tmp_path: Path, load: Load) -> None:
    one, spy = load(gather(tmp_path), 32)
    calls = [np.array([1, 2]), np.array([7]), np.array([3])]
    first, bad, last = one.model.execute([request(["value"], index=index) for index in calls])
    np.testing.assert_array_equal(arrays(first)["value"], [10, 20])
    np.testing.assert_array_equal(arrays(last)["value"], [30])
    assert "out of data bounds" in message(bad) or "out of bounds" in message(bad)
    assert len(spy.runs) == 1 + 3


def test_an_output_that_is_no_batch_is_refused_rather_than_given_to_the_wrong_request(
    tmp_path: Path, load: Load
) -> None:
    one, _ = load(two_rows_for_one(tmp_path), 32)
    for response in one.model.execute([request(["y"], x=rows(1, 4)), request(["y"], x=rows(3, 4))]):
        assert message(response).startswith("output 'y' has ")
        assert "rows of input" in message(response)


# ---- types -----------------------------------------------------------------------------------------------------------

SAMPLES: Mapping[str, NDArray[Any]] = {
    "FP16": np.array([[0.5, -1, np.inf]], np.float16),
    "FP32": np.array([[0.1, np.nan, -0.0]], np.float32),
    "FP64": np.array([[0.1, 1e300, 2]], np.float64),
    "BOOL": np.array([[True, False, True]]),
    "INT8": np.array([[-128, 0, 127]], np.int8),
    "INT16": np.array([[-(2**15), 0, 5]], np.int16),
    "INT32": np.array([[-(2**31), 0, 5]], np.int32),
    "INT64": np.array([[-(2**63), 0, 2**63 - 1]], np.int64),
    "UINT8": np.array([[0, 1, 255]], np.uint8),
    "UINT16": np.array([[0, 1, 2**16 - 1]], np.uint16),
    "UINT32": np.array([[0, 1, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 1, 2**64 - 1]], np.uint64),
    "STRING": np.array([[b"", "ünï 漢字".encode(), b"a\x00b"]], object),
}


def encoded(array: NDArray[Any]) -> NDArray[Any]:
    """Texts as bytes: the backend takes either."""
    if array.dtype != object:
        return array
    values = [value.encode() if isinstance(value, str) else value for value in array.flat]
    return np.array(values, object).reshape(array.shape)


@pytest.mark.parametrize("batch", [32, 0])
@pytest.mark.parametrize("dtype", SAMPLES)
def test_types(tmp_path: Path, load: Load, dtype: str, batch: int) -> None:
    one, _ = load(graphs.identity(tmp_path, dtype), batch)
    sample = SAMPLES[dtype]
    other = np.ascontiguousarray(sample[:, ::-1])
    for want, response in zip(
        (sample, other), one.model.execute([request(["y"], x=sample), request(["y"], x=other)]), strict=True
    ):
        got = arrays(response)["y"]
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(encoded(got), want)


@pytest.mark.parametrize("batch", [32, 0])
def test_bytes_that_are_no_text(tmp_path: Path, load: Load, batch: int) -> None:
    one, _ = load(graphs.identity(tmp_path, "STRING"), batch)
    good, bad = np.array([[b"a", b"b", b"c"]], object), np.array([[b"a", b"\xff", b"c"]], object)
    first, second = one.model.execute([request(["y"], x=bad), request(["y"], x=good)])
    assert message(first).startswith("input 'x' is not UTF-8")
    np.testing.assert_array_equal(encoded(arrays(second)["y"]), good)


def test_empty_texts_keep_their_shape(tmp_path: Path, load: Load) -> None:
    one, _ = load(graphs.identity(tmp_path, "STRING"), 0)
    [response] = one.model.execute([request(["y"], x=np.empty((0, 3), object))])
    assert arrays(response)["y"].shape == (0, 3)


def test_scalars_are_one_element(tmp_path: Path, load: Load) -> None:
    one, spy = load(both(tmp_path), 0)
    [response] = one.model.execute([request(["y"], x=np.array([2], np.float32))])
    assert spy.runs[0][1]["x"].shape == ()
    assert arrays(response)["y"].tolist() == [3.0]


def test_a_scalar_beside_other_inputs(tmp_path: Path, load: Load) -> None:
    one, _ = load(graphs.scalar_input(tmp_path), 0)
    [response] = one.model.execute([request(["y"], x=rows(2, 3), scale=np.array([2], np.float32))])
    np.testing.assert_array_equal(arrays(response)["y"], 2 * rows(2, 3))


# ---- initialize ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "groups", "parameters", "want"),
    [
        (8, (1,), {}, (8, 1)),
        (8, (2, 1), {}, (2, 1)),
        (2, (4,), {}, (1, 1)),
        (8, (1,), {"intra_op_thread_count": "3"}, (3, 1)),
        (8, (2,), {"inter_op_thread_count": "2"}, (4, 2)),
        (8, (1,), {"intra_op_thread_count": "0"}, (0, 1)),
    ],
)
def test_threads(
    tmp_path: Path,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    groups: tuple[int, ...],
    parameters: dict[str, str],
    want: tuple[int, int],
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr("builtins.open", only_affinity_counts(open))
    _, spy = load(graphs.mlp(tmp_path), 32, groups=groups, parameters=parameters)
    given = spy.session.get_session_options()
    assert (given.intra_op_num_threads, given.inter_op_num_threads) == want


def only_affinity_counts(original: Callable[..., Any]) -> Callable[..., Any]:
    """Hide the container's quota, whatever it is where the tests run."""

    def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
        if path == "/sys/fs/cgroup/cpu.max":
            raise FileNotFoundError(path)
        return original(path, *args, **kwargs)

    return opened


@pytest.mark.parametrize(
    ("parameters", "want"), [({}, "0"), ({"session.intra_op.allow_spinning": "1", "other": "x"}, "1")]
)
def test_session_entries(tmp_path: Path, load: Load, parameters: dict[str, str], want: str) -> None:
    _, spy = load(graphs.mlp(tmp_path), 32, parameters=parameters)
    given = spy.session.get_session_options()
    assert given.get_session_config_entry("session.intra_op.allow_spinning") == want


@pytest.mark.parametrize(
    ("quota", "want"),
    [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), (None, 4), ("nonsense", 4)],
)
def test_cores_are_those_that_may_be_used(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, quota: str | None, want: int
) -> None:
    def opened(path: str) -> io.StringIO:
        assert path == "/sys/fs/cgroup/cpu.max"
        if quota is None:
            raise FileNotFoundError(path)
        return io.StringIO(quota)

    one, _ = load(graphs.mlp(tmp_path), 32)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    one.module.__dict__["open"] = opened
    assert one.module.__dict__["cores"]() == want


def test_an_instance_on_a_gpu_needs_an_onnxruntime_with_cuda(tmp_path: Path, load: Load) -> None:
    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    with pytest.raises(TritonModelException, match="KIND_GPU, but this onnxruntime cannot use CUDA"):
        load(graphs.mlp(tmp_path), 32, kind="GPU")


def test_a_silent_fall_back_to_the_cpu_is_an_error(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    class FellBack:
        def __init__(self, path: str, options: object, providers: list[Any]) -> None:
            assert providers[0] == ("CUDAExecutionProvider", {"device_id": "0"})

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", FellBack)
    with pytest.raises(TritonModelException, match="ONNX Runtime could not start CUDA"):
        load(graphs.mlp(tmp_path), 32, kind="GPU")


def test_a_model_that_cannot_be_loaded_says_so(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("onnxruntime.InferenceSession", broken)
    with pytest.raises(RuntimeError, match="no such operator"):
        load(graphs.mlp(tmp_path), 32)


# ---- in the real server ----------------------------------------------------------------------------------------------


def infer(client: Any, model: str, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> Arrays:
    import tritonclient.grpc as triton_grpc
    from tritonclient.utils import np_to_triton_dtype

    tensors = []
    for name, array in feeds.items():
        tensor = triton_grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    asked = [triton_grpc.InferRequestedOutput(name) for name in outputs] or None
    result = client.infer(model, tensors, outputs=asked)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


@pytest.mark.server
def test_the_real_server(tmp_path: Path, triton: StartTriton) -> None:
    """One server with many models: concurrent batches, every type, texts, scalars, subsets of outputs, bad requests."""
    import tritonclient.grpc as triton_grpc
    from tritonclient.utils import InferenceServerException

    files = tmp_path / "onnx"
    files.mkdir()
    mlp, pair = graphs.mlp(files), graphs.two_inputs_two_outputs(files)
    repository = tmp_path / "repository"
    slow = Batching(max_queue_delay_us=20_000)
    write(repository, mlp, 32, "mlp", batching=slow)
    write(repository, pair, 8, "pair")
    write(repository, gather(files), 32, "gather", batching=slow)
    write(repository, both(files), 0, "scalars")
    write(repository, graphs.odd_names(files), 4, "odd")
    for dtype in ("FP16", "BOOL", "INT64", "UINT8", "STRING"):
        write(repository, graphs.identity(files, dtype), 4, f"identity_{dtype}")
    server = triton(repository, probe=False)

    with triton_grpc.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(16) as threads:
        # Every request differs; each reply must be its own.
        xs = [rows(1 + index % 3, 4, seed=index) for index in range(96)]
        replies = threads.map(lambda x: infer(client, "mlp", {"x": x}), xs)
        for x, reply in zip(xs, replies, strict=True):
            np.testing.assert_allclose(reply["y"], reference(mlp, x=x)["y"], rtol=1e-5)
        with urllib.request.urlopen(f"http://{server.http_url}/v2/models/mlp/stats") as answer:
            [stats] = json.load(answer)["model_stats"]
        assert stats["execution_count"] < stats["inference_stats"]["success"]["count"], "no request shared a run"

        # Rows without further axes; an index out of range fails its own request only.
        indices = [np.array([index % 4] if index % 8 else [9], np.int64) for index in range(32)]

        def gathered(index: NDArray[Any]) -> list[float] | str:
            try:
                return list(infer(client, "gather", {"index": index[:, None]})["value"].ravel())
            except InferenceServerException as error:
                return str(error)

        for index, value in zip(indices, threads.map(gathered, indices), strict=True):
            assert "bounds" in value if index[0] == 9 else value == [index[0] * 10.0], (index, value)

        feeds = {"a": rows(2, 4), "b": rows(2, 4, seed=1)}
        assert set(infer(client, "pair", feeds)) == {"total", "product"}
        subset = infer(client, "pair", feeds, ["product"])
        assert set(subset) == {"product"}
        np.testing.assert_array_equal(subset["product"], feeds["a"] * feeds["b"])

        assert infer(client, "scalars", {"x": np.array([4], np.float32)})["y"].tolist() == [5.0]
        odd = infer(client, "odd", {"gpu_0/data:0": rows(1, 3)})
        np.testing.assert_array_equal(odd['a "quoted" \\ ünï'], np.maximum(rows(1, 3), 0))

        for dtype in ("FP16", "BOOL", "INT64", "UINT8", "STRING"):
            got = infer(client, f"identity_{dtype}", {"x": SAMPLES[dtype]})["y"]
            assert got.dtype == SAMPLES[dtype].dtype
            np.testing.assert_array_equal(got, SAMPLES[dtype])
        with pytest.raises(InferenceServerException, match="input 'x' is not UTF-8"):
            infer(client, "identity_STRING", {"x": np.array([[b"\xff", b"", b""]], object)})
