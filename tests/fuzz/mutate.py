"""Mutants of ONNX files. A mutant is its number: the same number gives the same bytes, on any machine.

Some mutations change the message (what a wicked author would write), some its bytes (what a broken disk would). Each is
a function named by what it does; several are applied to one mutant.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from tritonrepo._onnx_wire import encode, fields
from tritonrepo.errors import ModelError
from tritonrepo.introspect import nodes, tensors

from . import bases

#: Numbers at which arithmetic goes wrong.
SIZES = (0, 1, -1, -2, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**60, 2**62, 2**63 - 1, -(2**63), -(2**31))
LOCATIONS = (
    "/etc/passwd", "../secret.bin", "../../secret.bin", "sub/../../secret.bin", "link.bin", "linked/secret.bin", "",
    ".", "..", "model.onnx", "no such file", "a\0b", "x" * 5000, "/dev/zero", "/proc/self/mem", "\u202e.bin", "sub",
)  # fmt: skip
NUMBERS = ("-1", "0", "4096", str(2**62), str(2**70), "9" * 5000, "1e3", "0x10", " 8", "", "\u0663", "nan")
NAMES = ("", "x", "y", " ", "a/b", "../up", "a\0b", "n" * 3000, "\u00fc\U0001f600", '"', "{{x}}", "-1", "None", "\n")
OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas()}))


@dataclass(frozen=True)
class Mutant:
    """A mutated file, and the files beside it."""

    number: int
    base: str
    how: tuple[str, ...]
    content: bytes
    files: bases.Files


def mutant(number: int, folder: Path) -> Mutant:
    """The mutant of a number.

    Args:
        number: any.
        folder: where the base models are written on the way.
    """
    rng = random.Random(number)
    base = rng.choice(bases.names())
    source, files = bases.model(base, folder)
    model = ModelProto()
    model.CopyFrom(source)
    how: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        change = rng.choice(_MESSAGE)
        with suppress(IndexError):  # what it would change is gone already
            if change(rng, model):
                how.append(change.__name__)
    content = model.SerializeToString(deterministic=True)
    for _ in range(0 if how and rng.random() < 0.6 else rng.choice((1, 1, 2))):
        alter = rng.choice(_BYTES)
        content = alter(rng, content)
        how.append(alter.__name__)
    return Mutant(number, base, tuple(how), content, files)


# ---- the message -----------------------------------------------------------------------------------------------------


def _dims_of_values(rng: random.Random, model: ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    shapes = [value.type.tensor_type.shape for value in values if value.type.HasField("tensor_type")]
    shape = rng.choice(shapes)
    match rng.randrange(5):
        case 0 | 1 if shape.dim:
            rng.choice(shape.dim).dim_value = rng.choice(SIZES)
        case 2 if shape.dim:
            rng.choice(shape.dim).dim_param = rng.choice(NAMES)
        case 3:
            shape.dim.add().dim_value = rng.choice(SIZES)
        case _:
            for _ in range(rng.choice((5, 300, 5000))):
                shape.dim.add().dim_value = 1
    return True


def _no_shape(rng: random.Random, model: ModelProto) -> bool:
    value = rng.choice([*model.graph.input, *model.graph.output])
    if rng.random() < 0.5:
        value.type.tensor_type.ClearField("shape")
    else:
        value.ClearField("type")
    return True


def _type_of_value(rng: random.Random, model: ModelProto) -> bool:
    value = rng.choice([*model.graph.input, *model.graph.output, *model.graph.value_info])
    value.type.tensor_type.elem_type = rng.choice((*range(28), 100, 2**31 - 1, -1))
    return True


def _kind_of_value(rng: random.Random, model: ModelProto) -> bool:
    inner = TypeProto()
    inner.CopyFrom(rng.choice([*model.graph.input, *model.graph.output]).type)
    for _ in range(rng.choice((1, 2, 20))):
        outer = TypeProto()
        kind = rng.choice((outer.sequence_type, outer.optional_type))
        kind.elem_type.CopyFrom(inner)
        inner = outer
    rng.choice([*model.graph.input, *model.graph.output]).type.CopyFrom(inner)
    return True


def _dims_of_tensor(rng: random.Random, model: ModelProto) -> bool:
    tensor = _tensor(rng, model)
    if tensor is None:
        return False
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(SIZES)
    else:
        tensor.dims.extend([rng.choice(SIZES)] * rng.choice((1, 3, 200)))
    return True


def _type_of_tensor(rng: random.Random, model: ModelProto) -> bool:
    tensor = _tensor(rng, model)
    if tensor is None:
        return False
    tensor.data_type = rng.choice((*range(28), 99, 2**31 - 1, -1))
    return True


def _data_of_tensor(rng: random.Random, model: ModelProto) -> bool:
    tensor = _tensor(rng, model)
    if tensor is None:
        return False
    match rng.randrange(5):
        case 0:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 1:
            tensor.raw_data = tensor.raw_data + rng.randbytes(rng.choice((1, 7, 5000)))
        case 2:
            tensor.float_data.extend([1.0, math.nan, math.inf])
        case 3:
            tensor.string_data.extend([b"\xff\xfe", b""])
        case _:
            tensor.ClearField("raw_data")
            tensor.int64_data.extend([rng.choice(SIZES) for _ in range(rng.choice((1, 2, 5)))])
    return True


def _values_of_tensor(rng: random.Random, model: ModelProto) -> bool:
    """Small integers become large ones: they are shapes, axes, counts and indices."""
    chosen = [tensor for tensor in tensors(model) if tensor.data_type in {6, 7} and 0 < math.prod(tensor.dims) < 100]
    if not chosen:
        return False
    tensor = rng.choice(chosen)
    size = 8 if tensor.data_type == 7 else 4
    values = [rng.choice(SIZES) if rng.random() < 0.5 else rng.randrange(-3, 9) for _ in range(math.prod(tensor.dims))]
    for field in ("int64_data", "int32_data"):
        tensor.ClearField(field)
    low = -(2 ** (8 * size - 1))
    tensor.raw_data = b"".join(max(low, min(-low - 1, v)).to_bytes(size, "little", signed=True) for v in values)
    return True


def _outside(rng: random.Random, model: ModelProto) -> bool:
    tensor = _tensor(rng, model)
    if tensor is None:
        return False
    tensor.data_location = TensorProto.EXTERNAL
    known = {entry.key: entry for entry in tensor.external_data}
    if not known or rng.random() < 0.6:
        tensor.ClearField("external_data")
        tensor.external_data.add(key="location", value=rng.choice(LOCATIONS))
    for key in rng.sample(("offset", "length", "checksum", "basepath", "location"), rng.choice((0, 1, 2))):
        tensor.external_data.add(key=key, value=rng.choice((*NUMBERS, *LOCATIONS)))
    if rng.random() < 0.3:
        tensor.external_data.add(key="checksum", value="left in the model's file: 8")
    return True


def _sparse(rng: random.Random, model: ModelProto) -> bool:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = rng.choice(["s", *(init.name for init in model.graph.initializer)])
    sparse.values.data_type = 1
    sparse.values.dims.append(1)
    sparse.values.float_data.append(1)
    sparse.indices.data_type = rng.choice((7, 1))
    sparse.indices.dims.append(1)
    sparse.indices.int64_data.append(rng.choice(SIZES))
    sparse.dims.extend([rng.choice(SIZES) for _ in range(2)])
    return True


def _operator(rng: random.Random, model: ModelProto) -> bool:
    node = _node(rng, model)
    match rng.randrange(4):
        case 0 | 1:
            node.op_type = rng.choice(OPERATORS)
        case 2:
            node.op_type = rng.choice(NAMES)
        case _:
            node.domain = rng.choice((*NAMES, "ai.onnx", "com.microsoft", "ai.onnx.ml", "ai.onnx.preview.training"))
    return True


def _edges(rng: random.Random, model: ModelProto) -> bool:
    node = _node(rng, model)
    known = [name for each in nodes(model) for name in (*each.input, *each.output)] + ["", "nowhere"]
    match rng.randrange(5):
        case 0 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(known)
        case 1 if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice(known)
        case 2:
            node.input.extend(rng.choice(known) for _ in range(rng.choice((1, 3, 2000))))
        case 3:
            del node.input[:]
        case _:
            node.output.extend(rng.choice(known) for _ in range(rng.choice((1, 3, 200))))
    return True


def _order(rng: random.Random, model: ModelProto) -> bool:
    kept = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    match rng.randrange(3):
        case 0:
            rng.shuffle(kept)
        case 1:
            kept.append(rng.choice(kept))
        case _:
            kept.pop(rng.randrange(len(kept)))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return True


def _attribute(rng: random.Random, model: ModelProto) -> bool:
    node = _node(rng, model)
    if not node.attribute or rng.random() < 0.2:
        name = rng.choice((*NAMES, "axis", "axes", "to", "perm", "kernel_shape", "pads", "value", "body", "group"))
        node.attribute.add(name=name, type=rng.choice(range(15)), i=rng.choice(SIZES))
        return True
    attribute = rng.choice(node.attribute)
    match rng.randrange(8):
        case 0:
            attribute.i = rng.choice(SIZES)
        case 1:
            attribute.f = rng.choice((math.nan, math.inf, -math.inf, 0.0, -1e38))
        case 2:
            attribute.ints.extend([rng.choice(SIZES)] * rng.choice((1, 3, 5000)))
        case 3:
            del attribute.ints[:]
        case 4 if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(SIZES)
        case 5:
            attribute.type = rng.choice(range(15))
        case 6:
            attribute.s = rng.choice((b"", b"\xff\xfe", b"NOTSET", b"SAME_UPPER", b"linear", b"%s%n" * 50))
        case _:
            attribute.name = rng.choice((*NAMES, "axis", "ref"))
            attribute.ref_attr_name = rng.choice(NAMES)
    return True


def _graph_in_graph(rng: random.Random, model: ModelProto) -> bool:
    """The graph's nodes, moved into branches of branches."""
    inner = GraphProto(name="g")
    inner.node.extend(model.graph.node)
    inner.output.extend(model.graph.output)
    depth = rng.choice((1, 5, 20))
    for level in range(depth):
        node = NodeProto(op_type=rng.choice(("If", "Loop", "Scan")), name=f"level{level}")
        node.input.append(rng.choice([value.name for value in model.graph.input] or [""]))
        node.output.extend(value.name for value in model.graph.output)
        for name in ("then_branch", "else_branch") if node.op_type == "If" and level < 6 else ("body",):
            node.attribute.add(name=name, type=AttributeProto.GRAPH).g.CopyFrom(inner)
        inner = GraphProto(name="g")
        inner.node.append(node)
        inner.output.extend(model.graph.output)
    del model.graph.node[:]
    model.graph.node.extend(inner.node)
    return True


