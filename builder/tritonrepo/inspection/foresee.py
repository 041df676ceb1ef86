"""What the preparation would change, asked in a process of its own that loads onnx and no weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tritonrepo.errors import TritonrepoError

_SECONDS = 120
_MEMORY = 8 << 30


@dataclass(frozen=True)
class Foreseen:
    """Changes as (pass, what), passes that could not do what they are for as (pass, why), and why nothing is known if
    nothing is.
    """

    changes: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    unknown: str = ""


class Foreseeing:
    """A question that is answered while the asker does something else. A context manager.

    Args:
        path: the model; None asks nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._path = path

    def __enter__(self) -> Foreseeing:
        if self._path is not None:
            self._out = tempfile.TemporaryFile()
            command = [sys.executable, "-m", "tritonrepo.inspection.foresee", str(self._path.absolute())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.DEVNULL
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._out.close()

    def result(self) -> Foreseen:
        """The answer; waits for it."""
        if self._process is None:
            return Foreseen(unknown="not asked")
        try:
            status = self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            return Foreseen(unknown=f"it took more than {_SECONDS} s")
        self._out.seek(0)
        try:
            found = json.loads(self._out.read())
        except ValueError:
            return Foreseen(unknown=f"the process that asks ended with status {status}")
        changes, refused = (tuple((by, text) for by, text in found[key]) for key in ("changes", "refused"))
        return Foreseen(changes, refused, found["unknown"])


def _foresee(path: Path) -> Foreseen:
    """Run the passes as a build without a spec would, on the graph without its weights, and forget what they give."""
    from tritonrepo.introspect import introspect
    from tritonrepo.prepare import Context, foresee
    from tritonrepo.spec import spec_for

    signature = introspect(path)
    [model] = spec_for([path], repository=path.parent, templates=None).models
    changes, refused = foresee(Context(model, signature, "python"))
    return Foreseen(tuple((change.by, f"{change.what}: {change.why}") for change in changes), tuple(refused.items()))


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
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
