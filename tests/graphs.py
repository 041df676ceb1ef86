"""Tiny ONNX graphs for the tests, named by what they are or by what is wrong with them.

Every function writes its files into a folder (made when it is missing) and returns the path of the ONNX file, which is
called after the function. Two calls give the same bytes. ``GOOD`` and ``BAD`` list them for parametrized tests;
``over_two_gib``, ``slow``, ``vast`` and ``axes_that_must_differ`` are in neither: they cannot simply be run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 17
IR = 8
Dims = Sequence[int | str | None]
Weights = Mapping[str, NDArray[np.generic]]
#: Triton's name of a data type -> ONNX element type, for `identity`.
ONNX_TYPE: Mapping[str, int] = {
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "STRING": TensorProto.STRING, "BF16": TensorProto.BFLOAT16,
}  # fmt: skip


# ---- good: a batch whose rows are independent ------------------------------------------------------------------------


def mlp(folder: Path, *, batch: int | str | None = "batch", file: str = "mlp") -> Path:
    """x FP32 [batch, 4] -> y FP32 [batch, 3]: dense 4-8-3 with a ReLU between."""
    weights = _random(w1=(4, 8), b1=(8,), w2=(8, 3), b2=(3,))
    nodes = [_node("Gemm", "x w1 b1", "h"), _node("Relu", "h", "r"), _node("Gemm", "r w2 b2", "y")]
    return _write(folder, file, nodes, [_value("x", [batch, 4])], [_value("y", [batch, 3])], weights)


def cnn(folder: Path) -> Path:
    """x FP32 [batch, 3, 8, 8] -> y FP32 [batch, 5]: conv, ReLU, global average pool, dense."""
    weights = _random(kernel=(4, 3, 3, 3), w=(4, 5), b=(5,))
    nodes = [
        _node("Conv", "x kernel", "c", pads=[1, 1, 1, 1]),
        _node("Relu", "c", "r"),
        _node("GlobalAveragePool", "r", "p"),
        _node("Flatten", "p", "f"),
        _node("Gemm", "f w b", "y"),
    ]
    return _write(folder, "cnn", nodes, [_value("x", ["batch", 3, 8, 8])], [_value("y", ["batch", 5])], weights)


def two_inputs_two_outputs(folder: Path) -> Path:
    """a, b FP32 [batch, 4] -> total (a + b), product (a * b) FP32 [batch, 4]."""
    nodes = [_node("Add", "a b", "total"), _node("Mul", "a b", "product")]
    inputs = [_value("a", ["batch", 4]), _value("b", ["batch", 4])]
    outputs = [_value("total", ["batch", 4]), _value("product", ["batch", 4])]
    return _write(folder, "two_inputs_two_outputs", nodes, inputs, outputs)


def identity(folder: Path, dtype: str = "FP32", shape: Dims = ("batch", 3)) -> Path:
    """x -> y, the same; ``dtype`` is Triton's name (``INT64``, ``STRING``). The file is called identity_int64.onnx."""
    kind = ONNX_TYPE[dtype]
    values = [_value("x", shape, kind)], [_value("y", shape, kind)]
    return _write(folder, f"identity_{dtype.lower()}", [_node("Identity", "x", "y")], *values)


def odd_names(folder: Path) -> Path:
    """`gpu_0/data:0` FP32 [batch, 3] -> `a "quoted" \\ ünï` FP32 [batch, 3]: names to be quoted in config.pbtxt."""
    source, target = "gpu_0/data:0", 'a "quoted" \\ ünï'
    node = helper.make_node("Relu", [source], [target])
    return _write(folder, "odd_names", [node], [_value(source, ["batch", 3])], [_value(target, ["batch", 3])])


def scalar_input(folder: Path) -> Path:
    """x FP32 [batch, 3], scale FP32 [] -> y FP32 [batch, 3] = x * scale."""
    inputs = [_value("x", ["batch", 3]), _value("scale", [])]
    return _write(folder, "scalar_input", [_node("Mul", "x scale", "y")], inputs, [_value("y", ["batch", 3])])


def dynamic_height_width(folder: Path) -> Path:
    """x FP32 [batch, 3, height, width] -> y FP32 [batch, 1, height, width], named axes."""
    return _image(folder, "dynamic_height_width", ("batch", "height", "width"))