def _functions(rng: random.Random, model: ModelProto) -> bool:
    """Functions: right ones, those that call themselves or each other, and many that call the next twice."""
    kind = rng.choice(("right", "itself", "circle", "many", "twice the same"))
    first = model.graph.node[0]
    model.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [*model.opset_import]

    def function(name: str, *calls: str) -> None:
        body = [helper.make_node(call, ["a"], [f"b{i}" if i else "b"], domain="own") for i, call in enumerate(calls)]
        body = body or [helper.make_node("Identity", ["a"], ["b"])]
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], body, opsets))

    match kind:
        case "right":
            function("f")
        case "itself":
            function("f", "f")
        case "circle":
            function("f", "g")
            function("g", "f")
        case "many":
            function("f", "f1", "f1")
            for i in range(1, 25):
                function(f"f{i}", f"f{i + 1}", f"f{i + 1}")
            function("f25")
        case _:
            function("f")
            function("f")
    if first.input:
        model.graph.node.insert(0, helper.make_node("f", [first.input[0]], ["from_f"], domain="own"))
        model.graph.node[1].input[0] = "from_f"
    model.ir_version = max(8, model.ir_version)
    return True


def _names(rng: random.Random, model: ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer]
    chosen = rng.choice(values)
    chosen.name = rng.choice((*NAMES, *(value.name for value in values)))
    return True


