"""The client for asyncio: the same as `client`, with await."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from numpy.typing import ArrayLike

from tritonrepo_client._core import Contract, Core, ModelStatus
from tritonrepo_client._infer import CallOptions, Plan
from tritonrepo_client._lease import Lease, Shapes
from tritonrepo_client._runtime import AsyncRuntime
from tritonrepo_client._sequence import SequenceCore
from tritonrepo_client.client import ClientBase, ModelBase
from tritonrepo_client.tensor import Array, Signature

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AsyncClient", "AsyncModel", "AsyncPreparedRequest"]


class AsyncClient(ClientBase):
    """`Client` for asyncio. It belongs to the event loop of its first call. Cancelling a task cancels its request at
    the server.

        async with AsyncClient("grpc://127.0.0.1:8001") as triton:
            heatmap = await triton.model("ocr_det")(image)

    Arguments and errors are those of `Client`.
    """

    _runtime = AsyncRuntime

    def model(self, name: str, version: str = "") -> AsyncModel:
        """A model of the server. Asks the server nothing yet."""
        return AsyncModel(self._core, name, version)

    async def ready(self, timeout: float | None = None) -> bool:
        """See `Client.ready`."""
        return await self._core.ready(timeout)

    async def wait_ready(self, timeout: float, models: Sequence[str] | None = None) -> None:
        """See `Client.wait_ready`."""
        await self._core.wait_ready(timeout, models)

    async def models(self, timeout: float | None = None) -> tuple[ModelStatus, ...]:
        """See `Client.models`."""
        return await self._core.models(self._core.deadline(timeout))

    async def metadata(self, timeout: float | None = None) -> dict[str, Any]:
        """See `Client.metadata`."""
        metadata: dict[str, Any] = await self._core.ask("server_metadata", {}, self._core.deadline(timeout))
        return metadata

    async def statistics(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """See `Client.statistics`."""
        return await self._core.statistics("", "", timeout)

    async def load(
        self,
        model: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> None:
        """See `Client.load`."""
        await self._core.load(model, config, files, timeout)

    async def unload(self, model: str, *, dependents: bool = False, timeout: float | None = None) -> None:
        """See `Client.unload`."""
        await self._core.unload(model, dependents, timeout)

    async def clean_shared_memory(self, timeout: float | None = None) -> int:
        """See `Client.clean_shared_memory`."""
        return await self._core.clean(timeout)

    async def close(self) -> None:
        """Drop the connections; calls under way end with ServerUnreachable."""
        await self._core.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncModel(ModelBase):
    """`Model` for asyncio: ``await model(image)``."""

    async def contract(self) -> Contract:
        """What the server says of the model: ``signature``, ``metadata`` and ``config``."""
        return await self._core.contract(self.name, self.version, self._core.deadline(None))

    async def signature(self) -> Signature:
        """What the model takes and gives."""
        return (await self.contract()).signature

    async def statistics(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """See `Model.statistics`."""
        return await self._core.statistics(self.name, self.version, timeout)

    async def ready(self, timeout: float | None = None) -> bool:
        """See `Model.ready`."""
        arguments = {"model": self.name, "version": self.version}
        return bool(await self._core.ask("model_ready", arguments, self._core.deadline(timeout)))

    @overload
    async def __call__(self, inputs: Mapping[str, ArrayLike], **options: Unpack[CallOptions]) -> dict[str, Array]: ...

    @overload
    async def __call__(self, inputs: ArrayLike, **options: Unpack[CallOptions]) -> Array: ...

    async def __call__(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, **options: Unpack[CallOptions]
    ) -> dict[str, Array] | Array:
        """See `Model.__call__`."""
        result: dict[str, Array] | Array = await self._core.run(self.name, self.version, inputs, options)
        return result

    def stream(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, **options: Unpack[CallOptions]
    ) -> AsyncGenerator[dict[str, Array], None]:
        """See `Model.stream`. Leaving the loop early cancels the request when the iterator is closed (`aclose`)."""
        return self._core.stream(self.name, self.version, inputs, options)

    async def prepare(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, **options: Unpack[CallOptions]
    ) -> AsyncPreparedRequest:
        """See `Model.prepare`."""
        call = self._core.call(self.name, options)
        deadline = self._core.deadline(call.timeout)
        plan = await self._core.plan(self.name, call.version or self.version, inputs, call, deadline)
        return AsyncPreparedRequest(self._core, plan.prepared(), call.timeout)

    async def bind(
        self,
        inputs: Mapping[str, ArrayLike] | None = None,
        *,
        shared: bool = True,
        shapes: Shapes | None = None,
        outputs: Shapes | None = None,
        rows: int = 1,
        timeout: float | None = None,
    ) -> AsyncBoundModel:
        """See `Model.bind`: ``async with await model.bind(...) as bound: await bound()``."""
        if not shared:
            raise self._core.invalid("bind is for shared memory; for the wire, see prepare", self.name)
        places = (self.name, self.version, inputs, shapes or {}, outputs or {}, rows, timeout)
        return AsyncBoundModel(self._core, await self._core.lease(*places))

    def sequence(self, identity: int | str | None = None) -> AsyncModelSequence:
        """See `Model.sequence`: ``async with model.sequence() as sequence: await sequence(chunk)``."""
        return AsyncModelSequence(self._core, self.name, self.version, identity)


class AsyncBoundModel:
    """See `BoundModel`."""

    def __init__(self, core: Core, lease: Lease) -> None:
        self._core = core
        self._lease = lease

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Writable views of the inputs' memory, of zeros at first."""
        return self._lease.inputs

    async def __call__(
        self, inputs: Mapping[str, ArrayLike] | None = None, *, timeout: float | None = None
    ) -> dict[str, Array]:
        """See `BoundModel.__call__`."""
        return await self._lease.run(inputs, self._core.deadline(timeout))

    async def renew(self, timeout: float | None = None) -> None:
        """See `BoundModel.renew`."""
        await self._lease.renew(self._core.deadline(timeout))

    async def close(self) -> None:
        """See `BoundModel.close`."""
        await self._lease.close()

    async def __aenter__(self) -> AsyncBoundModel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncModelSequence(SequenceCore):
    """See `Model.sequence`. For one task."""

    async def __call__(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, *, last: bool = False, **options: Unpack[CallOptions]
    ) -> Any:
        """The next request."""
        return await self.step(inputs, options, last=last)

    async def __aenter__(self) -> AsyncModelSequence:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.finish()


class AsyncPreparedRequest:
    """See `Model.prepare`."""

    def __init__(self, core: Core, plan: Plan, timeout: float | None) -> None:
        self._core = core
        self._plan = plan
        self._timeout = timeout

    async def __call__(self, timeout: float | None = None) -> Any:
        """Send it: a dict of arrays by output name, or the one array, as `AsyncModel` gives them."""
        deadline = self._core.deadline(self._timeout if timeout is None else timeout)
        return await self._core.execute(self._plan, deadline)
