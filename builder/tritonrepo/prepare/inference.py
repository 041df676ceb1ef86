"""Shapes and small values of a graph at concrete sizes of its inputs, node by node.

ONNX's own shape inference answers for each node; what it needs of values (a Reshape's target, say) is computed where
all that it depends on is known and small. Nothing of the model itself is run: the operators that are evaluated are
those in ``MOVES_AND_COUNTS``, whose cost is bounded by the sizes of what they take and give.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo.prepare.graph import array, constants, is_standard, opset, subgraphs

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

Shape = tuple[int | None, ...]

#: Operators that may be evaluated: they move values about, or compute each from a few.
MOVES_AND_COUNTS = frozenset((
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "CumSum", "Div",
    "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not",
    "OneHot", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Size",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze",
    "Where", "Xor",
))  # fmt: skip

#: Elements of a value that is followed through shape arithmetic.
_FOLLOWED = 4096


class InferenceError(Exception):
    """The shapes of a node's inputs do not fit together."""


class World:
    """Shapes and values of one graph, at one size of each input. Nodes are stepped over in topological order."""

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Shape], folder: Path) -> None:
        import onnx

        self._opset = opset(model)
        self._imports = list(model.opset_import)
        self._ir = model.ir_version
        self._folder = folder
        self.types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, Array] = {}
        self._data: dict[str, onnx.TensorProto] = {}
        for value in model.graph.input:
            if value.name in inputs:
                element = value.type.tensor_type.elem_type
                self.types[value.name] = onnx.helper.make_tensor_type_proto(element, list(inputs[value.name]))
        for name, tensor in constants(model.graph).items():
            self.add_constant(name, tensor)

    def add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Make a constant known."""
        import onnx

        self.types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        value = array(tensor, self._folder, most=_FOLLOWED * 8)
        if value is not None:
            self._know(name, value)

    def shape(self, name: str) -> Shape | None:
        """The shape of a value; None where not even its rank is known."""
        kind = self.types.get(name)
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim)

    def tensor(self, name: str) -> onnx.TensorProto:
        """A known value as a constant of that name."""
        return self._data[name]

    def step(self, node: onnx.NodeProto) -> None:
        """Infer the outputs of a node; they stay unknown where inference does not know the operator.

        Raises:
            InferenceError: the inputs do not fit together.
        """
        if node.op_type == "Constant" and is_standard(node):
            return
        self._infer(node)
        if evaluable(node) and all(name in self.values or not name for name in node.input):
            shapes = [self.shape(name) for name in node.output if name]
            if all(shape is not None and elements(shape) <= _FOLLOWED for shape in shapes):
                found = evaluate(node, self.values, self._imports, self._ir)
                for name, value in (found or {}).items():
                    self._know(name, value)
        elif node.op_type == "Shape" and is_standard(node):
            self._know_shape(node)

    def _infer(self, node: onnx.NodeProto) -> None:
        import onnx

        known = {name: self.types[name] for name in node.input if name in self.types}
        if any(name and name not in known for name in node.input):
            return
        if any(True for _ in subgraphs(node)):
            known = dict(self.types)
        try:
            schema = onnx.defs.get_schema(node.op_type, self._version(node.domain), node.domain)
        except onnx.defs.SchemaError:
            return
        data = {name: self._data[name] for name in node.input if name in self._data}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=self._imports, ir_version=self._ir
            )
        except onnx.shape_inference.InferenceError as error:
            raise InferenceError(" ".join(str(error).split())) from None
        except (KeyError, ValueError, RuntimeError, onnx.checker.ValidationError):
            return
        for name, kind in found.items():
            if name and kind.WhichOneof("value"):
                self.types[name] = kind

    def _version(self, domain: str) -> int:
        same = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
        return next((entry.version for entry in self._imports if entry.domain in same), 1)

    def _know(self, name: str, value: Array) -> None:
        import onnx

        if value.size > _FOLLOWED:
            return
        tensor = onnx.numpy_helper.from_array(value, name)
        self.values[name], self._data[name] = value, tensor
        self.types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(value.shape))

    def _know_shape(self, node: onnx.NodeProto) -> None:
        import numpy as np

        from tritonrepo.prepare.graph import attribute

        shape = self.shape(node.input[0])
        if shape is not None and None not in shape:
            whole = np.array(shape, np.int64)
            self._know(node.output[0], whole[attribute(node, "start", 0) : attribute(node, "end", None)])


def elements(shape: Shape) -> float:
    """How many elements a shape has; infinity where a size is not known."""
    count = 1.0
    for dim in shape:
        count *= float("inf") if dim is None else dim
    return 0.0 if count != count else count  # noqa: PLR0124 - 0 times infinity is no number


def evaluable(node: onnx.NodeProto) -> bool:
    """Whether a node may be computed beforehand when its inputs are known."""
    return is_standard(node) and node.op_type in MOVES_AND_COUNTS and not any(True for _ in subgraphs(node))


def evaluate(
    node: onnx.NodeProto, values: Mapping[str, Array], imports: list[Any], ir_version: int
) -> dict[str, Array] | None:
    """What ONNX Runtime computes for one node; None where it cannot run it.

    The caller sees to it that inputs and outputs are small.
    """
    import numpy as np
    import onnx
    import onnxruntime as ort

    feeds = {name: values[name] for name in node.input if name}
    outputs = [name for name in node.output if name]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        graph = onnx.helper.make_graph(
            [node],
            "one",
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in feeds.items()
            ],
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        )
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(outputs, feeds)
    except Exception:  # ONNX Runtime raises a dozen classes without a common base
        return None
    return {name: np.asarray(value) for name, value in zip(outputs, found, strict=True)}
