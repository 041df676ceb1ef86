"""The client for threads: models as functions from arrays to arrays."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from numpy.typing import ArrayLike

from tritonrepo_client._core import Core, ModelStatus
from tritonrepo_client._infer import CallOptions, Plan
from tritonrepo_client._lease import Lease, Shapes
from tritonrepo_client._runtime import Runtime, ThreadRuntime
from tritonrepo_client._sequence import SequenceCore
from tritonrepo_client.settings import TLS, Breaker, Compression, Retry, Settings
from tritonrepo_client.tensor import Array, Signature
from tritonrepo_client.transport import Transport, drive, open_transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client", "Model", "ModelStatus", "PreparedRequest"]


def _core_of(where: str | Transport | Sequence[str | Transport], settings: Settings, runtime: Runtime) -> Core:
    """A core for URLs, or for transports that there are already."""
    places = [where] if isinstance(where, str) or not isinstance(where, Sequence) else list(where)
    if not places:
        raise ValueError("give at least one URL")
    transports = [
        open_transport(place, settings, asynchronous=runtime.asynchronous) if isinstance(place, str) else place
        for place in places
    ]
    return Core(transports, settings, runtime)


class ClientBase:
    """What clients for threads and for asyncio have in common. The arguments are told at `Client`."""

    _runtime: Callable[[int], Runtime]

    def __init__(
        self,
        url: str | Transport | Sequence[str | Transport],
        *,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        tls: TLS | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | Callable[[], str] | None = None,
        compression: Compression | None = None,
        max_message_bytes: int = 2**31 - 1,
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        concurrency: int = 8,
        trace: bool | None = None,
    ) -> None:
        settings = Settings(
            timeout, connect_timeout, tls, headers or {}, token, compression, max_message_bytes, retry or Retry(),
            breaker or Breaker(), concurrency, trace,
        )  # fmt: skip
        self.timeout = timeout
        self._core = _core_of(url, settings, self._runtime(concurrency))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.endpoint}>"

    @property
    def endpoint(self) -> str:
        """The server's URL; several with commas between them."""
        return self._core.endpoint


