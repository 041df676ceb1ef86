"""What rules of several topics need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def data_path(folder: str, name: str) -> str:
    """The path of a file of data in a folder of the model. It is not simplified: every folder in it must be there."""
    return f"{folder}/{name.partition(chr(0))[0]}"


def is_folder(model: Model, folder: str, name: str) -> bool | None:
    """Whether a name in a folder (``""``: the model's own) is a folder's; None where nothing is there."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        found = model.files.is_folder(path_in_model(folder, name))
        return None if found is False and name.endswith("/") else found
    return (_contents(model, folder) if folder else model.entries).get(name)


def exists(model: Model, folder: str, name: str) -> bool:
    """Whether there is a file or a folder of this name in a folder; one about to be published counts as there."""
    return is_folder(model, folder, name) is not None


def _contents(model: Model, folder: str) -> Mapping[str, bool]:
    """What is in a folder; each is listed once, because several rules ask about several files."""
    listings = model.once(_listings)
    if folder not in listings:
        listings[folder] = model.files.names(folder)
    return listings[folder]


def _listings(model: Model) -> dict[str, Mapping[str, bool]]:
    return {}


def is_utf8(text: str) -> bool:
    """Whether a string of a config is UTF-8, which the server does not ask for, but needs."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint at the one of these words that was probably meant; ``""`` where none is near."""
    from tritonrepo._faults import closest

    found = closest(word, words)
    return f"Did you mean {found}?" if found else ""
