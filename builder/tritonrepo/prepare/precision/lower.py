"""Float operators in FP16 or BF16: the chosen nodes get low inputs and give low outputs, with casts between the two.

Every FP32 tensor may exist in two versions. Its producer makes one; the other comes from one Cast, placed before the
first node that wants it. Weights are not cast: each version that is wanted becomes a weight of its own. So a weight
that nodes of both kinds share, and tensors that cross into the branches of If and the bodies of Loop, need no special
care.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritonrepo.prepare.precision.graph import (
    FLOAT,
    SHORT,
    TYPE_TEXT,
    Names,
    Operator,
    element_types,
    operator,
    opsets,
    subgraphs,
)
from tritonrepo.prepare.precision.weights import Lowered, numpy_type, rounded

if TYPE_CHECKING:
    import onnx

#: Operators whose output type an attribute says: the attribute and what it is when it is missing.
TYPE_ATTRIBUTES: Mapping[str, str] = {"Cast": "to", "ConstantOfShape": "value", "EyeLike": "dtype"}


def low_inputs(node: onnx.NodeProto, schema: Operator, types: Mapping[str, int], dtype: int) -> list[bool]:
    """For each input, whether it is FP32 and may be ``dtype``."""
    text = TYPE_TEXT[dtype]
    return [
        bool(name)
        and types.get(name) == FLOAT
        and (formal := schema.input(index)) is not None
        and text in formal.allowed
        for index, name in enumerate(node.input)
    ]


def low_outputs(node: onnx.NodeProto, schema: Operator, types: Mapping[str, int], dtype: int) -> list[bool]:
    """For each output, whether it becomes ``dtype`` when the inputs do: its type follows theirs or an attribute."""
    lowered = {
        schema.inputs[min(index, len(schema.inputs) - 1)].type_text
        for index, low in enumerate(low_inputs(node, schema, types, dtype))
        if low
    }
    by_attribute = node.op_type in TYPE_ATTRIBUTES
    return [
        bool(name)
        and types.get(name) == FLOAT
        and (formal := schema.output(index)) is not None
        and TYPE_TEXT[dtype] in formal.allowed
        and (formal.type_text in lowered or by_attribute)
        for index, name in enumerate(node.output)
    ]


def lower(
    model: onnx.ModelProto, chosen: Collection[str], weights: Lowered, *, convert_io: bool = False
) -> onnx.ModelProto:
    """A model whose chosen nodes run in ``weights.dtype``.

    Args:
        model: with named nodes in topological order, inferred types and spilled weights; it is left as it is.
        chosen: names of nodes that can, by ``choose``.
        weights: where lower weights come from.
        convert_io: whether FP32 inputs and outputs of the graph become ``weights.dtype`` too.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    run = _Run(frozenset(chosen), weights, Names(model), opsets(model))
    run.graph(result.graph, None, io=weights.dtype if convert_io else None)
    return result


@dataclass
class _Value:
    """An FP32 tensor of the model: the names of its two versions, as far as they exist."""

    names: dict[bool, str]
    """By whether it is low."""
    initializer: onnx.TensorProto | None = None
    info: onnx.ValueInfoProto | None = None