def _inputs_and_outputs(rng: random.Random, model: ModelProto) -> bool:
    group = rng.choice((model.graph.input, model.graph.output, model.graph.initializer))
    match rng.randrange(4):
        case 0 if group:
            del group[rng.randrange(len(group))]
        case 1:
            del group[:]
        case 2 if group:
            again = type(group[0])()
            again.CopyFrom(rng.choice(group))
            group.append(again)
        case _:
            for i in range(rng.choice((10, 1000))):
                model.graph.output.append(helper.make_tensor_value_info(f"o{i}", 1, [1]))
    return True


def _versions(rng: random.Random, model: ModelProto) -> bool:
    number = rng.choice((*SIZES, 1, 7, 11, 17, 26, 9999))
    match rng.randrange(4):
        case 0:
            model.ir_version = number
        case 1 if model.opset_import:
            rng.choice(model.opset_import).version = number
        case 2:
            del model.opset_import[:]
        case _:
            model.opset_import.append(helper.make_opsetid(rng.choice(("", "ai.onnx", *NAMES)), 1))
            model.opset_import[-1].version = number
    return True


def _large_work(rng: random.Random, model: ModelProto) -> bool:
    """Something of the size that the author likes, between the input and the rest."""
    if not model.graph.node or not model.graph.node[0].input:
        return False
    first = model.graph.node[0]
    size = rng.choice((2**24, 2**28, 2**33, 2**40, 2**62))
    shape = helper.make_tensor("large", TensorProto.INT64, [1], [size])
    model.graph.initializer.append(shape)
    made = rng.choice(("ConstantOfShape", "Range", "Expand", "Tile", "RandomNormal", "Loop"))
    extra: list[NodeProto] = []
    match made:
        case "ConstantOfShape":
            extra = [helper.make_node("ConstantOfShape", ["large"], ["made"])]
        case "Range":
            model.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT64, [], [0]))
            model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [], [1]))
            model.graph.initializer.append(helper.make_tensor("many", TensorProto.INT64, [], [size]))
            extra = [helper.make_node("Range", ["zero", "many", "one"], ["made"])]
        case "Expand" | "Tile":
            model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [1], [1]))
            extra = [helper.make_node(made, ["one", "large"], ["made"])]
        case "RandomNormal":
            extra = [helper.make_node("RandomNormal", [], ["made"], shape=[size])]
        case _:
            body = helper.make_graph(
                [helper.make_node("Identity", ["go"], ["on"])], "b",
                [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, [])],
                [helper.make_tensor_value_info("on", 9, [])],
            )  # fmt: skip
            extra = [helper.make_node("Loop", ["many", ""], [], body=body)]
            model.graph.initializer.append(helper.make_tensor("many", TensorProto.INT64, [], [size]))
            del model.graph.initializer[-2]
            model.graph.node.insert(0, extra[0])
            return True
    extra += [
        helper.make_node("Cast", ["made"], ["cast"], to=1),
        helper.make_node("ReduceMax", ["cast"], ["most"], keepdims=0),
        helper.make_node("Add", [first.input[0], "most"], ["added"]),
    ]
    first.input[0] = "added"
    for node in reversed(extra):
        model.graph.node.insert(0, node)
    return True


