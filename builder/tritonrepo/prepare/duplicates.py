"""Weights that are in the file several times."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import counted, rename_reads
from tritonrepo.prepare.graph import size as bytes_of
from tritonrepo.prepare.weights import Extent, blocks, extent

if TYPE_CHECKING:
    import onnx


#: Smaller weights are left as they are: merging them saves nothing.
_WORTH_IT = 1024


def merge_duplicates(model: onnx.ModelProto, context: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """Weights of one type, shape and content become one, from 1 KiB on. Contents are read in blocks, and only where
    types, shapes and the first block agree.

    Afterwards no two weights of 1 KiB or more are the same, but those that are inputs or outputs of the graph.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    alike = defaultdict(list)
    for weight in graph.initializer:
        if weight.name not in fixed and bytes_of(weight) >= _WORTH_IT:
            alike[weight.data_type, tuple(weight.dims)].append(weight)
    names: dict[str, str] = {}
    freed = 0
    for group in alike.values():
        for same in _equal(group, context.folder):
            names.update({weight.name: same[0].name for weight in same[1:]})
            freed += sum(map(bytes_of, same[1:]))
    if not names:
        return model, ()
    for node in graph.node:
        rename_reads(node, names)
    kept = [weight for weight in graph.initializer if weight.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    what = f"{counted(len(names), 'weight')} merged with an equal one, {freed:,} bytes"
    return model, (Change("duplicates", what, "the same bytes are needed once"),)


def _equal(weights: list[onnx.TensorProto], folder: Path) -> list[list[onnx.TensorProto]]:
    """Groups of two or more weights with the same content."""
    groups = [weights]
    for key in (_begins, _content):
        parted: list[list[onnx.TensorProto]] = []
        for group in groups:
            if len(group) > 1:
                by = defaultdict(list)
                for weight in group:
                    by[key(weight, folder)].append(weight)
                parted += by.values()
        groups = parted
    return [group for group in groups if len(group) > 1]


def _begins(weight: onnx.TensorProto, folder: Path) -> object:
    where = extent(weight, folder)
    if where is None:
        return _inline(weight)
    return where.length, next(blocks(Extent(where.file, where.offset, min(where.length, 4096))), b"")


def _content(weight: onnx.TensorProto, folder: Path) -> object:
    where = extent(weight, folder)
    if where is None:
        return _inline(weight)
    value = hashlib.sha256()
    for block in blocks(where):
        value.update(block)
    return value.digest()


def _inline(weight: onnx.TensorProto) -> bytes:
    """What distinguishes a weight in the graph: everything but its name."""
    import onnx

    bare = onnx.TensorProto()
    bare.CopyFrom(weight)
    bare.ClearField("name")
    bare.ClearField("doc_string")
    return bytes(bare.SerializeToString(deterministic=True))
