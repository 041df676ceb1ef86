"""The rules. Each has its id, and says what the server does where it is broken (seen on Triton 2.51)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tritonrepo.check.model import Finding, RepositoryModel
from tritonrepo.errors import Where

Rule = Callable[[RepositoryModel], Iterator[Finding]]

#: Backend (or platform) -> the file that a version directory must hold when the config names no other.
MODEL_FILES = {
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "onnxruntime_onnx": "model.onnx",
    "tensorrt": "model.plan",
    "tensorrt_plan": "model.plan",
}


def config_is_there(model: RepositoryModel) -> Iterator[Finding]:
    """TR001: the server can complete a missing config for few backends only, and then guesses batching."""
    if model.config_text is None:
        where = Where(model.path)
        yield Finding(
            "TR001", "reject", where, "no config.pbtxt", "Write one, or move the folder out of the repository."
        )


def config_parses(model: RepositoryModel) -> Iterator[Finding]:
    """TR002: the server refuses a config that is not valid text of its ModelConfig schema."""
    error = model.parsed[1]
    if error:
        where = error.where or Where(model.config_path)
        yield Finding("TR002", "reject", where, error.message, error.hint or "Mend the text at this place.")


def name_is_the_folder(model: RepositoryModel) -> Iterator[Finding]:
    """TR003: a name in the config must be the directory's."""
    config, _ = model.parsed
    if config is not None and config.name and config.name != model.name:
        message = f"the config's name is {config.name!r}, the folder's {model.name!r}"
        yield Finding("TR003", "reject", Where(model.config_path), message, "Make them equal, or leave the name out.")


def a_version_is_there(model: RepositoryModel) -> Iterator[Finding]:
    """TR004: at least one directory named by a number."""
    if model.config_text is not None and not model.versions:
        hint = "Put the model into a folder named 1."
        yield Finding("TR004", "reject", Where(model.path), "no version directory", hint)


def model_file_is_there(model: RepositoryModel) -> Iterator[Finding]:
    """TR005: each version holds its model file; without model.py the Python backend hangs the load."""
    config, _ = model.parsed
    if config is None:
        return
    wanted = config.default_model_filename or MODEL_FILES.get(config.backend or config.platform)
    for version, files in sorted(model.versions.items()):
        if wanted and wanted not in files:
            message = f"version {version} has no {wanted}"
            yield Finding("TR005", "reject", Where(model.path / version), message, "Put the file there.")


def tensor_names_are_distinct(model: RepositoryModel) -> Iterator[Finding]:
    """TR006: the server takes two inputs of one name, and answers no request."""
    config, _ = model.parsed
    for kind, tensors in (("input", config.input), ("output", config.output)) if config is not None else ():
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                message = f"{count} {kind}s are named {name!r}"
                yield Finding("TR006", "breaks", Where(model.config_path), message, "Give each a name of its own.")


def batcher_has_a_batch(model: RepositoryModel) -> Iterator[Finding]:
    """TR007: a dynamic batcher does nothing for a model that does not batch."""
    config, _ = model.parsed
    if config is not None and config.HasField("dynamic_batching") and config.max_batch_size == 0:
        message = "dynamic_batching with max_batch_size 0 does nothing"
        hint = "Set max_batch_size, or leave dynamic_batching out."
        yield Finding("TR007", "advice", Where(model.config_path), message, hint)


RULES: Sequence[Rule] = (
    config_is_there,
    config_parses,
    name_is_the_folder,
    a_version_is_there,
    model_file_is_there,
    tensor_names_are_distinct,
    batcher_has_a_batch,
)
