"""Inputs for a model that brings no samples: values by seed, made so that the model runs.

Most models run on any values. Some take a shape, axes, indices, lengths or a divisor as an input, and fail on values
that are none. So there are several recipes. The first looks at what the graph does with an input and gives it a value
that makes sense there; the others are plain. Whoever asks tries them in order and takes the first on which the model
runs. Where the spec says ``low`` or ``high``, the values are the user's choice and there is one recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tritonrepo.compare import FLOATS
from tritonrepo.introspect import Signature
from tritonrepo.spec import Verification

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

Shape = tuple[int, ...]

#: In the order in which they are tried. All give floats in [0, 1); they differ in integers and booleans, and in what
#: inputs of a known use get.
RECIPES = ("by use", "usual", "ones", "zeros", "counting")


@dataclass(frozen=True)
class Uses:
    """What the graph does with its inputs: for each the nodes that it feeds, and at which place."""

    nodes: Mapping[str, tuple[tuple[onnx.NodeProto, int], ...]] = field(default_factory=dict)
    outputs: Mapping[str, Shape] = field(default_factory=dict)
    """Shapes of the graph's outputs, as far as they are fixed."""

    @property
    def known(self) -> bool:
        """Whether some input goes where not any value will do."""
        return any(_rule(node, place) for used in self.nodes.values() for node, place in used)


def uses_of(model: onnx.ModelProto) -> Uses:
    """Find what a graph does with its inputs."""
    given = {value.name for value in model.graph.input}
    nodes: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in given:
                nodes.setdefault(name, []).append((node, place))
    outputs = {}
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type") and all(dim.HasField("dim_value") for dim in dims):
            outputs[value.name] = tuple(int(dim.dim_value) for dim in dims)
    return Uses({name: tuple(used) for name, used in nodes.items()}, outputs)


def recipes(how: Verification, signature: Signature, uses: Uses) -> tuple[str, ...]:
    """The recipes that may give different inputs, in the order in which to try them."""
    if how.low is not None or how.high is not None:
        return ("usual",)
    plain = ("usual",) if all(tensor.dtype in FLOATS for tensor in signature.inputs) else RECIPES[1:]
    return ("by use", *plain) if uses.known else plain


def generate(
    how: Verification,
    signature: Signature,
    shapes: Mapping[str, Shape],
    stream: tuple[int, ...],
    recipe: str = "usual",
    uses: Uses = Uses(),
) -> Arrays:
    """Values for every input; the same whatever ran before.

    Args:
        how: gives the seed and, where the user has chosen, the range.
        signature: names and types of the inputs.
        shapes: by input name.
        stream: numbers that tell this set of inputs from others of the same seed.
        recipe: one of `RECIPES`.
        uses: of the graph; for the recipe ``by use``.

    Raises:
        MemoryError: they do not fit into memory.
        ValueError: they would not fit into any memory.
    """
    import numpy as np

    random = np.random.default_rng([how.seed, *stream])
    arrays: dict[str, Array] = {}
    for tensor in signature.inputs:
        shape = shapes[tensor.name]
        array = _plain(random, how, tensor.dtype, shape, recipe)
        if recipe == "by use":
            context = _Context(tensor.name, tensor.dtype, shape, shapes, uses, random)
            array = _by_use(context, array)
        arrays[tensor.name] = array
    return arrays


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy type of one of Triton's; strings are objects."""
    import numpy as np

    names = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool", "STRING": "object"}
    return np.dtype(names.get(dtype, dtype.lower()))


