"""The client: models as functions from arrays to arrays."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar, overload

from numpy.typing import ArrayLike

from tritonrepo_client.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    ServerUnreachable,
    TritonClientError,
)
from tritonrepo_client.tensor import Array, MismatchError, Signature, WireTensor, decode, encode_inputs
from tritonrepo_client.transport import InferRequest, Parameter, Transport, open_transport

_T = TypeVar("_T")

#: Names that the protocol keeps for itself (priority has an argument of its own).
_RESERVED = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
)
_POLL_S = 0.05


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
class _Contract:
    """What was read from the server about one model."""

    metadata: dict[str, Any]
    config: dict[str, Any]
    signature: Signature


class Client:
    """A connection to one server. Safe to use from many threads; not across a fork.

    Args:
        url: ``grpc://host:port`` or ``http://host:port``. Nothing is sent before the first call.
        timeout: seconds that a call may take as a whole, where it says nothing else; ``math.inf`` is without limit.

    Raises:
        ValueError: a URL that is not of this form.
    """

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._transport = open_transport(url)
        self._contracts: dict[tuple[str, str], _Contract] = {}
        self._pid = os.getpid()

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return self._transport.endpoint

    def model(self, name: str, version: str = "") -> Model:
        """A model of the server; ``version`` "" leaves the choice to the server. Asks the server nothing yet."""
        return Model(self, name, version)

    def ready(self, timeout: float | None = None) -> bool:
        """Whether the server says that it is ready; False where it cannot be reached or does not answer in time."""
        try:
            return self._usable().server_ready(self._deadline(timeout))
        except (ServerUnreachable, DeadlineExceeded):
            return False

    def models(self, timeout: float | None = None) -> tuple[ModelStatus, ...]:
        """All models in the server's repository, loaded or not."""
        entries = self._usable().index(self._deadline(timeout))
        return tuple(
            ModelStatus(*(str(entry.get(key, "")) for key in ("name", "version", "state", "reason")))
            for entry in entries
        )

    def wait_ready(self, timeout: float, models: Sequence[str] | None = None) -> None:
        """Wait until the server is ready or, where ``models`` names some, until these are, whatever the others do.

        Raises:
            DeadlineExceeded: not ready after ``timeout`` seconds; says why not.
        """
        deadline = self._deadline(timeout)
        reason = "the server did not answer"
        while deadline is None or time.monotonic() < deadline:
            try:
                reason = self._why_not_ready(deadline, models)
            except ServerUnreachable as error:
                reason = f"the server cannot be reached: {error.detail}"
            except DeadlineExceeded:
                break
            if not reason:
                return
            time.sleep(_POLL_S)
        raise DeadlineExceeded(f"not ready after {timeout:g} s: {reason}", endpoint=self.endpoint)

    def close(self) -> None:
        """Drop the connections; calls under way in other threads end with ServerUnreachable."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _usable(self) -> Transport:
        if os.getpid() != self._pid:
            # Parent and child would read each other's replies (HTTP), or wait forever (gRPC).
            raise TritonClientError(
                "this client was made before a fork: make one in each process", endpoint=self.endpoint
            )
        return self._transport

    def _deadline(self, timeout: float | None) -> float | None:
        seconds = self.timeout if timeout is None else timeout
        return None if seconds == math.inf else time.monotonic() + seconds

    def _contract(self, name: str, version: str, deadline: float | None) -> _Contract:
        known = self._contracts.get((name, version))
        return known if known is not None else self._read_contract(name, version, deadline)

    def _read_contract(self, name: str, version: str, deadline: float | None) -> _Contract:
        transport = self._usable()
        if version and not version.isdecimal():
            raise InvalidInput(f"version '{version}' is not a number", model=name, endpoint=self.endpoint)
        metadata = transport.metadata(name, version, deadline)
        config = transport.config(name, version, deadline)
        try:
            contract = _Contract(metadata, config, Signature.from_server(metadata, config))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            words = f"the server's description of the model cannot be read: {error!r}"
            raise BadReply(words, model=name, endpoint=self.endpoint) from None
        self._contracts[name, version] = contract
        return contract

    def _why_not_ready(self, deadline: float | None, models: Sequence[str] | None) -> str:
        """Empty when ready."""
        transport = self._usable()
        if models is None:
            if transport.server_ready(deadline):
                return ""
            waiting = [entry for entry in self._index(deadline) if entry.state != "READY"]
            return _listed(waiting) or "the server says that it is not ready"
        missing = [name for name in models if not transport.model_ready(name, "", deadline)]
        if not missing:
            return ""
        known = [entry for entry in self._index(deadline) if entry.name in missing]
        strange = sorted(set(missing).difference(entry.name for entry in known))
        return "; ".join(filter(None, [_listed(known), *(f"{name} is not in the repository" for name in strange)]))

    def _index(self, deadline: float | None) -> tuple[ModelStatus, ...]:
        """The repository's models as far as the server tells: it refuses while it starts, and a proxy may."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return self.models(left)
        except ServerError:
            return ()


