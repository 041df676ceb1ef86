"""How a config and an ONNX file go together: tensor by tensor, axis by axis."""

from __future__ import annotations

from collections.abc import Iterator

from tritonrepo.check._onnx import Completed, Tensor
from tritonrepo.check._rows import origin
from tritonrepo.check._signature import Signature, Value
from tritonrepo.check._textformat import Message
from tritonrepo.check.model import Model

CORRID = "CONTROL_SEQUENCE_CORRID"
_KINDS = ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY", CORRID)


def shown(value: Value) -> str:
    """A shape for people: names of axes as the file has them."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in value.shape or ()) + "]"


def misfit(dims: tuple[int, ...], of_file: tuple[int, ...], batch: int) -> str:
    """Why dims of a config do not go with those of a file, where sizes that the file leaves open fit all."""
    if not of_file:
        return "" if all(dim == 1 for dim in dims) else "the graph has a scalar there: only dims of 1 fit"
    if batch > 0 and of_file[0] != -1:
        return ""  # TR805 has that
    full = (-1, *dims) if batch > 0 else dims
    if len(full) != len(of_file):
        axis = " after the batch axis" if batch > 0 else ""
        return f"the graph has {len(of_file) - (batch > 0)} dims{axis}, the config {len(dims)}"
    if any(one not in {-1, other} for one, other in zip(of_file, full, strict=True)):
        return "the sizes differ"
    return ""


def narrowed(each: Completed, tensor: Tensor, value: Value, *, surely: bool) -> bool:
    """Whether the config fixes sizes of an output that the file leaves open; surely, if no inference can fix them."""
    full = (-1, *tensor.dims) if each.max_batch_size > 0 else tensor.dims
    for axis, (dim, here) in enumerate(zip(value.shape or (), full, strict=False)):
        if not isinstance(dim, int) and here != -1 and (not surely or _stays_open(each.signature, value, axis)):
            return True
    return False


def _stays_open(signature: Signature, value: Value, axis: int) -> bool:
    """Whether an axis of an output is known to be open: it is one of an input, by its name or by the graph's nodes."""
    dim = (value.shape or ())[axis]
    if dim is not None and any(dim in (other.shape or ()) for other in signature.inputs):
        return True
    source = origin(signature, value.name, axis)
    if source is None:
        return False
    if source.value is None:
        return True
    shape = source.value.shape or ()
    return source.axis < len(shape) and not isinstance(shape[source.axis], int)


def controls(model: Model) -> Iterator[tuple[str, Message, str]]:
    """The first control of each kind, with the name of its tensor."""
    if not model.config.has("sequence_batching"):
        return
    seen: set[str] = set()
    for tensor in model.config.get("sequence_batching").all("control_input"):
        for control in tensor.all("control"):
            kind = control.get("kind")
            if kind in _KINDS and kind not in seen and tensor.get("name"):
                seen.add(kind)
                yield kind, control, tensor.get("name")


def no_batch(signature: Signature, value: Value, others: set[str]) -> str:
    """Why the first axis of an output is not the batch, if that can be told."""
    first = (value.shape or (None,))[0]
    if first in others:
        return f"it is {first}, which is another axis of an input"
    source = origin(signature, value.name)
    if source is None:
        return ""
    if source.value is not None and source.axis > 0:
        return f"it is axis {source.axis} of input {source.value.name!r}"
    return source.reason or source.mixes


def engine_misfit(tensor: Tensor, value: Value, field: str, batch: int) -> str:
    """Why dims do not go with those of the ONNX file of the python engine."""
    # Triton has no dim of 0: such an axis is left open, and model.py refuses what is not empty.
    dims = tuple(dim or -1 for dim in value.dims or ())
    if batch > 0 and dims and dims[0] not in {-1, batch if batch == 1 else -1}:
        return f"its first axis is {dims[0]}, so there is none for the batch"
    if field == "output":
        # What one leaves open and the other fixes is no contradiction.
        dims = tuple(
            here if -1 in {of_file, here} else of_file
            for of_file, here in zip(dims, _full(tensor, batch, len(dims)), strict=True)
        )
    return misfit(tensor.dims, dims if batch <= 0 or not dims else (-1, *dims[1:]), batch)


def _full(tensor: Tensor, batch: int, rank: int) -> tuple[int, ...]:
    full = (-1, *tensor.dims) if batch > 0 else tensor.dims
    return full if len(full) == rank else (-1,) * rank
