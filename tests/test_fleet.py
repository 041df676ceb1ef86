"""Plans of several hosts in one repository: what shares a version, what begins a new one, and what is missing.

No plan is built here: the files of the hosts hold what the tests put into them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import graphs
from agreement import judge
from agreement.judge import Judge
from test_tensorrt_repositories import VARIANTS, described, made
from tritonrepo import _fleet, _record
from tritonrepo._fleet import Share, as_share, identity
from tritonrepo.build import with_fallbacks
from tritonrepo.errors import PublishError, UsageError
from tritonrepo.lock import repository_lock
from tritonrepo.publish import Published, Staged, publish, rollback
from tritonrepo.render import render
from tritonrepo.spec import ModelSpec, Spec, spec_for
from tritonrepo.status import Part, status

FLEET = ("8.0", "9.0", "12.0")
TENSORRT = "11.1.0.106"


def staged(
    gpu: str,
    *,
    settings: str = "same",
    tensorrt: str = TENSORRT,
    content: str = "",
    fleet: Any = FLEET,
    hold: bool = False,
) -> Staged:
    """What the host with that GPU has built."""
    inputs, spec_settings, _ = VARIANTS["fleet"]
    chosen, signature, spec = made(inputs, spec_settings, fleet)
    plan = (content or f"a plan for {gpu}{'' if settings == 'same' else f' of {settings}'}").encode()
    document = json.loads(described(chosen, signature, gpu, plan))
    name = chosen.plan_file(gpu)
    rendered = render(spec, signature, chosen, None)
    whole = Staged(
        name="m",
        model_files=rendered.model_files,
        version_files={name: plan, f"{name}.json": json.dumps({**document, "tensorrt_version": tensorrt}).encode()},
        verdict={"model": "m", "settings": settings, "verdict": {"ok": True, "on": gpu}},
        provenance={"host": f"host of {gpu}"},
    )
    share = Share(identity({"m.onnx": "1"}, settings, "26.07", tensorrt), gpu, name, fleet, hold)
    return as_share(whole, share, tensorrt)


def put(repository: Path, what: Staged, keep: int = 3) -> Published:
    with repository_lock(repository, wait=True) as lock:
        return publish(what, repository, keep_versions=keep, lock=lock)


def files(repository: Path, version: int) -> set[str]:
    return {path.name for path in (repository / "m" / str(version)).iterdir()}


def plans(*gpus: str) -> set[str]:
    names = {f"model_sm{gpu.replace('.', '')}.plan" for gpu in gpus}
    return names | {f"{name}.json" for name in names}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


# ---- one version of several hosts ------------------------------------------------------------------------------------


def test_each_host_adds_its_own(repository: Path) -> None:
    seen = [put(repository, staged(gpu)) for gpu in FLEET]
    assert [(each.action, each.version) for each in seen] == [("new", 1), ("added", 1), ("added", 1)]
    assert files(repository, 1) == plans(*FLEET)
    record = _record.read_record(repository / "m", 1)
    assert record is not None
    assert set(record.files) == plans(*FLEET)
    found: Any = record.verdict["plans"]
    assert {gpu: (entry["file"], entry["verdict"]["on"]) for gpu, entry in found.items()} == {
        gpu: (f"model_sm{gpu.replace('.', '')}.plan", gpu) for gpu in FLEET
    }
    assert record.verdict["verdict"] == {"ok": True, "on": "8.0"}  # of the first, and so it stays
    provenance = json.loads((repository / "m" / "1.provenance.json").read_text())
    assert {gpu: host["host"] for gpu, host in provenance["plans"].items()} == {gpu: f"host of {gpu}" for gpu in FLEET}
    assert [put(repository, staged(gpu)).action for gpu in FLEET] == ["unchanged"] * 3


def test_files_of_others_are_not_written_again(repository: Path) -> None:
    put(repository, staged("8.0"))
    before = (repository / "m" / "1" / "model_sm80.plan").stat()
    put(repository, staged("9.0"))
    after = (repository / "m" / "1" / "model_sm80.plan").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("changes", [{"settings": "other"}, {"tensorrt": "11.4.0.106"}])
def test_other_settings_or_another_tensorrt_begin_a_new_version(repository: Path, changes: dict[str, Any]) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    done = put(repository, staged("9.0", **changes))
    assert (done.action, done.version) == ("new version", 2)
    assert files(repository, 2) == plans("9.0")
    done = put(repository, staged("8.0", **changes))
    assert (done.action, done.version) == ("added", 2)
    assert files(repository, 1) == files(repository, 2) == plans("8.0", "9.0")


def test_a_plan_that_was_built_anew_takes_the_others_along(repository: Path) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    done = put(repository, staged("9.0", content="another plan"))
    assert (done.action, done.version) == ("new version", 2)
    assert files(repository, 2) == plans("8.0", "9.0")
    assert (repository / "m" / "2" / "model_sm80.plan").read_bytes() == b"a plan for 8.0"
    assert (repository / "m" / "1" / "model_sm90.plan").read_bytes() == b"a plan for 9.0"
    record = _record.read_record(repository / "m", 2)
    assert record is not None
    assert set(record.verdict["plans"]) == {"8.0", "9.0"}  # type: ignore[call-overload]


def test_a_gpu_that_joins_the_fleet_later(repository: Path) -> None:
    put(repository, staged("8.0", fleet=("8.0",)))
    done = put(repository, staged("9.0", fleet=("8.0", "9.0")))
    assert (done.action, done.version, files(repository, 1)) == ("added", 1, plans("8.0", "9.0"))
    assert b"model_sm90.plan" in (repository / "m" / "config.pbtxt").read_bytes()


def test_a_plan_that_was_altered_is_left_behind(repository: Path) -> None:
    put(repository, staged("8.0"))
    (repository / "m" / "1" / "model_sm80.plan").write_bytes(b"not a plan for 8.0")
    done = put(repository, staged("9.0"))
    assert (done.action, done.version, files(repository, 2)) == ("new version", 2, plans("9.0"))


def test_two_hosts_at_once(repository: Path) -> None:
    """Threads with locks of their own, as two hosts have on a shared file system: neither plan gets lost."""
    failures: list[BaseException] = []

    def host(gpu: str) -> None:
        try:
            put(repository, staged(gpu))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=host, args=(gpu,)) for gpu in FLEET]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert files(repository, 1) == plans(*FLEET)
    assert _record.versions(repository / "m") == (1,)


def test_going_back_to_a_version_takes_all_its_plans(repository: Path) -> None:
    for gpu in FLEET:
        put(repository, staged(gpu))
    put(repository, staged("9.0", settings="other"))
    with repository_lock(repository, wait=True) as lock:
        done = rollback(repository, "m", 1, lock)
    assert (done.version, files(repository, 3)) == (3, plans(*FLEET))
    # A host that builds the first settings again finds its plan in what was rolled back to.
    assert put(repository, staged("9.0")).action == "unchanged"


def test_what_a_build_for_a_fleet_has_made_is_a_share(repository: Path, tmp_path: Path) -> None:
    """From the plan and its description alone, as the build leaves them."""
    inputs, settings, _ = VARIANTS["fleet"]
    shares = []
    for gpu in FLEET[:2]:
        chosen, signature, _ = made(inputs, settings, FLEET)
        files = {}
        for name, content in {
            chosen.plan_file(gpu): b"a plan",
            f"{chosen.plan_file(gpu)}.json": described(chosen, signature, gpu, b"a plan"),
        }.items():
            files[name] = tmp_path / name
            files[name].write_bytes(content)
        whole = Staged("m", {"config.pbtxt": b""}, files, {"onnx": "1", "settings": {}, "verdict": {}}, {"host": gpu})
        assert _fleet.in_fleet(whole, replace(chosen, files=files, gpus=()), "26.07") is whole
        shares.append(_fleet.in_fleet(whole, replace(chosen, files=files), "26.07"))
    first, second = (each.share for each in shares)
    assert first is not None and second is not None
    assert (first.identity, first.gpu, first.file) == (second.identity, "8.0", "model_sm80.plan")
    assert [put(repository, each).action for each in shares] == ["new", "added"]
    assert {path.name for path in (repository / "m" / "1").iterdir()} == plans(*FLEET[:2])


def test_a_host_without_tensorrt_does_not_replace_the_plans(repository: Path, tmp_path: Path, in_process: None) -> None:
    from tritonrepo.build import BuildOptions, build

    put(repository, staged("8.0"))
    (tmp_path / "m.onnx").write_bytes(graphs.mlp(tmp_path).read_bytes())
    spec = spec_for([tmp_path / "m.onnx"], repository=repository)
    result = build(spec, BuildOptions(jobs=1), lambda *_: None)
    assert "model m: version 1 has TensorRT plans for 8.0, and no plan can be built here" in str(result.failures["m"])
    assert "`engine: python` replaces the plans" in str(result.failures["m"])
    assert files(repository, 1) == plans("8.0") and _record.versions(repository / "m") == (1,)
    asked = spec_for([tmp_path / "m.onnx"], repository=repository, settings={"engine": "python"})
    result = build(asked, BuildOptions(jobs=1), lambda *_: None)
    assert [each.action for each in result.models] == ["new version"]


def test_what_is_no_share_is_published_as_ever(repository: Path) -> None:
    put(repository, staged("8.0"))
    plain = replace(staged("9.0"), share=None)
    assert _fleet.merged(plain, repository / "m", 1, _record.read_record(repository / "m", 1)) is plain
    assert put(repository, plain).action == "new version"
    assert files(repository, 2) == plans("9.0")


# ---- waiting for the others ------------------------------------------------------------------------------------------


def test_a_new_version_waits_until_it_takes_the_model_from_nobody(repository: Path) -> None:
    for gpu in FLEET:
        put(repository, staged(gpu, hold=True))
    assert files(repository, 1) == plans(*FLEET)
    before = {path.name: path.stat().st_mtime_ns for path in (repository / "m").iterdir()}
    first = put(repository, staged("9.0", settings="new", hold=True))
    assert (first.action, first.version, first.waits) == ("held", 1, ("12.0", "8.0"))
    second = put(repository, staged("12.0", settings="new", hold=True))
    assert (second.action, second.waits) == ("held", ("8.0",))
    assert {path.name: path.stat().st_mtime_ns for path in (repository / "m").iterdir()} == before
    found = status(repository)
    assert [(part.gpu, part.state) for part in found[3:]] == [("12.0", "held"), ("9.0", "held")]
    assert not all(part.ok for part in found)
    last = put(repository, staged("8.0", settings="new", hold=True))
    assert (last.action, last.version, files(repository, 2)) == ("new version", 2, plans(*FLEET))
    record = _record.read_record(repository / "m", 2)
    assert record is not None
    assert set(record.verdict["plans"]) == set(FLEET)  # type: ignore[call-overload]
    provenance = json.loads((repository / "m" / "2.provenance.json").read_text())
    assert set(provenance["plans"]) == set(FLEET)
    assert all(part.ok for part in status(repository))
    assert not list((repository.parent / ".models.tritonrepo" / "held").iterdir())
    assert put(repository, staged("9.0", settings="new", hold=True)).action == "unchanged"


def test_the_first_version_waits_for_nobody(repository: Path) -> None:
    assert put(repository, staged("9.0", hold=True)).action == "new"
    # Nor does one that lacks only what the published one lacks, too.
    assert put(repository, staged("9.0", settings="new", hold=True)).action == "new version"
    # A GPU that is no longer of the fleet is not waited for.
    put(repository, staged("8.0", settings="new"))
    done = put(repository, staged("9.0", settings="newer", fleet=("9.0", "12.0"), hold=True))
    assert (done.action, files(repository, 3)) == ("new version", plans("9.0"))


def test_what_waits_is_replaced_by_what_the_same_host_builds_next(repository: Path) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    put(repository, staged("9.0", settings="new", content="first", hold=True))
    put(repository, staged("9.0", settings="new", content="second", hold=True))
    put(repository, staged("8.0", settings="new", hold=True))
    assert (repository / "m" / "2" / "model_sm90.plan").read_bytes() == b"second"


def test_what_was_held_for_other_settings_is_not_mixed_in(repository: Path) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    put(repository, staged("9.0", settings="new", hold=True))
    done = put(repository, staged("8.0", settings="newer", hold=True))
    assert (done.action, done.waits) == ("held", ("9.0",))
    put(repository, staged("9.0", settings="newer", hold=True))
    assert files(repository, 2) == plans("8.0", "9.0")
    record = _record.read_record(repository / "m", 2)
    assert record is not None and record.verdict["settings"] == "newer"
    assert len(status(repository)) == 3  # nothing waits any more


def test_a_held_plan_that_was_cut_is_not_published(repository: Path) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    put(repository, staged("9.0", settings="new", hold=True))
    for path in (repository.parent / ".models.tritonrepo" / "held").rglob("*.plan"):
        path.write_bytes(b"cut")
    with pytest.raises(PublishError, match="not the one that was built and verified"):
        put(repository, staged("8.0", settings="new", hold=True))
    assert _record.versions(repository / "m") == (1,)
    put(repository, staged("9.0", settings="new", hold=True))
    assert put(repository, staged("8.0", settings="new", hold=True)).action == "new version"


@pytest.mark.server
@pytest.mark.xdist_group("judge")
def test_the_core_loads_a_version_of_several_hosts(repository: Path) -> None:
    if judge.missing():
        pytest.skip(judge.missing())
    for gpu in FLEET:
        put(repository, staged(gpu))
    folder = repository / "m"
    tree = {f"m/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with Judge() as server:
        assert [each.reason for each in server.judge([tree], gpus=1) if not each.accepted] == []


# ---- what is missing -------------------------------------------------------------------------------------------------


def states(parts: tuple[Part, ...]) -> Mapping[str, str]:
    return {f"{part.model} {part.gpu}": part.state for part in parts}


def test_status_of_a_fleet(repository: Path) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    found = status(repository)
    assert states(found) == {"m 8.0": "ok", "m 9.0": "ok", "m 12.0": "missing"}
    assert [part.gpu for part in found] == list(FLEET)  # by number, not as text
    assert [(part.version, part.tensorrt, part.bytes) for part in found[:2]] == [(1, TENSORRT, 14), (1, TENSORRT, 14)]
    missing = next(part for part in found if not part.ok)
    assert missing.file == "model_sm120.plan"
    assert "on a host with a GPU of compute capability 12.0" in missing.detail
    put(repository, staged("12.0"))
    assert all(part.ok for part in status(repository))


def test_status_sees_what_is_wrong(repository: Path) -> None:
    for gpu in FLEET:
        put(repository, staged(gpu))
    folder = repository / "m" / "1"
    (folder / "model_sm80.plan").write_bytes(b"cut")
    (folder / "model_sm90.plan.json").unlink()
    other = json.loads((folder / "model_sm120.plan.json").read_text())
    (folder / "model_sm120.plan.json").write_text(json.dumps({**other, "compute_capability": "10.0"}))
    assert states(status(repository)) == {"m 8.0": "altered", "m 9.0": "unknown", "m 12.0": "other GPU"}


def test_a_plan_for_ampere_and_later_serves_them_all(repository: Path) -> None:
    for gpu in FLEET:
        put(repository, staged(gpu))
    for gpu in FLEET:
        description = repository / "m" / "1" / f"model_sm{gpu.replace('.', '')}.plan.json"
        changes = {"compute_capability": "8.6", "hardware_compatibility": "ampere_plus"}
        description.write_text(json.dumps({**json.loads(description.read_text()), **changes}))
    assert set(states(status(repository)).values()) == {"ok"}


def test_status_holds_plans_against_the_release(repository: Path) -> None:
    put(repository, staged("8.0"))
    assert states(status(repository, release="26.07"))["m 8.0"] == "ok"
    put(repository, staged("9.0", tensorrt="10.8.0.43"))
    found = status(repository, release="26.07")
    assert states(found)["m 9.0"] == "other TensorRT"
    assert found[1].detail == "release 26.07 serves TensorRT 11.1.0.106"


def test_status_holds_plans_of_a_version_against_each_other(repository: Path) -> None:
    put(repository, staged("8.0"))
    put(repository, staged("9.0"))
    description = repository / "m" / "1" / "model_sm90.plan.json"
    document = json.loads(description.read_text())
    description.write_text(json.dumps({**document, "tensorrt_version": "11.4.0.106"}))
    found = status(repository)
    assert states(found) == {"m 8.0": "other TensorRT", "m 9.0": "other TensorRT", "m 12.0": "missing"}
    assert found[0].detail == "other plans of this version are of TensorRT 11.4.0.106"


def test_status_of_other_engines_and_of_what_cannot_be_read(repository: Path) -> None:
    for name, config in {
        "onnx": 'backend: "onnxruntime"',
        "gone": 'backend: "onnxruntime"',
        "broken": "backend: ",
        "all": 'platform: "ensemble" ensemble_scheduling { }',
    }.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
    (repository / "onnx" / "1" / "model.onnx").write_bytes(b"1234")
    found = status(repository)
    assert states(found) == {"onnx any": "ok", "gone any": "missing", "broken ?": "unreadable", "all any": "ok"}
    assert [part.bytes for part in found if part.model == "onnx"] == [4]


def test_a_spec_says_what_should_be_there(repository: Path, tmp_path: Path) -> None:
    put(repository, staged("8.0", fleet=("8.0",)))
    path = graphs.mlp(tmp_path)
    (tmp_path / "m.onnx").write_bytes(path.read_bytes())
    spec = spec_for([tmp_path / "m.onnx", path], repository=repository, triton="26.07")
    spec = spec.model_copy(update={"gpus": ("8.0", "9.0")})
    found = status(repository, spec=spec)
    assert states(found) == {
        "m 8.0": "ok", "m 9.0": "missing", "mlp 8.0": "not published", "mlp 9.0": "not published",
    }  # fmt: skip
    assert states(status(tmp_path / "none", spec=spec)) == dict.fromkeys(
        ["m 8.0", "m 9.0", "mlp 8.0", "mlp 9.0"], "not published"
    )
    with pytest.raises(UsageError, match="there is no such repository"):
        status(tmp_path / "none")


def test_the_command(repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from tritonrepo.cli import app

    monkeypatch.chdir(repository.parent)
    put(repository, staged("8.0"))
    done = CliRunner().invoke(app, ["status", "-o", str(repository)])
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert lines[0].split() == ["model", "version", "GPU", "file", "TensorRT", "size", "state"]
    assert lines[1].split() == ["m", "1", "8.0", "model_sm80.plan", TENSORRT, "0.0", "MB", "ok"]
    assert lines[-1] == f"{repository}: 2 of 3 are missing or wrong"
    for gpu in FLEET[1:]:
        put(repository, staged(gpu))
    done = CliRunner().invoke(app, ["status", "-o", str(repository), "--json"])
    assert (done.exit_code, [each["state"] for each in json.loads(done.output)]) == (0, ["ok"] * 3)


# ---- fallbacks -------------------------------------------------------------------------------------------------------


def test_a_fallback_serves_the_onnx_beside_the_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonrepo import _tensorrt
    from tritonrepo._tensorrt import Availability

    spec = spec_for([graphs.mlp(tmp_path), graphs.cnn(tmp_path)], repository=tmp_path / "r")
    first, second = spec.models
    spec = spec.model_copy(
        update={"models": (first.model_copy(update={"fallback": "onnxruntime", "engine": "tensorrt"}), second)}
    )
    monkeypatch.setattr(_tensorrt, "availability", lambda: Availability(False, "none"))
    assert with_fallbacks(spec) is spec
    monkeypatch.setattr(_tensorrt, "availability", lambda: Availability(True, "there", TENSORRT))
    models = with_fallbacks(spec).models
    assert [(each.name, each.engine) for each in models] == [
        ("mlp", "tensorrt"), ("mlp_onnx", "onnxruntime"), ("cnn", "auto"),
    ]  # fmt: skip
    taken = spec.model_copy(update={"models": (spec.models[0], second.model_copy(update={"name": "mlp_onnx"}))})
    with pytest.raises(UsageError, match="would be named mlp_onnx, as another model is"):
        with_fallbacks(taken)
    assert isinstance(models[1], ModelSpec) and isinstance(spec, Spec)


# ---- named configs ---------------------------------------------------------------------------------------------------


def test_a_further_config_is_checked_as_well(tmp_path: Path, in_process: None) -> None:
    from tritonrepo.build import BuildOptions, build

    spec = spec_for([graphs.mlp(tmp_path)], repository=tmp_path / "models", settings={"engine": "python"})
    wrong: dict[str, Any] = {"large": {"config": {"version_policy": {"specific": {}}}}}
    model = ModelSpec.model_validate({**spec.models[0].model_dump(), "configs": wrong})
    result = build(spec.model_copy(update={"models": (model,)}), BuildOptions(jobs=1), lambda *_: None)
    assert "model mlp with configs/large.pbtxt would not be served" in str(result.failures["mlp"])
    assert not (tmp_path / "models").exists()


@pytest.mark.server
def test_the_server_takes_the_config_that_is_named(tmp_path: Path, triton: Any, in_process: None) -> None:
    """A further config of a model that the embedded server can run, chosen by --model-config-name."""
    import urllib.request

    from tritonrepo.build import BuildOptions, build

    spec = spec_for([graphs.mlp(tmp_path)], repository=tmp_path / "models", settings={"engine": "python"})
    config = {"batching": {"max_batch_size": 64, "max_queue_delay_us": 100}, "instances": [{"count": 2}]}
    model = ModelSpec.model_validate({**spec.models[0].model_dump(), "configs": {"large": config}})
    spec = spec.model_copy(update={"models": (model,)})
    result = build(spec, BuildOptions(jobs=1), lambda *_: None)
    assert not result.failures
    assert (tmp_path / "models" / "mlp" / "configs" / "large.pbtxt").exists()

    def served(*arguments: str) -> Any:
        server = triton(tmp_path / "models", extra_args=arguments)
        with urllib.request.urlopen(f"http://{server.http_url}/v2/models/mlp/config") as reply:
            return json.load(reply)

    found = served()
    assert (found["max_batch_size"], found["instance_group"][0]["count"]) == (32, 1)
    found = served("--model-config-name=large")
    assert (found["max_batch_size"], found["instance_group"][0]["count"]) == (64, 2)
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 100
