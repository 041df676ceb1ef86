"""All of the client that is not I/O, once for threads and asyncio: signatures, calls, readiness, control."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tritonrepo_client._dispatch import Dispatcher, Endpoint
from tritonrepo_client._infer import PLAIN, Call, Plan, arrays_of, named_arrays, plan_call
from tritonrepo_client._lease import Layout, Lease, Shapes, check_layout, clean, lay_out
from tritonrepo_client._runtime import Runtime
from tritonrepo_client._trace import trace_headers
from tritonrepo_client.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    ServerUnreachable,
    TritonClientError,
)
from tritonrepo_client.settings import Settings
from tritonrepo_client.tensor import Array, MismatchError, Signature, decode, encode_exact
from tritonrepo_client.transport import InferReply, InferRequest, Transport

_T = TypeVar("_T")
_POLL_S = 0.05
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class ModelStatus:
    """One version of a model in the server's repository."""

    name: str
    version: str
    """"" where nothing of the model was ever loaded."""
    state: str
    """READY, LOADING, UNLOADING, UNAVAILABLE, or "" for never loaded."""
    reason: str
    """Why it is not ready, in the server's words; "" where there is none."""


@dataclass(frozen=True)
class Contract:
    """What was read from the server about one model."""

    metadata: dict[str, Any]
    config: dict[str, Any]
    signature: Signature


