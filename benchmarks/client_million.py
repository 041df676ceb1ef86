"""Requests by 64 callers that share one client: each reply is checked against its request, memory must stay flat.

    python benchmarks/client_million.py --requests 1000000 --url http://127.0.0.1:8000 [--mode asyncio]

The server must serve a model ``echo`` that gives its FP32 input ``x`` of any length back as ``y``; without --url one is
started. `make test` runs a slice of it (tests/test_client_million.py); `make test-client-million` all of it, over both
transports, with threads and asyncio.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tritonrepo_client import AsyncClient, Client

CALLERS = 64


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    url: str
    mode: str
    requests: int
    replies: int
    """Those that were right; all others end the run."""
    seconds: float
    rss_start: int
    """Resident bytes after the first twentieth of the requests."""
    rss_end: int
    threads: int


def run(url: str, mode: str, requests: int, callers: int = CALLERS) -> Outcome:
    """Send them all.

    Raises:
        AssertionError: a reply that does not match its request.
    """
    counter = itertools.count()
    watch = _Watch(requests)
    started = time.monotonic()
    if mode == "asyncio":
        threads = asyncio.run(_asyncio(url, requests, callers, counter, watch))
    else:
        threads = _threads(url, requests, callers, counter, watch)
    return Outcome(url, mode, requests, watch.right, time.monotonic() - started, watch.rss_start, _resident(), threads)


class _Watch:
    """Counts right replies, and says how much memory there is at the start and the end."""

    def __init__(self, requests: int) -> None:
        self.rss_start = 0
        self._warm = requests // 20
        self._counts: dict[int, int] = {}

    @property
    def right(self) -> int:
        return sum(self._counts.values())

    def check(self, caller: int, number: int, reply: Any) -> None:
        expected = request(caller, number)
        assert reply.dtype == expected.dtype and np.array_equal(reply, expected), (caller, number)
        self._counts[caller] = self._counts.get(caller, 0) + 1
        if number == self._warm:
            self.rss_start = _resident()


def request(caller: int, number: int) -> Any:
    """Input no. ``number``: it says who sent it, and its length varies."""
    array = np.full(3 + number % 61, number % 16_000_000, np.float32)
    array[0] = caller
    return array


def _threads(url: str, requests: int, callers: int, counter: Iterator[int], watch: _Watch) -> int:
    failed: list[BaseException] = []
    with Client(url, timeout=300) as client:
        model = client.model("echo")

        def work(caller: int) -> None:
            try:
                while (number := next(counter)) < requests and not failed:
                    watch.check(caller, number, model(request(caller, number)))
            except BaseException as error:
                failed.append(error)

        workers = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failed:
            raise failed[0]
        return threading.active_count()


async def _asyncio(url: str, requests: int, callers: int, counter: Iterator[int], watch: _Watch) -> int:
    async with AsyncClient(url, timeout=300) as client:
        model = client.model("echo")

        async def work(caller: int) -> None:
            while (number := next(counter)) < requests:
                watch.check(caller, number, await model(request(caller, number)))

        await asyncio.gather(*(work(caller) for caller in range(callers)))
        return threading.active_count()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@contextmanager
def served() -> Iterator[dict[str, str]]:
    """A server with the model, and its URLs."""
    from tritonrepo.serve import EmbeddedServer

    code = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [pb.InferenceResponse([pb.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""
    tensor = 'put {{ name: "{}" data_type: TYPE_FP32 dims: [-1] }}\n'
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "echo" / "1" / "model.py"
        model.parent.mkdir(parents=True)
        model.write_text(code)
        config = 'backend: "python"\nin' + tensor.format("x") + "out" + tensor.format("y")
        (model.parents[1] / "config.pbtxt").write_text(config)
        with EmbeddedServer(Path(folder)) as server:
            server.wait_ready(120)
            yield {"grpc": f"grpc://{server.grpc_url}", "http": f"http://{server.http_url}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--url", default="")
    parser.add_argument("--mode", choices=["threads", "asyncio"], default="threads")
    options = parser.parse_args()
    if options.url:
        print(json.dumps(asdict(run(options.url, options.mode, options.requests))))
        return
    with served() as urls:
        for transport, mode in itertools.product(urls, ("threads", "asyncio")):
            outcome = run(urls[transport], mode, options.requests)
            growth = (outcome.rss_end - outcome.rss_start) / 1e6
            print(
                f"{transport}, {mode}: {outcome.replies} of {outcome.requests} replies right, {outcome.seconds:.0f} s, "
                f"memory {outcome.rss_end / 1e6:.0f} MB, {growth:+.1f} MB since the first twentieth",
                flush=True,
            )
            if outcome.replies != outcome.requests:
                sys.exit(1)


if __name__ == "__main__":
    main()
