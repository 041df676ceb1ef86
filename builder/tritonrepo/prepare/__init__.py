"""ONNX -> ONNX: the passes that make a model fit, and the file they give.

A pass takes a model and gives the model and what it changed, in words; nothing changed is an empty tuple. Each says in
its docstring what holds afterwards. The model may be changed in place. A file that no pass changes is used as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.introspect import Signature, external_files, load
from tritonrepo.prepare.weight_inputs import drop_weight_inputs

if TYPE_CHECKING:
    import onnx

Pass = Callable[["onnx.ModelProto"], tuple["onnx.ModelProto", tuple[str, ...]]]

#: In the order in which they run.
PASSES: Sequence[Pass] = (drop_weight_inputs,)


@dataclass(frozen=True)
class Change:
    """One thing that a pass changed."""

    by: str
    what: str


@dataclass(frozen=True)
class Prepared:
    """The model to serve: ``path`` is the original file where ``changes`` is empty."""

    path: Path
    external_data: tuple[Path, ...]
    changes: tuple[Change, ...]


def prepare(signature: Signature, keep: Callable[[Callable[[Path], None]], Path]) -> Prepared:
    """Run all passes over a model.

    Args:
        signature: of the original file.
        keep: gives a folder for the changed model; it is called with a function that writes into that folder.
    """
    model = load(signature.path)
    changes: list[Change] = []
    for run in PASSES:
        model, changed = run(model)
        changes += [Change(run.__name__, what) for what in changed]
    if not changes:
        return Prepared(signature.path, signature.external_data, ())

    def write(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        for file in signature.external_data:
            target = folder / file.relative_to(signature.path.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

    path = keep(write) / "model.onnx"
    return Prepared(path, external_files(model, path), tuple(changes))
