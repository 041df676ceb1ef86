"""Names that the server, or a version's folder, cannot carry.

What a server really cannot carry was tried with names of every kind (tests/test_prepare_names.py): line breaks, control
characters, quotes, slashes, emoji and seventy thousand letters go through gRPC and HTTP unharmed. A NUL does not: the
name ends there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonrepo.introspect import tensors
from tritonrepo.prepare.base import Change, Context
from tritonrepo.prepare.graph import Names, rename_reads
from tritonrepo.prepare.weights import location, served_location

if TYPE_CHECKING:
    import onnx


def map_names(model: onnx.ModelProto, _: Context) -> tuple[onnx.ModelProto, tuple[Change, ...]]:
    """A NUL in the name of an input or output becomes an underscore; the mapping is recorded.

    Afterwards no input or output has a NUL in its name, and no file of external data is called as a file that Triton
    looks for.
    """
    graph, names = model.graph, Names(model)
    mapped = {
        value.name: names.new(value.name.replace("\0", "_"))
        for value in (*graph.input, *graph.output)
        if "\0" in value.name
    }
    changes = [
        Change("names", f"{old!r} is served as {new!r}", "Triton's names end at a NUL") for old, new in mapped.items()
    ]
    if mapped:
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = mapped.get(value.name, value.name)
        for node in graph.node:
            rename_reads(node, mapped)
            for place, name in enumerate(node.output):
                node.output[place] = mapped.get(name, name)
    files = sorted({location(tensor) for tensor in tensors(model)} - {""})
    changes += [
        Change("names", f"the weights' file {file} is served as {served_location(file)}", "Triton looks for that name")
        for file in files
        if served_location(file) != file
    ]
    return model, tuple(changes)
