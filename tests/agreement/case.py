"""A case: a small repository to judge and to check, and the words in which the case files write theirs."""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Tree = Mapping[str, bytes]
"""A repository's content by path; a path that ends in / is a folder, a ``Link`` as content a symbolic link."""


class Link(bytes):
    """In a tree: a symbolic link to this path, which need not exist."""


PLACEHOLDER = b"stands for a model"
"""Content of model files that nothing reads: the stub backend wants them to be there, no more."""

FILES = {
    "tensorrt_plan": "model.plan",
    "onnxruntime_onnx": "model.onnx",
    "pytorch_libtorch": "model.pt",
    "tensorflow_graphdef": "model.graphdef",
    "tensorflow_savedmodel": "model.savedmodel/saved_model.pb",
}
"""Platform -> the model's file in a version directory."""

# A model.py of the Python backend that starts and answers nothing.
PYTHON = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


@dataclass(frozen=True)
class Case:
    """One repository.

    Attributes:
        id: unique; its first part names the case file.
        tree: the repository's content by path; a path that ends in / is a folder.
        gpus: how many GPUs the server has.
        known: for what cannot be judged here, because it takes a backend that is not there: whether Triton accepts the
            repository according to its own tests or sources. None: the server judges.
        beyond: why `check` is not asked for its opinion, although the server can judge.
    """

    id: str
    tree: Tree
    gpus: int = 1
    known: bool | None = None
    beyond: str = ""

    @cached_property
    def digest(self) -> str:
        """Names what is judged: the content and the GPUs."""
        return digest(self.tree, self.gpus)


def digest(tree: Tree, gpus: int) -> str:
    """The name of what is judged: a hash of a repository's content, and of the number of GPUs."""
    made = hashlib.sha256(b"%d" % gpus)
    for path, content in sorted(tree.items()):
        kind = b"link" if isinstance(content, Link) else b""
        made.update(b"\0%s\0%s%d\0" % (path.encode(), kind, len(content)))
        made.update(content)
    return made.hexdigest()[:24]


def content_of(tree: Tree, path: str) -> bytes:
    """What is in a file of a tree, links followed."""
    for _ in range(8):
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        link = next((name for name in above if isinstance(tree.get(name), Link)), None)
        if link is None:
            break
        target = os.path.join(os.path.dirname(link), os.fsdecode(tree[link]))  # noqa: PTH118, PTH120
        path = os.path.normpath(target + path[len(link) :])
    return tree[path]


def write_tree(tree: Tree, root: str) -> None:
    """Write a repository's content into a folder. Paths are texts: it is done a hundred thousand times."""
    for path, content in tree.items():
        target = f"{root}/{path}"
        if path.endswith("/"):
            os.makedirs(target, exist_ok=True)  # noqa: PTH103
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        if isinstance(content, Link):
            os.symlink(bytes(content), target.encode())  # noqa: PTH211
            continue
        with open(target, "wb") as file:  # noqa: PTH123
            file.write(content)


def model(name: str, config: str | bytes | None, *files: str, **contents: bytes) -> dict[str, bytes]:
    """One model's folder.

    Args:
        name: the folder's name.
        config: text of config.pbtxt; None for no such file.
        files: paths in the folder, of placeholders and (with / at the end) folders.
        contents: contents of files in version 1, with ``__`` for the dot: ``model__py=...``.
    """
    tree: dict[str, bytes] = {}
    if config is not None:
        text = config if isinstance(config, bytes) else textwrap.dedent(config).encode()
        tree[f"{name}/config.pbtxt"] = text
    tree.update({f"{name}/{path}": b"" if path.endswith("/") else PLACEHOLDER for path in files})
    tree.update({f"{name}/1/{file.replace('__', '.')}": content for file, content in contents.items()})
    return tree or {f"{name}/": b""}


def python(name: str, config: str, code: bytes = PYTHON) -> dict[str, bytes]:
    """A model of the Python backend, which is the real one."""
    return model(name, config, model__py=code)


