"""Outcomes that are kept, so that an interrupted run goes on and a second one computes only what changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from tritonrepo.fingerprint import tool_version
from tritonrepo.runtime import TRITON_VERSION

from .case import Case
from .collect import folder
from .outcome import Outcome

_TOOLS = ("tritonrepo", "onnx", "onnxruntime", "numpy", "jinja2", "protobuf", "tritonclient")


def identity() -> str:
    """What outcomes depend on beside the case: the code of tritonrepo, its templates and its client, of this harness,
    and the versions of what they use.
    """
    import tritonrepo_client
    import tritonrepo_templates

    value = hashlib.sha256(json.dumps([TRITON_VERSION, *map(tool_version, _TOOLS)]).encode())
    for module in (str(tritonrepo_client.__file__), str(tritonrepo_templates.__file__), __file__):
        for file in sorted(Path(module).parent.glob("*")):
            if file.suffix in (".py", ".j2"):
                value.update(file.name.encode() + file.read_bytes())
    return value.hexdigest()


class Kept:
    """Outcomes by case; a line of JSON each, in a file for this code and these versions."""

    def __init__(self, where: Path | None = None) -> None:
        where = where or folder()
        where.mkdir(parents=True, exist_ok=True)
        self.path = where / f"outcomes-{identity()[:16]}.jsonl"
        self._known: dict[str, Outcome] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):  # the last one may be cut off
                    digest, fields = json.loads(line)
                    self._known[digest] = Outcome(**fields)

    def get(self, case: Case) -> Outcome | None:
        """What became of a case, where that is known."""
        return self._known.get(case.digest)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Keep an outcome."""
        self._known[case.digest] = outcome
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([case.digest, asdict(outcome)]) + "\n")
