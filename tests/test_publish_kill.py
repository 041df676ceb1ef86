"""Builds that are killed: whatever is left, a reader finds complete models, and the next build goes on.

TRITONREPO_KILLS sets how many kills the random tests do (20 by default, 300 in the long suite).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import StartTriton
from kill import harness
from kill.generations import check_repository, generation_of, staged
from kill.harness import Tally, kill_loop
from tritonrepo.lock import repository_lock
from tritonrepo.publish import publish
from tritonrepo.serve import EmbeddedServer

KILLS = int(os.environ.get("TRITONREPO_KILLS", "20"))
SIZE = 4 << 20
DELAY = (0.02, 0.3)
HERE = Path(__file__).parent
Record = Callable[[str, object], None]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))}

# A change, its file system calls, and what kills before each of them left: old, new, or (between two renames) nothing.
EXPECTED = {"first": 0, "version": 1, "config": 1, "repair": 1, "rollback": 1, "prune": 0}


@pytest.mark.parametrize(
    ("renames", "changes"),
    [
        pytest.param(False, ["first", "version", "config", "prune"], id="exchange"),
        pytest.param(True, ["version"], id="two renames"),
        pytest.param(False, list(EXPECTED), id="exchange, all", marks=pytest.mark.slow),
        pytest.param(True, list(EXPECTED), id="two renames, all", marks=pytest.mark.slow),
    ],
)
def test_a_kill_before_each_single_step(tmp_path: Path, renames: bool, changes: list[str]) -> None:
    command = [sys.executable, "-m", "kill.steps", str(tmp_path), *(["--two-renames"] if renames else []), *changes]
    done = subprocess.run(command, env=ENVIRONMENT, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == changes
    for name, *counts in lines:
        steps, old, new, none = map(int, counts)
        assert steps == old + new + none > 20
        assert min(old, new) >= 5
        assert none == (EXPECTED[name] if renames else 0)


def publisher(repository: Path, names: tuple[str, ...], *flags: str, keep: int = 4) -> list[str]:
    return [sys.executable, "-m", "kill.publisher", str(repository), str(SIZE), str(keep), *names, *flags]


def report(tally: Tally, record: Record) -> None:
    """Show what the kills hit in the test's report, and fail if they hit nothing."""
    record("kills", str(tally))
    print(tally)  # noqa: T201 - shown with -rA, or when the test fails
    assert tally.kills == KILLS
    assert tally.in_flight >= KILLS // 4, tally
    assert tally.phases[harness.STAGING] > 0, tally
    assert tally.phases[harness.STAGED] + tally.phases[harness.REMOVING] > 0, tally


@pytest.mark.timeout(120 + 6 * KILLS)
@pytest.mark.parametrize("flags", [(), ("--two-renames",)], ids=["exchange", "two renames"])
def test_kills_at_random_moments(tmp_path: Path, flags: tuple[str, ...], record_property: Record) -> None:
    repository, names = tmp_path / "models", ("a", "b")
    newest: dict[str, int] = {}

    def check(found: Path) -> None:
        check_repository(found, names, 4)
        for name in names:
            generation = generation_of(found / name)
            if flags and generation is None:
                continue  # between two renames: the next build puts it back
            assert (-1 if generation is None else generation) >= newest.get(name, -1), "a generation was lost"
            newest[name] = -1 if generation is None else generation

    command = publisher(repository, names, *flags)
    tally = kill_loop(
        command,
        repository=repository,
        check=check,
        kills=KILLS,
        seed=1,
        delay=DELAY,
        ready=b"ready",
        env=ENVIRONMENT,
    )
    report(tally, record_property)
    assert min(newest.values()) >= 2, "builds went on after kills"


@pytest.mark.timeout(120 + 6 * KILLS)
@pytest.mark.server
def test_a_server_loads_what_killed_builds_left(tmp_path: Path, triton: StartTriton, record_property: Record) -> None:
    repository = tmp_path / "models"
    put(repository, 0)
    server = triton(repository, probe=False, control="explicit")
    loaded: list[int] = []

    def load(kill: int) -> None:
        generation = generation_of(repository / "m")
        assert generation is not None
        request(server, "/v2/repository/models/m/load", {})
        assert ask(server) == [generation, *[generation // 2] * 3]
        loaded.append(generation)

    tally = kill_loop(
        publisher(repository, ("m",)),
        repository=repository,
        check=lambda found: check_repository(found, ("m",), 4),
        kills=KILLS,
        seed=2,
        delay=DELAY,
        ready=b"ready",
        env=ENVIRONMENT,
        after=load,
    )
    report(tally, record_property)
    assert len(set(loaded)) > KILLS // 4
    assert loaded == sorted(loaded)
    # And a server that is started on what is left, and ends where a model cannot be loaded.
    assert ask(triton(repository)) == [loaded[-1], *[loaded[-1] // 2] * 3]


@pytest.mark.timeout(120 + 6 * KILLS)
@pytest.mark.server
def test_a_polling_server_always_answers(tmp_path: Path, triton: StartTriton, record_property: Record) -> None:
    """Requests go on while generations are published, builds are killed, and the server polls and loads."""
    repository = tmp_path / "models"
    put(repository, 0)
    server = triton(repository, control="poll", poll_seconds=1)
    answers: Counter[tuple[int, ...]] = Counter()
    faults: list[str] = []
    done = threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            try:
                answers[tuple(ask(server))] += 1
            except AssertionError as error:
                faults.append(str(error))

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        tally = kill_loop(
            publisher(repository, ("m",), "--pause", "1", keep=20),
            repository=repository,
            check=lambda found: check_repository(found, ("m",), 20),
            kills=max(3, KILLS // 5),
            seed=3,
            delay=(1.0, 3.0),
            ready=b"ready",
            env=ENVIRONMENT,
        )
    finally:
        done.set()
        asking.join()
    print(f"{tally}; {sum(answers.values())} answers of {len(answers)} kinds: {dict(answers)}")  # noqa: T201 - shown with -rA
    record_property("answers", sum(answers.values()))

    assert faults == []
    assert len(answers) >= 2, "the server took up what was published"
    last = generation_of(repository / "m")
    assert last is not None
    for config, *contents in answers:
        # One version's files are always of one content. Its config was read a moment before or after.
        assert len(set(contents)) == 1
        assert 0 <= config <= last
        assert 0 <= contents[0] <= last // 2
    assert "failed to load" not in server.log_text()


def put(repository: Path, generation: int) -> None:
    with repository_lock(repository, wait=False) as lock:
        publish(staged("m", generation, SIZE), repository, keep_versions=4, lock=lock)


def ask(server: EmbeddedServer) -> list[int]:
    """What the model's config, code, manifest and weights say."""
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [0]}]}
    reply = request(server, "/v2/models/m/infer", body)
    return [int(value) for value in json.loads(reply)["outputs"][0]["data"]]


def request(server: EmbeddedServer, path: str, body: object) -> bytes:
    question = urllib.request.Request(f"http://{server.http_url}{path}", data=json.dumps(body).encode())
    try:
        with urllib.request.urlopen(question, timeout=60) as reply:  # noqa: S310
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error