def unnamed_axes(folder: Path) -> Path:
    """x FP32 [?, 3, ?, ?] -> y FP32 [?, 1, ?, ?], axes without names."""
    return _image(folder, "unnamed_axes", (None, None, None))


def loop(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3] = x + 3 * step: a Loop whose body reads `step` from the outer graph."""
    body = helper.make_graph(
        [_node("Identity", "go", "go_on"), _node("Add", "before step", "after")],
        "body",
        [_value("i", [], TensorProto.INT64), _value("go", [], TensorProto.BOOL), _value("before", ["batch", 3])],
        [_value("go_on", [], TensorProto.BOOL), _value("after", ["batch", 3])],
    )
    weights = _random(step=(3,))
    weights.update(times=np.array(3, np.int64), always=np.array(True))
    nodes = [_node("Loop", "times always x", "y", body=body)]
    return _write(folder, "loop", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])], weights)


def external_data(folder: Path) -> Path:
    """The mlp with its weights in external_data.bin beside it."""
    model = onnx.load(mlp(folder, file="external_data"))
    return _save_external(folder, "external_data", model)


def external_data_in_subfolder(folder: Path) -> Path:
    """The mlp with its weights in weights/data.bin below its folder, which is allowed."""
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    model = onnx.load(mlp(folder, file="external_data_in_subfolder"))
    return _save_external(folder, "external_data_in_subfolder", model, location="weights/data.bin")


def initializer_as_input(folder: Path) -> Path:
    """The mlp as IR 3 wants it: its weights stand among graph.input too. Only x has to be given."""
    model = onnx.load(mlp(folder, file="initializer_as_input"))
    for weight in model.graph.initializer:
        model.graph.input.append(_value(weight.name, list(weight.dims)))
    model.ir_version = 3
    model.opset_import[0].version = 8
    return _save(folder, "initializer_as_input", model)


# ---- good: no batch, or not the one it seems to have -----------------------------------------------------------------


def static_batch(folder: Path) -> Path:
    """The mlp with x FP32 [1, 4] -> y FP32 [1, 3]: nothing in the graph depends on the 1, it could be made dynamic."""
    return mlp(folder, batch=1, file="static_batch")


def static_batch_in_reshape(folder: Path) -> Path:
    """x FP32 [1, 2, 3] -> y FP32 [1, 6]: the 1 is also in a Reshape, which another batch size would break."""
    nodes = [_node("Reshape", "x shape", "y")]
    weights = {"shape": np.array([1, 6], np.int64)}
    values = [_value("x", [1, 2, 3])], [_value("y", [1, 6])]
    return _write(folder, "static_batch_in_reshape", nodes, *values, weights)


def scalar_output(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 []: the sum of everything."""
    nodes = [_node("ReduceSum", "x", "y", keepdims=0)]
    return _write(folder, "scalar_output", nodes, [_value("x", ["batch", 3])], [_value("y", [])])


def no_batch(folder: Path) -> Path:
    """x FP32 [tokens, 4] -> y FP32 [4]: the first axis is dynamic, but it is averaged away."""
    nodes = [_node("ReduceMean", "x", "y", axes=[0], keepdims=0)]
    return _write(folder, "no_batch", nodes, [_value("x", ["tokens", 4])], [_value("y", [4])])


def softmax_over_batch(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3]: a softmax over axis 0, so every row depends on all."""
    nodes = [_node("Softmax", "x", "y", axis=0)]
    return _write(folder, "softmax_over_batch", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])])


def mean_over_batch(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3] = x minus its mean over axis 0."""
    nodes = [_node("ReduceMean", "x", "mean", axes=[0], keepdims=1), _node("Sub", "x mean", "y")]
    return _write(folder, "mean_over_batch", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])])


def reshape_mixes_rows(folder: Path) -> Path:
    """x FP32 [batch, 4] -> y FP32 [rows, 2] by Reshape to [-1, 2]: the first axis of y is twice the batch."""
    weights = {"shape": np.array([-1, 2], np.int64)}
    values = [_value("x", ["batch", 4])], [_value("y", ["rows", 2])]
    return _write(folder, "reshape_mixes_rows", [_node("Reshape", "x shape", "y")], *values, weights)


