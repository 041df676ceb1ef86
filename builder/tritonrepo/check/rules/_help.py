"""What rules of several topics need."""

from __future__ import annotations

from collections.abc import Iterable
from posixpath import normpath

from tritonrepo.check.model import Model

#: An input and an output, for examples.
TENSORS = """
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""

#: A model of the Python backend that starts.
MODEL_PY = """
class TritonPythonModel:
    def execute(self, requests):
        raise NotImplementedError
"""


def example(config: str, backend: str = "pytorch") -> dict[str, str]:
    """A repository whose only model has this config, and a backend that looks at nothing else."""
    return {"m/config.pbtxt": f'backend: "{backend}"\n{config.strip()}\n', "m/1/model.pt": ""}


def path_in_model(*parts: str) -> str:
    """The path that the server makes of names in a config; a NUL ends it, and a slash at the front means nothing."""
    return normpath("/".join(part.partition("\0")[0].strip("/") for part in parts if part))


def exists(model: Model, *parts: str) -> bool:
    """Whether there is a file or a folder of this path; what a build is about to publish counts as there."""
    return model.files.is_folder(path_in_model(*parts)) is not None


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint at the one of these words that was probably meant; ``""`` where none is near."""
    from tritonrepo._faults import closest

    found = closest(word, words)
    return f"Did you mean {found}?" if found else ""
