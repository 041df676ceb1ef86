"""From what the caller gives to requests, and from replies to what the caller gets. No I/O."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from tritonrepo_client.settings import check_headers
from tritonrepo_client.tensor import (
    Array,
    MismatchError,
    Signature,
    check_inputs,
    count_rows,
    decode,
    encode_arrays,
)
from tritonrepo_client.transport import InferReply, InferRequest, OutputRequest, Parameter

if TYPE_CHECKING:
    from typing_extensions import Unpack

    Options = Unpack["CallOptions"]

#: Names that the protocol keeps for itself (priority, timeout and sequences have arguments of their own).
_RESERVED = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
)


class CallOptions(TypedDict, total=False):
    """What a call of a model may be told; every key may be left out."""

    outputs: Sequence[str] | None
    """Names of the outputs to return; by default all."""
    timeout: float | None
    """Seconds for the whole call, retries and waiting included; by default the client's."""
    version: str
    """The model's version; by default this model's."""
    priority: int
    """The priority level, 1 is the highest; 0 is the model's default."""
    parameters: Mapping[str, Parameter] | None
    """Parameters of the request, for the model's own use."""
    request_id: str
    """A name for the request in the server's logs."""
    cast: bool
    """Change dtypes where no value can be lost; take Python's numbers for any dtype that can hold them."""
    unbatched: bool
    """The inputs lack the batch axis; the outputs will too."""
    split: bool
    """Send more rows than the model takes at once in several requests (the default). False refuses them."""
    classes: int
    """Return so many of the highest classes of each output, as BYTES (see `as_classes`); 0: the tensors."""
    queue_timeout: float | None
    """Seconds that the server may keep the request in a queue. By default, for a model whose queue policy allows it,
    the time that is left."""
    headers: Mapping[str, str]
    """Headers of this request."""


@dataclass(frozen=True)
class Call:
    """The options of a call, complete and checked."""

    outputs: tuple[str, ...] = ()
    timeout: float | None = None
    version: str = ""
    priority: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    request_id: str = ""
    cast: bool = False
    unbatched: bool = False
    split: bool = True
    classes: int = 0
    queue_timeout: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sequence: tuple[int | str, bool, bool] | None = None

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> Call:
        """Options that a request can have.

        Raises:
            MismatchError: one that it cannot have.
            TypeError: one that does not exist.
        """
        outputs = options.get("outputs")
        if isinstance(outputs, str):
            raise MismatchError(f"outputs is the str '{outputs}': give a list of names")
        names = tuple(outputs or ())
        if len(set(names)) != len(names):
            raise MismatchError("an output is asked for twice")
        call = cls(**{**options, "outputs": names, "parameters": options.get("parameters") or {}})
        if not 0 <= call.priority < 2**64:
            raise MismatchError(f"priority {call.priority} is not in 0 to 2^64 - 1")
        if call.classes < 0 or (call.queue_timeout is not None and call.queue_timeout < 0):
            raise MismatchError("classes and queue_timeout are not negative")
        for name, value in call.parameters.items():
            _check_parameter(name, value)
        try:
            check_headers(call.headers)
        except ValueError as error:
            raise MismatchError(str(error)) from None
        return call


PLAIN = Call()


class Plan(NamedTuple):
    """The requests that a call makes, and how its results are put together."""

    requests: tuple[InferRequest, ...]
    rows: tuple[int, ...]
    """Rows of each, where there are several."""
    single: bool
    unbatched: bool

    def prepared(self) -> Plan:
        """The same for many calls: inputs are copied, and transports may keep what they make of the requests."""
        requests = tuple(
            request._replace(
                inputs=tuple(tensor._replace(data=bytes(tensor.data)) for tensor in request.inputs), encoded={}
            )
            for request in self.requests
        )
        return self._replace(requests=requests)