def platform(name: str, platform: str, config: str) -> dict[str, bytes]:
    """A model with the file and the platform line of one of `FILES`."""
    return model(name, f'platform: "{platform}"\n{textwrap.dedent(config)}', f"1/{FILES[platform]}")


def table(prefix: str, base: str, rows: str, **settings: Any) -> Iterator[Case]:
    """Cases that put one text after the other into one config.

    Args:
        prefix: of the ids.
        base: the config, with @ where the text goes.
        rows: lines ``name | text``; a text goes to the end of its line.
        settings: ``folder`` makes the tree from a config (default: an ONNX Runtime model), the rest is `Case`'s.
    """
    folder: Callable[[str], Tree] = settings.pop("folder", onnx)
    for line in textwrap.dedent(rows).strip().splitlines():
        name, _, text = line.partition("|")
        if name.strip() and not name.startswith("#"):
            yield Case(f"{prefix}/{name.strip()}", folder(base.replace("@", text.strip(), 1)), **settings)


def onnx(config: str, name: str = "m") -> dict[str, bytes]:
    """A model for the ONNX Runtime backend; the config says nothing about that."""
    return model(name, f'backend: "onnxruntime"\n{config}', "1/model.onnx")


def tensorrt(config: str, name: str = "m") -> dict[str, bytes]:
    """A model for the TensorRT backend; the config says nothing about that."""
    return model(name, f'backend: "tensorrt"\n{config}', "1/model.plan")


def identity(config: str, name: str = "m") -> dict[str, bytes]:
    """A model for a backend that has no rules of its own and wants no file."""
    return model(name, f'backend: "identity"\n{config}', "1/")


def bare(config: str, name: str = "m") -> dict[str, bytes]:
    """A folder with an ONNX file, and nothing in the config that the text does not say."""
    return model(name, config, "1/model.onnx")


def part(name: str, batch: int = 4, ins: int = 1, outs: int = 1, of: str = "data_type: TYPE_INT16 dims: 5") -> Tree:
    """A model to compose ensembles of: inputs i0, i1, ... and outputs o0, o1, ... of one type and shape."""
    lines = [f"max_batch_size: {batch}"]
    lines += [f'input {{ name: "i{number}" {of} }}' for number in range(ins)]
    lines += [f'output {{ name: "o{number}" {of} }}' for number in range(outs)]
    return identity("\n".join(lines), name)


def steps(text: str) -> str:
    """Steps written ``one i0=a > o0=b | two@3 i0=b > o0=z``: model, inputs > outputs; @ is a version."""
    made = []
    for step in text.split("|"):
        head, _, outputs = step.partition(">")
        named, *inputs = head.split() or [""]
        name, _, version = named.partition("@")
        maps = [f"{kind} {{ key: {key!r} value: {value!r} }}"
                for kind, pairs in (("input_map", inputs), ("output_map", outputs.split()))
                for key, _, value in (pair.partition("=") for pair in pairs)]  # fmt: skip
        chosen = f'model_name: "{name}" model_version: {version or -1}' if name != "-" else ""
        made.append(f"step {{ {chosen} {' '.join(maps)} }}")
    return f"ensemble_scheduling {{ {' '.join(made)} }}"


def ensemble(
    name: str, scheduling: str, *, batch: int = 3, ins: str = "a", outs: str = "z", more: str = "", of: str = ""
) -> Tree:
    """An ensemble's folder; ``scheduling`` as in `steps`, ``of`` the tensors' type and shape."""
    of = of or "data_type: TYPE_INT16 dims: 5"
    tensors = [f"{kind} {{ name: {tensor!r} {of} }}"
               for kind, names in (("input", ins), ("output", outs)) for tensor in names.split()]  # fmt: skip
    text = f'platform: "ensemble" max_batch_size: {batch}\n{" ".join(tensors)}\n{steps(scheduling)}\n{more}'
    return model(name, text, "1/")