def non_max_suppression(folder: Path) -> Path:
    """boxes FP32 [batch, 6, 4], scores FP32 [batch, 1, 6] -> picked INT64 [found, 3]: as many rows as the data asks."""
    weights: Weights = {"most": np.array([3], np.int64), "overlap": np.array([0.5], np.float32)}
    nodes = [_node("NonMaxSuppression", "boxes scores most overlap", "picked")]
    inputs = [_value("boxes", ["batch", 6, 4]), _value("scores", ["batch", 1, 6])]
    outputs = [_value("picked", ["found", 3], TensorProto.INT64)]
    return _write(folder, "non_max_suppression", nodes, inputs, outputs, weights)


def conditional(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3]: an If on the sum of the whole batch adds or subtracts `step`."""
    branches = {
        f"{name}_branch": helper.make_graph([_node(op, "x step", name)], name, [], [_value(name, ["batch", 3])])
        for name, op in (("then", "Add"), ("else", "Sub"))
    }
    nodes = [
        _node("ReduceSum", "x", "sum", keepdims=0),
        _node("Greater", "sum zero", "positive"),
        _node("If", "positive", "y", **branches),
    ]
    weights = _random(step=(3,))
    weights["zero"] = np.array(0, np.float32)
    return _write(folder, "conditional", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])], weights)


def constant_output(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3] and version FP32 [2], which is the same whatever x is."""
    constant = numpy_helper.from_array(np.array([1, 2], np.float32), "version")
    nodes = [_node("Relu", "x", "y"), _node("Constant", "", "version", value=constant)]
    outputs = [_value("y", ["batch", 3]), _value("version", [2])]
    return _write(folder, "constant_output", nodes, [_value("x", ["batch", 3])], outputs)


# ---- good to load, but the answers are not ---------------------------------------------------------------------------


def random_uniform(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3] = x + noise: two calls give two answers."""
    nodes = [_node("RandomUniformLike", "x", "noise"), _node("Add", "x noise", "y")]
    return _write(folder, "random_uniform", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])])


def training_dropout(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3]: a Dropout that drops, from an export in training mode."""
    weights = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    nodes = [_node("Dropout", "x ratio training", "y")]
    return _write(folder, "training_dropout", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])], weights)


def split_words(folder: Path) -> Path:
    """x STRING [batch] -> y STRING [batch, words]: as many columns as the longest text of the batch has words."""
    nodes = [_node("StringSplit", "x", "y count")]
    outputs = [_value("y", ["batch", "words"], TensorProto.STRING), _value("count", ["batch"], TensorProto.INT64)]
    model = onnx.load(_write(folder, "split_words", nodes, [_value("x", ["batch"], TensorProto.STRING)], outputs))
    model.opset_import[0].version = 20
    return _save(folder, "split_words", model)


def divides(folder: Path) -> Path:
    """x, z INT32 [batch, 3] -> y INT32 [batch, 3] = x / z: fails where an element of z is 0."""
    values = [_value(name, ["batch", 3], TensorProto.INT32) for name in ("x", "z", "y")]
    return _write(folder, "divides", [_node("Div", "x z", "y")], values[:2], values[2:])


def nan_output(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3] = sqrt(-1 - |x|): always NaN."""
    nodes = [_node("Abs", "x", "a"), _node("Sub", "minus_one a", "s"), _node("Sqrt", "s", "y")]
    weights = {"minus_one": np.array(-1, np.float32)}
    return _write(folder, "nan_output", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])], weights)


def inf_output(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3] = 1 / 0: always +Inf."""
    nodes = [_node("Mul", "x zero", "z"), _node("Abs", "z", "a"), _node("Div", "one a", "y")]
    weights = {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    return _write(folder, "inf_output", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])], weights)


# ---- bad: the file ---------------------------------------------------------------------------------------------------


def not_onnx(folder: Path) -> Path:
    """A text file."""
    return _bytes(folder, "not_onnx", b"This is a text, not a model.\n" * 4)


def empty_file(folder: Path) -> Path:
    """No bytes at all, which protobuf reads as a model with nothing in it."""
    return _bytes(folder, "empty_file", b"")


