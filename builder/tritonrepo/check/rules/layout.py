"""TR0xx: what lies in the repository, and the text of the config."""

from __future__ import annotations

from collections.abc import Iterator

from tritonrepo.check.model import CONFIG, Model
from tritonrepo.check.rule import Spot, Target, rule


@rule(
    "TR001",
    "crash",
    "config.pbtxt is a file",
    "A directory named config.pbtxt ends the server while it reads the repository.",
    wrong={"m/config.pbtxt/readme.md": "", "m/1/model.py": ""},
    right={"m/config.pbtxt": 'backend: "python"', "m/1/model.py": ""},
    parsed=False,
)
def config_is_a_file(model: Model, target: Target) -> Iterator[Spot]:
    if model.entries.get(CONFIG):
        yield model.spot_at(CONFIG, "config.pbtxt is a directory", "Make it a file: the model's configuration.")


@rule(
    "TR002",
    "reject",
    "the config can be parsed",
    "The server reads config.pbtxt as a ModelConfig in protobuf's text format, and refuses the model at the first "
    "error: a field that its release does not have, a value of another type, a field that may stand once and stands "
    "twice, two members of a oneof, a comma after the last element of a list.",
    wrong={"m/config.pbtxt": 'backend: "python"\nmax_batch: 8', "m/1/model.py": ""},
    right={"m/config.pbtxt": 'backend: "python"\nmax_batch_size: 8', "m/1/model.py": ""},
    parsed=False,
)
def config_parses(model: Model, target: Target) -> Iterator[Spot]:
    if model.document is None or model.document.error is None:
        return
    error = model.document.error
    path = model.path / CONFIG
    if error.unknown is None:
        yield Spot(path, error.line, error.column, error.message, "Mend the text; what follows it was not read.")
        return
    from tritonrepo._faults import closest

    unknown = error.unknown
    nearest = closest(unknown.name, unknown.known)
    if nearest:
        hint = f"Did you mean {nearest}?"
    elif len(unknown.known) <= 16:
        hint = f"One of: {', '.join(unknown.known)}."
    else:
        hint = f"Release {target.release} of the server does not know it."
    yield Spot(path, unknown.line, unknown.column, error.message, hint)
