"""Which nodes can run in a lower precision, and which of them should."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tritonrepo.errors import ModelError
from tritonrepo.prepare.precision.graph import FLOAT, SHORT, element_types, operator, opsets, subgraphs
from tritonrepo.prepare.precision.lower import low_inputs, low_outputs

if TYPE_CHECKING:
    import onnx

#: Operators that stay as they are although ONNX would allow other types: sums along whole axes, random numbers,
#: losses, spectra, what already changes precision by itself, and EyeLike, for which ONNX Runtime has no FP16.
LEFT_ALONE = frozenset({
    "CumSum", "CumProd", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
    "Multinomial", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "STFT", "DFT", "MelWeightMatrix",
    "HannWindow", "HammingWindow", "BlackmanWindow", "Range", "QuantizeLinear", "DequantizeLinear",
    "DynamicQuantizeLinear", "BitCast", "EyeLike",
})  # fmt: skip

#: Operators that quantize: they are lowered only with the operator that they belong to.
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})

#: Operators that do the work: a lower precision pays here.
COMPUTE = frozenset({
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "Attention", "DeformConv",
})  # fmt: skip

#: Operators that are sensitive to precision or range: sums, exponentials, norms, divisions by what is small.
SENSITIVE = frozenset({
    "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    "BatchNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN", "ReduceSum", "ReduceMean",
    "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "GlobalLpPool",
    "LpPool", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Erf", "Softplus", "Sinh", "Cosh", "Tan", "Acosh", "Asinh",
    "Atanh", "Det", "GridSample",
})  # fmt: skip

#: Operators that move values and compute nothing: they follow their neighbours.
MOVES = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat", "Split", "Slice", "Gather",
    "GatherElements", "GatherND", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Where", "MaxPool",
    "Dropout",
})  # fmt: skip

#: Operators that give the size of things: what is computed from their outputs alone is no data.
_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Node:
    """A node that touches FP32 tensors."""

    name: str
    op_type: str
    reason: str | None
    """Why it cannot run in the lower precision; None where it can."""


def survey(model: onnx.ModelProto, dtype: int, *, quantized: bool = False) -> tuple[Node, ...]:
    """Every node with an FP32 input or output, in topological order, subgraphs included, and whether it can be lowered.

    Args:
        model: with named nodes in topological order and inferred types.
        dtype: FLOAT16 or BFLOAT16.
        quantized: whether Q/DQ pairs can be lowered too.
    """
    alone = LEFT_ALONE - QUANTIZERS if quantized else LEFT_ALONE
    return tuple(_survey(model.graph, _Asked(opsets(model), dtype, alone), {}, set()))


@dataclass(frozen=True)
class _Asked:
    """What a survey is for."""

    opset: Mapping[str, int]
    dtype: int
    alone: frozenset[str]
    """Operators that stay as they are."""


def _survey(graph: onnx.GraphProto, asked: _Asked, outer: Mapping[str, int], sizes: set[str]) -> Iterator[Node]:
    types = {**outer, **element_types(graph)}
    constant = {init.name for init in graph.initializer}
    for node in graph.node:
        read = [name for name in node.input if name]
        inner = list(subgraphs(node))
        data = [name for name in read if name not in constant]
        if node.op_type in _SIZES or (data and not inner and all(name in sizes for name in data)):
            sizes.update(output for output in node.output if output)
        elif not data and not inner and node.op_type != "ConstantOfShape":
            constant.update(node.output)
        for each in inner:
            yield from _survey(each, asked, types, sizes)
        touched = [name for name in (*read, *node.output) if name]
        if any(types.get(name) == FLOAT for name in touched):
            yield Node(node.name, node.op_type, _reason(node, asked, types, sizes, bool(inner)))


def _reason(
    node: onnx.NodeProto,
    asked: _Asked,
    types: Mapping[str, int],
    sizes: set[str],
    control: bool,
) -> str | None:
    """Why a node cannot be lowered."""
    unknown = [name for name in (*node.input, *node.output) if name and not types.get(name)]
    schema = operator(node, asked.opset)
    reason = None
    if control:
        reason = "it holds graphs; the nodes within are looked at by themselves"
    elif schema is None:
        reason = f"operator {node.domain or 'ai.onnx'}::{node.op_type} is not of ONNX at this opset"
    elif node.op_type in asked.alone or _scatters_with_reduction(node):
        reason = f"{node.op_type} stays as it is"
    elif unknown:
        reason = f"the type of {unknown[0]} is not known"
    elif node.op_type != "ConstantOfShape" and any(output in sizes for output in node.output):
        reason = "it computes sizes, not data"
    elif not any((*low_inputs(node, schema, types, asked.dtype), *low_outputs(node, schema, types, asked.dtype))):
        reason = f"ONNX allows no {SHORT[asked.dtype]} for {node.op_type} at opset {asked.opset['']}"
    return reason


def _scatters_with_reduction(node: onnx.NodeProto) -> bool:
    """Whether a node adds or compares where it scatters: ONNX Runtime does not do that in FP16 on a CPU."""
    if node.op_type not in ("ScatterElements", "ScatterND"):
        return False
    return any(attribute.name == "reduction" and attribute.s != b"none" for attribute in node.attribute)


def matching(patterns: Iterable[str], nodes: Iterable[Node]) -> dict[str, str]:
    """Nodes that the spec's ``keep_fp32`` names -> why. A pattern is an operator or a node's name, ``*`` allowed.

    Raises:
        ModelError: a pattern names no node.
    """
    known = list(nodes)
    found: dict[str, str] = {}
    for pattern in patterns:
        hits = [node for node in known if fnmatchcase(node.name, pattern) or node.op_type == pattern]
        if not hits:
            from difflib import get_close_matches

            choices = [*dict.fromkeys(node.op_type for node in known), *(node.name for node in known)]
            close = get_close_matches(pattern, choices, 3)
            hint = f"Close to it: {', '.join(close)}." if close else "Give operators (Softmax) or names of nodes."
            raise ModelError(f"precision.keep_fp32 names {pattern!r}, and no float node is called so", hint=hint)
        found.update((node.name, f"keep_fp32: {pattern}") for node in hits if node.name not in found)
    return found


def by_default(model: onnx.ModelProto, nodes: Iterable[Node], *, mixed: bool, kept: Iterable[str] = ()) -> set[str]:
    """Names of the nodes to lower: all that can be, or with ``mixed`` where it pays and does little harm.

    Mixed: matrix products and convolutions; other operators only where all their data is in the lower precision
    already, and never those that are sensitive.
    """
    kept = set(kept)
    can = {node.name for node in nodes if node.reason is None and node.name not in kept}
    if mixed:
        can = _mixed(model.graph, can, set())
    return _smooth(model.graph, can)


def _mixed(graph: onnx.GraphProto, can: set[str], low: set[str]) -> set[str]:
    """Choose in topological order; ``low`` holds the tensors that are low already."""
    types = element_types(graph)
    weights = {init.name for init in graph.initializer}
    chosen: set[str] = set()
    for node in graph.node:
        for inner in subgraphs(node):
            chosen |= _mixed(inner, can, set())
        if node.name not in can or node.op_type in SENSITIVE:
            continue
        data = [name for name in node.input if types.get(name) == FLOAT and name not in weights]
        if node.op_type in COMPUTE or (data and all(name in low for name in data)) or _lookup(node, weights):
            chosen.add(node.name)
            low.update(output for output in node.output if output)
    return chosen


def _lookup(node: onnx.NodeProto, weights: set[str]) -> bool:
    """Whether a node reads rows of a table of weights: half of the table is half of the bytes."""
    return node.op_type == "Gather" and node.input[0] in weights


def _smooth(graph: onnx.GraphProto, chosen: set[str]) -> set[str]:
    """Leave nodes that only move values in FP32 where all around them is: two casts would gain nothing."""
    chosen = set(chosen)
    for inner in (each for node in graph.node for each in subgraphs(node)):
        chosen = _smooth(inner, chosen)
    types = element_types(graph)
    weights = {init.name for init in graph.initializer}
    producer = {output: node.name for node in graph.node for output in node.output if output}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    changed = True
    while changed:
        changed = False
        for node in graph.node:
            if node.name not in chosen or node.op_type not in MOVES:
                continue
            data = [name for name in node.input if types.get(name) == FLOAT and name not in weights]
            before = [producer.get(name) in chosen for name in data]
            after = [reader in chosen for output in node.output for reader in readers.get(output, [])]
            if data and not any(before) and not any(after):
                chosen.discard(node.name)
                changed = True
    return chosen