def truncated(folder: Path) -> Path:
    """The first half of the mlp."""
    whole = mlp(folder, file="truncated").read_bytes()
    return _bytes(folder, "truncated", whole[: len(whole) // 2])


def opset_too_new(folder: Path) -> Path:
    """The mlp, saying opset 9999."""
    model = onnx.load(mlp(folder, file="opset_too_new"))
    model.opset_import[0].version = 9999
    return _save(folder, "opset_too_new", model)


def ir_too_new(folder: Path) -> Path:
    """The mlp, saying IR version 9999."""
    model = onnx.load(mlp(folder, file="ir_too_new"))
    model.ir_version = 9999
    return _save(folder, "ir_too_new", model)


# ---- bad: external data ----------------------------------------------------------------------------------------------


def missing_external_data(folder: Path) -> Path:
    """Its weights are in a file that is not there."""
    path = _save_external(folder, "missing_external_data", onnx.load(mlp(folder, file="missing_external_data")))
    path.with_suffix(".bin").unlink()
    return path


def short_external_data(folder: Path) -> Path:
    """Its file of weights ends before the last weight does."""
    path = _save_external(folder, "short_external_data", onnx.load(mlp(folder, file="short_external_data")))
    with path.with_suffix(".bin").open("r+b") as data:
        data.truncate(8)
    return path


def external_data_parent(folder: Path) -> Path:
    """In folder/inside; its weights are in ../outside.bin, which exists and has the right size."""
    return _escaping(folder, "external_data_parent", "../outside.bin")


def external_data_absolute(folder: Path) -> Path:
    """In folder/inside; its weights are at the absolute path of folder/outside.bin, which exists.

    The path is in the bytes of the model, so they are the same only for the same folder.
    """
    return _escaping(folder, "external_data_absolute", str((folder / "outside.bin").resolve()))


def external_data_symlink(folder: Path) -> Path:
    """In folder/inside; its weights are in link.bin beside it, a symbolic link to ../outside.bin, which exists."""
    path = _escaping(folder, "external_data_symlink", "link.bin")
    link = path.with_name("link.bin")
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..", "outside.bin"))
    return path


# ---- bad: the graph --------------------------------------------------------------------------------------------------


def empty_graph(folder: Path) -> Path:
    """No node, no input, no output."""
    return _write(folder, "empty_graph", [], [], [])


def no_outputs(folder: Path) -> Path:
    """A node and an input, but no output."""
    return _write(folder, "no_outputs", [_node("Relu", "x", "y")], [_value("x", ["batch", 3])], [])


def no_inputs(folder: Path) -> Path:
    """An output that is a constant, but no input: model.py can serve it, other backends cannot."""
    value = numpy_helper.from_array(np.array([1, 2], np.float32), "y")
    return _write(folder, "no_inputs", [_node("Constant", "", "y", value=value)], [], [_value("y", [2])])


def duplicate_outputs(folder: Path) -> Path:
    """Two outputs of one name."""
    outputs = [_value("y", ["batch", 3]), _value("y", ["batch", 3])]
    return _write(folder, "duplicate_outputs", [_node("Relu", "x", "y")], [_value("x", ["batch", 3])], outputs)


def duplicate_inputs(folder: Path) -> Path:
    """Two inputs of one name."""
    inputs = [_value("x", ["batch", 3]), _value("x", ["batch", 3])]
    return _write(folder, "duplicate_inputs", [_node("Relu", "x", "y")], inputs, [_value("y", ["batch", 3])])


def unknown_operator(folder: Path) -> Path:
    """An operator that no opset has."""
    nodes = [_node("Frobnicate", "x", "y")]
    return _write(folder, "unknown_operator", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])])


def custom_domain_operator(folder: Path) -> Path:
    """An operator of the domain com.example: right as ONNX, but no library here has it."""
    nodes = [_node("Frobnicate", "x", "y", domain="com.example")]
    values = [_value("x", ["batch", 3])], [_value("y", ["batch", 3])]
    model = onnx.load(_write(folder, "custom_domain_operator", nodes, *values))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return _save(folder, "custom_domain_operator", model)


def huge_initializer(folder: Path) -> Path:
    """A weight that claims 2^60 elements and brings eight bytes."""
    nodes = [_node("ReduceMax", "w", "top", keepdims=0), _node("Add", "x top", "y")]
    values = [_value("x", ["batch", 3])], [_value("y", ["batch", 3])]
    model = onnx.load(_write(folder, "huge_initializer", nodes, *values))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**30, 2**30], raw_data=bytes(8))
    model.graph.initializer.append(weight)
    return _save(folder, "huge_initializer", model)


