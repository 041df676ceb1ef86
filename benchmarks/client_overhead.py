"""What tritonrepo_client costs per small request, against tritonclient used as well as it can be used, in alternation.

    python benchmarks/client_overhead.py --grpc 127.0.0.1:8001 --http 127.0.0.1:8000 --model mlp

The server must run and serve a model with one FP32 input. Each round sends the same requests through each client in
turn; what is printed are medians over the rounds of the ratio, for time and for CPU of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from tritonrepo_client import AsyncClient, Client

Call = Callable[[], object]
AsyncCall = Callable[[], Awaitable[object]]
Cost = tuple[float, float]

#: Ours -> what it is compared with.
PAIRS = (
    ("gRPC", "tritonclient.grpc"),
    ("gRPC, prepared", "tritonclient.grpc"),
    ("HTTP", "tritonclient.http"),
    ("HTTP, prepared", "tritonclient.http"),
    ("HTTP", "tritonclient.grpc"),
    ("gRPC, asyncio", "tritonclient.grpc.aio"),
    ("HTTP, asyncio", "tritonclient.http.aio"),
    ("HTTP, asyncio", "tritonclient.grpc.aio"),
)


def main() -> None:
    options = _options()
    rounds = asyncio.run(_measure(options))
    print(f"{options.rounds} rounds of {options.requests} requests, one after the other; medians of the ratios")
    print(f"  {'ours':16} {'against':22} {'time':>6} {'CPU':>6}   CPU a request: ours, theirs")
    for ours, theirs in PAIRS:
        if ours not in rounds[0] or theirs not in rounds[0]:
            continue
        ratios = [statistics.median(each[ours][i] / each[theirs][i] for each in rounds) for i in (0, 1)]
        micros = [statistics.median(each[side][1] for each in rounds) * 1e6 for side in (ours, theirs)]
        print(f"  {ours:16} {theirs:22} {ratios[0]:6.2f} {ratios[1]:6.2f}   {micros[0]:.0f} us, {micros[1]:.0f} us")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grpc", default="", metavar="HOST:PORT")
    parser.add_argument("--http", default="", metavar="HOST:PORT")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--requests", type=int, default=200, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


async def _measure(options: argparse.Namespace) -> list[dict[str, Cost]]:
    calls: dict[str, Call] = {}
    waits: dict[str, AsyncCall] = {}
    closing: list[Callable[[], Any]] = []
    for transport, address in (("grpc", options.grpc), ("http", options.http)):
        if address:
            await _add(transport, address, options.model, calls, waits, closing)
    rounds = []
    for number in range(options.rounds + 1):
        names = [*calls, *waits]
        cost: dict[str, Cost] = {}
        for name in names if number % 2 else reversed(names):
            count = options.requests
            cost[name] = _cost(calls[name], count) if name in calls else await _async_cost(waits[name], count)
        if number:  # the first one warms up
            rounds.append(cost)
    for close in closing:
        done = close()
        if done is not None:
            await done
    return rounds


async def _add(
    transport: str, address: str, model: str, calls: dict[str, Call], waits: dict[str, AsyncCall], closing: list[Any]
) -> None:
    if transport == "grpc":
        import tritonclient.grpc as library
        from tritonclient.grpc import aio
    else:
        import tritonclient.http as library
        from tritonclient.http import aio
    name = {"grpc": "gRPC", "http": "HTTP"}[transport]
    client = Client(f"{transport}://{address}")
    ours = client.model(model)
    async_client = AsyncClient(f"{transport}://{address}")
    array, spec = _array(ours), ours.signature.inputs[0]
    tensor = library.InferInput(spec.name, list(array.shape), "FP32")
    output = ours.signature.outputs[0].name
    theirs, async_theirs = library.InferenceServerClient(address), aio.InferenceServerClient(address)

    def raw() -> object:
        tensor.set_data_from_numpy(array)
        return theirs.infer(model, [tensor]).as_numpy(output)

    async def raw_async() -> object:
        tensor.set_data_from_numpy(array)
        return (await async_theirs.infer(model, [tensor])).as_numpy(output)

    want = raw()
    np.testing.assert_array_equal(want, ours(array))
    np.testing.assert_array_equal(await raw_async(), await async_client.model(model)(array))
    calls[name], calls[f"tritonclient.{transport}"] = functools.partial(ours, array), raw
    calls[f"{name}, prepared"] = ours.prepare(array)
    waits[f"{name}, asyncio"] = functools.partial(async_client.model(model), array)
    waits[f"tritonclient.{transport}.aio"] = raw_async
    closing += [client.close, async_client.close, async_theirs.close]


def _array(model: Any) -> Any:
    (spec,) = model.signature.inputs
    shape = [1 if dim < 0 else dim for dim in spec.shape]
    return np.random.default_rng(0).random(shape, np.float32)


def _cost(call: Call, requests: int) -> Cost:
    """Seconds of wall time and of this process's CPU for one request."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(requests):
        call()
    return (time.perf_counter() - wall) / requests, (time.process_time() - cpu) / requests


async def _async_cost(call: AsyncCall, requests: int) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(requests):
        await call()
    return (time.perf_counter() - wall) / requests, (time.process_time() - cpu) / requests


if __name__ == "__main__":
    main()
