"""ONNX -> ONNX: the passes that make a model fit, and the file they give.

A pass takes a model and gives the model and what it changed and why; nothing changed is an empty tuple. Each says in
its docstring what holds afterwards, and each has a switch of its name in the spec's ``prepare`` block. A file that no
pass changes is used as it is. The order, and what each is for: docs/preparation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.errors import TritonrepoError
from tritonrepo.introspect import Signature, introspect
from tritonrepo.prepare.base import CannotChange, Change, Context, Pass
from tritonrepo.prepare.dynamic_batch import make_batch_dynamic
from tritonrepo.prepare.weight_inputs import drop_weight_inputs
from tritonrepo.prepare.weights import open_model, write_model

if TYPE_CHECKING:
    import onnx

__all__ = [
    "FOR_THE_BATCH", "PASSES", "CannotChange", "Change", "Context", "Pass", "Prepared", "foresee", "prepare",
    "settings",
]  # fmt: skip

#: Name in the spec -> pass, in the order in which they run.
PASSES: Mapping[str, Pass] = {
    "weight_inputs": drop_weight_inputs,
    "dynamic_batch": make_batch_dynamic,
    # Precision comes last, here: it sees the graph as it will be served.
}

#: How the reason begins where a pass failed on a model, instead of saying why it cannot do what it is for.
FAILED = "it fails on this model"

#: Passes whose work is undone when the batch that they make turns out not to be one.
FOR_THE_BATCH = frozenset({"dynamic_batch"})


@dataclass(frozen=True)
class Prepared:
    """The model to serve: ``path`` is the original file where ``changes`` is empty."""

    path: Path
    external_data: tuple[Path, ...]
    changes: tuple[Change, ...]
    signature: Signature
    """Of the model to serve. Its ``path`` is the original's all the same: it is for messages."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Inputs and outputs that are served under another name: name in the original -> served name."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Pass -> why it could not do what it is for."""

    @property
    def changed_by(self) -> frozenset[str]:
        """The passes that changed something."""
        return frozenset(change.by for change in self.changes)


def prepare(context: Context, keep: Callable[[Callable[[Path], None]], Path]) -> Prepared:
    """Run the passes over a model.

    Args:
        context: the settings and the original's signature.
        keep: gives a folder for the changed model; it is called with a function that writes into that folder.
    """
    source = context.signature.path
    model, changes, refused = _run(context)
    if not changes:
        return Prepared(source, context.signature.external_data, (), context.signature, refused=refused)
    path = keep(lambda folder: write_model(model, source, folder)) / "model.onnx"
    served = introspect(path)
    return Prepared(path, served.external_data, tuple(changes), replace(served, path=source), refused=refused)


def foresee(context: Context) -> tuple[tuple[Change, ...], Mapping[str, str]]:
    """What the passes would change, and which could not do what they are for; nothing is written."""
    _, changes, refused = _run(context)
    return tuple(changes), refused


def _run(context: Context) -> tuple[onnx.ModelProto, list[Change], dict[str, str]]:
    """The model after the passes that are switched on, what they changed, and why a pass could not."""
    import onnx

    model = open_model(context.signature.path)
    changes: list[Change] = []
    refused: dict[str, str] = {}
    for name in _chosen(context):
        attempt = onnx.ModelProto()
        attempt.CopyFrom(model)
        try:
            attempt, changed = PASSES[name](attempt, context)
        except CannotChange as why:
            refused[name] = str(why)
            continue
        except TritonrepoError:
            raise
        except Exception as error:
            # A model may be invalid in any way; what is wrong with it, the runtime says when it is verified. A pass
            # that fails on it leaves it as it was, and the report says so.
            refused[name] = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if changed:
            model = attempt
            changes += changed
    return model, changes, refused


def settings(context: Context) -> Mapping[str, object]:
    """All that the result depends on besides the file, for the key of the result in the cache."""
    return {"passes": _chosen(context)}


def _chosen(context: Context) -> tuple[str, ...]:
    """The passes that are switched on."""
    switches = context.spec.prepare
    return tuple(name for name in PASSES if getattr(switches, name) and name not in context.without)
