"""The ONNX files of a model, and the config as ONNX Runtime's backend completes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tritonrepo.check._signature import Signature, Value, read_signature
from tritonrepo.check._textformat import Message
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Target
from tritonrepo.errors import ModelError

#: max_batch_size that the backend sets where a model can batch and the config does not say; the server's default.
DEFAULT_BATCH = 4

#: How model.py of the python engine says whose it is, within its first bytes.
_MARK = b"Written by tritonrepo"
_HEAD = 600


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file of a version; ``signature`` or ``fault`` is there."""

    model: Model
    path: str
    """Below the model's folder."""
    signature: Signature | None
    fault: str = ""


def files(model: Model) -> tuple[OnnxFile, ...]:
    """The ONNX files of the versions that are served, as far as they are there."""
    return model.once(_files)


def runtime_files(model: Model, target: Target) -> tuple[OnnxFile, ...]:
    """The ONNX files if Triton's ONNX Runtime backend serves them, and is asked about them."""
    return files(model) if model.backend == "onnxruntime" and not target.only_core else ()


def engine_files(model: Model) -> tuple[OnnxFile, ...]:
    """The ONNX files if a model.py written by tritonrepo serves them."""
    return files(model) if model.backend == "python" and model.once(_scripts) else ()


def signatures(found: tuple[OnnxFile, ...]) -> Iterator[tuple[OnnxFile, Signature]]:
    """The files that can be read, with what they say."""
    for file in found:
        if file.signature is not None:
            yield file, file.signature


def _files(model: Model) -> tuple[OnnxFile, ...]:
    name = model.completed.filename if model.backend == "onnxruntime" else "model.onnx"
    found = []
    for version in model.served:
        path = f"{version}/{name or 'model.onnx'}"
        folder = model.files.is_folder(path)
        if folder:
            path += "/model.onnx"
            folder = model.files.is_folder(path)
        if folder is False:
            found.append(_read(model, path))
    return tuple(found)


def _read(model: Model, path: str) -> OnnxFile:
    try:
        place = model.files.open_path(path)
        return OnnxFile(model, path, read_signature(model.files.read(path) if place is None else place))
    except ModelError as error:
        return OnnxFile(model, path, None, error.message)
    except OSError as error:
        return OnnxFile(model, path, None, f"it cannot be read: {error.strerror}")


@dataclass(frozen=True)
class Script:
    """A model.py of the python engine: the names that it gives to ONNX Runtime."""

    path: str
    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...] | None


def scripts(model: Model) -> tuple[Script, ...]:
    """The model.py files of the versions that are served, where tritonrepo wrote them."""
    return model.once(_scripts) if model.backend == "python" else ()


def _scripts(model: Model) -> tuple[Script, ...]:
    found = []
    for version in model.served:
        path = f"{version}/{model.completed.filename}"
        if model.files.is_folder(f"{version}/model.onnx") is not False:
            continue
        try:
            text = model.files.read(path)
        except OSError:
            continue
        if _MARK in text[:_HEAD]:
            found.append(Script(path, _names(text, b"INPUTS"), _names(text, b"OUTPUTS")))
    return tuple(found)


def _names(text: bytes, name: bytes) -> tuple[str, ...] | None:
    """The list of names that a script assigns; None where it is not written as one."""
    match = re.search(rb"^" + name + rb" = (\[[^\n]*(?:\n[^\]\n]*)*\])$", text, re.MULTILINE)
    try:
        value = ast.literal_eval(match[1].decode()) if match else None
    except (ValueError, SyntaxError, UnicodeDecodeError):
        return None
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a config, written there or completed from the ONNX file."""

    name: str
    data_type: str | int
    dims: tuple[int, ...]
    """What the model sees, without the batch axis: the reshape where there is one."""
    message: Message | None
    """Where it is written; None if it is completed."""
    optional: bool = False
    ragged: bool = False


@dataclass(frozen=True)
class Completed:
    """A config after ONNX Runtime's backend has completed it."""

    file: OnnxFile
    signature: Signature

    @cached_property
    def completes(self) -> bool:
        """Whether the backend completes anything: only where inputs or outputs are missing."""
        config = self.file.model.config
        return not ((config.all("input") or config.all("batch_input")) and config.all("output"))

    @cached_property
    def can_batch(self) -> bool:
        """Whether the first axis of every input and output is open."""
        values = (*self.signature.inputs, *self.signature.outputs)
        return all(value.shape is not None and value.dims and value.dims[0] == -1 for value in values)

    @cached_property
    def max_batch_size(self) -> int:
        batch: int = self.file.model.config.get("max_batch_size")
        return DEFAULT_BATCH if self.completes and self.can_batch and batch == 0 else batch

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        config = self.file.model.config
        given = config.all("input") or config.all("batch_input")
        return self._tensors("input") if given else self._from_file(self.signature.inputs)

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        given = self.file.model.config.all("output")
        return self._tensors("output") if given else self._from_file(self.signature.outputs)

    @cached_property
    def pairs(self) -> tuple[tuple[str, Tensor, Message, Value], ...]:
        """The inputs and outputs that the config states and the file has."""
        return tuple(
            (field, tensor, tensor.message, value)
            for field, tensors in (("input", self.inputs), ("output", self.outputs))
            for tensor in tensors
            for value in (value_of(self.signature, field, tensor.name),)
            if value is not None and tensor.message is not None
        )

    def _tensors(self, field: str) -> tuple[Tensor, ...]:
        return tuple(tensor_of(message, field) for message in self.file.model.config.all(field))

    def _from_file(self, values: tuple[Value, ...]) -> tuple[Tensor, ...]:
        skipped = 1 if self.max_batch_size > 0 else 0
        return tuple(
            Tensor(value.name, value.data_type or "TYPE_INVALID", (value.dims or ())[skipped:] or (1,), None)
            for value in values
        )


def tensor_of(message: Message, field: str) -> Tensor:
    """An input or output as a config states it."""
    dims = message.get("reshape").all("shape") if message.has("reshape") else message.all("dims")
    is_input = field == "input"
    return Tensor(
        message.get("name"),
        message.get("data_type"),
        dims,
        message,
        is_input and message.get("optional"),
        is_input and message.get("allow_ragged_batch"),
    )


def value_of(signature: Signature, field: str, name: str) -> Value | None:
    """The graph's input or output of a name. Inputs with a value may be given from IR version 4 on."""
    values = signature.outputs
    if field == "input":
        values = (*signature.inputs, *(signature.defaults if signature.ir_version >= 4 else ()))
    return next((value for value in values if value.name == name), None)


def completed(model: Model, target: Target) -> tuple[Completed, ...]:
    """The completed config, for each file that ONNX Runtime's backend serves."""
    return model.once(_completed) if model.backend == "onnxruntime" and not target.only_core else ()


def _completed(model: Model) -> tuple[Completed, ...]:
    return tuple(Completed(file, signature) for file, signature in signatures(files(model)))
