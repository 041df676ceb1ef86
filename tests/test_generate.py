"""Generated inputs: by seed, by type, and by what the graph does with an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tritonrepo.generate import RECIPES, Uses, generate, recipes, uses_of
from tritonrepo.introspect import Signature, Tensor
from tritonrepo.spec import Verification

_TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BOOL": TensorProto.BOOL, "INT32": TensorProto.INT32}


def signature(**inputs: Tensor) -> Signature:
    from pathlib import Path

    return Signature(Path("m.onnx"), tuple(inputs.values()), (), {"": 18}, 10, {}, (), 0, False, "")


def made(
    node: onnx.NodeProto,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    output: tuple[int, ...] | None = None,
    recipe: str = "by use",
) -> Mapping[str, Any]:
    """Inputs for a graph of one node."""
    values = [helper.make_tensor_value_info(name, _TYPES[dtype], shape) for name, (dtype, shape) in inputs.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, output) for name in node.output]
    model = helper.make_model(helper.make_graph([node], "g", values, outputs))
    tensors = {name: Tensor(name, dtype, shape) for name, (dtype, shape) in inputs.items()}
    shapes = {name: shape for name, (_, shape) in inputs.items()}
    return generate(Verification(), signature(**tensors), shapes, (0, 0), recipe, uses_of(model))


DATA = {"x": ("FP32", (2, 3, 4))}


@pytest.mark.parametrize(
    ("op", "inputs", "output", "want"),
    [
        ("Reshape", {**DATA, "a": ("INT64", (2,))}, (6, 4), [6, 4]),
        ("Reshape", {**DATA, "a": ("INT64", (2,))}, None, [-1, 1]),
        ("Expand", {"x": ("FP32", (3, 1)), "a": ("INT64", (2,))}, (3, 5), [3, 5]),
        ("Expand", {"x": ("FP32", (3, 1)), "a": ("INT64", (2,))}, None, [3, 1]),
        ("Resize", {**DATA, "": ("FP32", (0,)), "a": ("FP32", (3,))}, (2, 6, 8), [1, 2, 2]),
        ("Upsample", {**DATA, "a": ("FP32", (3,))}, (2, 3, 8), [1, 1, 2]),
        ("Squeeze", {"x": ("FP32", (1, 3, 1)), "a": ("INT64", (2,))}, None, [0, 2]),
        ("Unsqueeze", {**DATA, "a": ("INT64", (2,))}, None, [0, 1]),
        ("ReduceSum", {**DATA, "a": ("INT64", (1,))}, None, [0]),
        ("Slice", {**DATA, "s": ("INT64", (2,)), "a": ("INT64", (2,))}, None, [2**31 - 1] * 2),
        ("TopK", {**DATA, "a": ("INT64", (1,))}, None, [1]),
        ("CumSum", {**DATA, "a": ("INT64", ())}, None, 0),
        ("Loop", {"a": ("INT64", ())}, None, 3),
    ],
)
def test_an_input_gets_a_value_that_its_node_can_use(
    op: str, inputs: dict[str, tuple[str, tuple[int, ...]]], output: tuple[int, ...] | None, want: Any
) -> None:
    given = {name: of for name, of in inputs.items() if name}
    array = made(helper.make_node(op, list(inputs), ["y"]), given, output)["a"]
    assert array.tolist() == want
    assert array.shape == inputs["a"][1]
    assert array.dtype.name == {"INT64": "int64", "FP32": "float32"}[inputs["a"][0]]


def test_indices_stay_within_the_data_and_divisors_are_not_zero() -> None:
    gathered = made(helper.make_node("Gather", ["x", "a"], ["y"]), {"x": ("FP32", (1, 8)), "a": ("INT64", (50,))})
    assert not gathered["a"].any()
    divided = made(helper.make_node("Div", ["x", "a"], ["y"]), {"x": ("INT32", (50,)), "a": ("INT32", (50,))})
    assert divided["a"].min() == 1
    floats = made(helper.make_node("Div", ["x", "a"], ["y"]), {"x": ("FP32", (50,)), "a": ("FP32", (50,))})
    assert floats["a"].max() < 1


def test_split_gets_the_declared_parts_or_equal_ones() -> None:
    inputs = {"x": ("FP32", (7, 2)), "a": ("INT64", (3,))}
    parts = made(helper.make_node("Split", ["x", "a"], ["p", "q", "r"], axis=0), inputs)["a"]
    assert parts.tolist() == [3, 2, 2]
    assert parts.sum() == 7


def test_plain_recipes_differ_in_integers_only() -> None:
    tensors = {"i": Tensor("i", "INT32", (4,)), "f": Tensor("f", "FP32", (4,)), "s": Tensor("s", "FP16", ())}
    shapes: dict[str, tuple[int, ...]] = {"i": (4,), "f": (4,), "s": ()}
    sets = {name: generate(Verification(), signature(**tensors), shapes, (1, 0), name) for name in RECIPES[1:]}
    assert sets["ones"]["i"].tolist() == [1, 1, 1, 1]
    assert sets["zeros"]["i"].tolist() == [0, 0, 0, 0]
    assert sets["counting"]["i"].tolist() == [0, 1, 2, 3]
    assert set(sets["usual"]["i"].tolist()) <= {0, 1}
    for arrays in sets.values():
        assert (arrays["f"] >= 0).all() and (arrays["f"] < 1).all()
        assert isinstance(arrays["s"], np.ndarray) and arrays["s"].shape == () and arrays["s"].dtype == np.float16


def test_what_the_user_chose_is_the_only_recipe() -> None:
    tensors = signature(i=Tensor("i", "INT32", (4,)))
    assert recipes(Verification(low=3, high=9), tensors, Uses()) == ("usual",)
    assert recipes(Verification(), tensors, Uses()) == RECIPES[1:]
    assert recipes(Verification(), signature(f=Tensor("f", "FP32", (4,))), Uses()) == ("usual",)
    values = generate(Verification(low=3, high=9), tensors, {"i": (1000,)}, (0, 0))["i"]
    assert (values.min(), values.max()) == (3, 8)


def test_operators_of_other_domains_are_not_mistaken() -> None:
    node = helper.make_node("Reshape", ["x", "a"], ["y"], domain="of.my.own")
    assert set(made(node, {**DATA, "a": ("INT64", (2,))})["a"].tolist()) <= {0, 1}
