"""One request to a served model, from what a user can type: files, images, JSON, random values."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tritonrepo.errors import InferError, UsageError

if TYPE_CHECKING:
    from tritonrepo_client import Client

Shape = tuple[int, ...]
#: numpy arrays by tensor name (numpy is imported only when it is needed).
Arrays = Mapping[str, Any]

_HEAD = 5
_TOP = 5
#: As many values along the last axis may be the scores of as many classes.
_CLASSES = range(2, 100_001)


@dataclass(frozen=True)
class InferResult:
    """What was asked, and what came back."""

    model: str
    version: str
    """As asked for; "" where the server chose."""
    inputs: Arrays
    """What was sent, after all conversions."""
    outputs: Arrays
    notes: tuple[str, ...]
    """What was done to the values on the way: converted, scaled, resized, a batch axis added."""
    milliseconds: float
    """From sending the request to having the reply."""


@dataclass(frozen=True)
class OutputSummary:
    """One output, for people."""

    name: str
    dtype: str
    """numpy's name; ``bytes`` for BYTES."""
    shape: Shape
    low: float | None
    """Smallest value; None where there is none (empty, BYTES, all NaN)."""
    high: float | None
    mean: float | None
    not_finite: int
    """NaN and Inf, which low, high and mean leave out."""
    head: tuple[str, ...]
    """The first values."""
    top: tuple[tuple[int, float], ...]
    """Index and value of the largest values of the first row, where a row may be scores of classes; else empty."""

    def __str__(self) -> str:
        parts = [f"{self.name} {self.dtype}{list(self.shape)}"]
        if self.low is not None:
            parts.append(f"min {self.low:.6g}, max {self.high:.6g}, mean {self.mean:.6g}")
        if self.not_finite:
            parts.append(f"{self.not_finite} NaN or Inf")
        if self.head:
            parts.append(f"begins {' '.join(self.head)}")
        if self.top:
            parts.append("largest " + ", ".join(f"[{index}] {value:.6g}" for index, value in self.top))
        return "\n  ".join(parts)


def infer(
    url: str,
    model: str,
    inputs: Sequence[str] = (),
    *,
    random: bool = False,
    shapes: Mapping[str, Shape] | None = None,
    seed: int = 0,
    version: str = "",
    timeout: float = 60,
) -> InferResult:
    """Send one request to a served model.

    Args:
        url: ``http://host:port`` or ``grpc://host:port``.
        model: the model's name.
        inputs: ``NAME=VALUE``; VALUE is a file (.npy, .npz, .json, .bin, .raw, an image), JSON, or text for BYTES.
            Without ``NAME=``: a file for a model's only input, or an .npz or a .json object that names its arrays.
        random: make up values for the inputs that are not given.
        shapes: shape by input name, batch axis included or left out: of random values, raw bytes, and images.
        seed: of the random values.
        version: the model's version; "" leaves the choice to the server.
        timeout: seconds for everything the server is asked.

    Raises:
        UsageError: an option that makes no sense.
        InferError: a value that does not fit the model, or a server that did not answer as hoped; with a hint.
    """
    from tritonrepo import _input_values
    from tritonrepo_client import Client

    try:
        client = Client(url, timeout=timeout)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with client, _explained(client, model):
        served = client.model(model, version)
        arrays, notes = _input_values.build(
            served.signature, served.config, inputs, random=random, shapes=dict(shapes or {}), seed=seed
        )
        started = time.perf_counter()
        outputs = served(arrays, split=False)  # what is shown is one request
        milliseconds = (time.perf_counter() - started) * 1e3
    return InferResult(model, version, arrays, outputs, notes, milliseconds)


def parse_shape(option: str) -> tuple[str, Shape]:
    """``x=1,3,224,224`` (or with ``x`` for commas, ``x=1x3``) as name and shape; ``x=`` is a scalar's shape.

    Raises:
        UsageError: it is something else.
    """
    name, equals, text = option.rpartition("=")
    sizes = [part.strip() for part in text.replace("x", ",").split(",")] if text.strip() else []
    if not equals or not name or not all(size.isdecimal() for size in sizes):
        raise UsageError(f"--shape {option} is not NAME=SIZE,SIZE,...", hint="for example: --shape x=1,3,224,224")
    return name, tuple(int(size) for size in sizes)


