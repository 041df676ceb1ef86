"""One build at a time may change a repository: an flock, which the kernel releases however its holder ends.

What tritonrepo needs besides the repository (the lock, what is being staged, what is being removed) lies beside it, in
``PARENT/.NAME.tritonrepo/``: on the same file system, where a rename is one step, and not in it, where Triton takes
every folder for a model, hidden ones too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonrepo.errors import LockedError, PublishError

_POLL_SECONDS = 0.05
_FILE = "lock"

# Locks of this process. A forked child must not hold them: it may outlive its parent, and flock goes with the copies.
_held: set[int] = set()


class Lock:
    """The right to change one repository, from `repository_lock`; what changes a repository asks for it as proof.

    Threads of one process may share it, as long as each works on models of its own.

    Attributes:
        repository: the repository, absolute, symbolic links resolved.
        state: the folder beside it, where only the holder may change things.
    """

    def __init__(self, repository: Path, state: Path) -> None:
        self.repository = repository
        self.state = state
        self._held = True
        self._recovered = False
        self._mutex = threading.Lock()

    def require(self, repository: Path) -> None:
        """Refuse to go on where this lock is not one on that repository, or has been released."""
        if not self._held or repository.resolve() != self.repository:
            raise ValueError(f"this lock is on {self.repository}, or released; {repository} needs one")

    def once(self, action: Callable[[], None]) -> None:
        """Run the action if it is the first with this lock; other threads wait until it is done."""
        with self._mutex:
            if not self._recovered:
                action()
                self._recovered = True


@dataclass(frozen=True)
class _Holder:
    pid: int
    host: str
    command: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started} ({self.command})"


def state_folder(repository: Path) -> Path:
    """Where the lock and what is being staged lie: ``PARENT/.NAME.tritonrepo``, links in the path resolved."""
    resolved = repository.resolve()
    if not resolved.name:
        raise PublishError(
            "the root folder cannot be a model repository", where=repository, hint="Name a folder in it."
        )
    return resolved.parent / f".{resolved.name}.tritonrepo"


@contextlib.contextmanager
def repository_lock(
    repository: Path, *, wait: bool | float, on_wait: Callable[[str], None] = lambda message: None
) -> Iterator[Lock]:
    """Hold the repository's lock for the length of a ``with`` block.

    Args:
        repository: the repository; it need not exist yet.
        wait: True waits for as long as it takes, False does not wait, a number waits for so many seconds.
        on_wait: called once, before waiting, with a sentence that says who holds the lock.

    Raises:
        LockedError: another process holds the lock, and it was not released in time.
        PublishError: the folder beside the repository cannot be made or locked.
    """
    state = state_folder(repository)
    file = _open(state / _FILE, repository)
    _held.add(file)
    try:
        _acquire(file, state / _FILE, repository, wait, on_wait)
        _write_holder(file)
        lock = Lock(repository.resolve(), state)
        try:
            yield lock
        finally:
            lock._held = False
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        if file in _held:  # not in a forked child, where it is closed already
            _held.discard(file)
            os.close(file)


def _open(path: Path, repository: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise PublishError(
            f"the folder for the lock and for staging cannot be written: {error.strerror}",
            where=path.parent,
            hint=f"It lies beside the repository, on the same file system. Allow writing in {path.parent.parent}, or "
            f"put the repository into a folder where you may write (now: {repository}).",
        ) from error


def _acquire(file: int, path: Path, repository: Path, wait: bool | float, on_wait: Callable[[str], None]) -> None:
    if _try(file, path):
        return
    holder = _read_holder(path)
    message = f"{repository} is being built by {holder or 'another process'}"
    if wait is not False:
        on_wait(f"{message}; waiting for it")
    if wait is True:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    end = time.monotonic() + wait
    while time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        if _try(file, path):
            return
    raise LockedError(
        message if wait is False else f"{message}, and it was not done within {wait:g} s",
        hint="Wait for it, or stop that process; the lock goes with it.",
    )


def _try(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO):
            raise
        raise PublishError(
            f"this file system has no locks: {error.strerror}",
            where=path,
            hint="Put the repository on a file system that supports flock (NFS needs its lock service).",
        ) from error
    return True


def _write_holder(file: int) -> None:
    """Say who holds the lock. It is for people to read, so a full disk is no reason to stop here."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)


def _read_holder(path: Path) -> _Holder | None:
    """Who holds the lock; None where it has not said so (it writes after it has locked)."""
    for _ in range(5):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            said = json.loads(path.read_bytes())
            return _Holder(int(said["pid"]), said["host"], said["command"], said["started"])
        time.sleep(_POLL_SECONDS / 5)
    return None


def _release_in_child() -> None:
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)
