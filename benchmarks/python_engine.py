"""What the generated model.py costs, against ONNX Runtime called in a loop in this process with the same threads.

    python benchmarks/python_engine.py [MODEL.onnx [--shape INPUT=3,48,320 ...]] [--what execute server]

`execute` measures execute() of the generated model.py in this process, without a server: what the code itself adds to
the session's run. `server` measures the real server on this host: requests over HTTP on 16 connections, sent by this
process, so client, server and model share the cores; `empty` is the same server with a model.py that answers with
zeros, the most that any model can reach there. The model must batch; by default it is a multilayer perceptron
784-128-64-10. All sides run in turn within each round; what is printed are medians over the rounds.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import selectors
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tritonrepo.introspect import Signature, introspect
from tritonrepo.plan import Plan
from tritonrepo.render import render
from tritonrepo.serve import EmbeddedServer
from tritonrepo.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from triton_python_double import InferenceRequest, Tensor, loaded

IN_FLIGHT = 16
BATCHES = (1, 32)
NUMPY = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16, "INT64": np.int64, "INT32": np.int32}
Feeds = dict[str, NDArray[Any]]


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.model or mlp(Path(folder) / "mlp.onnx")
        signature = introspect(file)
        dims = {name: tuple(map(int, text.split(","))) for name, text in (item.split("=") for item in arguments.shape)}
        version = write(Path(folder) / "repository", file, signature)
        print(f"{file.name}: ONNX Runtime {ort.__version__}, NumPy {np.__version__}, {arguments.rounds} rounds")
        measures = {"execute": in_process, "server": through_server}
        for name in arguments.what:
            measures[name](version, signature, dims, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=DIMS", help="without the batch axis")
    parser.add_argument("--what", nargs="+", choices=["execute", "server"], default=["execute", "server"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in a round")
    return parser.parse_args()


def mlp(file: Path) -> Path:
    random = np.random.default_rng(0)
    sizes = (784, 128, 64, 10)
    nodes, weights, last = [], [], "x"
    for index, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights.append(numpy_helper.from_array(random.standard_normal((rows, columns), np.float32), f"w{index}"))
        weights.append(numpy_helper.from_array(np.zeros(columns, np.float32), f"b{index}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [f"g{index}"]))
        last = f"r{index}" if columns != sizes[-1] else "y"
        nodes.append(helper.make_node("Relu" if columns != sizes[-1] else "Identity", [f"g{index}"], [last]))
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", sizes[-1]])
    graph = helper.make_graph(nodes, "mlp", [source], [target], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def write(repository: Path, file: Path, signature: Signature) -> Path:
    """Write the repository as a build would; returns the version's directory."""
    plan = Plan("model", "python", "it is measured", max(BATCHES), "it is given", (), {})
    rendered = render(ModelSpec(onnx=file, warmup="off"), signature, plan, None)
    version = repository / plan.name / "1"
    version.mkdir(parents=True)
    shutil.copy(file, version / "model.onnx")
    for folder, contents in ((version.parent, rendered.model_files), (version, rendered.version_files)):
        for name, content in contents.items():
            assert isinstance(content, bytes)
            (folder / name).write_bytes(content)
    return version


def make_feeds(signature: Signature, dims: dict[str, tuple[int, ...]], rows: int) -> Feeds:
    random = np.random.default_rng(0)
    feeds = {}
    for tensor in signature.inputs:
        shape = dims.get(tensor.name) or tuple(dim if isinstance(dim, int) else 1 for dim in tensor.shape[1:])
        feeds[tensor.name] = random.random((rows, *shape)).astype(NUMPY[tensor.dtype])
    return feeds


