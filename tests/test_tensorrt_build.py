"""`engine: tensorrt` through the whole build, with the recording double in TensorRT's place: no plan is built here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import graphs
import tensorrt_double as double
from tritonrepo.build import BuildOptions, build
from tritonrepo.display import JsonDisplay, PlainDisplay
from tritonrepo.errors import TritonrepoError
from tritonrepo.spec import Spec, spec_for
from tritonrepo.status import status

#: One whose TensorRT is 10.x, as the double's; its exact build is not known.
RELEASE = "25.01"


@pytest.fixture
def log(tensorrt_calls: Path, in_process: None) -> Path:
    """What was asked of the double."""
    return tensorrt_calls


def spec(tmp_path: Path, *models: Path, **settings: object) -> Spec:
    chosen = {"engine": "tensorrt", **settings}
    return spec_for(list(models), repository=tmp_path / "repository", triton=RELEASE, settings=chosen)


def run(tmp_path: Path, *models: Path, **settings: object) -> Any:
    result = build(spec(tmp_path, *models, **settings), BuildOptions(jobs=1), lambda *_: None)
    assert dict(result.failures) == {}, "\n".join(map(str, result.failures.values()))
    return result


def failure(tmp_path: Path, *models: Path, **settings: object) -> TritonrepoError:
    result = build(spec(tmp_path, *models, **settings), BuildOptions(jobs=1), lambda *_: None)
    assert not (tmp_path / "repository" / models[0].stem).exists()
    (error,) = result.failures.values()
    return error


def test_a_repository(tmp_path: Path, log: Path) -> None:
    model = graphs.mlp(tmp_path / "onnx")
    (built,) = run(tmp_path, model, batching={"max_batch_size": 8}).models
    assert (built.engine, built.max_batch_size) == ("tensorrt", 8)
    version = tmp_path / "repository" / "mlp" / "1"
    assert sorted(path.name for path in version.iterdir()) == ["model.plan", "model.plan.json"]
    described = json.loads((version / "model.plan.json").read_text())
    profile = described["profiles"][0]
    assert [profile[at]["x"] for at in ("min", "opt", "max")] == [[1, 4], [8, 4], [8, 4]]
    config = (version.parent / "config.pbtxt").read_text()
    assert 'backend: "tensorrt"' in config
    assert "max_batch_size: 8" in config
    # Proven at each end of the profile, on it.
    assert double.calls(log, "set_optimization_profile_async")
    assert {call[1] for call in double.calls(log, "set_optimization_profile_async")} == {0}
    verdict = json.loads((version.parent / "1.verdict.json").read_text())
    assert verdict["engine"] == "tensorrt"
    assert verdict["verdict"]["ok"] is True
    assert any("layers and types of the plan" in note for note in built.notes)


def test_what_did_not_change_is_not_built_again(tmp_path: Path, log: Path) -> None:
    model = graphs.mlp(tmp_path / "onnx")
    run(tmp_path, model)
    log.unlink()
    assert run(tmp_path, model).models[0].cached
    assert double.calls(log) == []
    run(tmp_path, model, tensorrt={"builder_optimization_level": 1})
    assert len(double.calls(log, "build_serialized_network")) == 1
    log.unlink()
    run(tmp_path, model, tensorrt={"builder_optimization_level": 1}, warmup="off")  # nothing of the plan's
    assert double.calls(log, "build_serialized_network") == []


def test_auto_takes_tensorrt_where_it_is(tmp_path: Path, log: Path) -> None:
    (built,) = run(tmp_path, graphs.mlp(tmp_path / "onnx"), engine="auto").models
    assert built.engine == "tensorrt"
    assert "TensorRT 10.8.0.43, Double (9.0)" in built.engine_reason


def test_auto_takes_python_where_there_is_no_gpu(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "no gpu")
    (built,) = run(tmp_path, graphs.mlp(tmp_path / "onnx"), engine="auto").models
    assert built.engine == "python"
    assert "the driver shows no GPU" in built.engine_reason


def test_several_profiles_are_each_proven(tmp_path: Path, log: Path) -> None:
    batching = {"max_batch_size": 8, "opt_batch_size": 8}
    run(tmp_path, graphs.cnn(tmp_path / "onnx"), profiles="latency+throughput", batching=batching)
    described = json.loads((tmp_path / "repository" / "cnn" / "1" / "model.plan.json").read_text())
    count = len(described["profiles"])
    assert count == 2
    assert {call[1] for call in double.calls(log, "set_optimization_profile_async")} == set(range(count))
    errors = json.loads((tmp_path / "repository" / "cnn" / "1.verdict.json").read_text())["verdict"]["errors"]
    assert {"profile 0", "profile 1"} == {error["at"].rpartition("of ")[2] for error in errors}


def test_a_plan_that_is_wrong_is_not_published(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "wrong")
    assert "verification failed" in failure(tmp_path, graphs.mlp(tmp_path / "onnx")).message


def test_tf32_is_judged_as_what_it_is(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonrepo._plan_proof import tolerated

    (model,) = spec(tmp_path, graphs.mlp(tmp_path / "onnx")).models
    assert tolerated(model) == "tf32"
    (model,) = spec(tmp_path, graphs.mlp(tmp_path / "onnx"), tensorrt={"tf32": False}).models
    assert tolerated(model) == "fp32"
    (model,) = spec(tmp_path, graphs.mlp(tmp_path / "onnx"), precision="fp16").models
    assert tolerated(model) == "fp16"


def test_precision_is_built_from_the_converted_graph(tmp_path: Path, log: Path) -> None:
    run(tmp_path, graphs.cnn(tmp_path / "onnx"), precision="fp16", tensorrt={"profiling_verbosity": "detailed"})
    described = json.loads((tmp_path / "repository" / "cnn" / "1" / "model.plan.json").read_text())
    assert described["precision"] == "fp16"
    (report,) = (tmp_path / ".tritonrepo" / "plans").rglob("*.report.json")
    assert json.loads(report.read_text())["engine"]["precisions"]["FP16"] > 0


@pytest.mark.parametrize(
    ("fault", "said", "hint"),
    [
        ("parse", "TensorRT cannot take the graph", "Cast its inputs"),
        ("memory", "OutOfMemory", "workspace_gib"),
        ("run", "does not run on x", ""),
    ],
)
def test_what_goes_wrong_is_said_and_nothing_is_published(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str, hint: str
) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", fault)
    error = failure(tmp_path, graphs.mlp(tmp_path / "onnx"))
    assert said in error.message
    assert hint in str(error.hint)
    cache = tmp_path / ".tritonrepo"
    assert list(cache.rglob(".new-*")) == []


@pytest.mark.parametrize(("release", "said"), [("26.07", "11.1.0.106"), ("26.09", "11")])
def test_a_release_with_another_tensorrt(tmp_path: Path, log: Path, release: str, said: str) -> None:
    changed = spec(tmp_path, graphs.mlp(tmp_path / "onnx")).model_copy(update={"triton": release})
    result = build(changed, BuildOptions(jobs=1), lambda *_: None)
    (error,) = result.failures.values()
    assert said in error.message
    assert double.calls(log, "build_serialized_network") == []


def test_a_fleet_without_this_gpu(tmp_path: Path, log: Path) -> None:
    changed = spec(tmp_path, graphs.mlp(tmp_path / "onnx")).model_copy(update={"gpus": ("8.0",)})
    (error,) = build(changed, BuildOptions(jobs=1), lambda *_: None).failures.values()
    assert "8.0" in error.message
    assert "9.0" in error.message
    assert double.calls(log, "build_serialized_network") == []


def test_a_fleet_with_this_gpu(tmp_path: Path, log: Path) -> None:
    changed = spec(tmp_path, graphs.mlp(tmp_path / "onnx")).model_copy(update={"gpus": ("8.0", "9.0")})
    result = build(changed, BuildOptions(jobs=1), lambda *_: None)
    assert dict(result.failures) == {}
    names = {path.name for path in (tmp_path / "repository" / "mlp" / "1").iterdir()}
    assert {"model_sm90.plan", "model_sm90.plan.json"} <= names
    assert "cc_model_filenames" in (tmp_path / "repository" / "mlp" / "config.pbtxt").read_text()


class Host:
    """One host of a fleet: its GPU, and a cache of its own."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, cache: str = "") -> None:
        self.folder, self.monkeypatch, self.capability = tmp_path, monkeypatch, capability
        self.cache = tmp_path / (cache or f"cache of {capability}")

    def build(self, **settings: object) -> Any:
        self.monkeypatch.setenv("TENSORRT_DOUBLE_CAPABILITY", self.capability)
        made = spec(self.folder, self.folder / "onnx" / "mlp.onnx", **settings)
        changed = made.model_copy(update={"gpus": ("8.0", "9.0"), "cache": self.cache})
        result = build(changed, BuildOptions(jobs=1), lambda *_: None)
        assert dict(result.failures) == {}, "\n".join(map(str, result.failures.values()))
        return result.models[0]


