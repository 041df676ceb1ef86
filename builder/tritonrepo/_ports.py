"""TCP ports: which are free, and who listens on one that is not."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from pathlib import Path

_LISTEN = "0A"


def free_ports(host: str, count: int) -> list[int]:
    """Ports that were free a moment ago. All are held until the last is chosen, so no two are equal."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(_family(host))) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(_family(host)) as probe:
        # Connections of an earlier server that linger (TIME_WAIT) are no obstacle to a new one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what binds that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listener(port: int) -> str | None:
    """Who listens on the port, such as ``tritonserver (process 4711)``; None where this user may not know."""
    sockets = _listening(port)
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        if _has_open(process, sockets):
            with contextlib.suppress(OSError):
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (process {process.name})"
    return None


def listens(pid: int, port: int) -> bool:
    """Whether the process, one of this user's, listens on the port."""
    return _has_open(Path("/proc") / str(pid), _listening(port))


def _listening(port: int) -> set[str]:
    """The sockets that listen on the port, as /proc names them."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _has_open(process: Path, sockets: set[str]) -> bool:
    try:
        links = list((process / "fd").iterdir())
    except OSError:
        # Processes end while they are looked at, and those of other users cannot be looked into.
        return False
    for link in links:
        with contextlib.suppress(OSError):
            if str(link.readlink()) in sockets:
                return True
    return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
