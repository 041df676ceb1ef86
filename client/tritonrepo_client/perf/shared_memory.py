"""System shared memory: regions that hold inputs and take outputs, known to the servers, and gone afterwards."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tritonrepo_client.perf.errors import PerfError, ServerError
from tritonrepo_client.perf.server import Server

_FOLDER = Path("/dev/shm")  # noqa: S108  this is where Linux keeps it
_PREFIX = "tritonrepo-perf"


class Regions:
    """Regions of shared memory of one run. A context manager: they are unregistered and removed at its end.

    What an earlier run left behind because it was killed is removed first: names hold host and process id.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = list(servers)
        self._made: list[str] = []
        self._registered: list[tuple[Server, str]] = []
        self._maps: list[mmap.mmap] = []
        self._remove_leftovers()

    def add(self, size: int) -> tuple[str, mmap.mmap]:
        """A new region of so many bytes, known to all servers: its name and its memory.

        Raises:
            PerfError: there is no room for it, or a server refuses it.
        """
        name = f"{_own()}-{secrets.token_hex(4)}"
        path = _FOLDER / name
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            self._made.append(name)
            try:
                os.posix_fallocate(fd, 0, size)
                memory = mmap.mmap(fd, size)
            finally:
                os.close(fd)
        except OSError as error:
            raise PerfError(
                f"{size} bytes of shared memory: {error.strerror}", hint=f"Is {_FOLDER} large enough?"
            ) from None
        self._maps.append(memory)
        for server in self._servers:
            try:
                server.register(name, f"/{name}", size)
            except ServerError as error:
                raise ServerError(
                    f"{error}", hint="Shared memory needs the server on this host, with the same /dev/shm."
                ) from None
            self._registered.append((server, name))
        return name, memory

    def close(self) -> None:
        """Unregister and remove them."""
        for server, name in self._registered:
            with contextlib.suppress(ServerError):  # a server that has died knows them no more
                server.unregister(name)
        self._registered.clear()
        for memory in self._maps:
            with contextlib.suppress(BufferError):
                memory.close()
        for name in self._made:
            (_FOLDER / name).unlink(missing_ok=True)
        self._made.clear()

    def __enter__(self) -> Regions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _remove_leftovers(self) -> None:
        for server in self._servers:
            with contextlib.suppress(ServerError):
                for name in server.regions():
                    if _abandoned(name):
                        server.unregister(name)
        with contextlib.suppress(OSError):
            for path in _FOLDER.glob(f"{_PREFIX}-*"):
                if _abandoned(path.name):
                    path.unlink(missing_ok=True)


def _host() -> str:
    return "".join(letter for letter in socket.gethostname() if letter.isalnum())[:32] or "host"


def _own() -> str:
    return f"{_PREFIX}-{_host()}-{os.getpid()}"


def _abandoned(name: str) -> bool:
    """Whether a region belongs to a run on this host that is no more."""
    parts = name.removeprefix(f"{_PREFIX}-{_host()}-").split("-")
    return len(parts) == 2 and parts[0].isdecimal() and not Path(f"/proc/{parts[0]}").exists()
