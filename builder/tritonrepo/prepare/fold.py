"""What can be computed beforehand."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import counted, is_standard, read_names
from tritonrepo.prepare.inference import InferenceError, Shape, World, evaluable

if TYPE_CHECKING:
    import onnx

#: A graph is looked at that far: at some 0.1 ms for a node, in a few seconds.
_MOST_NODES = 20_000
#: Nodes that are computed, at about 1 ms each.
_MOST_COMPUTED = 5_000


def fold_constants(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Nodes whose inputs are constants, and shapes that are fixed, become constants.

    Only values of at most 4096 elements are computed, only by operators that move or count (``inference``), and only
    where the size of the result is known beforehand: a graph cannot make this take long or much memory, and the file
    cannot grow by much. Large weights are left to the runtimes, which fold them when they load the model.

    Afterwards no node is left, within these bounds, whose value is known; those that are outputs of the graph excepted.
    """
    graph = model.graph
    world = World(model, {value.name: _sizes(value) for value in graph.input}, context.folder)
    outputs = {value.name for value in graph.output}
    constants = {weight.name for weight in graph.initializer}
    folded: list[int] = []
    for place, node in enumerate(graph.node):
        if place >= _MOST_NODES or len(folded) >= _MOST_COMPUTED:
            break
        with contextlib.suppress(InferenceError):
            world.step(node)
        names = [name for name in node.output if name]
        foldable = is_standard(node) and (evaluable(node) or node.op_type == "Shape")
        if foldable and names and outputs.isdisjoint(names) and all(name in world.values for name in names):
            folded.append(place)
    if not folded:
        return model, ()
    gone = set(folded)
    read = {name for place, node in enumerate(graph.node) if place not in gone for name in read_names(node)}
    made = [name for place in folded for name in graph.node[place].output if name in read and name not in constants]
    for place in reversed(folded):
        del graph.node[place]
    graph.initializer.extend(world.tensor(name) for name in made)
    what = f"{counted(len(folded), 'node')} computed beforehand, {counted(len(made), 'constant')} in their place"
    return model, (Change("fold", what, "their values do not depend on what clients send"),)


def _sizes(value: onnx.ValueInfoProto) -> Shape:
    """The shape of an input as the file has it; None for a dynamic axis."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)
