"""Put a new folder in another's place, in one step where the system can."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, renameat2
_RENAME_SWAP = 2  # macOS, renamex_np
_SYS_RENAMEAT2 = {
    "x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347, "armv7l": 382, "i686": 353,
}  # fmt: skip

#: How systems, file systems and sandboxes say that they cannot exchange two names.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def replace(new: Path, target: Path, aside: Path) -> str:
    """Put the folder ``new`` in the place of ``target``, all three on one file system.

    Returns:
        ``rename`` where there was no target; ``exchange`` where the two changed places in one step (the old one is at
        ``new`` now); ``two renames`` where the file system cannot do that: the old one is at ``aside`` now, and for an
        instant there was nothing at ``target``.

    Raises:
        OSError: nothing was changed, or only the first of the two renames was done: `restore` undoes it.
    """
    if not os.path.lexists(target):
        new.rename(target)
        return "rename"
    try:
        exchange(new, target)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    else:
        return "exchange"
    aside.parent.mkdir(parents=True, exist_ok=True)
    target.rename(aside)
    new.rename(target)
    return "two renames"


def restore(aside: Path, target: Path) -> None:
    """Undo the first of two renames, if the second was not done."""
    if os.path.lexists(aside) and not os.path.lexists(target):
        aside.rename(target)


def exchange(first: Path, second: Path) -> None:
    """Let two names change places in one step; OSError where the kernel or the file system cannot."""
    call = _call()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(first), None, str(second))
    ctypes.set_errno(0)
    if call(os.fsencode(first), os.fsencode(second)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def _call() -> Callable[[bytes, bytes], int] | None:
    """The C library's function, the bare system call where the library is too old for one, or None."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        return lambda first, second: int(library.renamex_np(first, second, _RENAME_SWAP))
    if hasattr(library, "renameat2"):
        return lambda first, second: int(library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE))
    number = _SYS_RENAMEAT2.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return None
    return lambda first, second: int(
        library.syscall(number, _AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_RENAME_EXCHANGE))
    )