def alternate(calls: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Median seconds of a call of each, by round. They take turns call by call: what else runs hits all alike."""
    result: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + seconds * len(calls)
        while time.perf_counter() < end:
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
        for name, taken in times.items():
            result[name].append(statistics.median(taken))
    return result


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def in_process(
    version: Path, signature: Signature, dims: dict[str, tuple[int, ...]], arguments: argparse.Namespace
) -> None:
    outputs = [output.name for output in signature.outputs]
    with loaded((version / "model.py").read_text(), version) as one:
        session, model = one.model.session, one.model
        print(f"execute: {session.get_session_options().intra_op_num_threads} threads of ONNX Runtime on both sides")
        for rows in BATCHES:
            feeds = make_feeds(signature, dims, rows)
            whole = [request(outputs, feeds)]
            single = [request(outputs, {n: a[row : row + 1] for n, a in feeds.items()}) for row in range(rows)]
            calls: dict[str, Callable[[], object]] = {
                "run": functools.partial(session.run, outputs, feeds),
                "one request": functools.partial(model.execute, whole),
                "requests of one row": functools.partial(model.execute, single),
            }
            times = alternate(calls, arguments.rounds, arguments.seconds)
            run = statistics.median(times["run"]) * 1e6
            for name in list(calls)[1:]:
                added = (statistics.median(times[name]) * 1e6 - run) / (rows if "row" in name else 1)
                print(
                    f"execute: batch {rows} as {name}: {ratio(times[name], times['run']):.3f} times session.run "
                    f"({run:.0f} us); {added:+.1f} us for each request"
                )


def request(outputs: Sequence[str], feeds: Feeds) -> InferenceRequest:
    return InferenceRequest([Tensor(name, array) for name, array in feeds.items()], outputs)


EMPTY = """
import numpy as np
import triton_python_backend_utils as pb_utils

ZEROS = {zeros}

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            arrays = [tensor.as_numpy() for tensor in request.inputs()]
            tensors = [pb_utils.Tensor(name, zeros[: len(arrays[0])]) for name, zeros in ZEROS.items()]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
"""


def through_server(
    version: Path, signature: Signature, dims: dict[str, tuple[int, ...]], arguments: argparse.Namespace
) -> None:
    outputs = [output.name for output in signature.outputs]
    with loaded((version / "model.py").read_text(), version) as one:
        session = one.model.session  # with the threads that model.py gives it
    add_empty(version, outputs, session.run(outputs, make_feeds(signature, dims, 1)))
    with EmbeddedServer(version.parents[1]) as server:
        server.wait_ready(120, probe=False)
        for rows in BATCHES:
            feeds = make_feeds(signature, dims, rows)
            sides = {
                name: Connections(server.http_url, http_request(name, feeds, outputs)) for name in ("model", "empty")
            }
            rates: dict[str, list[float]] = {"model": [], "empty": [], "loop": []}
            for connections in sides.values():
                connections.run(arguments.seconds)
            for _ in range(arguments.rounds):
                for name, connections in sides.items():
                    rates[name].append(connections.run(arguments.seconds))
                run = functools.partial(session.run, outputs, feeds)
                rates["loop"].append(1 / alternate({"run": run}, 1, arguments.seconds)["run"][0])
            for connections in sides.values():
                connections.close()
            model, empty, loop = (statistics.median(rates[name]) for name in ("model", "empty", "loop"))
            print(
                f"server: batch {rows}, {IN_FLIGHT} in flight: {model:.0f} requests/s, "
                f"{ratio(rates['model'], rates['loop']):.2f} times the loop's {loop:.0f}, "
                f"{ratio(rates['model'], rates['empty']):.2f} times the empty model's {empty:.0f}"
            )


def add_empty(version: Path, outputs: Sequence[str], results: Sequence[NDArray[Any]]) -> None:
    """Put a model beside the other that has its config and answers with zeros."""
    folder = version.parents[1] / "empty" / "1"
    folder.mkdir(parents=True)
    config = (version.parent / "config.pbtxt").read_text()
    (folder.parent / "config.pbtxt").write_text(config.replace('name: "model"', 'name: "empty"', 1))
    shapes = {name: (max(BATCHES), *result.shape[1:]) for name, result in zip(outputs, results, strict=True)}
    types = {name: str(result.dtype) for name, result in zip(outputs, results, strict=True)}
    zeros = ", ".join(f"{name!r}: np.zeros({shape}, {types[name]!r})" for name, shape in shapes.items())
    (folder / "model.py").write_text(EMPTY.replace("{zeros}", f"{{{zeros}}}"))


def http_request(model: str, feeds: Feeds, outputs: Sequence[str]) -> bytes:
    """An inference request over HTTP with binary tensors, ready to be sent."""
    names = {np.dtype(kind): name for name, kind in NUMPY.items()}
    head = {
        "inputs": [
            {
                "name": name,
                "shape": array.shape,
                "datatype": names[array.dtype],
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in feeds.items()
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    text = json.dumps(head).encode()
    body = text + b"".join(array.tobytes() for array in feeds.values())
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: localhost",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connections:
    """A few connections, each of which sends the same request again as soon as it has the whole reply."""

    def __init__(self, url: str, message: bytes) -> None:
        host, port = url.rsplit(":", 1)
        self.message = message
        self.selector = selectors.DefaultSelector()
        for _ in range(IN_FLIGHT):
            connection = socket.create_connection((host, int(port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(connection, selectors.EVENT_READ, bytearray())

    def run(self, seconds: float) -> float:
        """Give the rate of replies over so many seconds; nothing is in flight afterwards."""
        start = time.perf_counter()
        open_requests, replies = 0, 0
        for key in self.selector.get_map().values():
            self._connection(key).sendall(self.message)
            open_requests += 1
        while open_requests:
            for key, _ in self.selector.select():
                if not self._whole_reply(key):
                    continue
                replies += 1
                if time.perf_counter() < start + seconds:
                    self._connection(key).sendall(self.message)
                else:
                    open_requests -= 1
        return replies / (time.perf_counter() - start)

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            self._connection(key).close()
        self.selector.close()

    @staticmethod
    def _connection(key: selectors.SelectorKey) -> socket.socket:
        assert isinstance(key.fileobj, socket.socket)
        return key.fileobj

    def _whole_reply(self, key: selectors.SelectorKey) -> bool:
        buffer: bytearray = key.data
        buffer += self._connection(key).recv(1 << 20)
        head, end, body = buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server refused: {buffer.decode(errors='replace')}")
        (length,) = (line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        if len(body) < int(length):
            return False
        buffer.clear()
        return True


if __name__ == "__main__":
    main()