@pytest.mark.parametrize("cache", ["", "one"])
def test_two_hosts_of_a_fleet(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """Each adds its plan; a change waits until both have built it; hosts may share a cache or not."""
    graphs.mlp(tmp_path / "onnx")
    hopper, ampere = (Host(tmp_path, monkeypatch, gpu, cache) for gpu in ("9.0", "8.0"))
    folder = tmp_path / "repository"

    def states() -> dict[str, str]:
        return {f"{part.version} {part.gpu}": part.state for part in status(folder)}

    assert [(each.action, each.version) for each in (hopper.build(), ampere.build())] == [("new", 1), ("added", 1)]
    assert states() == {"1 8.0": "ok", "1 9.0": "ok"}
    assert [each.build().action for each in (hopper, ampere)] == ["unchanged", "unchanged"]
    changed = {"tensorrt": {"builder_optimization_level": 1}, "batching": {"max_batch_size": 4}}
    held = ampere.build(**changed)
    assert (held.action, held.version) == ("held", 1)
    assert held.notes[0].startswith("the plan is built and waits for those of 9.0")
    assert states() == {"1 8.0": "ok", "1 9.0": "ok", "None 8.0": "held"}
    done = hopper.build(**changed)
    assert (done.action, done.version) == ("new version", 2)
    assert states() == {"2 8.0": "ok", "2 9.0": "ok"}
    described = json.loads((folder / "mlp" / "2" / "model_sm80.plan.json").read_text())
    assert (described["compute_capability"], described["profiles"][0]["max"]["x"]) == ("8.0", [4, 4])
    verdict = json.loads((folder / "mlp" / "2.verdict.json").read_text())
    assert {gpu: entry["verdict"]["ok"] for gpu, entry in verdict["plans"].items()} == {"8.0": True, "9.0": True}
    assert [each.build(**changed).action for each in (ampere, hopper)] == ["unchanged", "unchanged"]


def test_a_fleet_and_its_fallback(tmp_path: Path, log: Path) -> None:
    changed = spec(tmp_path, graphs.mlp(tmp_path / "onnx"), fallback="onnxruntime")
    result = build(changed.model_copy(update={"gpus": ("9.0",)}), BuildOptions(jobs=1), lambda *_: None)
    assert [(each.name, each.engine) for each in result.models] == [("mlp", "tensorrt"), ("mlp_onnx", "onnxruntime")]
    assert (tmp_path / "repository" / "mlp_onnx" / "1" / "model.onnx").is_file()
    assert {part.model: part.state for part in status(tmp_path / "repository")} == {"mlp": "ok", "mlp_onnx": "ok"}


def test_progress_is_shown(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    given = spec(tmp_path, graphs.mlp(tmp_path / "onnx"))
    build(given, BuildOptions(jobs=1), lambda model, step, status, seconds: events.append((step, status)))
    assert ("build", "start") in events
    assert ("build", "done") in events
    assert any(step.startswith("build: Building engine") for step, status in events if status == "progress")
    assert events.index(("build", "start")) > events.index(("verify", "done"))


def test_in_workers(tmp_path: Path, tensorrt_calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, graphs.mlp(tmp_path / "onnx"))
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "kill")
    error = failure(tmp_path, graphs.cnn(tmp_path / "onnx"))
    assert "was killed, most likely for want of memory" in error.message
    assert "--jobs 1" in str(error.hint)


@pytest.mark.parametrize("with_what", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_process_and_nothing_half_done(
    tmp_path: Path, tensorrt_calls: Path, monkeypatch: pytest.MonkeyPatch, with_what: signal.Signals
) -> None:
    monkeypatch.setenv("TENSORRT_DOUBLE_FAULT", "slow")
    graphs.mlp(tmp_path)
    (tmp_path / "models.yaml").write_text(f"triton: '{RELEASE}'\nmodels: [{{onnx: mlp.onnx, engine: tensorrt}}]\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "tritonrepo", "build"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    end = time.monotonic() + 120
    while not double.calls(tensorrt_calls, "build_serialized_network") and time.monotonic() < end:
        time.sleep(0.05)
    builders = children_of(process.pid)
    assert len(builders) == 2  # the model's worker, and TensorRT's below it
    process.send_signal(with_what)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if with_what == signal.SIGINT else -signal.SIGKILL), said
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in builders) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in builders)
    assert not (tmp_path / "model_repository" / "mlp").exists()
    assert not list((tmp_path / ".tritonrepo" / "plans").rglob("model.plan"))


def children_of(pid: int) -> list[int]:
    """Processes that a process started, and those below them."""
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(below for each in found for below in children_of(each))]


def test_displays_of_progress() -> None:
    import io

    plain, as_json = io.StringIO(), io.StringIO()
    times = iter((0.0, 10.0, 16.0, 20.0, 40.0))
    display = PlainDisplay(plain, lambda: next(times))
    for share in (0, 10, 16, 20, 40):
        display.step("m", f"build: Timing tactics ({share}%)", "progress", 0.0)
    assert plain.getvalue().splitlines() == ["m: build: Timing tactics (16%)", "m: build: Timing tactics (40%)"]
    JsonDisplay(as_json).step("m", "build: Timing tactics (45%)", "progress", 1.0)
    assert json.loads(as_json.getvalue())["status"] == "progress"


def test_doctor(tmp_path: Path, tensorrt_calls: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tritonrepo", "doctor"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "TensorRT 10.8.0.43, Double (9.0), driver 570.00.00" in done.stdout
