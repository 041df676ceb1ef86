"""Where an axis of an ONNX model's output comes from, as far as the graph's last nodes tell it for certain.

Triton hands out the rows of a batched output to the requests. That is right only where the output's first axis is the
batch; a graph may show that it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tritonrepo.check._signature import Dim, Node, Signature, Value

#: Steps back from an output that are taken at most.
_STEPS = 200

#: The output has the axes of the first input.
_SAME_AXES = frozenset((
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "CumSum", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN",
    "LRN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization",
    "Mish", "Neg", "Not", "PRelu", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
))  # fmt: skip
#: The output has the first axis of the first input.
_SAME_ROWS = frozenset((
    "AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "Flatten", "Gemm", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "LpPool", "MaxPool", "SpaceToDepth",
))  # fmt: skip
#: The output has those axes of the first input that stand before the attribute ``axis``.
_SAME_BEFORE = frozenset({"Concat", "Gather", "Split", "TopK"})
#: Operators with an attribute ``axis`` along which they mix what they get.
_MIXING = frozenset({"Softmax", "LogSoftmax", "Hardmax"})


@dataclass(frozen=True)
class Origin:
    """Where an axis comes from: an axis of an input of the model, or what ``reason`` says."""

    value: Value | None = None
    axis: int = 0
    reason: str = ""
    mixes: str = ""
    """What on the way mixes the rows of the axis."""


def origin(signature: Signature, output: str, axis: int = 0) -> Origin | None:
    """Follow an axis of an output back through the graph; None where it cannot be followed."""
    inputs = {value.name: value for value in signature.inputs}
    tensor, mixes = output, ""
    for _ in range(_STEPS):
        if tensor in inputs:
            return Origin(inputs[tensor], axis, mixes=mixes)
        node = signature.last_nodes.get(tensor)
        if node is None or node.domain or not node.inputs:
            return None
        reason = _made_by(node, tensor, axis) or _reshaped(signature, node, axis)
        if reason:
            return Origin(reason=reason)
        before = _before(signature, node, tensor, axis)
        if before is None:
            return None
        if node.operator in _MIXING and _number(node, "axis", -1) == axis:
            mixes = f"{node.operator} runs along that axis"
        tensor, axis = before
    return None


def _made_by(node: Node, tensor: str, axis: int) -> str:
    """Why an operator's axis is one of its own, if it is."""
    along = _number(node, "axis", axis) == axis
    own = {
        "NonMaxSuppression": (axis == 0, "NonMaxSuppression has a row for each box that it keeps"),
        "NonZero": (axis == 1, "NonZero has an entry for each element that is not zero"),
        "Unique": (along or tensor != node.outputs[0], "Unique has an entry for each different value"),
        "Compress": (along, "Compress leaves rows out"),
        "Range": (True, "Range has as many entries as it counts"),
        "TopK": ("axis" in node.numbers and along, "TopK has the best entries of that axis"),
    }
    holds, words = own.get(node.operator, (False, ""))
    return words if holds else ""


def _reshaped(signature: Signature, node: Node, axis: int) -> str:
    """Why the first axis after a Reshape of an input is not that of the input: its rows are cut, or joined."""
    if node.operator != "Reshape" or axis or len(node.inputs) < 2:
        return ""
    target = signature.integers(node.inputs[1])
    shape = _shape(signature, node.inputs[0])
    if not target or target[0] != -1 or min(target[1:], default=1) < 1:
        return ""
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    if not shape or len(sizes) + 1 != len(shape) or prod(sizes) == prod(target[1:]):
        return ""
    return f"Reshape makes rows of {prod(target[1:])} elements out of rows of {prod(sizes)}"


def _shape(signature: Signature, tensor: str) -> tuple[Dim, ...]:
    """The shape of a tensor that has that of an input; () where nothing is known."""
    inputs = {value.name: value.shape or () for value in signature.inputs}
    for _ in range(_STEPS):
        if tensor in inputs:
            return inputs[tensor]
        node = signature.last_nodes.get(tensor)
        if node is None or node.operator not in _SAME_AXES or not node.inputs or tensor != node.outputs[0]:
            break
        tensor = node.inputs[0]
    return ()


def _before(signature: Signature, node: Node, tensor: str, axis: int) -> tuple[str, int] | None:
    """The tensor and axis that an output's axis is taken from."""
    from_axis: int | None = None
    if tensor != node.outputs[0] and node.operator not in {"Split", "TopK"}:
        return None
    if (
        node.operator in _SAME_AXES
        or (node.operator in _SAME_ROWS and axis == 0 and _keeps_rows(node))
        or (node.operator in _SAME_BEFORE and _number(node, "axis", -1) > axis)
    ):
        from_axis = axis
    elif node.operator == "Transpose":
        permutation = node.numbers.get("perm", ())
        from_axis = permutation[axis] if axis < len(permutation) else None
    elif node.operator == "Reshape" and len(node.inputs) > 1 and not _number(node, "allowzero", 0):
        target = signature.integers(node.inputs[1]) or ()
        from_axis = axis if axis < len(target) and target[axis] == 0 else None
    return None if from_axis is None or from_axis < 0 else (node.inputs[0], from_axis)


def _keeps_rows(node: Node) -> bool:
    """Whether these operators, which may do otherwise, have the rows of their input."""
    return (node.operator != "Gemm" or _number(node, "transA", 0) == 0) and (
        node.operator != "Flatten" or _number(node, "axis", 1) == 1
    )


def _number(node: Node, name: str, default: int) -> int:
    """An attribute that is one integer."""
    values = node.numbers.get(name, ())
    return values[0] if values else default
