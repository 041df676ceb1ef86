"""Operators that draw random numbers: a model with one gives other answers at every run, and nothing can be proven of
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.errors import ModelError
from tritonrepo.introspect import Signature, nodes, outline

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_RANDOM = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
)  # fmt: skip


def check_repeatable(path: Path, signature: Signature) -> None:
    """Refuse a model whose answers are drawn at random.

    A Dropout whose mode is an input is let through: whether it is random is for each request to say.

    Args:
        path: the model to serve.
        signature: of the original.

    Raises:
        ModelError: names the operator.
    """
    for operator in _RANDOM:
        if operator in signature.operators:
            raise ModelError(
                f"operator {operator} gives other answers at every run: the model cannot be proven",
                where=signature.path,
                hint="Make what it draws an input of the model, and let the caller draw it.",
            )
    if "Dropout" not in signature.operators:
        return
    if any(_drops(node, model) for model in [outline(path)] for node in nodes(model)):
        raise ModelError(
            "operator Dropout gives other answers at every run: it is in training mode",
            where=signature.path,
            hint="Export the model for inference (in PyTorch: model.eval() before the export).",
        )


def _drops(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether it is a Dropout (of opset 12 or later) with training_mode fixed to true."""
    if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx") or len(node.input) < 3:
        return False
    mode = node.input[2]
    given = [init for init in model.graph.initializer if init.name == mode]
    given += [
        attribute.t
        for other in model.graph.node
        if other.op_type == "Constant" and mode in other.output
        for attribute in other.attribute
        if attribute.name == "value"
    ]
    return any(_truth(tensor) for tensor in given)


def _truth(tensor: onnx.TensorProto) -> bool:
    """Whether a flag is true. What is no flag (another type, several elements, data elsewhere), the runtime refuses."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.BOOL or tensor.data_location == TensorProto.EXTERNAL or len(tensor.dims) > 1:
        return False
    try:
        return bool(numpy_helper.to_array(tensor).any())
    except (ValueError, TypeError):  # it holds less than it says
        return False