def _many(rng: random.Random, model: ModelProto) -> bool:
    count = rng.choice((1000, 20_000))
    match rng.randrange(3):
        case 0:
            for i in range(count):
                model.metadata_props.add(key=rng.choice(NAMES), value=str(i))
        case 1:
            for i in range(count):
                model.graph.value_info.append(helper.make_tensor_value_info(f"v{i}", 1, [1]))
        case _:
            for i in range(count):
                model.graph.node.append(helper.make_node("Identity", [f"v{i}" if i else "x"], [f"v{i + 1}"]))
    return True


def _tensor(rng: random.Random, model: ModelProto) -> TensorProto | None:
    found = [*tensors(model)]
    return rng.choice(found) if found else None


def _node(rng: random.Random, model: ModelProto) -> NodeProto:
    found = [*nodes(model)]
    return rng.choice(found) if found else model.graph.node.add()


_MESSAGE: tuple[Callable[[random.Random, ModelProto], bool], ...] = (
    _dims_of_values, _no_shape, _type_of_value, _kind_of_value, _dims_of_tensor, _type_of_tensor, _data_of_tensor,
    _values_of_tensor, _outside, _outside, _sparse, _operator, _operator, _edges, _order, _attribute, _attribute,
    _graph_in_graph, _functions, _names, _inputs_and_outputs, _versions, _large_work, _many,
)  # fmt: skip


