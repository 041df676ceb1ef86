"""ONNX -> Signature: names, types, dims, symbolic axes, opset, operators, size. Weights are never loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo import _graph
from tritonrepo._skeleton import left, own_location, read_skeleton
from tritonrepo.errors import ModelError

if TYPE_CHECKING:
    import onnx

#: One dimension: a number, the name of a symbolic axis, or None where the model leaves it unnamed.
Dim = _graph.Dim

#: Names of axes that say "unknown".
ANONYMOUS = _graph.ANONYMOUS

#: NumPy has no more.
MOST_AXES = 64

# Of names that a file gives, so much is shown.
_SHOWN = 200

#: ONNX element type -> Triton data type (without TYPE_). What is missing here, Triton cannot carry.
TRITON_DTYPE: Mapping[int, str] = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One input or output. ``dtype`` is Triton's name without TYPE_ (``FP32``, ``STRING``); ``shape`` is the whole ONNX
    shape, batch axis included; () is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        dims = ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name} {self.dtype}[{dims}]"


@dataclass(frozen=True)
class Signature:
    """What can be said of an ONNX file without running it."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: Mapping[str, int]
    """Version by domain; '' is the default domain."""
    ir_version: int
    operators: Mapping[str, int]
    """Count by ``domain::op_type`` (plain op_type for the default domain), subgraphs included."""
    external_data: tuple[Path, ...]
    """Files that hold weights, each checked to lie within the model's folder."""
    bytes: int
    """Size of the ONNX file and its external data."""
    batch: bool
    """Whether the first axis of every input and output is dynamic, so that it may be a batch; the proof is verify's."""
    batch_reason: str
    """Why, in words for the report."""


