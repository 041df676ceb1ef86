"""600 KB tensors: over the wire and in shared memory, against tritonclient and pytriton's ModelClient, in alternation.

    python benchmarks/client_large.py [--pytriton FOLDER]

Starts a server with a model that answers with what it got. FOLDER is where `pip install --no-deps --target FOLDER
nvidia-pytriton==0.7.0 typing_inspect wrapt sh pyzmq` has put pytriton; without it, it is left out.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import Client

ECHO = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        tensors = [request.inputs()[0].to_dlpack() for request in requests]
        return [pb.InferenceResponse([pb.Tensor.from_dlpack("y", tensor)]) for tensor in tensors]
"""
CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [-1] }
output { name: "y" data_type: TYPE_FP32 dims: [-1] }
"""
X = np.random.default_rng(0).random(150_528, np.float32)  # 3 x 224 x 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytriton", type=Path)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = Path(folder) / "echo" / "1" / "model.py"
        model.parent.mkdir(parents=True)
        model.write_text(ECHO)
        (model.parents[1] / "config.pbtxt").write_text(CONFIG)
        server = stack.enter_context(EmbeddedServer(Path(folder)))
        server.wait_ready(120)
        calls = candidates(server, options.pytriton, stack)
        for name, call in calls.items():
            np.testing.assert_array_equal(call(), X, err_msg=name)
        report(calls, options)
        copies(calls)


def candidates(server: EmbeddedServer, pytriton: Path | None, stack: ExitStack) -> dict[str, Callable[[], Any]]:
    """What is compared."""
    calls: dict[str, Callable[[], Any]] = {}
    for transport, address in (("grpc", server.grpc_url), ("http", server.http_url)):
        client = stack.enter_context(Client(f"{transport}://{address}"))
        model = client.model("echo")
        bound = stack.enter_context(model.bind({"x": X}, outputs={"y": X.shape}))
        calls[f"ours, {transport}"] = functools.partial(model, X)
        calls[f"ours, {transport}, shared memory"] = functools.partial(shared, bound)
        calls[f"tritonclient.{transport}"] = raw(transport, address)
        if pytriton is not None:
            sys.path.append(str(pytriton))
            from pytriton.client import ModelClient

            theirs = stack.enter_context(ModelClient(f"{transport}://{address}", "echo"))
            calls[f"pytriton ModelClient, {transport}"] = functools.partial(sample, theirs)
    return calls


def shared(bound: Any) -> Any:
    """One request in shared memory."""
    return bound()["y"]


def sample(client: Any) -> Any:
    """One request of pytriton's client."""
    return client.infer_sample(x=X)["y"]


def raw(transport: str, address: str) -> Callable[[], Any]:
    """tritonclient, with its objects made once."""
    if transport == "grpc":
        import tritonclient.grpc as library
    else:
        import tritonclient.http as library
    client, tensor = library.InferenceServerClient(address), library.InferInput("x", list(X.shape), "FP32")

    def call() -> Any:
        tensor.set_data_from_numpy(X)
        return client.infer("echo", [tensor]).as_numpy("y")

    return call


def report(calls: dict[str, Callable[[], Any]], options: argparse.Namespace) -> None:
    """Medians of the ratios of rates."""
    rounds = []
    for number in range(options.rounds + 1):
        seconds: dict[str, tuple[float, float]] = {}
        for name in list(calls) if number % 2 else reversed(list(calls)):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(options.requests):
                calls[name]()
            seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        if number:
            rounds.append(seconds)
    print(f"{X.nbytes} bytes each way, {options.rounds} rounds of {options.requests} requests")
    for name in calls:
        rate, cpu = (statistics.median(each[name][i] for each in rounds) / options.requests for i in (0, 1))
        print(f"  {name:32} {1 / rate:7.0f} a second, {cpu * 1e6:6.0f} us of client CPU")
    for transport in ("grpc", "http"):
        ours = f"ours, {transport}"
        for against in (f"pytriton ModelClient, {transport}", f"tritonclient.{transport}"):
            if against in calls:
                ratio = statistics.median(each[against][0] / each[ours][0] for each in rounds)
                print(f"  rate of {ours} / {against}: {ratio:.2f}")
        ratio = statistics.median(each[ours][0] / each[f"{ours}, shared memory"][0] for each in rounds)
        print(f"  rate of {ours}, shared memory / wire: {ratio:.2f}")


def copies(calls: dict[str, Callable[[], Any]]) -> None:
    """Memory that a request takes at its highest, in tensors: what Python and numpy allocate, grpc's own left out."""
    print("  highest memory of one call, in tensors (the reply is one of them):")
    for name, call in calls.items():
        call()
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1] / X.nbytes
        tracemalloc.stop()
        print(f"    {name:32} {peak:.2f}")


if __name__ == "__main__":
    main()
