"""Writes two small example models with random weights: examples/models/mlp.onnx and cnn.onnx.

    python examples/make_models.py [--into FOLDER] [--with auto|torch|onnx] [--force]

PyTorch's exporter writes them where torch and onnxscript are installed, the onnx package alone where they are not;
layers, tensor names and weights are the same, so are the answers up to rounding. A model that is newer than this
script is left alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

OPSET = 18
IR = 10  # what PyTorch writes at this opset; older runtimes read it too
Writer = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Layer:
    """One layer. ``weight`` is the shape of a conv's or dense layer's weight, outputs first, as PyTorch has it."""

    kind: Literal["conv", "dense", "relu", "pool", "flatten"]
    name: str
    weight: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """Layers one after the other. ``shape`` is one input without the batch."""

    name: str
    input: str
    shape: tuple[int, ...]
    output: str
    classes: int
    layers: tuple[Layer, ...]


MLP = Network(
    name="mlp",
    input="x",
    shape=(784,),
    output="logits",
    classes=10,
    layers=(
        Layer("dense", "dense1", (128, 784)),
        Layer("relu", "relu1"),
        Layer("dense", "dense2", (64, 128)),
        Layer("relu", "relu2"),
        Layer("dense", "dense3", (10, 64)),
    ),
)
CNN = Network(
    name="cnn",
    input="image",
    shape=(3, 32, 32),
    output="logits",
    classes=10,
    layers=(
        Layer("conv", "conv1", (16, 3, 3, 3)),
        Layer("relu", "relu1"),
        Layer("pool", "pool1"),
        Layer("conv", "conv2", (32, 16, 3, 3)),
        Layer("relu", "relu2"),
        Layer("pool", "pool2"),
        Layer("flatten", "flatten"),
        Layer("dense", "dense", (10, 32 * 8 * 8)),
    ),
)


def weights(network: Network) -> dict[str, NDArray[np.float32]]:
    """Weights and biases by PyTorch's names (``dense1.weight``): the same in every run."""
    random = np.random.default_rng(list(network.name.encode()))
    made = {}
    for layer in network.layers:
        if layer.weight:
            fan_in = int(np.prod(layer.weight[1:]))
            # scaled so that the values stay near 1 through all layers
            made[f"{layer.name}.weight"] = random.normal(0, (2 / fan_in) ** 0.5, layer.weight).astype(np.float32)
            made[f"{layer.name}.bias"] = random.uniform(-0.1, 0.1, layer.weight[0]).astype(np.float32)
    return made


def with_onnx(network: Network) -> onnx.ModelProto:
    """The model, made with the onnx package alone."""
    from onnx import TensorProto, helper, numpy_helper

    value, nodes = network.input, []
    for layer in network.layers:
        result = network.output if layer is network.layers[-1] else layer.name
        nodes.append(_node(layer, value, result))
        value = result
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info(network.input, TensorProto.FLOAT, ["batch", *network.shape])],
        [helper.make_tensor_value_info(network.output, TensorProto.FLOAT, ["batch", network.classes])],
        [numpy_helper.from_array(weight, name) for name, weight in weights(network).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def with_torch(network: Network) -> onnx.ModelProto:
    """The model, exported by PyTorch."""
    import torch

    module = torch.nn.Sequential()
    for layer in network.layers:
        module.add_module(layer.name, _module(layer))
    module.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights(network).items()})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every optional package that is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own uses of what it deprecates
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, *network.shape),),  # two rows: torch.export treats the sizes 0 and 1 as special
            input_names=[network.input],
            output_names=[network.output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    return _without_origin(model)


def write(network: Network, into: Path, writer: Writer) -> Path:
    """Write one model into a folder; it appears under its name only when it is whole."""
    model = with_torch(network) if writer == "torch" else with_onnx(network)
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"{network.name}.onnx"
    part = into / f".{path.name}.{os.getpid()}.part"
    try:
        part.write_bytes(model.SerializeToString(deterministic=True))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def choose() -> Writer:
    """PyTorch where its exporter can run here (torch 2.9 or later, and onnxscript), else onnx."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "onnxscript")):
        return "onnx"
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return "torch" if (int(major), int(minor)) >= (2, 9) else "onnx"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Write two small example models: mlp.onnx and cnn.onnx.")
    parser.add_argument("--into", type=Path, default=Path(__file__).resolve().parent / "models", help="the folder")
    parser.add_argument(
        "--with", dest="writer", choices=["auto", "torch", "onnx"], default="auto", help="what writes them"
    )
    parser.add_argument("--force", action="store_true", help="write them even when they are up to date")
    options = parser.parse_args(arguments)
    for network in (MLP, CNN):
        if not options.force and _is_current(options.into / f"{network.name}.onnx"):
            print(f"{network.name}.onnx is up to date")
            continue
        writer: Writer = choose() if options.writer == "auto" else options.writer
        path = write(network, options.into, writer)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, random weights, written with {writer}")
    return 0


def _node(layer: Layer, value: str, result: str) -> onnx.NodeProto:
    from onnx.helper import make_node

    parameters = [f"{layer.name}.weight", f"{layer.name}.bias"]
    match layer.kind:
        case "dense":
            return make_node("Gemm", [value, *parameters], [result], name=layer.name, transB=1)
        case "conv":
            return make_node("Conv", [value, *parameters], [result], name=layer.name, pads=[1, 1, 1, 1])
        case "pool":
            return make_node("MaxPool", [value], [result], name=layer.name, kernel_shape=[2, 2], strides=[2, 2])
        case "flatten":
            return make_node("Flatten", [value], [result], name=layer.name)
        case "relu":
            return make_node("Relu", [value], [result], name=layer.name)


def _module(layer: Layer) -> Any:
    from torch import nn

    match layer.kind:
        case "dense":
            return nn.Linear(layer.weight[1], layer.weight[0])
        case "conv":
            return nn.Conv2d(layer.weight[1], layer.weight[0], kernel_size=3, padding=1)
        case "pool":
            return nn.MaxPool2d(2)
        case "flatten":
            return nn.Flatten()
        case "relu":
            return nn.ReLU()


def _without_origin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the notes on where in which source file each part came from: they name folders of the machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


def _is_current(path: Path) -> bool:
    return path.is_file() and path.stat().st_mtime >= Path(__file__).stat().st_mtime


if __name__ == "__main__":
    sys.exit(main())
