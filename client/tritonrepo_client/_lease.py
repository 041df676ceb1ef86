"""A lease of shared memory at a server: registered, used by one request at a time, unregistered; no I/O of its own."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tritonrepo_client import _regions
from tritonrepo_client._regions import Region
from tritonrepo_client.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    ServerUnreachable,
    SharedMemoryError,
    TritonClientError,
)
from tritonrepo_client.tensor import (
    Array,
    MismatchError,
    Signature,
    TensorSpec,
    WireTensor,
    check_inputs,
    count_rows,
    decode,
    numpy_dtype,
)
from tritonrepo_client.transport import InferReply, InferRequest, OutputRequest, drive

if TYPE_CHECKING:
    from tritonrepo_client._core import Core
    from tritonrepo_client._dispatch import Endpoint

_log = logging.getLogger("tritonrepo_client")
_ALIGN = 64
#: Seconds that a server has to let go of a region that it says is in use.
_RELEASE_S = 2.0

Shapes = Mapping[str, Sequence[int]]


class Slot(NamedTuple):
    """Where a tensor lies in a region."""

    spec: TensorSpec
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    size: int


class Layout(NamedTuple):
    """All tensors of a region."""

    inputs: dict[str, Slot]
    outputs: dict[str, Slot]
    size: int


def lay_out(
    signature: Signature, inputs: Mapping[str, Any] | None, shapes: Shapes, outputs: Shapes, rows: int
) -> Layout:
    """Offsets for the inputs, and for those outputs whose shape is known.

    Args:
        signature: the model's.
        inputs: arrays whose shapes the inputs get, or None.
        shapes: shapes of inputs by name, before those of the signature.
        outputs: shapes of outputs by name, likewise.
        rows: rows of the batch, where nothing else says it.

    Raises:
        MismatchError: an input whose shape is not known, or one that cannot be shared.
    """
    given = {name: np.asarray(value).shape for name, value in (inputs or {}).items()}
    given.update({name: tuple(shape) for name, shape in shapes.items()})
    unknown = [
        *(given.keys() - signature.by_name.keys()),
        *(outputs.keys() - {spec.name for spec in signature.outputs}),
    ]
    if unknown:
        raise MismatchError(f"no input or output named '{unknown[0]}'")
    at, placed_in, placed_out = 0, {}, {}
    for spec in signature.inputs:
        if spec.optional and spec.name not in given:
            continue
        shape = given.get(spec.name) or _fixed(signature, spec, rows)
        if spec.dtype == "BYTES":
            raise MismatchError(f"input '{spec.name}' is BYTES, which has no fixed size to share")
        if shape is None:
            raise MismatchError(f"the shape of input '{spec.name}' is open: give it in shapes, or give an array")
        placed_in[spec.name] = slot = _slot(spec, shape, at)
        at = -(-(at + slot.size) // _ALIGN) * _ALIGN
    batches = {slot.shape[0] for slot in placed_in.values()} if signature.max_batch_size else {rows}
    rows = max(batches, default=rows)
    for spec in signature.outputs:
        shape = tuple(outputs[spec.name]) if spec.name in outputs else _fixed(signature, spec, rows)
        if shape is None or spec.dtype == "BYTES":
            continue  # comes over the wire
        placed_out[spec.name] = slot = _slot(spec, shape, at)
        at = -(-(at + slot.size) // _ALIGN) * _ALIGN
    return Layout(placed_in, placed_out, max(at, _ALIGN))


class Lease:
    """One region at one endpoint, for one model and one request at a time."""

    def __init__(
        self, core: Core, endpoint: Endpoint, model: str, version: str, signature: Signature, layout: Layout
    ) -> None:
        self._core, self.endpoint = core, endpoint
        self._model, self._version, self._signature, self._layout = model, version, signature, layout
        self._place = {"model": model, "endpoint": endpoint.transport.endpoint}
        self._using = threading.Lock()
        self.tainted = False
        self.closed = False
        self._take()

    def _take(self) -> None:
        self._region = region = Region(self._layout.size)
        self.inputs = {name: _view(region, slot) for name, slot in self._layout.inputs.items()}
        asynchronous = self._core.runtime.asynchronous
        self._finalizer = weakref.finalize(self, _let_go, None if asynchronous else self.endpoint, region)
        self._request = InferRequest(
            self._model,
            self._version,
            tuple(
                WireTensor(name, slot.spec.dtype, slot.shape, b"", region.name, slot.size, slot.offset)
                for name, slot in self._layout.inputs.items()
            ),
            tuple(
                OutputRequest(name, 0, region.name, slot.size, slot.offset) if slot is not None else name
                for name, slot in ((spec.name, self._layout.outputs.get(spec.name)) for spec in self._signature.outputs)
            ),
            "",
            0,
            {},
            encoded={},
        )

    async def register(self, deadline: float | None) -> None:
        """Make the region known to the server."""
        region = self._region
        arguments = {"region": region.name, "key": region.key, "offset": 0, "size": region.size}
        try:
            await self.endpoint.transport.ask("system_register", arguments, deadline)
        except ServerError as error:
            words = f"the server cannot map {region.key}: {error.detail} (it must run on this host, share /dev/shm, "
            raise SharedMemoryError(f"{words}and be allowed to open this user's files)", **self._place) from None

    async def run(self, values: Mapping[str, Any] | None, deadline: float | None) -> dict[str, Array]:
        """One request: copy the values, where there are any, send, and give views of the outputs."""
        if not self._using.acquire(blocking=False):
            raise InvalidInput("another request uses this memory now: bind once for each of them", **self._place)
        try:
            if self.closed or self.tainted:
                why = "is closed" if self.closed else "may still be written by a request that ended early: call renew()"
                raise InvalidInput(f"the shared memory {why}", **self._place)
            if values:
                self.copy(values)
            try:
                reply = await self._send(deadline)
            except BaseException as error:
                # Whoever sends no reply may be at work on the memory yet.
                self.tainted = getattr(error, "may_have_run", True) and not isinstance(error, ServerError)
                raise
            return self._arrays(reply)
        finally:
            self._using.release()
            if self.closed:
                await self._release()

    async def _send(self, deadline: float | None) -> InferReply:
        try:
            return await self._core.send(self._request, deadline, repeat_lost=False, pinned=self.endpoint)
        except ServerError as error:
            if "shared memory region" not in error.detail:
                raise
            _log.info("%s has lost a region, registering it again: %s", error.endpoint, error.detail)
        await self.register(deadline)
        return await self._core.send(self._request, deadline, repeat_lost=False, pinned=self.endpoint)

    async def renew(self, deadline: float | None) -> None:
        """Take new memory instead of that which a request that ended early may still write to."""
        old = self._region
        self._finalizer.detach()
        self._take()
        self.tainted = False
        try:
            await self.register(deadline)
        finally:
            await release(self.endpoint, old, deadline, self._core.runtime.sleep)

    async def close(self) -> None:
        """Unregister and remove, after the request that uses it, if any."""
        self.closed = True
        if not self._using.acquire(blocking=False):
            return  # the request does it at its end
        try:
            await self._release()
        finally:
            self._using.release()

    async def _release(self) -> None:
        if self._finalizer.detach() is not None:
            await release(self.endpoint, self._region, None, self._core.runtime.sleep)

    def copy(self, values: Mapping[str, Any]) -> None:
        """Put arrays into the memory.

        Raises:
            InvalidInput: one that does not fit.
        """
        try:
            arrays = check_inputs(self._signature, {**self.inputs, **values})
            for name in values:
                if name not in self.inputs:
                    raise MismatchError(f"input '{name}' has no place in this memory: bind with it")
                if arrays[name].shape != self.inputs[name].shape:
                    raise MismatchError(
                        f"input '{name}' has shape {list(arrays[name].shape)}, and it was bound with "
                        f"{list(self.inputs[name].shape)}"
                    )
        except MismatchError as error:
            raise InvalidInput(str(error), **self._place) from None
        for name in values:
            np.copyto(self.inputs[name], arrays[name])

    def _arrays(self, reply: InferReply) -> dict[str, Array]:
        try:
            return {tensor.name: self._array(tensor) for tensor in reply.outputs}
        except ValueError as error:
            raise BadReply(str(error), **self._place) from None

    def _array(self, tensor: WireTensor) -> Array:
        slot = self._layout.outputs.get(tensor.name)
        if slot is None:
            return decode(tensor)
        count = math.prod(tensor.shape)
        if tensor.dtype != slot.spec.dtype or count * slot.dtype.itemsize > slot.size:
            raise ValueError(f"output '{tensor.name}' came as {tensor.dtype}{list(tensor.shape)}, which was not bound")
        array = np.frombuffer(self._region.memory, slot.dtype, count, slot.offset).reshape(tensor.shape)
        array.flags.writeable = False
        return array


async def release(
    endpoint: Endpoint, region: Region, deadline: float | None, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Unregister and remove. What the server keeps for a request that is under way is taken away by the next client."""
    try:
        end = time.monotonic() + _RELEASE_S
        while True:
            try:
                await endpoint.transport.ask("system_unregister", {"region": region.name}, min(end, deadline or end))
                return
            except ServerError as error:
                if "in use" not in error.detail or time.monotonic() > end:
                    _log.info("the region %s stays registered: %s", region.name, error)
                    return
            await sleep(0.02)
    except (ServerUnreachable, DeadlineExceeded) as error:
        _log.info("the region %s stays registered: %s", region.name, error)
    finally:
        region.close()


