"""A case: a model, what to send, and what should come back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

#: An array, a list of them (a sequence), or None (an optional that holds nothing).
Value = Any

#: Elements of these types have so few digits that two implementations may differ by two steps.
_FEW_DIGITS = {"bfloat16": 2.0**-6}


@dataclass(frozen=True)
class Case:
    """One model with its data sets.

    Attributes:
        id: its kind and name, ``node/test_abs``.
        model: the ONNX file.
        sets: for each data set the inputs and the expected outputs, by name.
        rtol, atol: an element may differ by atol + rtol * |expected|.
    """

    id: str
    model: bytes
    sets: tuple[tuple[dict[str, Value], dict[str, Value]], ...]
    rtol: float
    atol: float

    @property
    def kind(self) -> str:
        """Where it comes from: ``node``, ``simple``, ``light`` and so on."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """A name that fits a model's directory."""
        return self.id.replace("/test_", "-").replace("/", "-")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that the outcome can depend on."""
        value = hashlib.sha256(self.model)
        value.update(repr((self.rtol, self.atol)).encode())
        for data in self.sets:
            for side in data:
                for name, item in side.items():
                    value.update(f"\0{name}\0".encode())
                    for array in flat(item):
                        value.update(f"{array.dtype}{array.shape}".encode())
                        value.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        return value.hexdigest()

    def proto(self) -> onnx.ModelProto:
        """The model, parsed."""
        import onnx

        return onnx.load_model_from_string(self.model)


def flat(value: Value) -> Iterator[Any]:
    """The arrays in a value."""
    import numpy as np

    if isinstance(value, list | tuple):
        for each in value:
            yield from flat(each)
    elif value is not None:
        yield np.asarray(value)


def difference(got: Value, want: Value, rtol: float, atol: float) -> str:
    """How an output differs from what was expected; empty where it does not. The rules are those of the onnx package's
    own runner: same type, same shape, same NaN and Inf, all else within atol + rtol * |want|.
    """
    import numpy as np

    if want is None or got is None or isinstance(want, list | tuple) or isinstance(got, list | tuple):
        return _difference_of_lists(got, want, rtol, atol)
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return f"shape {list(got.shape)} instead of {list(want.shape)}"
    if want.dtype.kind in "OSU":
        wrong = np.array([_text(a) != _text(b) for a, b in zip(got.ravel(), want.ravel(), strict=True)], dtype=bool)
    elif got.dtype != want.dtype:
        return f"type {got.dtype} instead of {want.dtype}"
    elif want.dtype.kind in "biu":
        # By numbers, as numpy's allclose; one off among a million is within a relative tolerance.
        apart = np.abs(got.astype(np.float64) - want.astype(np.float64)).ravel()
        wrong = apart > atol + rtol * np.abs(want.astype(np.float64)).ravel()
    else:
        rtol = max(rtol, _FEW_DIGITS.get(want.dtype.name, 0.0))
        close = np.isclose(_wide(got), _wide(want), rtol=rtol, atol=atol, equal_nan=True)
        wrong = ~close.ravel()
    if not wrong.any():
        return ""
    worst = int(np.argmax(wrong))
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ; element {worst} is {got.ravel()[worst]!s} instead of "
        f"{want.ravel()[worst]!s}"
    )


def _difference_of_lists(got: Value, want: Value, rtol: float, atol: float) -> str:
    if got is None or want is None:
        return "" if got is want else f"{type(got).__name__} instead of {type(want).__name__}"
    if not (isinstance(got, list | tuple) and isinstance(want, list | tuple)) or len(got) != len(want):
        return "a sequence of another length, or none"
    found = (difference(a, b, rtol, atol) for a, b in zip(got, want, strict=True))
    return next((each for each in found if each), "")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _wide(array: Any) -> Any:
    """Complex stays; all else as float64, which numpy can compare whatever it was."""
    import numpy as np

    return array if array.dtype.kind == "c" else array.astype(np.float64)
