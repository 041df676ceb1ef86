"""Shape ranges of models.yaml -> options of ``tritonrepo perf``: requests are drawn from what was planned for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritonrepo.errors import UsageError


def arguments_with_spec(arguments: Sequence[str]) -> list[str]:
    """The arguments of the load generator: ``--spec FILE`` is replaced by a ``--shape`` for each input that has ranges.

    Raises:
        TritonrepoError: the spec or an ONNX file of it cannot be read, or it has none of the models.
    """
    rest: list[str] = []
    spec: str | None = None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--spec":
            spec = next(waiting, None)
            if spec is None:
                raise UsageError("--spec needs a file", hint="Give --spec models.yaml.")
        elif argument.startswith("--spec="):
            spec = argument.partition("=")[2]
        else:
            rest.append(argument)
    if spec is None:
        return rest
    shapes = spec_shapes(Path(spec), rest)
    return [*rest, *(part for shape in shapes for part in ("--shape", shape))]


def spec_shapes(file: Path, names: Sequence[str]) -> list[str]:
    """``MODEL/INPUT=DIMS`` for each input of the models of the spec that are named, batch axis included.

    Inputs with an axis that the spec gives no range for are left out: their shape has to be given.
    """
    from tritonrepo.introspect import introspect
    from tritonrepo.profiles import axis_key, design, missing_ranges
    from tritonrepo.spec import load_spec

    spec = load_spec(file)
    models = [model for model in spec.models if any(_names(name, model.name) for name in names)]
    if not models:
        raise UsageError(f"{file}: it has none of these models", hint="Name a model of the spec.")
    shapes = []
    for model in models:
        signature = introspect(model.onnx)
        missing = missing_ranges(model, signature, 0, tensorrt=False)
        profile = design(model, signature, 0, dict.fromkeys(missing, 1), tensorrt=False).profiles[0]
        for tensor in signature.inputs:
            unknown = {axis for axis in range(len(tensor.shape)) if axis_key(tensor, axis) in missing}
            if unknown - {0}:
                continue
            ends = zip(profile.min[tensor.name], profile.max[tensor.name], strict=True)
            dims = [f"{low}:{high}" if low != high else str(low) for low, high in ends]
            if 0 in unknown:  # the batch: --batch says how many rows
                dims[0] = "*"
            shapes.append(f"{model.name}/{tensor.name}={','.join(dims)}")
    return shapes


def _names(argument: str, model: str) -> bool:
    """Whether an argument is this model: NAME, NAME:VERSION or NAME=WEIGHT."""
    return argument.partition("=")[0].partition(":")[0] == model
