"""Run as ``python -m tritonrepo.inspection.ask MODEL``: prints what the preparation would change, as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from tritonrepo.errors import TritonrepoError
from tritonrepo.inspection.foresee import SECONDS, Foreseen

_MEMORY = 8 << 30


def _foresee(path: Path) -> Foreseen:
    """Run the passes as a build without a spec would, on the graph without its weights, and forget what they give."""
    from tritonrepo.introspect import introspect
    from tritonrepo.prepare import Context, foresee
    from tritonrepo.spec import ModelSpec

    signature = introspect(path)
    changes, refused = foresee(Context(ModelSpec(name="model", onnx=path), signature, "python"))
    return Foreseen(tuple((change.by, f"{change.what}: {change.why}") for change in changes), tuple(refused.items()))


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        found = _foresee(Path(sys.argv[1]))
    except TritonrepoError as error:
        found = Foreseen(unknown=f"a build refuses the model: {error}")
    except Exception as error:
        found = Foreseen(unknown=f"it fails: {type(error).__name__}: {str(error)[:200]}")
    json.dump(asdict(found), sys.stdout)


if __name__ == "__main__":
    _main()
