"""Topological order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.prepare.base import CannotChange, Change, Context
from tritonrepo.prepare.graph import read_names

if TYPE_CHECKING:
    import onnx


def sort_nodes(model: onnx.ModelProto, _: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """ONNX wants each node behind those whose values it reads. Nodes that are already so keep their order.

    Afterwards the nodes of the graph are in topological order.

    Raises:
        CannotChange: the graph has a cycle.
    """
    nodes = list(model.graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [{makers[name] for name in read_names(node) if name in makers} for node in nodes]
    if all(need < place for place, needed in enumerate(needs) for need in needed):
        return model, ()
    order: list[int] = []
    state = [0] * len(nodes)  # 0 not seen, 1 begun, 2 placed
    for first in range(len(nodes)):
        pending = [first]
        while pending:
            place = pending[-1]
            if state[place] == 2:
                pending.pop()
                continue
            open_needs = [need for need in sorted(needs[place], reverse=True) if state[need] != 2]
            if any(state[need] == 1 for need in open_needs):
                raise CannotChange(f"the graph has a cycle through {nodes[place].op_type} {nodes[place].name}".rstrip())
            state[place] = 1
            if open_needs:
                pending += open_needs
            else:
                state[place] = 2
                order.append(place)
                pending.pop()
    sorted_nodes = [nodes[place] for place in order]
    del model.graph.node[:]
    model.graph.node.extend(sorted_nodes)
    what = "the nodes are in topological order"
    return model, (Change("order", what, "ONNX asks for it, and tools that read the graph once rely on it"),)
