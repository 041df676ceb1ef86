"""What the conversions need to know of a graph: its graphs, the names in them, element types, what operators allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tritonrepo.errors import ModelError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

#: ONNX element types (TensorProto.FLOAT, FLOAT16, BFLOAT16, INT8).
FLOAT, FLOAT16, BFLOAT16, INT8 = 1, 10, 16, 3

#: How their types are written in operator schemas.
TYPE_TEXT: Mapping[int, str] = {FLOAT: "tensor(float)", FLOAT16: "tensor(float16)", BFLOAT16: "tensor(bfloat16)"}

#: Short names, as in Triton's data types.
SHORT: Mapping[int, str] = {FLOAT: "FP32", FLOAT16: "FP16", BFLOAT16: "BF16", INT8: "INT8", 11: "FP64"}


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph within it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


class Names:
    """Every name of tensors and nodes in a model, and new ones that collide with none."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken: set[str] = set()
        for graph in all_graphs(model.graph):
            for values in (graph.input, graph.output, graph.value_info, graph.initializer):
                self._taken.update(value.name for value in values)
            for node in graph.node:
                self._taken.update((node.name, *node.input, *node.output))

    def fresh(self, wanted: str) -> str:
        """``wanted``, with a number where it is taken."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, by which the spec and the report can speak of it.

    Nodes without a name are called after their operator and first output; of several with one name, the later ones too.
    """
    names = Names(model)
    counted = Counter(node.name for graph in all_graphs(model.graph) for node in graph.node)
    seen: set[str] = set()
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if not node.name or (counted[node.name] > 1 and node.name in seen):
                first = next((output for output in node.output if output), "")
                node.name = names.fresh(f"{node.op_type}_{first}")
            seen.add(node.name)


def drop_weight_inputs(model: onnx.ModelProto) -> None:
    """Weights are no inputs: another type would make a second input of each."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)


def lift_constants(model: onnx.ModelProto) -> None:
    """Make weights of Constant nodes that hold FP32 tensors, so that one rule holds for all weights."""
    from onnx import numpy_helper

    for graph in all_graphs(model.graph):
        outputs = {value.name for value in graph.output}
        lifted = []
        for node in graph.node:
            if node.op_type != "Constant" or node.output[0] in outputs or len(node.attribute) != 1:
                continue
            attribute = node.attribute[0]
            if attribute.name == "value" and attribute.t.data_type == FLOAT:
                tensor = type(attribute.t)()
                tensor.CopyFrom(attribute.t)
            elif attribute.name in ("value_float", "value_floats"):
                single = attribute.name == "value_float"
                tensor = numpy_helper.from_array(_floats([attribute.f] if single else attribute.floats, single))
            else:
                continue
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            lifted.append(node)
        for node in lifted:
            graph.node.remove(node)
    model.ir_version = max(model.ir_version, 4)  # before it, every weight must be listed as an input


def _floats(values: Sequence[float], single: bool) -> NDArray[Any]:
    import numpy as np

    array = np.array(values, np.float32)
    return array[0] if single else array


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Functions of the model's own become plain nodes: a conversion must see the types within them."""
    if not model.functions:
        return model
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Bring nodes into topological order, here and in the graphs within; what is in order already keeps its order.

    Raises:
        ModelError: the nodes form a cycle.
    """
    for node in graph.node:
        for inner in subgraphs(node):
            sort_nodes(inner)
    producer = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    needs = [sorted({producer[name] for name in _reads(node) if name in producer}) for node in graph.node]
    if all(not each or each[-1] < index for index, each in enumerate(needs)):
        return
    order: list[int] = []
    state = [0] * len(needs)  # 1: being visited, 2: placed
    for root in range(len(needs)):
        stack = [root]
        while stack:
            index = stack[-1]
            missing = [need for need in needs[index] if state[need] != 2]
            if state[index] == 2 or not missing:
                stack.pop()
                if state[index] != 2:
                    order.append(index)
                state[index] = 2
            elif any(state[need] == 1 for need in missing):
                raise ModelError(f"the nodes around {graph.node[index].name} form a cycle")
            else:
                state[index] = 1
                stack.extend(reversed(missing))
    nodes = [graph.node[index] for index in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every name that a node reads, what its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for inner in subgraphs(node):
        for graph in all_graphs(inner):
            for each in graph.node:
                yield from (name for name in each.input if name)
            yield from (value.name for value in graph.output)


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type by tensor name in this one graph, as far as its declarations say; 0 for what is no tensor.

    Shape inference must have run before, for the tensors between nodes are declared by it.
    """
    types = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.WhichOneof("value"):
            types[value.name] = value.type.tensor_type.elem_type
    types.update({init.name: init.data_type for init in graph.initializer})
    return types


def infer_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of the tensors between its nodes declared, as far as they can be inferred."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # onnx raises several classes, of Python and of C++
        raise ModelError(
            f"types cannot be inferred, which a change of precision needs: {' '.join(str(error).split())[:300]}",
            hint="Build it with `precision: fp32`, or repair the model: onnx.checker.check_model says more.",
        ) from None


@dataclass(frozen=True)
class Formal:
    """One formal parameter of an operator."""

    type_text: str
    """The name of its type parameter (``T``), or a type."""
    allowed: frozenset[str]


@dataclass(frozen=True)
class Operator:
    """What an operator's schema says of its inputs and outputs."""

    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]

    def input(self, index: int) -> Formal | None:
        """The formal parameter of an actual input; the last one may be variadic."""
        return self.inputs[min(index, len(self.inputs) - 1)] if self.inputs else None

    def output(self, index: int) -> Formal | None:
        """The formal parameter of an actual output."""
        return self.outputs[min(index, len(self.outputs) - 1)] if self.outputs else None


def operator(node: onnx.NodeProto, opset: Mapping[str, int]) -> Operator | None:
    """The node's operator at the model's opset; None for operators that are not of ONNX itself."""
    return _operator(node.op_type, opset[""]) if node.domain in ("", "ai.onnx") and "" in opset else None


@cache
def _operator(op_type: str, version: int) -> Operator | None:
    from onnx import defs

    try:
        schema = defs.get_schema(op_type, version, "")
    except defs.SchemaError:
        return None

    def formals(parameters: object) -> tuple[Formal, ...]:
        return tuple(Formal(each.type_str, frozenset(each.types)) for each in parameters)  # type: ignore[attr-defined]

    return Operator(formals(schema.inputs), formals(schema.outputs))


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Version by domain; the default domain is ''."""
    return {"" if each.domain == "ai.onnx" else each.domain: each.version for each in model.opset_import}