def _plain(random: np.random.Generator, how: Verification, dtype: str, shape: Shape, recipe: str) -> Array:
    """Values that depend on the type alone."""
    import numpy as np

    low = 0.0 if how.low is None else how.low
    if dtype == "STRING":
        # Of one to four words: where the shape of an answer hangs on its text, rows must be able to differ in it.
        numbers = np.asarray(random.integers(0, 1000, size=shape)).ravel().tolist()
        texts = np.empty(len(numbers), dtype=object)
        texts[:] = [" ".join(["text", *map(str, range(number, number + number % 4))]) for number in numbers]
        return texts.reshape(shape)
    if dtype in FLOATS:
        high = 1.0 if how.high is None else how.high
        return np.asarray(low + (high - low) * random.random(shape)).astype(numpy_dtype(dtype))
    if recipe in ("ones", "zeros"):
        return np.full(shape, int(recipe == "ones"), numpy_dtype(dtype))
    if recipe == "counting" and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(numpy_dtype(dtype))
    high = 2.0 if how.high is None or dtype == "BOOL" else how.high
    low = 0.0 if dtype == "BOOL" else low
    values = random.integers(int(low), int(high), size=shape, dtype=np.int64)
    return np.asarray(values).astype(numpy_dtype(dtype))


# ---- values by use ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Context:
    """An input, and what is known around it."""

    name: str
    dtype: str
    shape: Shape
    shapes: Mapping[str, Shape]
    """Of all inputs."""
    uses: Uses
    random: np.random.Generator

    @property
    def size(self) -> int:
        """Of a list of numbers; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    def given(self, node: onnx.NodeProto, place: int = 0) -> Shape | None:
        """The shape of a node's input, where it is one of the graph's."""
        return self.shapes.get(node.input[place]) if place < len(node.input) else None

    def gives(self, node: onnx.NodeProto, place: int = 0) -> Shape | None:
        """The shape of a node's output, where it is one of the graph's and fixed."""
        return self.uses.outputs.get(node.output[place]) if place < len(node.output) else None


#: Gives a value for an input at one place of a node, or None where it knows none.
_Rule = Callable[[_Context, "onnx.NodeProto"], object]


def _by_use(context: _Context, array: Array) -> Array:
    """The value that the first node with a rule wants; else the plain one."""
    import numpy as np

    for node, place in context.uses.nodes.get(context.name, ()):
        rule = _rule(node, place)
        value = rule(context, node) if rule else None
        if value is not None:
            made = np.asarray(value).astype(array.dtype)
            if made.size == array.size or not made.ndim:
                return np.array(np.broadcast_to(made.reshape(array.shape) if made.ndim else made, array.shape))
    return array


def _rule(node: onnx.NodeProto, place: int) -> _Rule | None:
    return _RULES.get((node.op_type, place)) if node.domain in ("", "ai.onnx") else None


def _constant(value: float) -> _Rule:
    return lambda context, node: value


def _counting(context: _Context, node: onnx.NodeProto) -> object:
    return list(range(context.size))


def _target_shape(context: _Context, node: onnx.NodeProto) -> object:
    """The shape that the node's output is declared to have, or else the one that its data has."""
    for shape in (context.gives(node), context.given(node)):
        if shape is not None and len(shape) == context.size:
            return shape
    return None


def _same_size(context: _Context, node: onnx.NodeProto) -> object:
    """For Reshape: the declared shape, or all in one axis, which fits whatever the data."""
    shape = context.gives(node)
    return shape if shape and len(shape) == context.size else [-1, *[1] * (context.size - 1)]


def _image_sizes(context: _Context, node: onnx.NodeProto) -> object:
    """For Resize: the last axes of the declared output, as many as are asked for; else those of the data."""
    axes = _attribute(node, "axes") or range(-context.size, 0)
    for shape in (context.gives(node), context.given(node)):
        if shape and len(shape) >= context.size:
            return [shape[axis] for axis in axes]
    return None


def _image_scales(context: _Context, node: onnx.NodeProto) -> object:
    """For Resize and Upsample: what leads from the data to the declared output; else no change."""
    before, after = context.given(node), context.gives(node)
    if not before or not after or len(before) != len(after):
        return [1.0] * context.size
    axes = _attribute(node, "axes") or range(-context.size, 0)
    return [after[axis] / before[axis] if before[axis] else 1.0 for axis in axes]