def save(result: InferResult, path: Path) -> tuple[Path, ...]:
    """Write the outputs: to one file where the path ends in .npz, else to a folder, one .npy for each. A file is there
    completely or not at all.

    BYTES are saved as numpy's byte strings, so that no reader needs pickle; bfloat16 as float32.

    Raises:
        InferError: the place cannot be written, or a value cannot be written without loss.
    """
    import numpy as np

    arrays = {name: _saveable(name, array) for name, array in result.outputs.items()}
    if path.suffix == ".npz" and "file" in arrays:
        raise InferError("numpy cannot write an output named 'file' to an .npz", hint="save to a folder instead")
    staged: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        if path.suffix == ".npz":
            np.savez(staged / path.name, **arrays)
            targets = {path.name: path}
        else:
            path.mkdir(exist_ok=True)
            targets = {}
            for name, array in arrays.items():
                file = f"{quote(name, safe=' ')}.npy"
                np.save(staged / file, array, allow_pickle=False)
                targets[file] = path / file
        for file, target in targets.items():
            (staged / file).replace(target)
        return tuple(targets.values())
    except OSError as error:
        raise InferError(f"the outputs cannot be saved: {error.strerror or error}", where=path) from None
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)


def summarise(outputs: Arrays) -> tuple[OutputSummary, ...]:
    """Each output in figures: range, mean, first values, and the largest where they may be scores of classes."""
    return tuple(_summary(name, array) for name, array in outputs.items())


def _summary(name: str, array: Any) -> OutputSummary:
    import numpy as np

    flat = array.reshape(-1)
    if array.dtype == object:
        return OutputSummary(name, "bytes", array.shape, None, None, None, 0, tuple(map(repr, flat[:_HEAD])), ())
    numbers = flat.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high, mean = map(float, (finite.min(), finite.max(), finite.mean())) if finite.size else (None, None, None)
    head = tuple(f"{value:.6g}" if isinstance(value, float) else str(value) for value in flat[:_HEAD].tolist())
    top: tuple[tuple[int, float], ...] = ()
    if array.ndim in (1, 2) and array.size and array.shape[-1] in _CLASSES and array.dtype.kind not in "biu":
        row = numbers[: array.shape[-1]]
        largest = np.argsort(-row, kind="stable")[:_TOP]  # NaN comes last
        top = tuple((int(index), float(row[index])) for index in largest)
    return OutputSummary(name, array.dtype.name, array.shape, low, high, mean, numbers.size - finite.size, head, top)


@contextmanager
def _explained(client: Client, model: str) -> Iterator[None]:
    """The client's errors as InferError, with what to do next."""
    import tritonrepo_client as c

    try:
        yield
    except c.TritonClientError as error:
        hint = None
        if isinstance(error, c.ModelNotFound):
            hint = _models_hint(client, model)
        elif isinstance(error, c.ModelNotReady):
            hint = "the server's log says why; `tritonrepo check` says what is wrong with the repository"
        elif isinstance(error, c.ServerUnreachable):
            hint = "start a server with `tritonrepo serve`, or name the one that runs with --url"
        elif isinstance(error, c.DeadlineExceeded):
            hint = "give it longer with --timeout"
        raise InferError(str(error), hint=hint) from error


def _models_hint(client: Client, model: str) -> str | None:
    """What the server has instead of a model that it does not have."""
    from tritonrepo._input_values import did_you_mean
    from tritonrepo_client import TritonClientError

    try:
        known = sorted({entry.name for entry in client.models()})
    except TritonClientError:
        return None
    if model in known:
        return "the server has this model, but not this version of it"
    listed = f"the server has {', '.join(known)}" if known else "the server's repository is empty"
    return did_you_mean(model, known) or listed


def _saveable(name: str, array: Any) -> Any:
    """The array in a type that numpy's own file formats know."""
    import numpy as np

    if array.dtype == object:
        items = array.reshape(-1).tolist()
        if any(item.endswith(b"\0") for item in items):
            raise InferError(f"output '{name}' has elements that end in NUL, and numpy's files would lose these")
        return array.astype(f"S{max(1, *map(len, items), 1)}")
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