class Core:
    """A client without its I/O. Its coroutines wait for nothing but the transports and the runtime."""

    def __init__(self, transports: Sequence[Transport], settings: Settings, runtime: Runtime) -> None:
        self.settings = settings
        self.runtime = runtime
        self.dispatcher = Dispatcher(transports, settings, runtime.sleep)
        self.endpoint = ", ".join(each.endpoint for each in transports)
        self._contracts: dict[tuple[str, str], Contract] = {}
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._cleaned: set[Endpoint] = set()
        self._trace = trace_headers(settings.trace)
        _watch_forks()
        self._born = _generation[0]

    def check_process(self) -> None:
        """Refuse to work in a child of the process that made the client."""
        if self._born != _generation[0]:
            # Parent and child would read each other's replies (HTTP), or wait forever (gRPC).
            raise TritonClientError(
                "this client was made before a fork: make one in each process", endpoint=self.endpoint
            )

    def deadline(self, timeout: float | None) -> float | None:
        """When a call that begins now must have ended."""
        seconds = self.settings.timeout if timeout is None else timeout
        return None if seconds == math.inf else time.monotonic() + seconds

    # Inference

    async def run(self, model: str, version: str, inputs: Any, options: Mapping[str, Any]) -> Any:
        """Arrays in, arrays out."""
        if not options:
            quick = self._quick(model, version, inputs)
            if quick is not None:
                reply = await self.send(quick, self.deadline(None))
                return self._results(reply, model, single=not isinstance(inputs, dict))
        call = self.call(model, options) if options else PLAIN
        deadline = self.deadline(call.timeout)
        plan = await self.plan(model, call.version or version, inputs, call, deadline)
        return await self.execute(plan, deadline)

    def _quick(self, model: str, version: str, inputs: Any) -> InferRequest | None:
        """The request of a call as most are: all known, nothing special. None for all others."""
        known = self._contracts.get((model, version))
        if known is None or not known.signature.plain:
            return None
        signature = known.signature
        if not isinstance(inputs, dict):
            if not signature.only_input or len(signature.outputs) != 1 or isinstance(inputs, Mapping):
                return None
            inputs = {signature.only_input: inputs}
        tensors = encode_exact(signature, inputs, self.settings.max_message_bytes)
        return None if tensors is None else InferRequest(model, version, tensors, (), "", 0, _NOTHING)

    def _results(self, reply: InferReply, model: str, *, single: bool) -> dict[str, Array] | Array:
        outputs = reply.outputs
        try:
            if not single:
                return {tensor.name: decode(tensor) for tensor in outputs}
            if len(outputs) != 1:
                raise ValueError(f"one output was expected, and {len(outputs)} came")
            return decode(outputs[0])
        except ValueError as error:
            raise BadReply(str(error), model=model, endpoint=self.endpoint) from None

    def call(self, model: str, options: Mapping[str, Any]) -> Call:
        """Options, checked."""
        try:
            return Call.checked(options)
        except MismatchError as error:
            raise self.invalid(str(error), model) from None

    async def plan(self, model: str, version: str, inputs: Any, call: Call, deadline: float | None) -> Plan:
        """The requests for a call, by the model's signature."""
        largest = self.settings.max_message_bytes
        known = self._contracts.get((model, version))
        if known is not None:
            with contextlib.suppress(MismatchError):  # found again, and told, below
                return plan_call(model, version, known.signature, inputs, call, deadline, largest)
        return await self.formed(
            model,
            version,
            lambda signature: plan_call(model, version, signature, inputs, call, deadline, largest),
            deadline,
        )

    async def formed(self, model: str, version: str, form: Callable[[Signature], _T], deadline: float | None) -> _T:
        """What ``form`` makes by the model's signature; read afresh before the input is refused for it."""
        contract = self._contracts.get((model, version)) or await self.contract(model, version, deadline)
        try:
            return form(contract.signature)
        except MismatchError as mismatch:
            why, signature = mismatch, contract.signature
        with contextlib.suppress(ServerUnreachable, DeadlineExceeded, ServerError):  # then what is known must do
            signature = (await self._read_contract(model, version, deadline)).signature
        if signature != contract.signature:
            try:
                return form(signature)
            except MismatchError as mismatch:
                why = mismatch
        raise self.invalid(f"{why}; the model is {signature}", model) from None

    async def execute(
        self, plan: Plan, deadline: float | None, *, pinned: Endpoint | None = None
    ) -> dict[str, Array] | Array:
        """Send what was planned, and put the results together."""
        requests = plan.requests
        if len(requests) == 1:
            replies = [await self.send(requests[0], deadline, pinned=pinned)]
        else:
            jobs = [lambda request=request: self.send(request, deadline) for request in requests]
            replies = await self.runtime.gather(jobs)
        try:
            return arrays_of(plan, replies)
        except ValueError as error:
            raise BadReply(str(error), model=requests[0].model, endpoint=self.endpoint) from None

    async def send(
        self, request: InferRequest, deadline: float | None, *, repeat_lost: bool = True, pinned: Endpoint | None = None
    ) -> InferReply:
        """One request, as often as is safe and allowed."""
        if self._born != _generation[0]:
            self.check_process()
        if self._trace is not None:
            request = request._replace(headers=request.headers + self._trace())
        try:
            return await self._send(request, deadline, repeat_lost and request.sequence is None, pinned)
        except ServerError as error:
            if "xpected" in error.detail and type(error) is ServerError:
                # It passed our check, and not the server's: the model has been loaded with another signature.
                self._forget(request.model)
            raise

    async def _send(
        self, request: InferRequest, deadline: float | None, repeat_lost: bool, pinned: Endpoint | None
    ) -> InferReply:
        first = None
        endpoint = self.dispatcher.endpoints[0]
        if endpoint.alone and endpoint.closed:  # the usual case, without ceremony
            try:
                reply = await endpoint.transport.infer(request, deadline)
            except TritonClientError as error:
                first = error
            else:
                self.dispatcher.succeeded(endpoint)
                return reply
        return await self.dispatcher.call(
            lambda transport: transport.infer(request, deadline),
            deadline,
            model=request.model,
            repeat_lost=repeat_lost,
            pinned=pinned,
            first=first,
        )

    async def stream(
        self, model: str, version: str, inputs: Any, options: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Array], None]:
        """The replies to one request, as they come. Never repeated."""
        call = self.call(model, options)
        deadline = self.deadline(call.timeout)
        version = call.version or version
        plan = await self.formed(
            model,
            version,
            lambda signature: plan_call(
                model, version, signature, inputs, call, deadline, self.settings.max_message_bytes, streamed=True
            ),
            deadline,
        )
        self.check_process()
        request = plan.requests[0]
        if self._trace is not None:
            request = request._replace(headers=request.headers + self._trace())
        endpoint = self.dispatcher.choose(())
        endpoint.enter()
        replies = endpoint.transport.stream(request, deadline)
        try:
            async for reply in replies:
                final = bool(reply.parameters.get("triton_final_response"))
                if reply.outputs or not final:
                    try:
                        arrays = named_arrays(plan, [reply])
                    except ValueError as error:
                        raise BadReply(str(error), model=model, endpoint=self.endpoint) from None
                    yield arrays
                if final:
                    return
        finally:
            endpoint.leave()
            await replies.aclose()

    async def lease(
        self,
        model: str,
        version: str,
        inputs: Mapping[str, Any] | None,
        shapes: Shapes,
        outputs: Shapes,
        rows: int,
        timeout: float | None,
    ) -> Lease:
        """Shared memory for a model's tensors, registered at one endpoint."""
        deadline = self.deadline(timeout)

        def form(signature: Signature) -> tuple[Signature, Layout]:
            if not signature.plain and not signature.queue_timeout:
                raise MismatchError("decoupled models and shape tensors cannot use shared memory")
            layout = lay_out(signature, inputs, shapes, outputs, rows)
            check_layout(signature, layout)
            return signature, layout

        signature, layout = await self.formed(model, version, form, deadline)
        self.check_process()
        lease = Lease(self, self.dispatcher.choose(()), model, version, signature, layout)
        try:
            await lease.register(deadline)
            if inputs:
                lease.copy(inputs)
            await self._clean_once(lease.endpoint, deadline)
        except BaseException:
            await lease.close()
            raise
        self._leases.add(lease)
        return lease

    async def clean(self, timeout: float | None) -> int:
        """See `Client.clean_shared_memory`."""
        self.check_process()
        deadline = self.deadline(timeout)
        return sum([await clean(endpoint, deadline) for endpoint in self.dispatcher.endpoints])

    async def _clean_once(self, endpoint: Endpoint, deadline: float | None) -> None:
        """What clients that crashed left is cleaned up by the next one."""
        if endpoint not in self._cleaned:
            self._cleaned.add(endpoint)
            with contextlib.suppress(TritonClientError):
                await clean(endpoint, deadline)

    # What servers tell

    async def ask(
        self, question: str, arguments: Mapping[str, Any], deadline: float | None, *, safe: bool = True
    ) -> Any:
        """A question to one of the endpoints."""
        self.check_process()
        return await self.dispatcher.call(
            lambda transport: transport.ask(question, arguments, deadline),
            deadline,
            model=str(arguments.get("model", "")),
            repeat_lost=safe,
        )

    async def tell(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> None:
        """An instruction to all endpoints, one after the other."""
        self.check_process()
        for endpoint in self.dispatcher.endpoints:
            await endpoint.transport.ask(question, arguments, deadline)

    async def contract(self, model: str, version: str, deadline: float | None) -> Contract:
        """What the server says of the model; read once."""
        known = self._contracts.get((model, version))
        return known if known is not None else await self._read_contract(model, version, deadline)

    async def _read_contract(self, model: str, version: str, deadline: float | None) -> Contract:
        if version and not version.isdecimal():
            raise self.invalid(f"version '{version}' is not a number", model)
        arguments = {"model": model, "version": version}
        metadata = await self.ask("metadata", arguments, deadline)
        config = await self.ask("config", arguments, deadline)
        try:
            contract = Contract(metadata, config, Signature.from_server(metadata, config))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            words = f"the server's description of the model cannot be read: {error!r}"
            raise BadReply(words, model=model, endpoint=self.endpoint) from None
        self._contracts[model, version] = contract
        return contract

    async def statistics(self, model: str, version: str, timeout: float | None) -> list[dict[str, Any]]:
        """Counts and times."""
        arguments = {"model": model, "version": version}
        statistics: list[dict[str, Any]] = await self.ask("statistics", arguments, self.deadline(timeout))
        return statistics

    async def models(self, deadline: float | None) -> tuple[ModelStatus, ...]:
        """All models in the repository."""
        return _statuses(await self.ask("index", {}, deadline))

    async def load(
        self, model: str, config: str | None, files: Mapping[str, bytes] | None, timeout: float | None
    ) -> None:
        """Load or load again."""
        arguments = {"model": model, "config": config, "files": files or {}}
        await self.tell("load", arguments, self.deadline(timeout))
        self._forget(model)

    async def unload(self, model: str, dependents: bool, timeout: float | None) -> None:
        """Unload."""
        await self.tell("unload", {"model": model, "dependents": dependents}, self.deadline(timeout))
        self._forget(model)

    def _forget(self, model: str) -> None:
        for key in [key for key in self._contracts if key[0] == model]:
            self._contracts.pop(key, None)

    # Readiness

    async def ready(self, timeout: float | None) -> bool:
        """Whether any endpoint says that it is ready."""
        self.check_process()
        deadline = self.deadline(timeout)
        for endpoint in self.dispatcher.endpoints:
            try:
                if await endpoint.transport.ask("ready", {}, deadline):
                    return True
            except (ServerUnreachable, DeadlineExceeded):
                continue
        return False

    async def wait_ready(self, timeout: float, models: Sequence[str] | None) -> None:
        """Wait until any endpoint is ready."""
        self.check_process()
        deadline = self.deadline(timeout)
        reason = "the server did not answer"
        while deadline is None or time.monotonic() < deadline:
            reasons = []
            for endpoint in self.dispatcher.endpoints:
                why = await self._why_not_ready(endpoint.transport, deadline, models)
                if why is None:
                    endpoint.answered()
                    return
                reasons.append(why)
            reason = "; ".join(filter(None, reasons)) or reason
            await self.runtime.sleep(_POLL_S)
        raise DeadlineExceeded(f"not ready after {timeout:g} s: {reason}", endpoint=self.endpoint)

    async def _why_not_ready(
        self, transport: Transport, deadline: float | None, models: Sequence[str] | None
    ) -> str | None:
        """None when ready; "" where there was no answer in time."""
        try:
            if models is None:
                if await transport.ask("ready", {}, deadline):
                    return None
                waiting = [entry for entry in await self._index(transport, deadline) if entry.state != "READY"]
                return _listed(waiting) or "the server says that it is not ready"
            missing = [
                name
                for name in models
                if not await transport.ask("model_ready", {"model": name, "version": ""}, deadline)
            ]
            if not missing:
                return None
            known = [entry for entry in await self._index(transport, deadline) if entry.name in missing]
            strange = sorted(set(missing).difference(entry.name for entry in known))
            return "; ".join(filter(None, [_listed(known), *(f"{name} is not in the repository" for name in strange)]))
        except ServerUnreachable as error:
            return f"the server cannot be reached: {error.detail}"
        except DeadlineExceeded:
            return ""

    @staticmethod
    async def _index(transport: Transport, deadline: float | None) -> tuple[ModelStatus, ...]:
        """The repository's models as far as the server tells: it refuses while it starts, and a proxy may."""
        try:
            return _statuses(await transport.ask("index", {}, deadline))
        except ServerError:
            return ()

    async def close(self) -> None:
        """Drop the connections."""
        for lease in list(self._leases):
            await lease.close()
        self.dispatcher.closed = True
        self.runtime.close()
        for endpoint in self.dispatcher.endpoints:
            await endpoint.transport.close()

    def invalid(self, words: str, model: str) -> InvalidInput:
        """An error for what is refused before it is sent."""
        return InvalidInput(words, model=model, endpoint=self.endpoint)


#: How many forks lie between this process and the one that made the first client.
_generation = [0]


@functools.cache
def _watch_forks() -> None:
    def count() -> None:
        _generation[0] += 1

    os.register_at_fork(after_in_child=count)


def _statuses(entries: Sequence[Mapping[str, Any]]) -> tuple[ModelStatus, ...]:
    return tuple(
        ModelStatus(*(str(entry.get(key, "")) for key in ("name", "version", "state", "reason"))) for entry in entries
    )


def _listed(entries: Sequence[ModelStatus]) -> str:
    """Models and why they are not ready, in words."""
    return "; ".join(
        f"{entry.name} is {entry.state or 'not loaded'}{f': {entry.reason}' if entry.reason else ''}"
        for entry in entries
    )
