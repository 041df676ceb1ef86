"""What the building of models may take: memory and time, and how much a process has taken.

A limit on address space would be hard on runtimes that reserve more than they use (CUDA, thread arenas), so processes
are looked at instead, many times a second, and ended when they have taken too much.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

#: Of the machine's memory; the rest is for the parent and for what else runs.
SHARE = 0.9
#: Seconds for one model.
SECONDS = 7200.0
#: Seconds between two looks.
TICK = 0.05


@dataclass(frozen=True)
class Limits:
    """What tasks may take.

    Args:
        memory: bytes that all workers together may have; where they have more, the largest is ended. None: no limit.
        seconds: for one task. None: no limit.
    """

    memory: int | None = None
    seconds: float | None = None


NO_LIMITS = Limits()


def usual_limits() -> Limits:
    """Most of this machine's memory, or of what its container allows, and two hours for a model."""
    memory = machine_memory()
    return Limits(int(memory * SHARE) if memory else None, SECONDS)


def machine_memory() -> int | None:
    """Bytes that processes here may have: the machine's, or less in a container; None where it cannot be seen."""
    found = [value for value in (_physical(), *map(_number_in, _CGROUPS)) if value]
    return min(found, default=None)


def memory_of(pid: int) -> int:
    """Bytes that a process keeps and could not give back: neither files that it maps nor what is shared with others;
    0 where there is no such process, or no /proc.
    """
    total = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 - many times a second
            for line in file:
                if line.startswith((b"RssAnon:", b"RssShmem:", b"VmSwap:")):
                    total += int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        return 0
    return total


# Limits of control groups, version 2 and 1, as a container sees them.
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _number_in(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None
