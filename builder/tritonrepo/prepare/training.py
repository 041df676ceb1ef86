"""What training left in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import array, attribute, bypass, constants, counted, is_standard, opset, reads_of

if TYPE_CHECKING:
    import onnx

#: Since this version Dropout has its mode as an input, and without it, drops nothing.
_DROPOUT_BY_INPUT = 12
#: Since this version Dropout has no attribute ``is_test``.
_DROPOUT_DROPS_NOTHING = 7


def drop_training(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Dropout hands its input on. BatchNormalization uses the statistics that it learned, not those of the batch.

    A node that ran in training mode gave answers that are random or depend on the batch. Where there was one, the
    reference is the file with this pass applied, since the file's own answers cannot be the ones that are wanted.

    Afterwards no Dropout is in the graph but those whose mode or mask somebody reads, and no BatchNormalization
    is in training mode but those whose batch statistics somebody reads.
    """
    graph = model.graph
    known = constants(graph)
    reads = reads_of(graph)
    idle: list[int] = []
    random: list[int] = []
    normalized = 0
    for place, node in enumerate(graph.node):
        if not is_standard(node) or any(reads[name] for name in node.output[1:] if name):
            continue
        if node.op_type == "Dropout":
            mode = _dropout_mode(node, opset(model), known, context)
            if mode is not None:
                (random if mode else idle).append(place)
        elif node.op_type == "BatchNormalization" and (attribute(node, "training_mode", 0) or len(node.output) > 1):
            del node.output[1:]
            for each in [each for each in node.attribute if each.name == "training_mode"]:
                node.attribute.remove(each)
            normalized += 1
    changes = []
    dropped = bypass(graph, sorted((*idle, *random))) if idle or random else 0
    if dropped:
        why = "they dropped values at random: their mode was training" if random else "they hand their input on"
        changes.append(Change("training", f"{counted(dropped, 'Dropout')} removed", why, answers=bool(random)))
    if normalized:
        what = f"{counted(normalized, 'BatchNormalization')} taken out of training mode"
        changes.append(Change("training", what, "they took their statistics from the batch", answers=True))
    return model, tuple(changes)


def _dropout_mode(
    node: onnx.NodeProto, version: int, known: dict[str, onnx.TensorProto], context: Context
) -> bool | None:
    """Whether a Dropout is in training mode; None where that is not known."""
    if version < _DROPOUT_DROPS_NOTHING:
        return None if not attribute(node, "is_test", 0) else False
    if version < _DROPOUT_BY_INPUT or len(node.input) < 3 or not node.input[2]:
        return False
    mode = known.get(node.input[2])
    value = array(mode, context.folder) if mode is not None else None
    # Anything else is no mode, and ONNX Runtime says so of the model.
    return bool(value) if value is not None and value.dtype == bool and value.size == 1 else None
