from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tritonrepo.errors import LockedError, PublishError
from tritonrepo.lock import repository_lock, state_folder

HOLD = """
import sys, time
from pathlib import Path
from tritonrepo.lock import repository_lock

with repository_lock(Path(sys.argv[1]), wait=True, on_wait=lambda message: print(message, flush=True)):
    print("held", flush=True)
    sys.stdin.read()
"""

# The child of a fork lives on when its parent is killed.
HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from tritonrepo.lock import repository_lock

with repository_lock(Path(sys.argv[1]), wait=False):
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""

Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Start a process that takes the lock of ``models`` and keeps it until its standard input ends."""
    children: list[subprocess.Popen[str]] = []

    def hold(code: str = HOLD) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path / "models")]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield hold
    for child in children:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_the_second_build_is_told_who_holds_the_lock(tmp_path: Path, hold: Hold) -> None:
    first = hold()
    assert line(first) == "held"
    told: list[str] = []

    with (
        pytest.raises(LockedError, match=f"is being built by process {first.pid} on .* since 20") as caught,
        repository_lock(tmp_path / "models", wait=False, on_wait=told.append),
    ):
        pass
    assert caught.value.hint is not None
    assert told == []

    begun = time.monotonic()
    with (
        pytest.raises(LockedError, match=f"process {first.pid} .* not done within 0.2 s"),
        repository_lock(tmp_path / "models", wait=0.2, on_wait=told.append),
    ):
        pass
    assert 0.2 <= time.monotonic() - begun < 5
    assert len(told) == 1
    assert told[0].endswith("waiting for it")


def test_the_second_build_waits(hold: Hold) -> None:
    first = hold()
    assert line(first) == "held"
    second = hold()
    assert f"process {first.pid}" in line(second)
    assert first.stdin is not None
    first.stdin.close()
    assert line(second) == "held"


def test_a_timeout_is_enough_when_the_holder_is_done_in_time(tmp_path: Path, hold: Hold) -> None:
    first = hold()
    assert line(first) == "held"

    def let_go(message: str) -> None:
        assert first.stdin is not None
        first.stdin.close()

    with repository_lock(tmp_path / "models", wait=30.0, on_wait=let_go):
        assert first.wait(30) == 0


def test_a_killed_holder_holds_nothing(tmp_path: Path, hold: Hold) -> None:
    first = hold()
    assert line(first) == "held"
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert str(first.pid) in (state_folder(tmp_path / "models") / "lock").read_text(), "what it wrote is still there"
    with repository_lock(tmp_path / "models", wait=False):
        assert str(os.getpid()) in (state_folder(tmp_path / "models") / "lock").read_text()


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path, hold: Hold) -> None:
    first = hold(HOLD_AND_FORK)
    child = int(line(first))
    first.kill()
    first.wait()
    os.kill(child, 0)  # it is there, and would hold the lock with its copy of the file

    # Not at once: the child may not have come to closing its copy yet.
    with repository_lock(tmp_path / "models", wait=10):
        pass


def test_a_forked_child_may_leave_the_block(tmp_path: Path) -> None:
    with repository_lock(tmp_path / "models", wait=False) as lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                spare = os.open(os.devnull, os.O_RDONLY)  # takes the number that the lock had
                lock.require(tmp_path / "models")
                code = 0
            finally:
                os.close(spare)
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(LockedError), repository_lock(tmp_path / "models", wait=False):
            pass


def test_a_repository_may_be_locked_again_when_it_was_released(tmp_path: Path) -> None:
    for _ in range(2):
        with repository_lock(tmp_path / "models", wait=False) as lock:
            assert lock.repository == tmp_path / "models"
    assert (state_folder(tmp_path / "models") / "lock").read_text() == "", "no one holds it, no one is named"


def test_the_state_lies_beside_the_repository(tmp_path: Path) -> None:
    with repository_lock(tmp_path / "models", wait=False) as lock:
        assert lock.state == tmp_path / ".models.tritonrepo"
    assert not (tmp_path / "models").exists()


def test_the_root_folder_is_no_repository() -> None:
    with pytest.raises(PublishError, match="root folder"):
        state_folder(Path("/"))


def test_a_parent_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(PublishError, match=r"cannot be written: Not a directory[\s\S]*Allow writing in"),
        repository_lock(tmp_path / "file/models", wait=False),
    ):
        pass


def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    parent = Path("/proc") if os.geteuid() == 0 else tmp_path
    if parent == tmp_path:
        tmp_path.chmod(0o500)
    try:
        with pytest.raises(PublishError, match="cannot be written"), repository_lock(parent / "models", wait=False):
            pass
    finally:
        tmp_path.chmod(0o700)
