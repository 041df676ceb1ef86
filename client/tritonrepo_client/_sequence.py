"""A sequence of requests to a model that keeps state between them; no I/O of its own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tritonrepo_client._infer import Plan
from tritonrepo_client.errors import InvalidInput, TritonClientError
from tritonrepo_client.tensor import Array

if TYPE_CHECKING:
    from tritonrepo_client._core import Core

#: Triton's type of the correlation id -> how many bits to use of it; of 64 one less, for who reads it as signed.
_BITS = {"TYPE_INT32": 31, "TYPE_UINT32": 32, "TYPE_INT64": 63, "TYPE_UINT64": 63}
#: Seconds for the request that closes a sequence.
_CLOSE_S = 5.0


class SequenceCore:
    """What `Sequence` and `AsyncSequence` have in common."""

    def __init__(self, core: Core, model: str, version: str, identity: int | str | None) -> None:
        self._core, self._model, self._version = core, model, version
        self.identity = identity
        self._endpoint = core.dispatcher.choose(())
        self._started = self._ended = False
        self._broken: TritonClientError | None = None
        self._last: Plan | None = None

    async def step(self, inputs: Any, options: Mapping[str, Any], *, last: bool) -> dict[str, Array] | Array:
        """One request of the sequence; at the same endpoint as the others, and never repeated."""
        core = self._core
        if self._ended:
            raise core.invalid("the sequence has ended", self._model)
        if self._broken is not None:
            raise core.invalid(f"the state of the sequence is unknown since: {self._broken}", self._model)
        call = core.call(self._model, options)
        deadline = core.deadline(call.timeout)
        if self.identity is None:
            self.identity = _identity((await core.contract(self._model, self._version, deadline)).config)
        call = replace(call, sequence=(self.identity, not self._started, last))
        plan = await core.plan(self._model, self._version, inputs, call, deadline)
        self._last = plan
        return await self._send(plan, last, deadline)

    async def finish(self) -> None:
        """Let the server forget the sequence, where no request said that it was the last. Errors are of no interest."""
        if self._last is None or self._ended or not self._started:
            return
        request = self._last.requests[0]
        assert self.identity is not None  # noqa: S101 - a request was sent
        blank = tuple(tensor._replace(data=bytes(_blank(tensor.dtype, tensor.data))) for tensor in request.inputs)
        closing = request._replace(inputs=blank, sequence=(self.identity, False, True))
        self._ended = True
        try:
            await self._core.send(closing, self._core.deadline(_CLOSE_S), pinned=self._endpoint)
        except TritonClientError:
            return

    async def _send(self, plan: Plan, last: bool, deadline: float | None) -> dict[str, Array] | Array:
        try:
            result = await self._core.execute(plan, deadline, pinned=self._endpoint)
        except BaseException as error:
            if getattr(error, "may_have_run", True) or not isinstance(error, TritonClientError):
                self._started = True
                broken = error if isinstance(error, TritonClientError) else InvalidInput(f"interrupted: {error!r}")
                self._broken = broken
            raise
        self._started, self._ended = True, last
        return result


def _blank(dtype: str, data: bytes | memoryview) -> int:
    """Bytes of a tensor of zeros, or of empty strings, like the given one."""
    if dtype != "BYTES":
        return len(data)
    view, at, count = memoryview(data), 0, 0
    while at < len(view):
        at += 4 + int.from_bytes(view[at : at + 4], "little")
        count += 1
    return 4 * count


def _identity(config: Mapping[str, Any]) -> int | str:
    """A correlation id that nobody else has, of the type that the model wants."""
    batching = config.get("sequence_batching") or {}
    for entry in batching.get("control_input", ()):
        for control in entry.get("control", ()):
            if control.get("kind") == "CONTROL_SEQUENCE_CORRID":
                kind = control.get("data_type", "")
                if kind == "TYPE_STRING":
                    return secrets.token_hex(16)
                return secrets.randbits(_BITS.get(kind, 63)) or 1
    return secrets.randbits(63) or 1
