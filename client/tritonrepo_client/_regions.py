"""System shared memory as files in /dev/shm: made, mapped, and known to be alive by a lock on the file.

The lock is held as long as the process that made the region lives, in whatever namespace it lives: whoever gets it
knows that the owner is gone. Nothing here talks to a server.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from tritonrepo_client.errors import SharedMemoryError

PREFIX = "tritonrepo-"
FOLDER = Path("/dev/shm")  # noqa: S108 - this is where the server looks
_NEW_S = 60.0


class Region:
    """Memory of this process that a server on the same host can map. Zero at first."""

    def __init__(self, size: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self.size = size
        path = FOLDER / self.name
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SharedMemoryError(f"cannot make {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._file, 0, size)  # now, instead of a SIGBUS when it is written to
            self.memory = mmap.mmap(self._file, size)
        except OSError as error:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise SharedMemoryError(f"no {size} bytes of shared memory: {error.strerror}") from None
        self._owner = os.getpid()

    @property
    def ours(self) -> bool:
        """Whether this process made it, and not one that it was forked from."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Take it away from all who have not mapped it. Views of it stay valid as long as they live."""
        if self._file < 0:
            return
        if self.ours:
            (FOLDER / self.name).unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1


def abandoned(name: str) -> bool:
    """Whether the owner of a region is gone, or has taken it away."""
    with contextlib.suppress(FileNotFoundError):
        return _free(FOLDER / name)
    return True


def remove_abandoned() -> int:
    """Remove the files that dead owners left; returns how many. Those of other users are left to them."""
    count = 0
    for path in _candidates():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _NEW_S and _free(path):
                path.unlink()
                count += 1
    return count


def remove(name: str) -> None:
    """Remove the file of an abandoned region."""
    with contextlib.suppress(OSError):
        (FOLDER / name).unlink()


def _candidates() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from FOLDER.glob(f"{PREFIX}*")


def _free(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError:  # another user's: not ours to judge
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