def introspect(path: Path) -> Signature:
    """Read the signature of an ONNX file.

    Raises:
        ModelError: the file is missing, is no ONNX file, is truncated, needs newer libraries, refers to external data
            that is missing or lies outside its folder, or has inputs or outputs that Triton cannot carry.
    """
    model = outline(path)
    _check_texts(model, path)
    _check_versions(model, path)
    graph = model.graph
    if not graph.node:
        raise ModelError("the graph is empty: it has no nodes", where=path, hint="Export the model again.")
    if not graph.output:
        raise ModelError("the graph has no outputs", where=path, hint="Export the model again and name its outputs.")
    weights = {init.name for init in graph.initializer}
    weights |= {init.values.name for init in graph.sparse_initializer}
    external = external_files(model, path)
    if any(_rankless(value) for value in graph.output):
        graph = _with_inferred_shapes(model).graph
    inputs = tuple(_tensor(value, "input", path) for value in graph.input if value.name not in weights)
    outputs = tuple(_tensor(value, "output", path) for value in graph.output)
    for kind, group in (("input", inputs), ("output", outputs)):
        _check_names(kind, group, path)
    batch, reason = conclude_batch(inputs, outputs)
    return Signature(
        path=path,
        inputs=inputs,
        outputs=outputs,
        opset={entry.domain: entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        operators=dict(sorted(Counter(_operator(node) for node in nodes(model)).items())),
        external_data=external,
        bytes=path.stat().st_size + sum(file.stat().st_size for file in external),
        batch=batch,
        batch_reason=reason,
    )


def load(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file, its weights included; external data stays on disk."""
    return _parsed(path, outline_only=False)


def outline(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file without its weights: large values are external data in the file itself (see `_skeleton`)."""
    return _parsed(path, outline_only=True)


def _parsed(path: Path, *, outline_only: bool) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    content = read_skeleton(path)
    if path.stat().st_size >= 2**31:
        raise ModelError(
            "the file is over 2 GiB, which protobuf cannot read",
            where=path,
            hint="Save the model with external data: onnx.save_model(model, path, save_as_external_data=True).",
        )
    try:
        model = onnx.ModelProto()
        model.ParseFromString(content if outline_only else path.read_bytes())
    except DecodeError:
        raise ModelError(
            "the ONNX file is truncated or damaged", where=path, hint="Export or fetch the model again."
        ) from None
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(
            "not an ONNX model: it holds no graph", where=path, hint="Its bytes are another protobuf, or cut."
        )
    return model


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, its subgraphs, and the model's functions."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                pending.extend(graph.node)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: initializers of the graph and its subgraphs, and tensors in attributes."""
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graph.initializer
                for sparse in graph.sparse_initializer:
                    yield from (sparse.values, sparse.indices)


def external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files with external data, as paths in the model's folder.

    Raises:
        ModelError: a file is missing or too short, or its path leaves the model's folder (by ``..``, by an absolute
            path or through a symbolic link): a model from elsewhere must not make us read and publish other files.
    """
    import onnx

    folder = path.parent.resolve()
    files: dict[str, Path] = {}
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) < len(tensor.external_data):  # readers differ in which of two they follow
            raise ModelError(
                f"weight {tensor.name[:_SHOWN]!r} says twice where its data is",
                where=path,
                hint="The file is damaged, or made to mislead; export it again.",
            )
        location = entries.get("location", "")
        if left(entries) is not None and location in {"", own_location(path)}:
            continue
        if location not in files:
            files[location] = _external_file(path, folder, location, tensor.name)
        _check_extent(files[location], entries, tensor.name, path)
    return tuple(files[location] for location in sorted(files))


def conclude_batch(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[bool, str]:
    """Whether the first axis may be a batch, and why. Only the graph's words are heard; verify proves it."""
    if not inputs:
        return False, "the model has no inputs"
    for kind, group in (("input", inputs), ("output", outputs)):
        for tensor in group:
            if not tensor.shape:
                return False, f"{kind} {tensor.name} is a scalar"
            if isinstance(tensor.shape[0], int):
                return False, f"the first axis of {kind} {tensor.name} is fixed at {tensor.shape[0]}"
    names = {tensor.shape[0] for tensor in inputs if tensor.shape[0] not in ANONYMOUS and tensor.shape[0] is not None}
    if len(names) > 1:
        return False, "the first axes of the inputs have different names: " + ", ".join(sorted(map(str, names)))
    others = {dim for tensor in inputs for dim in tensor.shape[1:] if isinstance(dim, str) and dim not in ANONYMOUS}
    for tensor in outputs:
        if tensor.shape[0] in others:
            return (
                False,
                f"the first axis of output {tensor.name} is {tensor.shape[0]}, which is no batch axis of the inputs",
            )
    return True, "the first axis of every input and output is dynamic"


def _check_texts(model: onnx.ModelProto, path: Path) -> None:
    """See that names are text: protobuf gives bytes for those that are not UTF-8."""
    for text in _texts(model):
        if isinstance(text, bytes):
            raise ModelError(
                f"a name is not UTF-8 text: {text[:_SHOWN]!r}", where=path, hint="The file is damaged; export it again."
            )


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """The names in a model, but for those that no one uses."""
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for node in nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    for tensor in tensors(model):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _check_versions(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"the file has IR version {model.ir_version}; "
            f"the installed onnx {onnx.__version__} reads up to {onnx.IR_VERSION}",
            where=path,
            hint="Install a newer onnx, or export with an older IR version.",
        )
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise ModelError(
                f"the file has opset {entry.version}; the installed onnx {onnx.__version__} knows up to {newest}",
                where=path,
                hint=f"Install a newer onnx and onnxruntime, or export with opset {newest} or older.",
            )


def _check_names(kind: str, group: tuple[Tensor, ...], path: Path) -> None:
    counts = Counter(tensor.name for tensor in group)
    hint = "Export the model with named, distinct inputs and outputs."
    for name, count in counts.items():
        if not name:
            raise ModelError(f"an {kind} has no name", where=path, hint=hint)
        if not isinstance(name, str):  # protobuf gives bytes where they are no UTF-8
            raise ModelError(f"the name of an {kind} is not UTF-8: {name!r}", where=path, hint=hint)
        if count > 1:
            raise ModelError(f"{count} {kind}s are named {name!r}", where=path, hint=hint)


def _tensor(value: onnx.ValueInfoProto, kind: str, path: Path) -> Tensor:
    import onnx

    which = value.type.WhichOneof("value")
    if which != "tensor_type":
        word = str(which or "untyped").removesuffix("_type").replace("_", " ")
        raise ModelError(
            f"{kind} {value.name!r} is of type {word}, which Triton cannot carry",
            where=path,
            hint="Export the model with plain tensors as inputs and outputs.",
        )
    element = value.type.tensor_type.elem_type
    if element not in TRITON_DTYPE:
        known = onnx.TensorProto.DataType
        word = known.Name(element).lower() if element in known.values() else f"number {element}"
        raise ModelError(
            f"{kind} {value.name!r} has element type {word}, which Triton cannot carry",
            where=path,
            hint="Cast it inside the graph, to float32 for instance, and export again.",
        )
    if _rankless(value):
        raise ModelError(
            f"{kind} {value.name!r} has no shape, and shape inference finds none",
            where=path,
            hint="Export the model with shapes for its inputs and outputs (their rank is enough).",
        )
    axes = len(value.type.tensor_type.shape.dim)
    if axes > MOST_AXES:
        raise ModelError(
            f"{kind} {value.name!r} has {axes} axes; at most {MOST_AXES} can be carried",
            where=path,
            hint="Reshape it inside the graph, and export again.",
        )
    return Tensor(value.name, TRITON_DTYPE[element], tuple(_dim(dim) for dim in value.type.tensor_type.shape.dim))


def _dim(dim: Any) -> Dim:
    which = dim.WhichOneof("value")
    if which == "dim_value":
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    if which == "dim_param" and dim.dim_param not in ANONYMOUS:
        return str(dim.dim_param)
    return None


def _rankless(value: onnx.ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape")


def _with_inferred_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what shape inference finds; the model itself where inference fails."""
    import onnx

    from tritonrepo._shapes import inferred

    try:
        found = onnx.ModelProto()
        found.ParseFromString(inferred(model.SerializeToString()))
        return found
    except ModelError:  # a rank that stays unknown is reported by the caller
        return model


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _external_file(path: Path, folder: Path, location: str, tensor: str) -> Path:
    file = path.parent / location
    if not _lies_within(folder, file, location):
        raise ModelError(
            f"weight {tensor[:_SHOWN]!r} names the external file {location[:_SHOWN]!r}, which lies outside the model's "
            "folder",
            where=path,
            hint="Such a file could be anything on this machine; save the model again with its data beside it.",
        )
    if not file.is_file():
        raise ModelError(
            f"the external data file {location[:_SHOWN]!r} is missing (weight {tensor[:_SHOWN]!r})",
            where=path,
            hint=f"Put it at {file}, where the model looks for it.",
        )
    return file


def _lies_within(folder: Path, file: Path, location: str) -> bool:
    try:
        inside = bool(location) and not Path(location).is_absolute() and file.resolve().is_relative_to(folder)
        return inside and (file.is_file() or not file.exists())
    except (OSError, ValueError, RuntimeError):  # a name too long, or with a zero byte, or links in a circle
        return False


def _check_extent(file: Path, entries: Mapping[str, str], tensor: str, path: Path) -> None:
    try:
        end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
    except ValueError:
        raise ModelError(f"the offset or length of weight {tensor!r} is not a number", where=path) from None
    if end > file.stat().st_size:
        raise ModelError(
            f"the external data file {file.name!r} is too short for weight {tensor!r}: {end} bytes are needed, "
            f"{file.stat().st_size} are there",
            where=path,
            hint="The file was cut, or belongs to another model; export or fetch it again.",
        )