@dataclass
class _Scope:
    """One graph while it is converted."""

    outer: _Scope | None
    types: Mapping[str, int]
    key: str
    values: dict[str, _Value] = field(default_factory=dict)
    casts: dict[tuple[str, bool], str] = field(default_factory=dict)
    """Versions that were cast here."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    infos: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def find(self, name: str) -> tuple[_Scope, _Value] | None:
        """The scope that declares a tensor, and the tensor; None where it is not FP32."""
        scope: _Scope | None = self
        while scope:
            if name in scope.values:
                return scope, scope.values[name]
            if name in scope.types:  # of another type, or shadowing
                return None
            scope = scope.outer
        return None

    def type_of(self, name: str) -> int | None:
        scope: _Scope | None = self
        while scope:
            if name in scope.types:
                return scope.types[name]
            scope = scope.outer
        return None


class _Types(dict[str, int]):
    """Types seen from within a scope."""

    def __init__(self, scope: _Scope) -> None:
        super().__init__()
        self._scope = scope

    def get(self, name: str, default: object = None) -> int | None:  # type: ignore[override]
        return self._scope.type_of(name)


@dataclass
class _Run:
    chosen: frozenset[str]
    weights: Lowered
    names: Names
    opset: Mapping[str, int]

    def graph(self, graph: onnx.GraphProto, outer: _Scope | None, io: int | None, key: str = "") -> None:
        """Convert one graph in place. Its inputs and outputs stay FP32 unless ``io`` says otherwise."""
        scope = _Scope(outer, element_types(graph), key)
        infos = {info.name: info for info in (*graph.output, *graph.value_info)}
        for tensor in graph.initializer:
            if tensor.data_type == FLOAT:
                scope.values[tensor.name] = _Value({}, initializer=tensor)
        for value in graph.input:
            if scope.types.get(value.name) == FLOAT and value.name not in scope.values:
                scope.values[value.name] = _Value({io is not None: value.name}, info=value)
        outputs = {value.name for value in graph.output if scope.types.get(value.name) == FLOAT}
        ends: list[tuple[str, bool]] = []
        for node in graph.node:
            self._node(node, scope, infos, outputs, io is not None, ends)
        self._end(graph, scope, outputs, io is not None, ends)
        if io is not None:
            for value in (*graph.input, *graph.output):
                if value.type.tensor_type.elem_type == FLOAT:
                    value.type.tensor_type.elem_type = io
        self._replace(graph, scope)

    def _node(
        self,
        node: onnx.NodeProto,
        scope: _Scope,
        infos: Mapping[str, onnx.ValueInfoProto],
        outputs: Collection[str],
        low_io: bool,
        ends: list[tuple[str, bool]],
    ) -> None:
        """Convert one node and append it, and the casts before it, to the scope."""
        import onnx

        schema = operator(node, self.opset) if node.name in self.chosen else None
        types = _Types(scope)
        want = low_inputs(node, schema, types, self.weights.dtype) if schema else [False] * len(node.input)
        made = low_outputs(node, schema, types, self.weights.dtype) if schema else [False] * len(node.output)
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for index, name in enumerate(node.input):
            new.input[index] = self._want(name, want[index], scope)
        for number, inner in enumerate(subgraphs(new)):
            self.graph(inner, scope, None, f"{scope.key}{node.name}/{number}/")
        for index, name in enumerate(node.output):
            if not name or scope.types.get(name) != FLOAT:
                continue
            low = made[index]
            written = name
            if name in outputs and low != low_io:  # the graph's output keeps its name in its own type
                written = self._fresh(name, low)
                ends.append((name, low_io))
            scope.values[name] = _Value({low: written}, info=infos.get(name))
            new.output[index] = written
            self._declare(scope, name, written, low)
        if any(made):
            _set_type(new, self.weights.dtype)
        scope.nodes.append(new)

    def _want(self, name: str, low: bool, scope: _Scope) -> str:
        """The name of a tensor in the wanted version; it is made where it is not there yet."""
        found = scope.find(name) if name else None
        if not found:
            return name
        owner, value = found
        if value.initializer is not None:
            return self._want_weight(owner, value, value.initializer, low)
        if low in value.names:
            return value.names[low]
        seen: _Scope | None = scope
        while seen:
            if (name, low) in seen.casts:
                return seen.casts[name, low]
            if seen is owner:
                break
            seen = seen.outer
        cast = scope.casts[name, low] = self._fresh(name, low)
        self._cast(scope, value.names[not low], cast, low)
        if value.info is not None:
            self._declare(scope, name, cast, low, value.info)
        return cast

    def _want_weight(self, owner: _Scope, value: _Value, tensor: onnx.TensorProto, low: bool) -> str:
        if low not in value.names:
            name = tensor.name
            if low:
                made = self.weights.get(tensor, owner.key + name)
                copy = type(made)()
                copy.CopyFrom(made)
                copy.name = self._fresh(name, low)
                owner.initializers[copy.name] = copy
                value.names[low] = copy.name
            else:
                owner.initializers[name] = tensor
                value.names[low] = name
        return value.names[low]

    def _end(
        self,
        graph: onnx.GraphProto,
        scope: _Scope,
        outputs: Collection[str],
        low_io: bool,
        ends: list[tuple[str, bool]],
    ) -> None:
        """Casts to the graph's outputs where their producers gave the other version."""
        for name, low in ends:
            self._cast(scope, scope.values[name].names[not low], name, low)
        for value in graph.output:
            name = value.name
            known = scope.values.get(name)
            if name not in outputs or known is None or (name, low_io) in ends:
                continue
            if known.initializer is not None:  # a weight that is an output as it is
                if low_io:
                    source = self._want_weight(scope, known, known.initializer, True)
                    renamed = scope.initializers.pop(source)
                    renamed.name = name
                    scope.initializers[name] = renamed
                    for node in scope.nodes:
                        node.input[:] = [name if each == source else each for each in node.input]
                else:
                    self._want_weight(scope, known, known.initializer, False)

    def _cast(self, scope: _Scope, source: str, target: str, low: bool) -> None:
        from onnx import helper

        to = self.weights.dtype if low else FLOAT
        scope.nodes.append(helper.make_node("Cast", [source], [target], name=self.names.fresh(f"Cast_{target}"), to=to))

    def _fresh(self, name: str, low: bool) -> str:
        return self.names.fresh(f"{name}_{SHORT[self.weights.dtype if low else FLOAT].lower()}")

    def _declare(
        self, scope: _Scope, name: str, written: str, low: bool, info: onnx.ValueInfoProto | None = None
    ) -> None:
        """Declare a tensor's type and shape, where the shape was known."""
        info = info or scope.values[name].info
        if info is None:
            return
        declared = type(info)()
        declared.CopyFrom(info)
        declared.name = written
        declared.type.tensor_type.elem_type = self.weights.dtype if low else FLOAT
        scope.infos.append(declared)

    def _replace(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        kept = [info for info in graph.value_info if info.name not in scope.values]
        weights = [tensor for tensor in graph.initializer if tensor.name not in scope.values]
        declared = {value.name for value in (*graph.input, *graph.output)}
        fresh = [info for info in scope.infos if info.name not in declared]
        weights = _copies([*weights, *scope.initializers.values()])
        fresh = _copies([*kept, *fresh])
        del graph.node[:], graph.value_info[:], graph.initializer[:]
        graph.node.extend(scope.nodes)
        graph.value_info.extend(fresh)
        graph.initializer.extend(weights)


def _copies(messages: list) -> list:  # type: ignore[type-arg]
    """Copies of protobuf messages, for those in a repeated field end with it."""
    copies = []
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        copies.append(copy)
    return copies


def _set_type(node: onnx.NodeProto, dtype: int) -> None:
    """Set the attribute that says the output's type, where the operator has one."""
    import numpy as np
    from onnx import helper, numpy_helper

    if node.op_type not in TYPE_ATTRIBUTES:
        return
    key = TYPE_ATTRIBUTES[node.op_type]
    kept = [attribute for attribute in node.attribute if attribute.name != key]
    old = next((attribute for attribute in node.attribute if attribute.name == key), None)
    if node.op_type == "ConstantOfShape":
        value = rounded(numpy_helper.to_array(old.t), dtype) if old else np.zeros(1, numpy_type(dtype))
        made = helper.make_attribute(key, numpy_helper.from_array(value, "value"))
    else:
        made = helper.make_attribute(key, dtype)
    kept = _copies(kept)
    del node.attribute[:]
    node.attribute.extend([*kept, made])
