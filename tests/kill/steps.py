"""Kill a publication before each of its steps in turn: ``python -m kill.steps FOLDER [--two-renames] CHANGE ...``.

Every call that changes something on the disk is a step. A forked child publishes and kills itself before step 1; the
next one before step 2; and so on until one gets through. After each, the repository has to be as before or as after,
and publishing once more has to give what it would have given without any kill.

Prints for each change how many steps it has, and how many kills left the old, the new, and no model.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kill.generations import check_repository, staged
from kill.publisher import cannot
from tritonrepo import _disk, _exchange
from tritonrepo.lock import repository_lock, state_folder
from tritonrepo.publish import prune, publish, rollback

SIZE = 4096
KEEP = 2

#: Functions through which everything goes that changes the disk; what they stand in is patched.
STEPS: tuple[tuple[Any, str], ...] = (
    (os, "open"),
    (os, "mkdir"),
    (os, "link"),
    (os, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "fsync"),
    (os, "ftruncate"),
    (_exchange, "exchange"),
    (_disk, "write"),
)


def main() -> None:
    folder = Path(sys.argv[1])
    two_renames = "--two-renames" in sys.argv
    if two_renames:
        _exchange.exchange = cannot
    os.fsync = no_power_fails
    for name, prepare, change in CHANGES:
        if name not in sys.argv:
            continue
        found = _kill_at_each_step(folder / name, prepare, change, two_renames)
        print(name, len(found), *(found.count(state) for state in ("old", "new", "none")))  # noqa: T201


def no_power_fails(fd: object) -> None:
    """A step like others, but not one to wait for here."""


def _publish(repository: Path, *generations: int) -> None:
    for generation in generations:
        with repository_lock(repository, wait=False) as lock:
            publish(staged("m", generation, SIZE), repository, keep_versions=KEEP, lock=lock)


def _damage(repository: Path) -> None:
    _publish(repository, 0, 2)
    (repository / "m/2/weights/0.bin").unlink()


def _prune(repository: Path) -> None:
    with repository_lock(repository, wait=False) as lock:
        prune(repository, set(), lock)


def _rollback(repository: Path) -> None:
    with repository_lock(repository, wait=False) as lock:
        rollback(repository, "m", 1, lock)


#: name, what is there before, what is done
CHANGES: tuple[tuple[str, Callable[[Path], None], Callable[[Path], None]], ...] = (
    ("first", lambda repository: None, lambda repository: _publish(repository, 0)),
    ("version", lambda repository: _publish(repository, 0, 2), lambda repository: _publish(repository, 4)),
    ("config", lambda repository: _publish(repository, 0, 2), lambda repository: _publish(repository, 3)),
    ("repair", _damage, lambda repository: _publish(repository, 2)),
    ("rollback", lambda repository: _publish(repository, 0, 2), _rollback),
    ("prune", lambda repository: _publish(repository, 0), _prune),
)


def _kill_at_each_step(
    folder: Path, prepare: Callable[[Path], None], change: Callable[[Path], None], two_renames: bool
) -> list[str]:
    """What each kill left: ``old``, ``new``, or ``none`` (which only two renames may)."""
    repository = folder / "models"
    _start_anew(folder, prepare)
    old = _content(repository)
    change(repository)
    new = _content(repository)
    found: list[str] = []
    while True:
        _start_anew(folder, prepare)
        done = _run(lambda: change(repository), len(found) + 1)
        left = _content(repository)
        if done:
            assert left == new
            return found
        state = "new" if left == new else "old" if left == old else "none" if two_renames and not left else ""
        assert state, f"killed before step {len(found) + 1}: {sorted(left)} is neither {sorted(old)} nor {sorted(new)}"
        found.append(state)
        change(repository)
        assert _content(repository) == new, f"killed before step {len(found)}, then done again"
        assert [entry.name for entry in state_folder(repository).iterdir()] == ["lock"]
        check_repository(repository, ("m",), KEEP + 1)


def _start_anew(folder: Path, prepare: Callable[[Path], None]) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    prepare(folder / "models")


def _content(repository: Path) -> dict[str, bytes]:
    """All files, but for provenance, which says when and may differ."""
    files = (path for path in repository.rglob("*") if path.is_file() and not path.match("*.provenance.json"))
    return {str(path.relative_to(repository)): path.read_bytes() for path in files}


def _run(change: Callable[[], None], step: int) -> bool:
    """Do it in a child that kills itself before the step; whether it was done before it came to that."""
    child = os.fork()
    if child == 0:
        try:
            _count_steps(step)
            change()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, "the change failed by itself"
    return True


def _count_steps(fatal: int) -> None:
    passed = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return step

    for owner, name in STEPS:
        setattr(owner, name, counted(getattr(owner, name)))


if __name__ == "__main__":
    main()
