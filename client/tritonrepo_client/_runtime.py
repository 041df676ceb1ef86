"""What differs between threads and asyncio besides the transports: waiting, and doing several things at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from tritonrepo_client.transport import drive

_T = TypeVar("_T")
Job = Callable[[], Coroutine[Any, Any, _T]]


class Runtime(Protocol):
    """See `ThreadRuntime` and `AsyncRuntime`."""

    asynchronous: bool

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def gather(self, jobs: Sequence[Job[_T]]) -> list[_T]:
        """All results, in order; when one fails, its error, after what had begun has ended."""

    def close(self) -> None:
        """Let go of what it holds."""


class ThreadRuntime:
    """Jobs run in at most ``limit`` threads, which all calls of a client share."""

    asynchronous = False

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def gather(self, jobs: Sequence[Job[_T]]) -> list[_T]:
        """All results, in order."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._limit, "tritonrepo-client")
            futures = [self._pool.submit(_run, job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
        wait(futures)
        for future in futures:  # those that were cancelled come after one that failed, or not at all
            if not future.cancelled() and (error := future.exception()) is not None:
                raise error
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads when they have finished."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False)


class AsyncRuntime:
    """Jobs are tasks; at most ``limit`` of one call run at once."""

    asynchronous = True

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def gather(self, jobs: Sequence[Job[_T]]) -> list[_T]:
        """All results, in order."""
        gate = asyncio.Semaphore(self._limit)

        async def run(job: Job[_T]) -> _T:
            async with gate:
                return await job()

        tasks = [asyncio.ensure_future(run(job)) for job in jobs]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def close(self) -> None:
        """Nothing to let go of."""


def _run(job: Job[_T]) -> _T:
    return drive(job())
