"""A model in FP16 or BF16 as an FP32 model that rounds after every operator, so that it can be judged on a CPU.

ONNX Runtime has no BF16 on the CPU. FP16 it runs, but it takes the rounding between operators out and computes in FP32:
what overflows on a GPU does not overflow there. Here each operator reads values that were rounded to the low type,
computes in FP32, and its results are rounded to the low type again, infinities included. What lies within an operator
is not seen: a kernel that sums in FP16 may be worse than this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.prepare.precision.graph import BFLOAT16, FLOAT, FLOAT16, Names, element_types, subgraphs

if TYPE_CHECKING:
    import onnx

LOW = (FLOAT16, BFLOAT16)


def emulate(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with casts to FP32 before, and casts back after, every operator on low types.

    Args:
        model: as ``lower`` makes it; it is left as it is.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = Names(result)
    _graph(result.graph, names, {})
    _float_ends(result.graph, names)
    return result


def _float_ends(graph: onnx.GraphProto, names: Names) -> None:
    """Low inputs and outputs become FP32, with casts behind and before them: numpy has no BF16 to feed."""
    from onnx import helper

    before, after, renamed = [], [], {}
    for values, low_first in ((graph.input, False), (graph.output, True)):
        for value in values:
            tensor = value.type.tensor_type
            if tensor.elem_type not in LOW:
                continue
            inner = renamed[value.name] = names.fresh(f"{value.name}_low")
            if low_first:
                after.append(helper.make_node("Cast", [inner], [value.name], to=FLOAT))
            else:
                before.append(helper.make_node("Cast", [value.name], [inner], to=tensor.elem_type))
            tensor.elem_type = FLOAT
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    nodes = [type(node).FromString(node.SerializeToString()) for node in (*before, *graph.node, *after)]
    del graph.node[:]
    graph.node.extend(nodes)


def _graph(graph: onnx.GraphProto, names: Names, outer: dict[str, int]) -> None:
    from onnx import helper

    types = {**outer, **element_types(graph)}
    for node in graph.node:  # what a low node makes need not be declared
        if node.op_type == "Cast":
            to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            types[node.output[0]] = to
    nodes: list[onnx.NodeProto] = []
    raised: dict[str, str] = {}
    for node in graph.node:
        for inner in subgraphs(node):
            _graph(inner, names, types)
        if node.op_type == "Cast" or any(True for _ in subgraphs(node)):
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if types.get(name) in LOW:
                if name not in raised:
                    raised[name] = names.fresh(f"{name}_raised")
                    nodes.append(helper.make_node("Cast", [name], [raised[name]], to=FLOAT))
                node.input[index] = raised[name]
        after = []
        for index, name in enumerate(node.output):
            if types.get(name) in LOW:
                exact = names.fresh(f"{name}_exact")
                after.append(helper.make_node("Cast", [exact], [name], to=types[name]))
                node.output[index] = exact
        if after and node.op_type in ("ConstantOfShape", "EyeLike"):
            _to_float(node)
        nodes += [node, *after]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _to_float(node: onnx.NodeProto) -> None:
    """Undo what the lowering did to the attribute that says an output's type."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value":
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype("float32"), "value"))
        elif attribute.name == "dtype":
            attribute.i = FLOAT
