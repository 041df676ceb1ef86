"""Stands between tritonrepo and a server: starts it, and leaves nothing of it behind, whatever ends first.

Run as a script with ``python -I -S _keeper.py GRACE PREFIX WORK -- COMMAND...``; imports nothing beyond the standard
library. Its standard input is a pipe whose other end tritonrepo holds and never writes to: when that closes, because
tritonrepo is done or because it was killed, the server is asked to stop, is killed after GRACE seconds, and its shared
memory (/dev/shm/PREFIX*) is removed. With the parent gone, the folder WORK is removed too.

Why a process: the kernel's parent-death signal alone is tied to the *thread* that started the child, and it cannot
remove shared memory. Here one thread does everything, so the signal is a safe second line: it ends the server should
this process itself be killed.

It prints ``pid N`` once the server runs, and exits as the server did (128 + N where signal N ended it).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux
SHM_PREFIX = "tritonrepo_"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> int:
    """Run and keep one server; returns its exit code."""
    grace, prefix, work, command = float(argv[1]), argv[2], Path(argv[3]), argv[5:]
    _sweep()
    lock = (SHM / f"{prefix}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    wakeup = _wake_on_signals()
    parent = os.getppid()
    # Orphaned stub processes become children of this process, so that it can see the last of them end.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = _start(command)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"pid {server}\n".encode())
    status = _wait(server, wakeup, parent)
    if status is None:
        status = _stop(server, grace)
    _end_group(server)
    remove_shared_memory(prefix)
    if os.getppid() != parent:
        shutil.rmtree(work, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def remove_shared_memory(prefix: str) -> None:
    """Remove what a server left in /dev/shm; the lock goes last, because it says that nobody cares for the rest."""
    for path in sorted(SHM.glob(f"{prefix}*"), key=lambda path: path.name.endswith(".lock")):
        with contextlib.suppress(OSError):
            path.unlink()


def _sweep() -> None:
    """Remove the shared memory of servers whose keeper was killed: a lock that can be had has no owner."""
    for path in SHM.glob(f"{SHM_PREFIX}*.lock"):
        with contextlib.suppress(OSError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_shared_memory(path.name.removesuffix(".lock"))


def _wake_on_signals() -> int:
    """Make SIGCHLD and SIGTERM readable as bytes on a pipe; a terminal's signals are for tritonrepo, not for us."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return read


def _start(command: list[str]) -> int:
    """Fork and run the server in a session of its own, with the log (our standard error) as its output."""
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.execv(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"error: {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _wait(server: int, wakeup: int, parent: int) -> int | None:
    """Wait until the server ends (its wait status) or is to be stopped (None)."""
    while True:
        # The pipe may be held open by a forked child of the parent, hence the look at who our parent is.
        ready, _, _ = select.select([sys.stdin, wakeup], [], [], 0.5)
        pid, status = os.waitpid(server, os.WNOHANG)
        if pid:
            return status
        told = wakeup in ready and signal.SIGTERM in os.read(wakeup, 4096)
        if told or sys.stdin in ready or os.getppid() != parent:
            return None


def _stop(server: int, grace: float) -> int:
    os.kill(server, signal.SIGTERM)
    end = time.monotonic() + grace
    while time.monotonic() < end:
        pid, status = os.waitpid(server, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.02)
    os.kill(server, signal.SIGKILL)
    return os.waitpid(server, 0)[1]


def _end_group(server: int) -> None:
    """End what is left of the server's session: Python backend processes of a server that crashed or was killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    end = time.monotonic() + 2
    with contextlib.suppress(ChildProcessError):
        # Bounded, because a model may have started a daemon that left the session on purpose.
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
