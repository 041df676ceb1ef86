"""Which endpoint gets a request, whether it is sent again, and when an endpoint is left alone.

What is safe to send again:
- a request that certainly did not run (no connection; the queue was full; the server was stopping): always;
- one whose connection ended before the reply: once, and only for models without state, because it may have run, and
  because it may be what ended the server; questions (metadata, health, ...) likewise;
- a model that is not loaded here may be loaded elsewhere: at another endpoint, never at the same;
- nothing else: after a deadline, a bad reply or any other no of the server, the caller knows better.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tritonrepo_client.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InvalidInput,
    ModelNotReady,
    ServerBusy,
    ServerUnreachable,
    TritonClientError,
)
from tritonrepo_client.settings import Settings
from tritonrepo_client.transport import Transport

_T = TypeVar("_T")
_log = logging.getLogger("tritonrepo_client")

#: Seconds that an endpoint has to say that it is ready, before it gets requests again.
_PROBE_S = 1.0
#: Seconds for which an endpoint that let a deadline pass comes after the others.
_SLOW_S = 1.0


class Endpoint:
    """One server: its transport, and what is known of its health."""

    def __init__(self, transport: Transport, settings: Settings, *, alone: bool) -> None:
        self.transport = transport
        self.in_flight = 0
        self.slow_until = 0.0
        self._breaker = settings.breaker
        self.alone = alone
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0
        self._pause = settings.breaker.pause
        self._probing = False
        self._reason = ""

    @property
    def closed(self) -> bool:
        """Whether requests may go there without a question first."""
        return not self._open_until

    def rank(self, now: float) -> int:
        """How good a choice it is: 0 well or to be tried again, 1 slow lately, 2 left alone."""
        if self._open_until and (self._probing or now < self._open_until):
            return 2
        return 1 if self.slow_until > now else 0

    def due(self) -> bool:
        """Whether it may be tried again; who is told so must call `answered`, `failed` or `undecided` after it."""
        if not self._open_until:
            return True
        with self._lock:
            if self._probing or time.monotonic() < self._open_until:
                return False
            self._probing = True
            return True

    def enter(self) -> None:
        """A request begins."""
        if not self.alone:
            with self._lock:
                self.in_flight += 1

    def leave(self) -> None:
        """A request has ended."""
        if not self.alone:
            with self._lock:
                self.in_flight -= 1

    def answered(self) -> None:
        """It said something: it is there."""
        if self._failures or self._open_until:
            with self._lock:
                if self._open_until:
                    _log.info("%s answers again", self.transport.endpoint)
                self._failures, self._open_until, self._pause = 0, 0.0, self._breaker.pause
                self._probing = False

    def failed(self, error: TritonClientError) -> None:
        """It could not be reached, or was silent."""
        now = time.monotonic()
        if isinstance(error, DeadlineExceeded):
            self.slow_until = now + _SLOW_S
            if self.alone:  # then nobody else could do better, and the model may just be slow
                self.undecided()
                return
        with self._lock:
            self._failures += 1
            if self._failures < self._breaker.failures:
                return
            if self._open_until:
                self._pause = min(self._pause * 2, self._breaker.longest)
            else:
                _log.warning("%s is left alone after %d failures: %s", error.endpoint, self._failures, error.detail)
            self._open_until, self._probing, self._reason = now + self._pause, False, error.detail

    def undecided(self) -> None:
        """The attempt ended without saying anything of the server."""
        if self._probing:
            with self._lock:
                self._probing = False

    def refusal(self, model: str) -> CircuitOpen:
        """Why nothing is sent there now."""
        wait = max(0.0, self._open_until - time.monotonic())
        words = f"not tried: {self._failures} attempts in a row failed, the next is in {wait:.2g} s; {self._reason}"
        return CircuitOpen(words, model=model, endpoint=self.transport.endpoint)


class Budget:
    """Retries that may still be made: each success earns a part of one."""

    def __init__(self, settings: Settings) -> None:
        self._earns, self._most = settings.retry.budget, float(settings.retry.burst)
        self._saved = self._most
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A request succeeded."""
        if self._saved < self._most:
            with self._lock:
                self._saved = min(self._most, self._saved + self._earns)

    def spend(self) -> bool:
        """Take one; False when there is none."""
        with self._lock:
            if self._saved < 1:
                return False
            self._saved -= 1
            return True


