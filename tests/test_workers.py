"""Worker processes: results, errors, crashes, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tritonrepo.errors import ModelError, TritonrepoError
from tritonrepo.limits import NO_LIMITS, Limits, machine_memory, memory_of, usual_limits
from tritonrepo.workers import Pool

Emit = Callable[[object], None]


def work(task: tuple[str, Any], emit: Emit) -> object:
    """What the workers of these tests do."""
    what, value = task
    emit(what)
    if what == "square":
        return value * value, os.getpid()
    if what == "refuse":
        raise ModelError("refused", where=Path("m.onnx"), hint="do better")
    if what == "defect":
        raise KeyError(value)
    if what == "signal":
        os.kill(os.getpid(), value)
    if what == "exit":
        os.write(2, b"terminate called\n")
        os._exit(value)
    if what == "sleep":
        time.sleep(value)
    if what == "take":
        taken = []
        for _ in range(value):  # MiB, at a rate that any machine reaches
            taken.append(bytearray(1 << 20))
            time.sleep(0.001)
        return len(taken)
    if what == "start":
        child = subprocess.Popen(["sleep", "600"])
        Path(value).write_text(str(child.pid))
        time.sleep(600)
    return what


def outcomes(
    tasks: list[tuple[str, Any]], count: int = 2, limits: Limits = NO_LIMITS
) -> tuple[dict[Any, Any], list[object], list[int]]:
    events: list[object] = []
    heard = lambda task, event: events.append(event)  # noqa: E731
    with Pool[tuple[str, Any], Any]("test_workers:work", count, heard, limits) as pool:
        found = dict(pool.run(tasks))
        pids = [worker.process.pid for worker in pool._workers]
    return found, events, pids


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_every_task_gets_its_result_from_a_few_workers() -> None:
    found, events, pids = outcomes([("square", number) for number in range(20)])
    assert {task: value for task, (value, _) in found.items()} == {("square", n): n * n for n in range(20)}
    assert len({pid for _, pid in found.values()}) <= 2
    assert events == ["square"] * 20
    assert all(gone(pid) for pid in pids)


def test_errors_keep_their_class_place_and_hint() -> None:
    error = outcomes([("refuse", 0)])[0][("refuse", 0)]
    assert type(error) is ModelError
    assert str(error) == "m.onnx: refused\n  do better"


def test_a_defect_is_called_one() -> None:
    error = outcomes([("defect", "key")])[0][("defect", "key")]
    assert isinstance(error, TritonrepoError)
    assert error.message == "a defect in tritonrepo"
    assert "KeyError: 'key'" in str(error.hint)


def test_a_crash_is_one_models_error_and_the_others_go_on() -> None:
    tasks: list[tuple[str, Any]] = [("signal", int(signal.SIGSEGV)), ("exit", 3), ("signal", int(signal.SIGKILL))]
    tasks += [("square", 3), ("square", 4)]
    found, _, pids = outcomes(tasks)
    assert "the worker crashed (Segmentation fault) during: signal" in found[tasks[0]].message
    assert "the worker crashed (exit status 3) during: exit; it said: terminate called" in found[tasks[1]].message
    assert "was killed, most likely for want of memory" in found[tasks[2]].message
    assert [found[task][0] for task in tasks[3:]] == [9, 16]
    assert all(gone(pid) for pid in pids)


def test_leaving_early_ends_the_workers_at_once() -> None:
    begun = time.monotonic()
    with Pool[tuple[str, Any], Any]("test_workers:work", 2, lambda task, event: None) as pool:
        next(iter(pool.run([("square", 1), ("sleep", 600)])))
        pids = [worker.process.pid for worker in pool._workers]
    assert time.monotonic() - begun < 60
    assert all(gone(pid) for pid in pids)


def test_what_takes_too_much_memory_is_ended_and_the_others_go_on() -> None:
    tasks: list[tuple[str, Any]] = [("take", 20_000), ("square", 3), ("take", 10), ("square", 4)]
    found, _, pids = outcomes(tasks, limits=Limits(memory=400 << 20))
    assert "took more than 0.391 GiB of memory together with the models beside it" in found[tasks[0]].message
    assert "during: take" in found[tasks[0]].message
    assert "--max-memory" in str(found[tasks[0]].hint)
    assert found[tasks[2]] == 10
    assert [found[tasks[i]][0] for i in (1, 3)] == [9, 16]
    assert all(gone(pid) for pid in pids)


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    begun = time.monotonic()
    tasks: list[tuple[str, Any]] = [("start", str(started)), ("square", 3)]
    found, _, _ = outcomes(tasks, count=1, limits=Limits(seconds=15))
    assert "took more than 15 s, and was ended during: start" in found[tasks[0]].message
    assert "--max-time" in str(found[tasks[0]].hint)
    assert found[tasks[1]][0] == 9
    assert time.monotonic() - begun < 120
    child = int(started.read_text())
    for _ in range(100):
        if gone(child) or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("what the worker started goes on")


def test_a_result_that_waited_is_in_time() -> None:
    limits = Limits(seconds=15)
    tasks = [("square", number) for number in range(4)]
    with Pool[tuple[str, Any], Any]("test_workers:work", 2, lambda task, event: None, limits) as pool:
        found = []
        for _, outcome in pool.run(tasks):
            found.append(outcome)
            if len(found) == 1:
                time.sleep(16)
    assert not any(isinstance(outcome, TritonrepoError) for outcome in found)


def test_usual_limits_leave_something_for_the_parent() -> None:
    memory = machine_memory()
    usual = usual_limits()
    assert memory is not None and usual.memory is not None
    assert 0.8 * memory < usual.memory < memory
    assert 1 << 20 < memory_of(os.getpid()) < memory
    assert memory_of(2**31 - 5) == 0
