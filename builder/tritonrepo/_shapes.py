"""Shape inference at chosen sizes, in a process of its own.

The onnx library's inference is C++ and follows what a model says: functions that call each other in a circle overflow
its stack, for instance. So it runs in a process with limits, which a crash or a loop ends; here it is an error like
others.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tritonrepo._graph import MOST_NODES, Dim, Model, Value, read_model, read_values
from tritonrepo._onnx_wire import encode, fields
from tritonrepo.errors import ModelError

# For the extension itself, and for each byte of a model: 20 are usual.
_MEMORY, _MEMORY_PER_BYTE = 256 << 20, 40
_MOST_CALLS = 100
# The exit status of the worker that says so.
_NO_MEMORY = 4
_WORKER = Path(__file__).with_name("_shape_worker.py")


def infer_shapes(model: Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Model:
    """The model with the shapes that follow from those of its inputs; functions are replaced by what they do.

    Args:
        model: without weights; small constants must be there, as shapes are computed from them.
        sizes: whole shapes by input name, to compute with in place of what the model says.

    Raises:
        ModelError: the model cannot be inferred: it makes the library fail, crash, or take too long.
    """
    if model.functions:
        _check_functions(model)
    found = inferred(_with_sizes(model, sizes) if sizes else model.data, inline=bool(model.functions))
    nested = model.functions or len(model.graphs) > 1
    return read_model(found) if nested else read_values(found, model)


def _check_functions(model: Model) -> None:
    """See that replacing functions by what they do comes to an end, and to a sane number of nodes."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size_of(name: tuple[str, str], within: frozenset[tuple[str, str]]) -> int:
        if name in within:
            raise ModelError(f"the function {name[1][:100]!r} calls itself")
        if name not in sizes:
            if len(within) > _MOST_CALLS:
                raise ModelError(f"functions that call each other more than {_MOST_CALLS} deep")
            inner = model.nodes_of(functions[name])
            sizes[name] = sum(
                size_of(key, within | {name}) if (key := (node.domain, node.operator)) in functions else 1
                for node in inner
            )
            if sizes[name] > MOST_NODES:
                raise ModelError(f"the function {name[1][:100]!r} stands for more than {MOST_NODES} nodes")
        return sizes[name]

    whole = sum(
        size_of(key, frozenset()) for node in model.nodes() if (key := (node.domain, node.operator)) in functions
    )
    if whole > MOST_NODES:
        raise ModelError(f"functions stand for more than {MOST_NODES} nodes")


def inferred(data: bytes, *, inline: bool = False) -> bytes:
    """Protobuf bytes of a model -> those of the model with its shapes.

    Args:
        data: the model, without large weights.
        inline: whether functions are replaced by what they do.

    Raises:
        ModelError: see `infer_shapes`.
    """
    options = ["--inline"] if inline else []
    try:
        return _run(data, [*options, "--values"])
    except ModelError:  # computing the values of shapes may take too much: those of a Range of 2^40, for instance
        return _run(data, options)


def _run(data: bytes, options: list[str]) -> bytes:
    memory = _MEMORY + _MEMORY_PER_BYTE * len(data)
    seconds = 4 + len(data) // (1 << 20)  # a tenth of a second is usual for a megabyte
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as found, tempfile.TemporaryFile() as said:
        given.write(data)
        given.seek(0)
        worker = [sys.executable, "-I", "-S", str(_WORKER), _extension(), str(seconds), str(memory)]
        # Its own limit ends it; waiting with a time-out would look every few hundredths of a second only.
        done = subprocess.run([*worker, *options], stdin=given, stdout=found, stderr=said, check=False)
        if done.returncode == 0:
            found.seek(0)
            return found.read()
        said.seek(0)
        words = " ".join(said.read(4000).decode(errors="replace").split())
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise ModelError(f"shape inference took more than {seconds} s")
    if done.returncode == _NO_MEMORY:
        raise ModelError(f"shape inference took more than {memory >> 20} MiB")
    if done.returncode < 0:
        raise ModelError(f"shape inference crashed ({signal.strsignal(-done.returncode)})")
    raise ModelError(f"shape inference failed: {words[-300:]}")


def _extension() -> str:
    """The extension module of the installed onnx; found without importing the library."""
    spec = find_spec("onnx")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("onnx_cpp2py_export*.so")):
            return str(file)
    raise ModelError("the extension of the onnx library is not where it should be", hint="Install onnx again.")


def _with_sizes(model: Model, sizes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The model with other shapes for its inputs. What it says of values between nodes may not hold at these sizes: it
    is left out, but for what comes out of operators that no library here knows.
    """
    assert model.graph is not None  # noqa: S101 - the caller has looked
    foreign = {name for node in model.graph.nodes if node.domain for name in node.outputs}
    data, parts, done = model.data, [], 0
    for key, at, stop, start in fields(data, 0, len(data)):
        if key != 58:
            continue
        parts += [data[done:start], encode(7, _graph_without(data, at, stop, sizes, foreign))]
        done = stop
    parts.append(data[done:])
    inputs = b"".join(encode(11, _value(value, sizes)) for value in model.graph.inputs if value.name in sizes)
    return b"".join([*parts, encode(7, inputs)])  # protobuf merges what stands there twice


def _graph_without(data: bytes, at: int, stop: int, sizes: Mapping[str, tuple[int, ...]], foreign: set[str]) -> bytes:
    parts, done = [], at
    for key, begin, end, start in fields(data, at, stop):
        if key not in {90, 106}:
            continue
        name = next((data[first:last] for inner, first, last, _ in fields(data, begin, end) if inner == 10), b"")
        text = name.decode("utf-8", "replace")
        if (text in sizes) if key == 90 else (text not in foreign):
            parts.append(data[done:start])
            done = end
    return b"".join([*parts, data[done:stop]])


def _value(value: Value, sizes: Mapping[str, tuple[int, ...]]) -> bytes:
    shape = b"".join(encode(1, _dim(dim)) for dim in sizes[value.name])
    tensor = encode(1, value.type.element) + encode(2, shape)
    return encode(1, value.name.encode("utf-8", "replace")) + encode(2, encode(1, tensor))


def _dim(dim: Dim) -> bytes:
    return encode(1, dim) if isinstance(dim, int) else encode(2, dim.encode("utf-8", "replace")) if dim else b""