def huge_shape(folder: Path) -> Path:
    """x FP32 [2^30, 2^30] -> y: an input of a fixed shape that no memory holds."""
    values = [_value("x", [2**30, 2**30])], [_value("y", [2**30, 2**30])]
    return _write(folder, "huge_shape", [_node("Relu", "x", "y")], *values)


def cyclic(folder: Path) -> Path:
    """Two nodes that each wait for the other's output."""
    nodes = [_node("Add", "x b", "a"), _node("Relu", "a", "b"), _node("Relu", "b", "y")]
    return _write(folder, "cyclic", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])])


def dangling_input(folder: Path) -> Path:
    """A node reads a tensor that nothing makes."""
    nodes = [_node("Add", "x nowhere", "y")]
    return _write(folder, "dangling_input", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])])


def shape_mismatch(folder: Path) -> Path:
    """A MatMul of [batch, 4] with a weight of [5, 3]."""
    values = [_value("x", ["batch", 4])], [_value("y", ["batch", 3])]
    return _write(folder, "shape_mismatch", [_node("MatMul", "x w", "y")], *values, _random(w=(5, 3)))


# ---- bad: types that Triton or ONNX Runtime cannot carry -------------------------------------------------------------


def sequence_io(folder: Path) -> Path:
    """x: a sequence of FP32 tensors -> y: the first of them."""
    nodes = [_node("SequenceAt", "x first", "y")]
    x = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["batch", 3])
    weights = {"first": np.array(0, np.int64)}
    return _write(folder, "sequence_io", nodes, [x], [_value("y", ["batch", 3])], weights)


def optional_io(folder: Path) -> Path:
    """x: an optional FP32 tensor -> y: what is in it."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 3])
    x = helper.make_value_info("x", helper.make_optional_type_proto(tensor))
    return _write(folder, "optional_io", [_node("OptionalGetElement", "x", "y")], [x], [_value("y", ["batch", 3])])


def map_io(folder: Path) -> Path:
    """x FP32 [batch, 2] -> y: a sequence of maps from INT64 to FP32, as classifiers of scikit-learn give."""
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    y = helper.make_value_info(
        "y", helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, value))
    )
    nodes = [_node("ZipMap", "x", "y", domain="ai.onnx.ml", classlabels_int64s=[0, 1])]
    model = onnx.load(_write(folder, "map_io", nodes, [_value("x", ["batch", 2])], [y]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return _save(folder, "map_io", model)


def complex_io(folder: Path) -> Path:
    """x COMPLEX64 -> y, the same."""
    return _typed(folder, "complex_io", TensorProto.COMPLEX64)


def int4_io(folder: Path) -> Path:
    """x INT4 -> y, the same."""
    return _typed(folder, "int4_io", TensorProto.INT4)


def float8_io(folder: Path) -> Path:
    """x FLOAT8E4M3FN -> y, the same."""
    return _typed(folder, "float8_io", TensorProto.FLOAT8E4M3FN)


# ---- large -----------------------------------------------------------------------------------------------------------


def axes_that_must_differ(folder: Path) -> Path:
    """a FP32 [1, height], b FP32 [1, width] -> y FP32 [1, 1]: runs only where height is three times width."""
    nodes = [
        _node("Concat", "b b b", "wide", axis=1),
        _node("Transpose", "wide", "tall", perm=[1, 0]),
        _node("MatMul", "a tall", "y"),
    ]
    values = [_value("a", [1, "height"]), _value("b", [1, "width"])], [_value("y", [1, 1])]
    return _write(folder, "axes_that_must_differ", nodes, *values)


def slow(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 3], after a loop that takes an hour: for tests that interrupt it."""
    body = helper.make_graph(
        [_node("Identity", "go", "go_on"), _node("Relu", "before", "after")],
        "body",
        [_value("i", [], TensorProto.INT64), _value("go", [], TensorProto.BOOL), _value("before", ["batch", 3])],
        [_value("go_on", [], TensorProto.BOOL), _value("after", ["batch", 3])],
    )
    weights: Weights = {"times": np.array(10**10, np.int64), "always": np.array(True)}
    nodes = [_node("Loop", "times always x", "y", body=body)]
    return _write(folder, "slow", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 3])], weights)