class Model:
    """One model of a server: call it with arrays.

        heatmap = model(image)                         # one array in, one array out
        out = model({"ids": ids, "mask": mask})        # by name in, by name out

    What the model takes is read from the server at the first use, and checked before anything is sent.
    """

    def __init__(self, client: Client, name: str, version: str = "") -> None:
        self._client = client
        self.name = name
        self.version = version

    def __repr__(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"<Model '{self.name}'{version} at {self._client.endpoint}>"

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._contract().signature

    @property
    def metadata(self) -> dict[str, Any]:
        """The server's metadata of the model: name, versions, platform, inputs, outputs."""
        return self._contract().metadata

    @property
    def config(self) -> dict[str, Any]:
        """The model's config as the server completed it; fields at their defaults may be absent."""
        return self._contract().config

    @overload
    def __call__(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        version: str = "",
        priority: int = 0,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
    ) -> dict[str, Array]: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        version: str = "",
        priority: int = 0,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
    ) -> Array: ...

    def __call__(
        self,
        inputs: Mapping[str, ArrayLike] | ArrayLike,
        *,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        version: str = "",
        priority: int = 0,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
    ) -> dict[str, Array] | Array:
        """Run the model.

        Args:
            inputs: arrays by input name; or the one array of a model with one input, then the reply is the one output.
                Whole shapes, batch axis included, in exactly the model's dtypes. BYTES takes bytes and str.
            outputs: names of the outputs to return; by default all.
            timeout: seconds for the whole call; by default the client's.
            version: the model's version; by default this model's.
            priority: the priority level, 1 is the highest; 0 is the model's default.
            parameters: parameters of the request, for the model's own use.
            request_id: a name for the request in the server's logs.

        Returns:
            A dict of arrays by output name, or the one array. Numeric arrays are read-only; copy them to change them.

        Raises:
            InvalidInput: refused before sending.
            TritonClientError: any other of the errors in ``tritonrepo_client.errors``.
        """
        client, version = self._client, version or self.version
        deadline = client._deadline(timeout)
        if parameters or priority:
            self._check_extras(parameters or {}, priority)
        single = not isinstance(inputs, Mapping)
        contract = client._contract(self.name, version, deadline)

        def form(signature: Signature) -> InferRequest:
            names = _wanted(signature, outputs, single=single)
            values = inputs if isinstance(inputs, Mapping) else {_only_input(signature): inputs}
            tensors = encode_inputs(signature, values)
            return InferRequest(self.name, version, tensors, names, request_id, priority, parameters or {})

        try:
            request = form(contract.signature)
        except MismatchError as mismatch:
            request = self._form_afresh(form, contract, mismatch, version, deadline)
        return self._arrays(client._usable().infer(request, deadline), single=single)

    def _contract(self) -> _Contract:
        return self._client._contract(self.name, self.version, self._client._deadline(None))

    def _form_afresh(
        self, form: Callable[[Signature], _T], old: _Contract, why: MismatchError, version: str, deadline: float | None
    ) -> _T:
        """Refuse, unless the model was loaded with another signature since the known one was read."""
        client, signature = self._client, old.signature
        with contextlib.suppress(ServerUnreachable, DeadlineExceeded, ServerError):  # then what is known must do
            signature = client._read_contract(self.name, version, deadline).signature
        if signature != old.signature:
            try:
                return form(signature)
            except MismatchError as mismatch:
                why = mismatch
        raise self._invalid(f"{why}; the model is {signature}") from None

    def _check_extras(self, parameters: Mapping[str, Parameter], priority: int) -> None:
        if not 0 <= priority < 2**64:
            raise self._invalid(f"priority {priority} is not in 0 to 2^64 - 1")
        for name, value in parameters.items():
            if name in _RESERVED or name.startswith("triton_"):
                raise self._invalid(f"parameter '{name}' is reserved by the protocol")
            if not isinstance(value, str | bool | int | float):
                kind = type(value).__name__
                raise self._invalid(f"parameter '{name}' is a {kind}; str, bool, int and float can be sent")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise self._invalid(f"parameter '{name}' does not fit into 64 bits")

    def _arrays(self, tensors: Sequence[WireTensor], *, single: bool) -> dict[str, Array] | Array:
        try:
            arrays = {tensor.name: decode(tensor) for tensor in tensors}
        except ValueError as error:
            raise BadReply(str(error), model=self.name, endpoint=self._client.endpoint) from None
        if not single:
            return arrays
        if len(arrays) != 1:
            words = f"one output was expected, and {len(arrays)} came"
            raise BadReply(words, model=self.name, endpoint=self._client.endpoint)
        return next(iter(arrays.values()))

    def _invalid(self, words: str) -> InvalidInput:
        return InvalidInput(words, model=self.name, endpoint=self._client.endpoint)


def _only_input(signature: Signature) -> str:
    """The name of the input that a lone array is for."""
    names = [spec.name for spec in signature.inputs if not spec.optional] or [spec.name for spec in signature.inputs]
    if len(names) != 1:
        raise MismatchError(f"one array was given for {len(names)} inputs: give a dict of arrays by name")
    return names[0]


def _wanted(signature: Signature, outputs: Sequence[str] | None, *, single: bool) -> tuple[str, ...]:
    """The outputs to ask the server for; () for all."""
    known = [spec.name for spec in signature.outputs]
    if isinstance(outputs, str):
        raise MismatchError(f"outputs is the str '{outputs}': give a list of names")
    names = tuple(outputs or ())
    for name in names:
        if name not in known:
            raise MismatchError(f"no output named '{name}'")
    if len(set(names)) != len(names):
        raise MismatchError("an output is asked for twice")
    if single and len(names or known) != 1:
        raise MismatchError(
            f"one array in means one array out, and there are {len(names or known)} outputs: name one in outputs"
        )
    return names


def _listed(entries: Sequence[ModelStatus]) -> str:
    """Models and why they are not ready, in words."""
    return "; ".join(
        f"{entry.name} is {entry.state or 'not loaded'}{f': {entry.reason}' if entry.reason else ''}"
        for entry in entries
    )