class Dispatcher:
    """Sends requests to endpoints, by the rules at the top of this module."""

    def __init__(
        self, transports: Sequence[Transport], settings: Settings, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        alone = len(transports) == 1
        self.endpoints = tuple(Endpoint(transport, settings, alone=alone) for transport in transports)
        self.closed = False
        self._retry = settings.retry
        self._budget = Budget(settings)
        self._sleep = sleep
        self._turn = 0

    async def call(
        self,
        send: Callable[[Transport], Awaitable[_T]],
        deadline: float | None,
        *,
        model: str = "",
        repeat_lost: bool = True,
        pinned: Endpoint | None = None,
        first: TritonClientError | None = None,
    ) -> _T:
        """What ``send`` gives for the transport of an endpoint, after as many attempts as are safe and allowed.

        ``first`` is what the first attempt ended with, where it was made already, at the only endpoint.
        """
        attempt, lost, last = 1, False, None
        tried: list[Endpoint] = []
        while True:
            endpoint = pinned if pinned is not None else self.choose(tried)
            try:
                if first is not None:
                    self._failed(endpoint, first)
                    known, first = first, None
                    raise known
                return await self._attempt(endpoint, send, deadline, model)
            except TritonClientError as error:
                if endpoint not in tried:
                    tried.append(endpoint)
                if isinstance(error, CircuitOpen):  # nothing was sent: no attempt
                    if pinned is None and len(tried) < len(self.endpoints):
                        continue
                    raise last or error from None
                error.attempts, last = attempt, error
                again = self._repeats(error, tried, pinned, repeat_lost=repeat_lost and not lost)
                lost = error.may_have_run = lost or error.may_have_run  # one that came before may have run
                if not again:
                    raise
                pause = 0.0 if pinned is None and len(tried) < len(self.endpoints) else self._retry.pause(attempt)
                if attempt >= self._retry.attempts or (deadline is not None and time.monotonic() + pause >= deadline):
                    raise
                if not self._budget.spend():
                    _log.warning("no retry, the budget is spent: %s", error)
                    raise
                _log.info("attempt %d of at most %d failed, trying again: %s", attempt, self._retry.attempts, error)
            attempt += 1
            if pause:
                await self._sleep(pause)

    async def _attempt(
        self, endpoint: Endpoint, send: Callable[[Transport], Awaitable[_T]], deadline: float | None, model: str
    ) -> _T:
        decided = False
        endpoint.enter()
        try:
            if not endpoint.closed:
                if not endpoint.due():
                    decided = True  # by others
                    raise endpoint.refusal(model)
                await self._ask_ready(endpoint, deadline, model)
            result = await send(endpoint.transport)
            decided = True
            self.succeeded(endpoint)
            return result
        except TritonClientError as error:
            if not isinstance(error, CircuitOpen):
                decided = True
                self._failed(endpoint, error)
            raise
        finally:
            if not decided:
                endpoint.undecided()
            endpoint.leave()

    def succeeded(self, endpoint: Endpoint) -> None:
        """A request was answered."""
        endpoint.answered()
        self._budget.earn()

    @staticmethod
    def _failed(endpoint: Endpoint, error: TritonClientError) -> None:
        if isinstance(error, ServerUnreachable | DeadlineExceeded):
            endpoint.failed(error)
        elif isinstance(error, InvalidInput):
            endpoint.undecided()
        else:
            endpoint.answered()

    async def _ask_ready(self, endpoint: Endpoint, deadline: float | None, model: str) -> None:
        """Whether one that failed is ready again: a question may be lost where a request must not."""
        now = time.monotonic()
        until = now + _PROBE_S if deadline is None else now + min(_PROBE_S, (deadline - now) / 2)
        try:
            if await endpoint.transport.ask("ready", {}, until):
                return
            why = ServerUnreachable("the server says that it is not ready", endpoint=endpoint.transport.endpoint)
        except TritonClientError as error:
            why = ServerUnreachable(error.detail, endpoint=endpoint.transport.endpoint)
        endpoint.failed(why)
        raise endpoint.refusal(model)

    def choose(self, tried: Sequence[Endpoint]) -> Endpoint:
        """The endpoint for the next request."""
        endpoints = self.endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        self._turn = turn = (self._turn + 1) % len(endpoints)
        now = time.monotonic()
        in_turn = endpoints[turn:] + endpoints[:turn]
        # The one of few requests, in turn where they are alike; those that failed here or lately come last.
        return min(in_turn, key=lambda e: (e in tried, e.rank(now), e.in_flight))

    def _repeats(
        self, error: TritonClientError, tried: Sequence[Endpoint], pinned: Endpoint | None, *, repeat_lost: bool
    ) -> bool:
        elsewhere = pinned is None and len(tried) < len(self.endpoints)
        if self.closed:
            return False
        if isinstance(error, ModelNotReady):
            return elsewhere
        if isinstance(error, ServerUnreachable):
            return not error.may_have_run or (repeat_lost and self._retry.repeat_lost)
        return isinstance(error, ServerBusy) and "queue size" in error.detail