# ---- the bytes -------------------------------------------------------------------------------------------------------


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _splice(rng: random.Random, content: bytes) -> bytes:
    """A piece is taken out, doubled, or put elsewhere."""
    begin = rng.randrange(len(content) + 1)
    end = min(len(content), begin + rng.choice((1, 8, 100, 5000)))
    piece = content[begin:end]
    rest = content[:begin] + content[end:]
    at = rng.randrange(len(rest) + 1)
    return rest if rng.random() < 0.4 else rest[:at] + piece * rng.choice((1, 2, 50)) + rest[at:]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 4, 64))) + content[at:]


def _field(rng: random.Random, content: bytes) -> bytes:
    """A field somewhere in the tree of messages gets another length, kind, number or value, or comes twice."""
    places = [*_places(content, 0, len(content), 0)]
    if not places:
        return content
    key, begin, stop, start = rng.choice(places)
    field = content[start:stop]
    match rng.randrange(6):
        case 0:  # a length that lies
            put = (
                encode(key >> 3, b"")[:-1] + _number(rng.choice((0, 1, 2**31, 2**62, 2**64 - 1))) + content[begin:stop]
            )
        case 1:  # another kind
            put = bytes([(key & 0x78) | rng.randrange(8)]) + content[start + 1 : stop]
        case 2:  # another number
            put = encode(rng.randrange(1, 32), content[begin:stop]) if key & 7 == 2 else b""
        case 3:
            put = field * rng.choice((0, 2, 3, 300))
        case 4:  # no UTF-8
            put = encode(key >> 3, rng.choice((b"\xff\xfe\xfd", b"\xc0\x80", b"\xed\xa0\x80")))
        case _:
            put = encode(key >> 3, rng.choice(SIZES))
    return content[:start] + put + content[stop:]


def _deep(rng: random.Random, content: bytes) -> bytes:
    """More graphs in graphs than protobuf reads."""
    graph = b""
    for _ in range(rng.choice((20, 33, 40, 2000))):
        graph = encode(1, encode(4, b"If") + encode(5, encode(1, b"then_branch") + encode(6, graph)))
    return content + encode(7, graph)


def _nothing(rng: random.Random, content: bytes) -> bytes:
    """Another file altogether."""
    return rng.choice(
        (b"", b"\x08", b"\x08\x08", b"PK\x03\x04", b"<html>", rng.randbytes(200), b"\0" * 4096, content[::-1])
    )


def _places(content: bytes, begin: int, end: int, depth: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields, and the fields in those that may be messages."""
    try:
        for place in fields(content, begin, end):
            yield place
            key, at, stop, _ = place
            if key & 7 == 2 and stop - at > 1 and depth < 12:
                yield from _places(content, at, stop, depth + 1)
    except ModelError:
        return


def _number(value: int) -> bytes:
    return encode(1, value)[1:]


_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _cut, _flip, _flip, _splice, _insert, _field, _field, _field, _deep, _nothing,
)  # fmt: skip