def vast(folder: Path) -> Path:
    """x FP32 [batch, 3] -> y FP32 [batch, 1]: the mean of 12 GB that are made on the way."""
    shape = np.array([1024, 1024, 1024, 3], np.int64)
    nodes = [
        _node("ReduceSum", "x", "one", keepdims=0),
        _node("Expand", "one shape", "all"),
        _node("ReduceMean", "all", "mean", keepdims=0),
        _node("ReduceMean", "x", "rows", axes=[1]),
        _node("Add", "rows mean", "y"),
    ]
    return _write(folder, "vast", nodes, [_value("x", ["batch", 3])], [_value("y", ["batch", 1])], {"shape": shape})


def over_two_gib(folder: Path) -> Path:
    """x FP32 [batch, 16384] -> y FP32 [batch, 1]: 2.1 GiB of zero weights in a sparse file, which takes no disk.

    It loads and runs (y is 0), in about 2.2 GiB of memory: for slow tests only.
    """
    rows, columns = 16384, 34816
    nodes = [_node("MatMul", "x w", "h"), _node("ReduceMean", "h", "y", axes=[1])]
    values = [_value("x", ["batch", rows])], [_value("y", ["batch", 1])]
    model = onnx.load(_write(folder, "over_two_gib", nodes, *values))
    weight = _external_tensor("w", [rows, columns], "over_two_gib.bin")
    model.graph.initializer.append(weight)
    with (folder / "over_two_gib.bin").open("wb") as data:
        data.truncate(rows * columns * 4)
    return _save(folder, "over_two_gib", model)


def five_gib(folder: Path) -> Path:
    """x FP32 [n, 4096] -> h80 FP32 [n, 4096]: 80 products with 5 GiB of zero weights in a sparse file. Not to run."""
    count, size = 80, 4096 * 4096 * 4
    weights = [_external_tensor(f"w{i}", [4096, 4096], "five_gib.bin") for i in range(count)]
    for i, weight in enumerate(weights):
        weight.external_data.add(key="offset", value=str(i * size))
        weight.external_data.add(key="length", value=str(size))
    nodes = [_node("MatMul", f"{f'h{i}' if i else 'x'} w{i}", f"h{i + 1}") for i in range(count)]
    ports = [_value("x", ["n", 4096])], [_value(f"h{count}", ["n", 4096])]
    path = _write(folder, "five_gib", nodes, *ports)
    model = onnx.load(path)
    model.graph.initializer.extend(weights)
    with (folder / "five_gib.bin").open("wb") as file:
        file.truncate(count * size)
    return _save(folder, "five_gib", model)


def large_inline(folder: Path) -> Path:
    """x FP32 [n, 1024] -> y FP32 [n, 1]: 1.75 GiB of zero weights in the ONNX file itself, which is sparse. Protobuf
    reads up to 2 GiB. Not to run.
    """
    rows, columns = 1024, 460_000
    size = rows * columns * 4
    nodes = [_node("MatMul", "x w", "h"), _node("ReduceMean", "h", "y", axes=[1])]
    path = _write(folder, "large_inline", nodes, [_value("x", ["n", rows])], [_value("y", ["n", 1])])
    head = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, columns]).SerializeToString()
    head += _tag(9, size)  # raw_data
    inside = _tag(5, len(head) + size) + head  # an initializer
    with path.open("ab") as file:
        file.write(_tag(7, len(inside) + size) + inside)  # a second part of the graph; they are merged
        file.truncate(file.tell() + size)
    return path


def many_nodes(folder: Path) -> Path:
    """x FP32 [n, 8] -> h100000 FP32 [n, 8], through 100,000 nodes of four kinds."""
    count, kinds = 100_000, ("Relu", "Add", "MatMul", "Softmax")
    nodes = []
    for i in range(count):
        before, kind = f"h{i}" if i else "x", kinds[i % 4]
        inputs = {"Add": f"{before} {before}", "MatMul": f"{before} w"}.get(kind, before)
        nodes.append(_node(kind, inputs, f"h{i + 1}"))
    ports = [_value("x", ["n", 8])], [_value(f"h{count}", ["n", 8])]
    return _write(folder, "many_nodes", nodes, *ports, {"w": np.eye(8, dtype=np.float32)})


