"""Nodes and weights that no output depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import counted, read_names
from tritonrepo.prepare.graph import size as bytes_of

if TYPE_CHECKING:
    import onnx


def drop_unused(model: onnx.ModelProto, _: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Inputs stay, whether they are read or not: they are what clients send.

    Afterwards every node and every weight of the graph is read on the way to an output. Nodes are in topological order
    beforehand.
    """
    graph = model.graph
    needed = {value.name for value in graph.output}
    dead = []
    for place in range(len(graph.node) - 1, -1, -1):
        node = graph.node[place]
        if needed.isdisjoint(node.output):
            dead.append(place)
        else:
            needed |= read_names(node)
    needed |= {value.name for value in graph.input}
    for place in dead:
        del graph.node[place]
    unread = [weight for weight in graph.initializer if weight.name not in needed]
    freed = sum(map(bytes_of, unread))
    if unread:
        kept = [weight for weight in graph.initializer if weight.name in needed]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    alive = needed | {name for node in graph.node for name in node.output}
    known = [value for value in graph.value_info if value.name in alive]
    if len(known) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(known)
    changes = []
    if dead:
        changes.append(Change("unused", f"{counted(len(dead), 'node')} removed", "no output depends on them"))
    if unread:
        what = f"{counted(len(unread), 'weight')} removed, {freed:,} bytes"
        changes.append(Change("unused", what, "no node reads them"))
    return model, tuple(changes)
