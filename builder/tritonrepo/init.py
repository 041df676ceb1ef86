"""ONNX files -> a commented models.yaml, from what the graphs say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonrepo._rules import fit_name
from tritonrepo._yaml import resolved
from tritonrepo.errors import UsageError
from tritonrepo.introspect import Dim, Signature, Tensor, introspect


@dataclass(frozen=True)
class Guess:
    """Range of a dynamic axis that nobody has told us, and what made us guess it."""

    min: int
    opt: int
    max: int
    why: str


_IMAGE = Guess(32, 320, 640, "looks like the height or width of an image")
_SEQUENCE = Guess(1, 128, 512, "looks like the length of a text or sequence")
_UNKNOWN = Guess(1, 16, 64, "nothing is known of it")
_CHANNELS = (1, 3, 4)


def write_spec(onnx: Sequence[Path], target: Path, *, force: bool = False) -> str:
    """Write a models.yaml for some ONNX files; the file appears at once or not at all.

    Args:
        onnx: the models.
        target: the file to write; the paths in it are relative to its folder.
        force: replace a file that is already there.

    Returns:
        what was written, see ``spec_text``.

    Raises:
        UsageError: the file exists, or cannot be written.
        ModelError: a model cannot be read.
    """
    if target.exists() and not force:
        raise UsageError("there is already such a file", where=target, hint="choose another name, or use --force")
    text = spec_text(onnx, target)
    try:
        _write_at_once(target, text)
    except OSError as error:
        raise UsageError(f"cannot write the spec: {error.strerror}", where=target) from None
    return text


def spec_text(onnx: Sequence[Path], target: Path) -> str:
    """The text of a models.yaml for some ONNX files.

    It says for each model what goes in and out, what was concluded about batching, and gives every dynamic axis that
    needs a range a guessed one, marked as such. ``load_spec`` reads it.

    Args:
        onnx: the models.
        target: where the text is meant to stand; the paths in it are relative to its folder.

    Raises:
        UsageError: no models.
        ModelError: a model cannot be read.
    """
    from tritonrepo._schema import FILE

    if not onnx:
        raise UsageError("no ONNX files are given", hint="for instance: tritonrepo init models/*.onnx")
    names = _names(onnx)
    folder = target.absolute().parent
    blocks = ["\n".join(_model(name, introspect(file), folder)) for name, file in zip(names, onnx, strict=True)]
    return _HEAD.replace("{schema}", FILE) + "\n\n".join(blocks) + "\n"


_HEAD = """\
# yaml-language-server: $schema={schema}
# (`tritonrepo schema > {schema}` writes the file that this line names, for editors.)
#
# What `tritonrepo build` makes of the models below. Written by `tritonrepo init`; yours to change.
# Every setting: docs/spec.md, or `tritonrepo schema`.

repository: model_repository   # the Triton model repository that is written
# triton: "26.09"              # the release that will serve it

# defaults:                    # settings of all models; a model may say otherwise
#   engine: auto
#   batching: {max_queue_delay_us: 500}

models:
"""


def _names(onnx: Sequence[Path]) -> list[str]:
    """A fit name for each file, all different: the file's name, with its folder's name where that is not enough."""
    stems = [fit_name(file.stem) for file in onnx]
    folded = [stem.casefold() for stem in stems]
    names: list[str] = []
    for file, stem in zip(onnx, stems, strict=True):
        clash = folded.count(stem.casefold()) > 1
        wanted = fit_name(f"{file.absolute().parent.name}_{stem}") if clash else stem
        taken = {name.casefold() for name in names}
        number, name = 2, wanted
        while name.casefold() in taken:
            name, number = f"{wanted[:120]}_{number}", number + 1
        names.append(name)
    return names


def _model(name: str, signature: Signature, folder: Path) -> Iterator[str]:
    path = os.path.relpath(signature.path.absolute(), folder).replace("$", "$$")
    yield f"  - name: {_quoted(name)}"
    yield f"    onnx: {_quoted('./' + path if path.startswith('~') else path)}"
    for label, tensors in (("input ", signature.inputs), ("output", signature.outputs)):
        for tensor in tensors:
            yield f"    # {label} {_quoted(tensor.name)}: {tensor.dtype} [{', '.join(map(_dim, tensor.shape))}]"
    yield from _batching(signature)
    yield from _shapes(signature)


def _batching(signature: Signature) -> Iterator[str]:
    reason = _one_line(signature.batch_reason)
    if signature.batch:
        yield f"    # batches: likely, as {reason}; the build proves it."
        yield "    # batching: {max_batch_size: 32}   # where auto is not what you want"
    else:
        yield f"    # batches: not as it stands, as {reason}"


def _shapes(signature: Signature) -> Iterator[str]:
    """Ranges by axis name; by input, as whole shapes, where an axis has no name."""
    by_axis: dict[str, Guess] = {}
    by_input: dict[str, list[Guess]] = {}
    first = 1 if signature.batch else 0
    for tensor in signature.inputs:
        guesses = [_guess(tensor, axis) for axis in range(first, len(tensor.shape))]
        for dim, guess in zip(tensor.shape[first:], guesses, strict=True):
            if isinstance(dim, str):
                by_axis.setdefault(dim, guess)
        if None in tensor.shape[first:]:
            pairs = zip(tensor.shape[first:], guesses, strict=True)
            by_input[tensor.name] = [by_axis[dim] if isinstance(dim, str) else guess for dim, guess in pairs]
    if not by_axis and not by_input:
        return
    yield "    # The graph does not say how large these axes are; the ranges are guesses. Put in the smallest, the"
    yield "    # usual and the largest size that will be sent; the model is built and verified for what lies between."
    yield "    shapes:"
    for axis, guess in by_axis.items():
        if axis in by_input:  # an axis that is called like an input: the key can be one of the two
            continue
        yield f"      {_quoted(axis)}: {{min: {guess.min}, opt: {guess.opt}, max: {guess.max}}}   # {guess.why}"
    whole = "the whole shape but the batch" if first else "the whole shape"
    for name, dims in by_input.items():
        yield f"      {_quoted(name)}:   # {whole}, as not all axes have names"
        for end in ("min", "opt", "max"):
            yield f"        {end}: [{', '.join(str(getattr(dim, end)) for dim in dims)}]"


def _guess(tensor: Tensor, axis: int) -> Guess:
    dim, rank = tensor.shape[axis], len(tensor.shape)
    if isinstance(dim, int):
        return Guess(dim, dim, dim, "fixed")
    if re.search(r"seq|len|tok|text|word|char", dim or "", re.IGNORECASE):
        return _SEQUENCE
    channels_first = rank == 4 and tensor.shape[1] in _CHANNELS and axis >= 2
    channels_last = rank == 4 and tensor.shape[3] in _CHANNELS and axis in (1, 2)
    if channels_first or channels_last or re.fullmatch(r"h|w|.*(height|width).*", dim or "", re.IGNORECASE):
        return _IMAGE
    return _SEQUENCE if rank == 2 and axis == 1 and tensor.dtype.startswith("INT") else _UNKNOWN


def _dim(dim: Dim) -> str:
    return "?" if dim is None else _quoted(dim) if isinstance(dim, str) else str(dim)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _quoted(text: str) -> str:
    """Text as a YAML scalar: as it stands where that is safe, else in double quotes."""
    if re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./ +-]*(?<! )", text) and isinstance(resolved(text), str):
        return text
    return '"' + "".join(_ESCAPES.get(character) or _escaped(character) for character in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _escaped(character: str) -> str:
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _write_at_once(target: Path, text: str) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
