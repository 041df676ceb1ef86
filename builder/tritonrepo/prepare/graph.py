"""Small questions to a graph, and small changes of it, that several passes need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo.prepare.weights import blocks, extent

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

#: Values of more bytes are never read by a pass that only looks at them.
READABLE = 1 << 20


def opset(model: onnx.ModelProto) -> int:
    """Version of the default domain."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is ONNX's own."""
    return node.domain in ("", "ai.onnx")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a Loop, Scan or If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def read_names(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its subgraphs read from outside included."""
    names = {name for name in node.input if name}
    for body in subgraphs(node):
        names |= free_names(body)
    return names


def free_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a subgraph reads from outside."""
    own = {value.name for value in graph.input} | {weight.name for weight in graph.initializer}
    own |= {weight.values.name for weight in graph.sparse_initializer}
    read: set[str] = set()
    for node in graph.node:
        read |= read_names(node) - own
        own |= set(node.output)
    return read | ({value.name for value in graph.output} - own)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute."""
    import onnx

    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, its subgraphs included, read other values: old name -> new name."""
    for place, name in enumerate(node.input):
        if name in names:
            node.input[place] = names[name]
    for body in subgraphs(node):
        inside = {value.name for value in body.input} | {weight.name for weight in body.initializer}
        inside |= {name for inner in body.node for name in inner.output}
        outside = {old: new for old, new in names.items() if old not in inside}
        for inner in body.node:
            rename_reads(inner, outside)
        for value in body.output:
            value.name = outside.get(value.name, value.name)


def all_names(model: onnx.ModelProto) -> set[str]:
    """Every name of a value or node, in subgraphs too."""
    names: set[str] = set()
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        names |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        for node in graph.node:
            names |= {node.name, *node.input, *node.output}
            pending.extend(subgraphs(node))
    return names


class Names:
    """New names that nothing in the model has."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken = all_names(model)

    def new(self, wish: str) -> str:
        """The wish, or the wish with a number."""
        name, number = wish, 1
        while name in self._taken or not name:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors that are known without running: initializers and the values of Constant nodes."""
    found = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and is_standard(node) and len(node.output) == 1:
            tensor = _constant(node)
            if tensor is not None:
                found[node.output[0]] = tensor
    return found


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    import numpy as np
    from onnx import numpy_helper

    for each in node.attribute:
        if each.name == "value":
            tensor: onnx.TensorProto = each.t
            return tensor
        if each.name in ("value_int", "value_ints"):
            value = each.i if each.name == "value_int" else list(each.ints)
            return numpy_helper.from_array(np.array(value, np.int64), node.output[0])
        if each.name in ("value_float", "value_floats"):
            numbers = each.f if each.name == "value_float" else list(each.floats)
            return numpy_helper.from_array(np.array(numbers, np.float32), node.output[0])
    return None


def size(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values, by its type and shape; what the file claims is not believed further than that."""
    import onnx

    count = 1
    for dim in tensor.dims:
        count *= max(0, dim)
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        width = 8
    return count * width


def array(tensor: onnx.TensorProto, folder: Path, most: int = READABLE) -> Array | None:
    """A tensor's values; None where they are more than ``most`` bytes, or of a type that numpy has not, or damaged."""
    import onnx
    from onnx import numpy_helper

    if size(tensor) > most:
        return None
    where = extent(tensor, folder)
    try:
        if where is None:
            return numpy_helper.to_array(tensor)
        if where.length > most:
            return None
        inline = onnx.TensorProto()
        inline.CopyFrom(tensor)
        inline.ClearField("external_data")
        inline.ClearField("data_location")
        inline.raw_data = b"".join(blocks(where))
        return numpy_helper.to_array(inline)
    except (ValueError, TypeError, KeyError):
        return None


def add_initializer(graph: onnx.GraphProto, value: Array, name: str) -> str:
    """Add a constant; gives its name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def reads_of(graph: onnx.GraphProto) -> Counter[str]:
    """How often each name is read: by nodes, subgraphs included, and as an output."""
    reads = Counter(name for node in graph.node for name in read_names(node))
    reads.update(value.name for value in graph.output)
    return reads


def bypass(graph: onnx.GraphProto, places: Iterable[int]) -> int:
    """Take out nodes: what reads the first output of one reads its first input instead.

    Where the output is one of the graph's, the node that makes the input makes the output itself. A node stays where
    that cannot be: its input is an input of the graph, a weight, or another output.

    Args:
        graph: its nodes are in topological order.
        places: of the nodes.

    Returns:
        How many were taken out.
    """
    outputs = Counter(value.name for value in graph.output)
    sources: dict[str, str] = {}
    gone, last = [], []
    for place in places:
        node = graph.node[place]
        if node.output[0] in outputs:
            last.append(place)
        else:
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
            gone.append(place)
    for node in graph.node:
        rename_reads(node, sources)
    for place in last:
        source, target = graph.node[place].input[0], graph.node[place].output[0]
        maker = next((node for at, node in enumerate(graph.node) if source in node.output and at not in gone), None)
        if maker is None or source in outputs or outputs[target] > 1:
            continue
        gone.append(place)
        graph.node[place].output[0] = ""
        maker.output[list(maker.output).index(source)] = target
        for node in graph.node:
            rename_reads(node, {source: target})
    for place in sorted(gone, reverse=True):
        del graph.node[place]
    return len(gone)


def counted(number: int, thing: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {thing}" + ("" if number == 1 or thing[0].isupper() else "s")
