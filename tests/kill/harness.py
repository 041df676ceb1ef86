"""Kill a command at random moments, again and again, and look at what it left.

The command is anything that changes a repository: the publisher beside this file, or a whole ``tritonrepo build``.

    tally = kill_loop(
        [sys.executable, "-m", "tritonrepo", "build", "models.yaml"],
        repository=repository, check=my_check, kills=20, seed=1, delay=(0.0, 2.0),
    )
    assert tally.in_flight > 10
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonrepo.lock import state_folder

#: Where a kill can find a build, told from what it left beside the repository.
NOT_PUBLISHING = "not publishing"
STAGING = "staging"
STAGED = "staged, not exchanged"
BETWEEN = "between two renames"
REMOVING = "exchanged, the old one not removed"


@dataclass
class Tally:
    """What the kills hit."""

    kills: int = 0
    ended: int = 0
    """How often the command ended by itself before it could be killed."""
    phases: Counter[str] = field(default_factory=Counter)

    @property
    def in_flight(self) -> int:
        """Kills in the middle of a publication."""
        return self.kills - self.phases[NOT_PUBLISHING]

    def __str__(self) -> str:
        hit = ", ".join(f"{count} {phase}" for phase, count in sorted(self.phases.items()))
        return f"{self.kills} kills, {self.in_flight} in the middle of a publication ({hit}); {self.ended} ended before"


def kill_loop(
    command: Sequence[str],
    *,
    repository: Path,
    check: Callable[[Path], None],
    kills: int,
    seed: int,
    delay: tuple[float, float],
    ready: bytes | None = None,
    env: Mapping[str, str] | None = None,
    after: Callable[[int], None] = lambda kill: None,
) -> Tally:
    """Run the command, kill it, look; ``kills`` times.

    Args:
        command: what to run; it has to go on from whatever it finds.
        repository: what it changes.
        check: called with the repository after each kill; raises where something is wrong there.
        kills: how often to kill; runs that end by themselves (with exit code 0) do not count.
        seed: of the random moments.
        delay: seconds from the start to the kill, least and most.
        ready: what the command prints on a line of its own when the clock is to start; None starts it at once.
        env: the command's environment; by default this process's.
        after: called with the number of the kill after each check.
    """
    moments = random.Random(seed)
    tally = Tally()
    while tally.kills < kills:
        assert tally.ended <= 5 * kills, f"the command ends before it can be killed ({tally}); lower the delay"
        if not _run_and_kill(command, moments.uniform(*delay), ready, env):
            tally.ended += 1
            check(repository)
            continue
        tally.kills += 1
        tally.phases[phase(repository)] += 1
        check(repository)
        after(tally.kills)
    return tally


def phase(repository: Path) -> str:
    """Where a killed build was. A scratch folder's own time is that of its making: nothing is added to it later."""
    for scratch in state_folder(repository).glob("publish-*"):
        begun = scratch.stat().st_mtime_ns
        for aside in scratch.glob("old/*"):
            return REMOVING if (repository / aside.name).exists() else BETWEEN
        for new in scratch.glob("new/*"):
            if _newest_record(repository / new.name) > begun:
                return REMOVING
            return STAGED if _newest_record(new) > begun else STAGING
        return STAGING
    return NOT_PUBLISHING


def _newest_record(model: Path) -> int:
    return max((record.stat().st_mtime_ns for record in model.glob("*.verdict.json")), default=0)


def _run_and_kill(command: Sequence[str], after: float, ready: bytes | None, env: Mapping[str, str] | None) -> bool:
    """Whether the command was killed; False where it was done before."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=env, start_new_session=True)
        assert child.stdout is not None
        with child.stdout:
            try:
                if ready is not None and child.stdout.readline().strip() != ready:
                    child.wait(10)
                else:
                    # Whatever it prints stays in the pipe: some lines, far less than a pipe holds.
                    child.wait(after)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                return True
            finally:
                # Workers of a killed build are no part of the next run.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        said.seek(0)
        assert child.returncode == 0, said.read().decode(errors="replace")[-2000:]
        return False
