"""What tritonrepo_client costs per request, against tritonclient used as well as it can be used, in alternation.

    python benchmarks/client_overhead.py --grpc 127.0.0.1:8001 --http 127.0.0.1:8000 --model mlp

The server must run and serve a model with one FP32 input. Each round sends the same requests through each client in
turn; what is printed are medians over the rounds of the ratio to tritonclient, for time and for CPU of this process.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tritonrepo_client import Client

Call = Callable[[], object]


def main() -> None:
    options = _options()
    for transport, address in (("grpc", options.grpc), ("http", options.http)):
        if not address:
            continue
        with Client(f"{transport}://{address}") as client:
            model = client.model(options.model)
            (spec,) = model.signature.inputs
            shape = [1 if dim < 0 else dim for dim in spec.shape]
            array = np.random.default_rng(0).random(shape, np.float32)
            raw = _raw_call(transport, address, options.model, spec.name, array)
            np.testing.assert_array_equal(raw(), model(array))
            _report(transport, raw, functools.partial(model, array), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grpc", default="", metavar="HOST:PORT")
    parser.add_argument("--http", default="", metavar="HOST:PORT")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--requests", type=int, default=200, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def _raw_call(transport: str, address: str, model: str, name: str, array: Any) -> Call:
    """The same request through tritonclient, with its objects made once and only the data set anew."""
    if transport == "grpc":
        import tritonclient.grpc as library
    else:
        import tritonclient.http as library
    client = library.InferenceServerClient(address)
    tensor = library.InferInput(name, list(array.shape), "FP32")
    output = client.get_model_metadata(model)
    output = output.outputs[0].name if transport == "grpc" else output["outputs"][0]["name"]

    def call() -> object:
        tensor.set_data_from_numpy(array)
        return client.infer(model, [tensor]).as_numpy(output)

    return call


def _report(transport: str, raw: Call, ours: Call, options: argparse.Namespace) -> None:
    rounds = []
    for number in range(options.rounds + 1):
        order = (raw, ours) if number % 2 else (ours, raw)
        cost = {call: _cost(call, options.requests) for call in order}
        if number:  # the first one warms up
            rounds.append((cost[raw], cost[ours]))
    print(f"{transport}: {len(rounds)} rounds of {options.requests} requests; medians of the ratio to tritonclient")
    for index, label in enumerate(("time per request", "client CPU per request")):
        ratio = statistics.median(ours[index] / raw[index] for raw, ours in rounds)
        micros = [statistics.median(pair[side][index] for pair in rounds) * 1e6 for side in (0, 1)]
        print(f"  {label}: {ratio:.2f}   (tritonclient {micros[0]:.0f} us, tritonrepo_client {micros[1]:.0f} us)")


def _cost(call: Call, requests: int) -> tuple[float, float]:
    """Seconds of wall time and of this process's CPU for one request."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(requests):
        call()
    return (time.perf_counter() - wall) / requests, (time.process_time() - cpu) / requests


if __name__ == "__main__":
    main()
