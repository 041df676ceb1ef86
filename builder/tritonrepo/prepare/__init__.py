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
from tritonrepo.prepare.duplicates import merge_duplicates
from tritonrepo.prepare.dynamic_batch import make_batch_dynamic
from tritonrepo.prepare.fold import fold_constants
from tritonrepo.prepare.identities import drop_identities
from tritonrepo.prepare.names import map_names
from tritonrepo.prepare.order import sort_nodes
from tritonrepo.prepare.scalars import give_scalars_an_axis, give_scalars_the_batch
from tritonrepo.prepare.training import drop_training
from tritonrepo.prepare.unused import drop_unused
from tritonrepo.prepare.versions import upgrade_opset
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
    "order": sort_nodes,
    "training": drop_training,
    "opset": upgrade_opset,
    "identities": drop_identities,
    # The batch before anything is folded: a shape that is computed follows the batch, a folded one does not.
    "dynamic_batch": make_batch_dynamic,
    "scalars_batch": give_scalars_the_batch,
    "scalars": give_scalars_an_axis,
    "fold": fold_constants,
    "duplicates": merge_duplicates,
    "unused": drop_unused,
    "names": map_names,
    # Precision is a step of its own behind these: it sees the graph as it will be served.
}

#: How the reason begins where a pass failed on a model, instead of saying why it cannot do what it is for.
FAILED = "it fails on this model"

_REFERENCE = "reference"

#: Passes whose work is undone when the batch that they make turns out not to be one.
FOR_THE_BATCH = frozenset({"dynamic_batch", "scalars_batch"})


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
    reference: Path | None = None
    """What the artefact is compared with, where that is not the original: a model that was in training mode."""

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
    done = _run(context)
    if not done.changes:
        return Prepared(source, context.signature.external_data, (), context.signature, refused=done.refused)

    def write(folder: Path) -> None:
        write_model(done.model, source, folder)
        if done.reference is not None:
            write_model(done.reference, source, folder / _REFERENCE)

    folder = keep(write)
    path = folder / "model.onnx"
    served = introspect(path)
    return Prepared(
        path,
        served.external_data,
        tuple(done.changes),
        replace(served, path=source),
        names=_renamed(context.signature, served),
        refused=done.refused,
        reference=folder / _REFERENCE / "model.onnx" if done.reference is not None else None,
    )


def _renamed(before: Signature, after: Signature) -> dict[str, str]:
    """Names that changed; the order of inputs and outputs did not."""
    pairs = (*zip(before.inputs, after.inputs, strict=True), *zip(before.outputs, after.outputs, strict=True))
    return {old.name: new.name for old, new in pairs if old.name != new.name}


def foresee(context: Context) -> tuple[tuple[Change, ...], Mapping[str, str]]:
    """What the passes would change, and which could not do what they are for; nothing is written."""
    done = _run(context)
    return tuple(done.changes), done.refused


@dataclass
class _Done:
    """The model after the passes."""

    model: onnx.ModelProto
    changes: list[Change] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    reference: onnx.ModelProto | None = None
    """The model after the last pass that is meant to change the answers."""


def _run(context: Context) -> _Done:
    """The model after the passes that are switched on; without those for the batch, where no batch comes of them."""
    import onnx

    done = _Done(open_model(context.signature.path))
    for name in _chosen(context):
        attempt = onnx.ModelProto()
        attempt.CopyFrom(done.model)
        try:
            attempt, changed = PASSES[name](attempt, context)
        except CannotChange as why:
            done.refused[name] = str(why)
            continue
        except TritonrepoError:
            raise
        except Exception as error:
            # A model may be invalid in any way; what is wrong with it, the runtime says when it is verified. A pass
            # that fails on it leaves it as it was, and the report says so.
            done.refused[name] = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if changed:
            done.model = attempt
            done.changes += changed
        if any(change.answers for change in changed):
            done.reference = onnx.ModelProto()
            done.reference.CopyFrom(attempt)
    if any(change.by in FOR_THE_BATCH for change in done.changes) and not _batches(done.model):
        again = _run(replace(context, without=FOR_THE_BATCH))
        again.refused = {**done.refused, **again.refused}
        return again
    return done


def _batches(model: onnx.ModelProto) -> bool:
    """Whether the first axis of every input and output is dynamic."""
    shapes = [value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)]
    return all(shape and not shape[0].HasField("dim_value") for shape in shapes)


def settings(context: Context) -> Mapping[str, object]:
    """All that the result depends on besides the file, for the key of the result in the cache."""
    signature = context.signature
    return {
        "passes": _chosen(context),
        "opset": context.spec.prepare.opset,
        "engine": context.engine if any(not each.shape for each in (*signature.inputs, *signature.outputs)) else None,
        "batch": None if signature.batch else context.spec.batching.max_batch_size not in ("auto", 0),
        "sizes": None if signature.batch else context.spec.model_dump(mode="json", include={"shapes"}),
    }


def _chosen(context: Context) -> tuple[str, ...]:
    """The passes that are switched on."""
    switches = context.spec.prepare
    wanted = context.spec.batching.max_batch_size != 0
    return tuple(
        name
        for name in PASSES
        if getattr(switches, name) and name not in context.without and (wanted or name not in FOR_THE_BATCH)
    )
