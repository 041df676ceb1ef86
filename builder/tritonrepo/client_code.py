"""A model's signature -> a typed Python module that calls it, so that editors and type checkers know its tensors."""

from __future__ import annotations

import keyword
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tritonrepo.errors import InferError, ModelError, UsageError

if TYPE_CHECKING:
    from tritonrepo_client import Signature, TensorSpec

_NUMPY = {
    "BOOL": "np.bool_", "UINT8": "np.uint8", "UINT16": "np.uint16", "UINT32": "np.uint32", "UINT64": "np.uint64",
    "INT8": "np.int8", "INT16": "np.int16", "INT32": "np.int32", "INT64": "np.int64", "FP16": "np.float16",
    "FP32": "np.float32", "FP64": "np.float64", "BYTES": "np.object_", "BF16": "Any",
}  # fmt: skip
#: Names that the generated code uses itself.
_TAKEN = frozenset(("self", "timeout", "inputs", "outputs", "out", "reply", "replies", "MODEL", "Any", "np"))


def from_server(url: str, model: str, version: str = "", timeout: float = 60) -> Signature:
    """What a running server says of the model.

    Raises:
        InferError: the server does not say it.
        UsageError: a URL that is none.
    """
    from tritonrepo_client import Client, TritonClientError

    try:
        client = Client(url, timeout=timeout)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with client:
        try:
            return client.model(model, version).signature
        except TritonClientError as error:
            raise InferError(str(error), hint="is the server up, and the model's name right?") from error


def from_repository(repository: Path, model: str) -> Signature:
    """What the model's config in a repository says.

    Raises:
        ModelError: there is no config, or it leaves the tensors to the server.
    """
    from tritonrepo._model_config import parse
    from tritonrepo_client import Signature

    path = repository / model / "config.pbtxt"
    if not path.is_file():
        raise ModelError("there is no such model", where=path, hint="build it, or ask a server with --url")
    config = parse(path.read_text(encoding="utf-8"), file=path)
    if not config.input or not config.output:
        raise ModelError(
            "the config leaves inputs or outputs to the server", where=path, hint="ask a running server with --url"
        )
    batch = [-1] if config.max_batch_size else []

    def described(entries: Sequence[object]) -> list[dict[str, object]]:
        return [
            {"name": each.name, "datatype": _triton_type(each.data_type), "shape": [*batch, *each.dims]}  # type: ignore[attr-defined]
            for each in entries
        ]

    metadata = {"inputs": described(config.input), "outputs": described(config.output)}
    inputs = [
        {"name": each.name, "optional": each.optional, "is_shape_tensor": each.is_shape_tensor} for each in config.input
    ]
    known: dict[str, object] = {"max_batch_size": config.max_batch_size, "input": inputs}
    if config.HasField("sequence_batching"):
        known["sequence_batching"] = {}
    if config.model_transaction_policy.decoupled:
        known["model_transaction_policy"] = {"decoupled": True}
    return Signature.from_server(metadata, known)


def render(model: str, signature: Signature) -> str:
    """The text of the module."""
    inputs = _named(signature.inputs)
    outputs = _named(signature.outputs)
    name = _class_name(model)
    needs_any = any(_NUMPY.get(spec.dtype, "Any") == "Any" for spec in (*signature.inputs, *signature.outputs))
    typing = ["Any"] if needs_any else []
    iterators = "from collections.abc import AsyncIterator, Iterator\n" if signature.decoupled else ""
    lines = [
        f'"""Typed access to the model {_quoted(model)}. Written by `tritonrepo client-code`: do not edit.',
        "",
        *_described(signature),
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *([iterators.rstrip()] if iterators else []),
        "from dataclasses import dataclass",
        *([f"from typing import {', '.join(typing)}"] if typing else []),
        "",
        "import numpy as np",
        "from numpy.typing import NDArray",
        "",
        "from tritonrepo_client import AsyncClient, Client",
        "",
        f"MODEL = {model!r}",
        "",
        "",
        "@dataclass(frozen=True)",
        f"class {name}Outputs:",
        f'    """What {_quoted(model)} gives."""',
        "",
    ]
    for attribute, spec in outputs:
        lines += [f"    {attribute}: {_type(spec)}", f'    """{_quoted(str(spec))}"""']
    for asynchronous in (False, True):
        lines += _class(name, signature, inputs, outputs, asynchronous=asynchronous)
    return "\n".join(lines) + "\n"