def plan_call(
    model: str,
    version: str,
    signature: Signature,
    inputs: Any,
    call: Call,
    deadline: float | None,
    largest: int,
    *,
    streamed: bool = False,
) -> Plan:
    """The requests for a call; one, with replies by name, for a stream.

    Raises:
        MismatchError: what the signature does not allow.
    """
    single = not isinstance(inputs, Mapping)
    if signature.decoupled and not streamed:
        raise MismatchError("the model may send any number of replies: use stream()")
    outputs = _outputs(signature, call, single=single and not streamed)
    if single:
        if not signature.only_input:
            raise MismatchError(
                f"one array was given for {len(signature.required)} inputs: give a dict of arrays by name"
            )
        inputs = {signature.only_input: inputs}
    if call.unbatched and not signature.max_batch_size:
        raise MismatchError("the model has no batch axis, so no input can lack it")
    arrays = check_inputs(signature, inputs, cast=call.cast, unbatched=call.unbatched)
    parts: list[dict[str, Array]] = [arrays]
    rows: tuple[int, ...] = ()
    most = min(signature.max_batch_size, 1) if signature.stateful else signature.max_batch_size
    if most:
        divisible = call.split and not signature.stateful and not streamed
        count = count_rows(signature, arrays, None if divisible else most)
        if count > most:
            parts, rows = _split(signature, arrays, count)
    timeout = _queue_timeout(signature, call, deadline)
    requests = []
    for part in parts:
        tensors = encode_arrays(signature, part)
        size = sum([len(tensor.data) for tensor in tensors])
        if size > largest:
            raise MismatchError(f"the inputs have {size} bytes, and max_message_bytes is {largest}")
        if call is PLAIN:
            requests.append(InferRequest(model, version, tensors, outputs, "", 0, {}, timeout))
            continue
        own = (call.request_id, call.priority, call.parameters, timeout, tuple(call.headers.items()), call.sequence)
        requests.append(InferRequest(model, version, tensors, outputs, *own))
    return Plan(tuple(requests), rows, single, call.unbatched)


def arrays_of(plan: Plan, replies: Sequence[InferReply]) -> dict[str, Array] | Array:
    """What the caller gets.

    Raises:
        ValueError: replies that do not fit the requests.
    """
    arrays = named_arrays(plan, replies)
    if not plan.single:
        return arrays
    if len(arrays) != 1:
        raise ValueError(f"one output was expected, and {len(arrays)} came")
    return next(iter(arrays.values()))


def named_arrays(plan: Plan, replies: Sequence[InferReply]) -> dict[str, Array]:
    """Outputs by name.

    Raises:
        ValueError: replies that do not fit the requests.
    """
    if len(replies) == 1:
        arrays = {tensor.name: decode(tensor) for tensor in replies[0].outputs}
    else:
        arrays = _join(plan, replies)
    if plan.unbatched:
        if any(not array.ndim or array.shape[0] != 1 for array in arrays.values()):
            raise ValueError("an output has no batch axis of one row")
        arrays = {name: array[0] for name, array in arrays.items()}
    return arrays


def _split(
    signature: Signature, arrays: Mapping[str, Array], count: int
) -> tuple[list[dict[str, Array]], tuple[int, ...]]:
    """As few parts as can be, of about the same size."""
    pieces = -(-count // signature.max_batch_size)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    whole = {name for name in arrays if signature.by_name[name].shape_tensor}
    parts = [
        {name: array if name in whole else array[start:stop] for name, array in arrays.items()}
        for start, stop in itertools.pairwise(bounds)
    ]
    return parts, tuple(stop - start for start, stop in itertools.pairwise(bounds))


def _join(plan: Plan, replies: Sequence[InferReply]) -> dict[str, Array]:
    decoded = [{tensor.name: decode(tensor) for tensor in reply.outputs} for reply in replies]
    for arrays, rows in zip(decoded, plan.rows, strict=True):
        if arrays.keys() != decoded[0].keys():
            raise ValueError("the parts of the batch came back with different outputs")
        for name, array in arrays.items():
            if not array.ndim or array.shape[0] != rows:
                raise ValueError(
                    f"output '{name}' has shape {list(array.shape)} for {rows} rows, so it cannot be joined"
                )
    return {name: np.concatenate([arrays[name] for arrays in decoded]) for name in decoded[0]}


def _queue_timeout(signature: Signature, call: Call, deadline: float | None) -> int:
    if call.queue_timeout is not None:
        return max(1, int(call.queue_timeout * 1e6))
    if signature.queue_timeout and deadline is not None:
        return max(1, int((deadline - time.monotonic()) * 1e6))
    return 0


def _outputs(signature: Signature, call: Call, *, single: bool) -> tuple[str | OutputRequest, ...]:
    """The outputs to ask the server for; () for all."""
    count = len(signature.outputs)
    if call.outputs or call.classes:
        known = [spec.name for spec in signature.outputs]
        for name in call.outputs:
            if name not in known:
                raise MismatchError(f"no output named '{name}'")
        count = len(call.outputs or known)
    if single and count != 1:
        raise MismatchError(f"one array in means one array out, and there are {count} outputs: name one in outputs")
    if call.classes:
        return tuple(OutputRequest(name, call.classes) for name in call.outputs or known)
    return call.outputs


def _check_parameter(name: str, value: Any) -> None:
    if name in _RESERVED or name.startswith("triton_"):
        raise MismatchError(f"parameter '{name}' is reserved by the protocol")
    if not isinstance(value, str | bool | int | float):
        kind = type(value).__name__
        raise MismatchError(f"parameter '{name}' is a {kind}; str, bool, int and float can be sent")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise MismatchError(f"parameter '{name}' does not fit into 64 bits")
