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

from tritonrepo._graph import Dim, Model, Value, read_model, read_values
from tritonrepo._onnx_wire import encode, fields
from tritonrepo.errors import ModelError

_SECONDS = 60
_MEMORY = 4 << 30
_WORKER = Path(__file__).with_name("_shape_worker.py")


def infer_shapes(model: Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Model:
    """The model with the shapes that follow from those of its inputs; functions are replaced by what they do.

    Args:
        model: without weights; small constants must be there, as shapes are computed from them.
        sizes: whole shapes by input name, to compute with in place of what the model says.

    Raises:
        ModelError: the model cannot be inferred: it makes the library fail, crash, or take too long.
    """
    found = inferred(_with_sizes(model, sizes) if sizes else model.data, inline=bool(model.functions))
    nested = model.functions or any(node.graphs for node in model.nodes())
    return read_model(found) if nested else read_values(found, model)


def inferred(data: bytes, *, inline: bool = False) -> bytes:
    """Protobuf bytes of a model -> those of the model with its shapes.

    Args:
        data: the model, without large weights.
        inline: whether functions are replaced by what they do.

    Raises:
        ModelError: see `infer_shapes`.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as found, tempfile.TemporaryFile() as said:
        given.write(data)
        given.seek(0)
        command = [sys.executable, "-I", "-S", str(_WORKER), _extension(), str(_SECONDS), str(_MEMORY)]
        command += ["--inline"] if inline else []
        # Its own limit ends it; waiting with a time-out would look every few hundredths of a second only.
        done = subprocess.run(command, stdin=given, stdout=found, stderr=said, check=False)
        if done.returncode == 0:
            found.seek(0)
            return found.read()
        said.seek(0)
        words = " ".join(said.read(4000).decode(errors="replace").split())
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise ModelError(f"shape inference took more than {_SECONDS} s")
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