class Client(ClientBase):
    """A client of one server, or of several that serve the same models. Safe to use from many threads, not
    across a fork.

    Args:
        url: ``grpc://host:port``, ``http://host:port``, ``grpcs://...`` or ``https://...``; or several of them: each
            request goes to the one that is well and has the least to do. Nothing is sent before the first call.
        timeout: seconds that a call may take as a whole, where it says nothing else; ``math.inf`` is without limit.
        connect_timeout: seconds that one attempt to connect may take.
        tls: certificates for ``grpcs`` and ``https``; by default the system's.
        headers: headers (gRPC: metadata) of every request.
        token: a bearer token, or a function that gives one for each request. Use TLS with it.
        compression: compress requests, and let the server compress replies. Worth it on slow networks only.
        max_message_bytes: larger requests are refused before sending, larger replies while they come.
        retry: when requests are sent again.
        breaker: when an endpoint is left alone.
        concurrency: requests at once for the parts of a batch that is larger than the model takes.
        trace: send OpenTelemetry's trace headers; None: where it is installed.

    Raises:
        ValueError: a URL or setting that cannot be used.
    """

    _runtime = ThreadRuntime

    def model(self, name: str, version: str = "") -> Model:
        """A model of the server; ``version`` "" leaves the choice to the server. Asks the server nothing yet."""
        return Model(self._core, name, version)

    def ready(self, timeout: float | None = None) -> bool:
        """Whether the server says that it is ready; False where it cannot be reached or does not answer in time."""
        return drive(self._core.ready(timeout))

    def wait_ready(self, timeout: float, models: Sequence[str] | None = None) -> None:
        """Wait until the server is ready or, where ``models`` names some, until these are, whatever the others do.

        Raises:
            DeadlineExceeded: not ready after ``timeout`` seconds; says why not.
        """
        drive(self._core.wait_ready(timeout, models))

    def models(self, timeout: float | None = None) -> tuple[ModelStatus, ...]:
        """All models in the server's repository, loaded or not."""
        return drive(self._core.models(self._core.deadline(timeout)))

    def metadata(self, timeout: float | None = None) -> dict[str, Any]:
        """The server's name, version and extensions."""
        metadata: dict[str, Any] = drive(self._core.ask("server_metadata", {}, self._core.deadline(timeout)))
        return metadata

    def statistics(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """Counts and times of all models, as the server gives them; of one endpoint, where there are several."""
        return drive(self._core.statistics("", "", timeout))

    def load(
        self,
        model: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Load a model, or load it again; at all endpoints. For servers in explicit model control mode.

        Args:
            model: its name.
            config: JSON text of a config to use instead of the one in the repository.
            files: content by path (``1/model.onnx``) to use instead of the repository's directory; needs ``config``.
            timeout: seconds to wait; loading may go on after that.
        """
        drive(self._core.load(model, config, files, timeout))

    def unload(self, model: str, *, dependents: bool = False, timeout: float | None = None) -> None:
        """Unload a model, and with ``dependents`` those that only its ensemble uses; at all endpoints."""
        drive(self._core.unload(model, dependents, timeout))

    def clean_shared_memory(self, timeout: float | None = None) -> int:
        """Unregister and remove the shared memory of clients that are gone; returns how many regions. Done by itself
        when a client first binds memory.

        Call it only for servers on this host.
        """
        return drive(self._core.clean(timeout))

    def close(self) -> None:
        """Drop the connections; calls under way in other threads end with ServerUnreachable."""
        drive(self._core.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ModelBase:
    """What models for threads and for asyncio have in common."""

    def __init__(self, core: Core, name: str, version: str = "") -> None:
        self._core = core
        self.name = name
        self.version = version

    def __repr__(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"<Model '{self.name}'{version} at {self._core.endpoint}>"


class Model(ModelBase):
    """One model of a server: call it with arrays.

        heatmap = model(image)                         # one array in, one array out
        out = model({"ids": ids, "mask": mask})        # by name in, by name out

    What the model takes is read from the server at the first use, and checked before anything is sent.
    """

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return drive(self._core.contract(self.name, self.version, self._core.deadline(None))).signature

    @property
    def metadata(self) -> dict[str, Any]:
        """The server's metadata of the model: name, versions, platform, inputs, outputs."""
        return drive(self._core.contract(self.name, self.version, self._core.deadline(None))).metadata

    @property
    def config(self) -> dict[str, Any]:
        """The model's config as the server completed it; fields at their defaults may be absent."""
        return drive(self._core.contract(self.name, self.version, self._core.deadline(None))).config

    def statistics(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """Counts and times of each version, as the server gives them."""
        return drive(self._core.statistics(self.name, self.version, timeout))

    def ready(self, timeout: float | None = None) -> bool:
        """Whether the server says that the model is ready."""
        arguments = {"model": self.name, "version": self.version}
        return bool(drive(self._core.ask("model_ready", arguments, self._core.deadline(timeout))))

    @overload
    def __call__(self, inputs: Mapping[str, ArrayLike], **options: Unpack[CallOptions]) -> dict[str, Array]: ...

    @overload
    def __call__(self, inputs: ArrayLike, **options: Unpack[CallOptions]) -> Array: ...

    def __call__(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, **options: Unpack[CallOptions]
    ) -> dict[str, Array] | Array:
        """Run the model.

        Args:
            inputs: arrays by input name; or the one array of a model with one input, then the reply is the one output.
                Whole shapes, batch axis included, in exactly the model's dtypes. BYTES takes bytes and str.
            **options: see `CallOptions`.

        Returns:
            A dict of arrays by output name, or the one array. Numeric arrays are read-only; copy them to change them.

        Raises:
            InvalidInput: refused before sending.
            TritonClientError: any other of the errors in ``tritonrepo_client.errors``.
        """
        result: dict[str, Array] | Array = drive(self._core.run(self.name, self.version, inputs, options))
        return result

    def stream(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, **options: Unpack[CallOptions]
    ) -> Generator[dict[str, Array], None, None]:
        """The replies of a decoupled model to one request, as they come; over gRPC only.

        Leaving the loop, or closing the iterator, cancels the request at the server. ``timeout`` is for all replies.
        """
        replies = self._core.stream(self.name, self.version, inputs, options)
        try:
            while True:
                try:
                    yield drive(replies.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            drive(replies.aclose())

    def prepare(self, inputs: Mapping[str, ArrayLike] | ArrayLike, **options: Unpack[CallOptions]) -> PreparedRequest:
        """A request that is checked and encoded now, and sent each time it is called.

            again = model.prepare(image, timeout=0.2)
            scores = again()

        The inputs are copied. ``timeout`` counts from each call.
        """
        call = self._core.call(self.name, options)
        deadline = self._core.deadline(call.timeout)
        plan = drive(self._core.plan(self.name, call.version or self.version, inputs, call, deadline))
        return PreparedRequest(self._core, plan.prepared(), call.timeout)

    def bind(
        self,
        inputs: Mapping[str, ArrayLike] | None = None,
        *,
        shared: bool = True,
        shapes: Shapes | None = None,
        outputs: Shapes | None = None,
        rows: int = 1,
        timeout: float | None = None,
    ) -> BoundModel:
        """The model with its tensors in shared memory, for a server on the same host.

            with model.bind(shared=True, shapes={"image": (1, 3, 640, 640)}) as bound:
                bound.inputs["image"][...] = frame
                heatmap = bound()["heatmap"]           # a view, until the next call

        Args:
            inputs: arrays; they are copied in, and say which shapes the inputs have.
            shared: system shared memory; there is no other kind yet.
            shapes: shapes of inputs (whole, batch axis included), where neither ``inputs`` nor the signature says them.
            outputs: shapes of outputs at their largest; those that neither this nor the signature says come over the
                wire.
            rows: rows of the batch, where nothing else says it.
            timeout: seconds for making and registering the memory.

        Raises:
            SharedMemoryError: no memory, or the server cannot map it.
            InvalidInput: a shape that is not known or that the model does not take.
        """
        if not shared:
            raise self._core.invalid("bind is for shared memory; for the wire, see prepare", self.name)
        places = (self.name, self.version, inputs, shapes or {}, outputs or {}, rows, timeout)
        return BoundModel(self._core, drive(self._core.lease(*places)))

    def sequence(self, identity: int | str | None = None) -> ModelSequence:
        """A sequence of requests, for a model that keeps state between them.

            with model.sequence() as sequence:
                for chunk in chunks:
                    text = sequence(chunk)

        The first request says that it starts the sequence; one with ``last=True`` that it ends it. Where none did, one
        more request, of zeros, tells the server when the block ends. All go to the same server, one after the other.

        Args:
            identity: the correlation id, by default one that nobody else has.
        """
        return ModelSequence(self._core, self.name, self.version, identity)


class BoundModel:
    """See `Model.bind`. For one request at a time; not to be used in a child of its process."""

    def __init__(self, core: Core, lease: Lease) -> None:
        self._core = core
        self._lease = lease

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Writable views of the inputs' memory, of zeros at first."""
        return self._lease.inputs

    def __call__(
        self, inputs: Mapping[str, ArrayLike] | None = None, *, timeout: float | None = None
    ) -> dict[str, Array]:
        """Run the model on what is in the memory, after copying ``inputs`` into it, where some are given.

        Returns:
            Read-only views of the outputs' memory: the next call changes what they show.
        """
        return drive(self._lease.run(inputs, self._core.deadline(timeout)))

    def renew(self, timeout: float | None = None) -> None:
        """Take new memory. Needed after a call that ended before its reply (a deadline, a lost connection), because the
        server may still be writing to the old. Take the views from ``inputs`` anew.
        """
        drive(self._lease.renew(self._core.deadline(timeout)))

    def close(self) -> None:
        """Unregister and remove the memory, after the request that uses it. Views of it stay readable."""
        drive(self._lease.close())

    def __enter__(self) -> BoundModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ModelSequence(SequenceCore):
    """See `Model.sequence`. For one thread."""

    def __call__(
        self, inputs: Mapping[str, ArrayLike] | ArrayLike, *, last: bool = False, **options: Unpack[CallOptions]
    ) -> Any:
        """The next request; a dict of arrays by output name, or the one array, as `Model` gives them."""
        return drive(self.step(inputs, options, last=last))

    def __enter__(self) -> ModelSequence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drive(self.finish())


class PreparedRequest:
    """See `Model.prepare`."""

    def __init__(self, core: Core, plan: Plan, timeout: float | None) -> None:
        self._core = core
        self._plan = plan
        self._timeout = timeout

    def __call__(self, timeout: float | None = None) -> Any:
        """Send it: a dict of arrays by output name, or the one array, as `Model` gives them."""
        deadline = self._core.deadline(self._timeout if timeout is None else timeout)
        return drive(self._core.execute(self._plan, deadline))