async def clean(endpoint: Endpoint, deadline: float | None) -> int:
    """Unregister the regions of clients that are gone, and remove their files; returns how many.

    Only for a server that is known to share this host's memory: seen from another, all owners look gone.
    """
    count = 0
    for entry in await endpoint.transport.ask("system_status", {}, deadline):
        name = str(entry.get("name", ""))
        if not name.startswith(_regions.PREFIX) or not _regions.abandoned(name):
            continue
        with contextlib.suppress(ServerError):  # in use yet, or taken away by another
            await endpoint.transport.ask("system_unregister", {"region": name}, deadline)
            _regions.remove(name)
            count += 1
    return count + _regions.remove_abandoned()


def _let_go(endpoint: Endpoint | None, region: Region) -> None:
    """When a lease is forgotten, or the process ends."""
    if endpoint is None or not region.ours:  # asyncio: nobody to wait for an answer; the next client unregisters
        region.close()
        return
    with contextlib.suppress(TritonClientError, RuntimeError):
        drive(release(endpoint, region, time.monotonic() + 1, _sleep))


async def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _fixed(signature: Signature, spec: TensorSpec, rows: int) -> tuple[int, ...] | None:
    shape = (rows, *spec.shape[1:]) if signature.max_batch_size else spec.shape
    return None if any(dim < 0 for dim in shape) else shape


def _slot(spec: TensorSpec, shape: tuple[int, ...], offset: int) -> Slot:
    dtype = numpy_dtype(spec.dtype)
    return Slot(spec, shape, dtype, offset, math.prod(shape) * dtype.itemsize)


def _view(region: Region, slot: Slot) -> Array:
    return np.frombuffer(region.memory, slot.dtype, math.prod(slot.shape), slot.offset).reshape(slot.shape)


def check_layout(signature: Signature, layout: Layout) -> None:
    """Refuse shapes that the model does not take.

    Raises:
        MismatchError: such a shape.
    """
    arrays = {name: np.broadcast_to(np.zeros((), slot.dtype), slot.shape) for name, slot in layout.inputs.items()}
    checked = check_inputs(signature, arrays)
    if signature.max_batch_size:
        count_rows(signature, checked, signature.max_batch_size)
