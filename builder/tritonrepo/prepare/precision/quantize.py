"""INT8 by pairs of QuantizeLinear and DequantizeLinear, in the form that TensorRT takes.

- Only Conv, ConvTranspose, Gemm and MatMul with constant weights are quantized. Their activations get one scale for the
  tensor, their weights one scale for each output channel.
- Everything is symmetric: zero points are 0. TensorRT takes nothing else.
- Weights are stored as INT8, with a DequantizeLinear before the operator.
- Biases stay FP32: an INT32 bias with a DequantizeLinear is what breaks TensorRT's parser.
- Every operator has a pair of its own, so that each can be fused with its operator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo.prepare.precision.graph import FLOAT, INT8, Names
from tritonrepo.prepare.precision.weights import SMALL, append, values

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

#: Since this opset a scale may be given for each channel.
PER_CHANNEL_OPSET = 13

#: Since this opset a scale may be FP16.
FP16_SCALE_OPSET = 19

#: Bytes of weights that are quantized at a time.
_PIECE = 1 << 24


@dataclass(frozen=True)
class Site:
    """An operator that can be quantized."""

    node: str
    op_type: str
    activation: str
    weight: str
    axis: int
    """The weight's axis of output channels."""


def sites(model: onnx.ModelProto) -> tuple[Site, ...]:
    """What can be quantized in the main graph, in topological order."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    found = []
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or len(node.input) < 2 or node.input[0] in weights:
            continue
        weight = weights.get(node.input[1])
        axis = _channel_axis(node, len(weight.dims)) if weight is not None else None
        if axis is not None:
            found.append(Site(node.name, node.op_type, node.input[0], node.input[1], axis))
    return tuple(found)


def _channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """The axis of a weight that holds the operator's output channels; None where it cannot be quantized."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv" and rank >= 3:
        return 0
    if node.op_type == "ConvTranspose" and rank >= 3 and attributes.get("group", 1) == 1:
        return 1
    if node.op_type == "Gemm" and rank == 2 and not attributes.get("transA", 0):
        return 0 if attributes.get("transB", 0) else 1
    if node.op_type == "MatMul" and rank == 2:
        return 1
    return None


@dataclass
class Quantized:
    """Weights in INT8, each made once for each axis."""

    folder: Path
    _made: dict[tuple[str, int], tuple[onnx.TensorProto, onnx.TensorProto]] = field(default_factory=dict)

    def get(self, tensor: onnx.TensorProto, axis: int) -> tuple[onnx.TensorProto, onnx.TensorProto]:
        """INT8 values and FP32 scales of a weight."""
        key = (tensor.name, axis)
        if key not in self._made:
            self._made[key] = self._make(tensor, axis)
        return self._made[key]

    def _make(self, tensor: onnx.TensorProto, axis: int) -> tuple[onnx.TensorProto, onnx.TensorProto]:
        import numpy as np
        import onnx

        array = values(tensor, self.folder)
        others = tuple(each for each in range(array.ndim) if each != axis)
        largest = np.zeros(array.shape[axis], np.float32)
        for piece in _slabs(array):
            if axis == 0:
                largest[piece] = np.abs(array[piece]).max(axis=others, initial=0.0)
            else:
                np.maximum(largest, np.abs(array[piece]).max(axis=others, initial=0.0), out=largest)
        scale = scale_of(largest)

        def pieces() -> Iterator[Array]:
            for piece in _slabs(array):
                shape = [1] * array.ndim
                shape[axis] = -1
                by = scale[piece] if axis == 0 else scale
                yield np.clip(np.rint(array[piece] / by.reshape(shape)), -127, 127).astype(np.int8)

        made = onnx.TensorProto(name=tensor.name, data_type=INT8, dims=tensor.dims)
        if array.size < SMALL:
            made.raw_data = b"".join(piece.tobytes() for piece in pieces())
        else:
            append(self.folder, "int8.bin", made, pieces())
        return made, onnx.numpy_helper.from_array(scale, tensor.name)


def _slabs(array: Array) -> Iterator[slice]:
    """Ranges of the first axis that hold a bounded number of bytes."""
    row = max(1, array.nbytes // max(1, array.shape[0]))
    step = max(1, _PIECE // row)
    for start in range(0, array.shape[0], step):
        yield slice(start, min(start + step, array.shape[0]))


def scale_of(largest: Any) -> Any:
    """The scale for values of at most this magnitude; 1 where all are zero, for a scale of 0 divides by zero."""
    import numpy as np

    scale = np.asarray(largest, np.float32) / np.float32(127)
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale).astype(np.float32)


def quantize(
    model: onnx.ModelProto, chosen: Collection[str], ranges: Mapping[str, float], weights: Quantized
) -> onnx.ModelProto:
    """A model with Q/DQ pairs at the chosen operators.

    Args:
        model: with named nodes in topological order and spilled weights; it is left as it is.
        chosen: names of nodes, of those that ``sites`` gives.
        ranges: the largest magnitude of each activation, by calibration.
        weights: where INT8 weights come from.
    """
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    names, graph = Names(result), result.graph
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    by_node = {site.node: site for site in sites(model) if site.node in chosen}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    stored: dict[tuple[str, int], tuple[str, str, str]] = {}

    def keep(tensor: onnx.TensorProto, name: str) -> str:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = names.fresh(name)
        added.append(copy)
        return copy.name

    def activation(site: Site) -> str:
        scale = keep(numpy_helper.from_array(scale_of(ranges[site.activation])), f"{site.node}_input_scale")
        zero = keep(onnx.TensorProto(data_type=INT8, raw_data=b"\0"), f"{site.node}_input_zero_point")
        inner, outer = names.fresh(f"{site.node}_input_int8"), names.fresh(f"{site.node}_input_dequantized")
        nodes.append(
            helper.make_node("QuantizeLinear", [site.activation, scale, zero], [inner], f"{site.node}_input_Q")
        )
        nodes.append(helper.make_node("DequantizeLinear", [inner, scale, zero], [outer], f"{site.node}_input_DQ"))
        return outer

    def weight(site: Site) -> str:
        key = (site.weight, site.axis)
        if key not in stored:
            low, scale = weights.get(tensors[site.weight], site.axis)
            zeros = onnx.TensorProto(data_type=INT8, dims=scale.dims, raw_data=bytes(scale.dims[0]))
            stored[key] = (
                keep(low, f"{site.weight}_int8"),
                keep(scale, f"{site.weight}_scale"),
                keep(zeros, f"{site.weight}_zero_point"),
            )
        output = names.fresh(f"{site.node}_weight_dequantized")
        dq = names.fresh(f"{site.node}_weight_DQ")
        nodes.append(helper.make_node("DequantizeLinear", stored[key], [output], dq, axis=site.axis))
        return output

    for node in graph.node:
        if site := by_node.get(node.name):
            node.input[0], node.input[1] = activation(site), weight(site)
        nodes.append(node)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output} | _captured(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    _refill(graph.node, nodes)
    _refill(graph.initializer, [*kept, *added])
    return result


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Names that graphs within this one read."""
    from tritonrepo.prepare.precision.graph import all_graphs, subgraphs

    inner = [each for node in graph.node for sub in subgraphs(node) for each in all_graphs(sub)]
    read = {name for each in inner for node in each.node for name in node.input}
    return read | {value.name for each in inner for value in each.output}


def _refill(field_: Any, messages: Collection[Any]) -> None:
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    del field_[:]
    field_.extend(copies)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a model has Q/DQ nodes already."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)