def write(text: str, path: Path) -> None:
    """Write the module: complete, or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text)
            file.flush()
            Path(file.name).chmod(0o666 & ~_umask())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _class(
    name: str,
    signature: Signature,
    inputs: Sequence[tuple[str, TensorSpec]],
    outputs: Sequence[tuple[str, TensorSpec]],
    *,
    asynchronous: bool,
) -> list[str]:
    required = [pair for pair in inputs if not pair[1].optional]
    optional = [pair for pair in inputs if pair[1].optional]
    arguments = [f"{attribute}: {_type(spec)}" for attribute, spec in required]
    arguments += ["*", *(f"{attribute}: {_type(spec)} | None = None" for attribute, spec in optional)]
    arguments.append("timeout: float | None = None")
    iterator = "AsyncIterator" if asynchronous else "Iterator"
    if signature.decoupled:
        head = f"    {'async ' if asynchronous else ''}def stream("
        gives, doc = f"{iterator}[{name}Outputs]", "The replies, as they come."
    else:
        head = f"    {'async ' if asynchronous else ''}def __call__("
        gives, doc = f"{name}Outputs", "Run the model."
    prefix, wait = ("Async", "await ") if asynchronous else ("", "")
    lines = [
        "",
        "",
        f"class {prefix}{name}:",
        f'    """The model behind {"an AsyncClient" if asynchronous else "a Client"}."""',
        "",
        f'    def __init__(self, client: {prefix}Client, version: str = "") -> None:',
        "        self._model = client.model(MODEL, version)",
        "",
        head,
        "        self,",
        *(f"        {argument}," for argument in arguments),
        f"    ) -> {gives}:",
        f'        """{doc}',
        "",
        "        Args:",
        *(f"            {attribute}: {_quoted(str(spec))}" for attribute, spec in (*required, *optional)),
        "            timeout: seconds for the whole call; by default the client's.",
        '        """',
        f"        inputs: dict[str, {_any_array(inputs)}] = {{{', '.join(f'{s.name!r}: {a}' for a, s in required)}}}",
    ]
    for attribute, spec in optional:
        lines += [f"        if {attribute} is not None:", f"            inputs[{spec.name!r}] = {attribute}"]
    made = f"{name}Outputs({', '.join(f'out[{spec.name!r}]' for _, spec in outputs)})"
    if signature.decoupled:
        loop = "async for" if asynchronous else "for"
        lines += [f"        {loop} out in self._model.stream(inputs, timeout=timeout):", f"            yield {made}"]
    else:
        lines += [f"        out = {wait}self._model(inputs, timeout=timeout)", f"        return {made}"]
    return lines


def _any_array(inputs: Sequence[tuple[str, TensorSpec]]) -> str:
    kinds = list(dict.fromkeys(_type(spec) for _, spec in inputs))
    return " | ".join(kinds) or "NDArray[np.generic]"


def _described(signature: Signature) -> list[str]:
    batch = f" (axis 0 is the batch, of 1 to {signature.max_batch_size} rows)" if signature.max_batch_size else ""
    return [
        f"Inputs{batch}:",
        *(f"    {_quoted(str(spec))}" for spec in signature.inputs),
        "Outputs:",
        *(f"    {_quoted(str(spec))}" for spec in signature.outputs),
    ]


def _named(specs: Sequence[TensorSpec]) -> list[tuple[str, TensorSpec]]:
    """Python names for tensors, each of its own."""
    used: set[str] = set()
    named = []
    for spec in specs:
        name = re.sub(r"\W", "_", spec.name, flags=re.ASCII).strip("_") or "tensor"
        if name[0].isdigit():
            name = f"tensor_{name}"
        if keyword.iskeyword(name) or name in _TAKEN:
            name += "_"
        unique, number = name, 2
        while unique in used:
            unique, number = f"{name}_{number}", number + 1
        used.add(unique)
        named.append((unique, spec))
    return named


def _class_name(model: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", model)
    name = "".join(word[0].upper() + word[1:] for word in words) or "Model"
    name = f"Model{name}" if name[0].isdigit() else name
    return name + "Model" if name in ("Client", "AsyncClient", "NDArray", "Any", "None", "True", "False") else name


def _type(spec: TensorSpec) -> str:
    return f"NDArray[{_NUMPY.get(spec.dtype, 'Any')}]"


def _quoted(text: str) -> str:
    """Text inside a docstring."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _triton_type(number: int) -> str:
    from tritonrepo._model_config import schema

    name: str = schema().DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name