Write = Callable[[Path], Path]

#: Valid ONNX that ONNX Runtime loads and runs; what each does to its batch is in its docstring.
GOOD: tuple[Write, ...] = (
    mlp, cnn, two_inputs_two_outputs, identity, odd_names, scalar_input, dynamic_height_width, unnamed_axes, loop,
    external_data, external_data_in_subfolder, initializer_as_input, static_batch, static_batch_in_reshape,
    scalar_output, no_batch, softmax_over_batch, mean_over_batch, reshape_mixes_rows, non_max_suppression, conditional,
    constant_output, random_uniform, training_dropout, nan_output, inf_output,
)  # fmt: skip

#: What cannot be served, whichever step finds it.
BAD: tuple[Write, ...] = (
    not_onnx, empty_file, truncated, opset_too_new, ir_too_new, missing_external_data, short_external_data,
    external_data_parent, external_data_absolute, external_data_symlink, empty_graph, no_outputs, no_inputs,
    duplicate_outputs, duplicate_inputs, unknown_operator, custom_domain_operator, huge_initializer, huge_shape, cyclic,
    dangling_input, shape_mismatch, sequence_io, optional_io, map_io, complex_io, int4_io, float8_io,
)  # fmt: skip


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _tag(number: int, length: int) -> bytes:
    """The head of a protobuf field with so many bytes."""
    out = bytearray([number << 3 | 2])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length])


def _node(op: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    """A node; names are separated by spaces."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)  # type: ignore[arg-type]


def _value(name: str, shape: Dims, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def _random(**shapes: tuple[int, ...]) -> dict[str, NDArray[np.generic]]:
    """FP32 weights by name, in [-1, 1); each name has values of its own, the same in every run."""
    return {
        name: np.random.default_rng(list(name.encode())).uniform(-1, 1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def _write(
    folder: Path,
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Weights | None = None,
) -> Path:
    initializers = [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()]
    graph: GraphProto = helper.make_graph(nodes, name, inputs, outputs, initializers)
    opset = helper.make_opsetid("", OPSET)
    return _save(folder, name, helper.make_model(graph, opset_imports=[opset], ir_version=IR))


def _save(folder: Path, name: str, model: ModelProto) -> Path:
    return _bytes(folder, name, model.SerializeToString(deterministic=True))


def _bytes(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(content)
    return path


def _image(folder: Path, name: str, axes: tuple[str | None, str | None, str | None]) -> Path:
    batch, height, width = axes
    nodes = [_node("Conv", "x kernel", "c", pads=[1, 1, 1, 1]), _node("Relu", "c", "y")]
    values = [_value("x", [batch, 3, height, width])], [_value("y", [batch, 1, height, width])]
    return _write(folder, name, nodes, *values, _random(kernel=(1, 3, 3, 3)))


def _typed(folder: Path, name: str, dtype: int) -> Path:
    """Identity over a type that needs a recent opset and IR."""
    nodes, values = (
        [_node("Identity", "x", "y")],
        ([_value("x", ["batch", 4], dtype)], [_value("y", ["batch", 4], dtype)]),
    )
    model = onnx.load(_write(folder, name, nodes, *values))
    model.opset_import[0].version, model.ir_version = 21, 10
    return _save(folder, name, model)


def _external_tensor(name: str, dims: Sequence[int], location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _save_external(folder: Path, name: str, model: ModelProto, *, location: str | None = None) -> Path:
    """All weights in one file beside the model (``name.bin``), or at ``location`` below its folder."""
    location = location or f"{name}.bin"
    (folder / location).unlink(missing_ok=True)  # onnx appends to what is there
    path = folder / f"{name}.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=location, size_threshold=0
    )
    return path


def _escaping(folder: Path, name: str, location: str) -> Path:
    """A model in folder/inside whose weight lies at ``location``; folder/outside.bin holds the right bytes for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outside.bin").write_bytes(np.ones((4, 3), np.float32).tobytes())
    values = [_value("x", ["batch", 4])], [_value("y", ["batch", 3])]
    model = onnx.load(_write(folder / "inside", name, [_node("MatMul", "x w", "y")], *values))
    model.graph.initializer.append(_external_tensor("w", [4, 3], location))
    return _save(folder / "inside", name, model)
