"""Nodes that hand on what they get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import attribute, bypass, counted, is_standard

if TYPE_CHECKING:
    import onnx

_OF_ONE = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})


def drop_identities(model: onnx.ModelProto, _: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Identity, Transpose that leaves the order, and Concat, Sum, Max, Min and Mean of one value are taken out.

    Afterwards none of these is in the graph, but where a graph's input, a weight or an output that something else is
    too would have to be an output: such a copy is needed.
    """
    places = [place for place, node in enumerate(model.graph.node) if _hands_on(node)]
    dropped = bypass(model.graph, places) if places else 0
    if not dropped:
        return model, ()
    what = f"{counted(dropped, 'node')} that handed on what they got removed"
    return model, (Change("identities", what, "they cost a copy and hide what follows what"),)


def _hands_on(node: onnx.NodeProto) -> bool:
    if not is_standard(node) or len(node.output) != 1:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Transpose":
        order: Sequence[int] | None = attribute(node, "perm")
        return order is not None and list(order) == sorted(order)
    return node.op_type in _OF_ONE and len(node.input) == 1