def _axes_of_size_one(context: _Context, node: onnx.NodeProto) -> object:
    axes = [axis for axis, size in enumerate(context.given(node) or ()) if size == 1]
    return axes[: context.size] if len(axes) >= context.size else None


def _parts(context: _Context, node: onnx.NodeProto) -> object:
    """For Split: the declared sizes of the outputs along the axis, or equal ones."""
    axis = int(_attribute(node, "axis") or 0)
    declared = [context.gives(node, place) for place in range(len(node.output))]
    known = [shape[axis] for shape in declared if shape]
    whole = (context.given(node) or (0,))[axis]
    if len(known) == context.size and sum(known) == whole:
        return known
    each = whole // context.size
    return [whole - each * (context.size - 1)] + [each] * (context.size - 1)


def _indices(context: _Context, node: onnx.NodeProto, depth: int = 2) -> object:
    """Below the smallest axis of the data, and small."""
    smallest = min(context.given(node) or (depth,), default=1)
    return context.random.integers(0, max(1, min(depth, smallest)), size=context.shape)


def _starts(context: _Context, node: onnx.NodeProto) -> object:
    return [0] * context.size


def _lengths(context: _Context, node: onnx.NodeProto) -> object:
    """For recurrent layers: all of the sequence."""
    data = context.given(node)
    axis = int(_attribute(node, "time_axis") or 0)
    return data[axis] if data else None


def _divisors(context: _Context, node: onnx.NodeProto) -> object:
    """Integers cannot be divided by 0; floats can."""
    return None if context.dtype in FLOATS else context.random.integers(1, 4, size=context.shape)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)


_FAR = 2**31 - 1  # as an end of Slice: all that there is

_SHAPES = (("Expand", 1), ("ConstantOfShape", 0), ("AffineGrid", 1), ("CenterCropPad", 1), ("MaxUnpool", 2))
_AXES = (("Unsqueeze", 1), ("Slice", 3), ("Pad", 3))
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_INDEXED = ("Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "MaxUnpool")

#: By operator and place among its inputs. Rules are for what is often an input of a graph; the rest is left to samples.
_RULES: Mapping[tuple[str, int], _Rule] = {
    **dict.fromkeys(_SHAPES, _target_shape),
    **dict.fromkeys(_AXES, _counting),
    **dict.fromkeys(((f"Reduce{kind}", 1) for kind in _REDUCTIONS), _counting),
    **dict.fromkeys(((operator, 1) for operator in _INDEXED), _indices),
    **dict.fromkeys(((operator, 4) for operator in ("LSTM", "GRU", "RNN")), _lengths),
    ("ReverseSequence", 1): _lengths,
    ("Reshape", 1): _same_size,
    ("Resize", 2): _image_scales,
    ("Upsample", 1): _image_scales,
    ("Resize", 3): _image_sizes,
    ("Squeeze", 1): _axes_of_size_one,
    ("Split", 1): _parts,
    ("SplitToSequence", 1): _constant(1),
    ("Slice", 1): _starts,
    ("Slice", 2): _constant(_FAR),
    ("Slice", 4): _constant(1),
    ("Pad", 1): _constant(1),
    ("Tile", 1): _constant(2),
    ("CumSum", 1): _constant(0),
    ("CumProd", 1): _constant(0),
    ("DFT", 2): _constant(0),
    ("TopK", 1): _constant(1),
    ("OneHot", 1): _constant(3),
    ("NonMaxSuppression", 2): _constant(3),
    ("Range", 0): _constant(0),
    ("Range", 1): _constant(5),
    ("Range", 2): _constant(1),
    ("Div", 1): _divisors,
    ("Mod", 1): _divisors,
    ("Loop", 0): _constant(3),
    ("Loop", 1): _constant(1),
    ("Dropout", 2): _constant(0),
}
