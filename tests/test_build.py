"""Whole builds: what is published, what is left alone, and that two builds write the same bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import graphs
from tritonrepo.build import BuildOptions, BuildResult, build
from tritonrepo.errors import LockedError
from tritonrepo.limits import Limits
from tritonrepo.lock import repository_lock
from tritonrepo.spec import load_spec

Events = list[tuple[str, str, str]]


def write_spec(folder: Path, *models: str, extra: str = "") -> Path:
    text = extra + "models:\n" + "".join(f"  - {{{model}}}\n" for model in models)
    (folder / "models.yaml").write_text(text)
    return folder / "models.yaml"


def run(spec: Path, **options: Any) -> tuple[BuildResult, Events]:
    events: Events = []
    result = build(
        load_spec(spec),
        BuildOptions(jobs=2, **options),
        lambda model, step, status, seconds: events.append((model, step, status)),
    )
    return result, events


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file; times of directories too."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in snapshot(folder).items() if not name.endswith("provenance.json")}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    graphs.mlp(tmp_path)
    graphs.cnn(tmp_path)
    return write_spec(tmp_path, "onnx: mlp.onnx", "onnx: cnn.onnx")


def test_a_first_build_publishes_every_model(spec: Path) -> None:
    result, _ = run(spec)
    assert [(model.name, model.version, model.action) for model in result.models] == [
        ("mlp", 1, "new"),
        ("cnn", 1, "new"),
    ]
    repository = spec.parent / "model_repository"
    assert sorted(path.name for path in (repository / "mlp").iterdir()) == [
        "1", "1.provenance.json", "1.verdict.json", "config.pbtxt",
    ]  # fmt: skip
    assert sorted(path.name for path in (repository / "mlp" / "1").iterdir()) == ["model.onnx", "model.py"]


def test_a_second_build_does_nothing_and_changes_no_time(spec: Path) -> None:
    run(spec)
    before = snapshot(spec.parent / "model_repository")
    result, events = run(spec)
    assert all(model.cached and model.action == "unchanged" for model in result.models)
    assert events == [("mlp", "publish", "cached"), ("cnn", "publish", "cached")]
    assert snapshot(spec.parent / "model_repository") == before


def test_only_the_changed_model_is_built_and_becomes_version_2(spec: Path) -> None:
    run(spec)
    graphs.mlp(spec.parent, batch="N")
    result, events = run(spec)
    assert [(model.version, model.action) for model in result.models] == [(2, "new version"), (1, "unchanged")]
    assert {model for model, step, _ in events if step == "verify"} == {"mlp"}


def test_a_changed_setting_keeps_the_version(spec: Path) -> None:
    run(spec)
    write_spec(spec.parent, "onnx: mlp.onnx, batching: {max_queue_delay_us: 7}", "onnx: cnn.onnx")
    result, _ = run(spec)
    assert [(model.version, model.action) for model in result.models] == [(1, "new config"), (1, "unchanged")]
    config = (spec.parent / "model_repository" / "mlp" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 7" in config


def test_a_touched_file_publishes_nothing(spec: Path) -> None:
    run(spec)
    before = snapshot(spec.parent / "model_repository")
    os.utime(spec.parent / "mlp.onnx")
    result, _ = run(spec)
    assert [(model.action, model.cached) for model in result.models] == [("unchanged", True), ("unchanged", True)]
    assert snapshot(spec.parent / "model_repository") == before


def test_a_damaged_repository_is_repaired(spec: Path) -> None:
    run(spec)
    repository = spec.parent / "model_repository"
    before = contents(repository)
    (repository / "mlp" / "1" / "model.onnx").unlink()
    (repository / "cnn" / "config.pbtxt").write_text("rubbish")
    run(spec)
    assert contents(repository) == before


def test_two_builds_of_the_same_inputs_write_the_same_bytes(tmp_path: Path) -> None:
    repositories = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for write in (graphs.mlp, graphs.cnn, graphs.external_data, graphs.initializer_as_input):
            write(folder)
        names = ("mlp", "cnn", "external_data", "initializer_as_input")
        run(write_spec(folder, *(f"onnx: {each}.onnx" for each in names)))
        repositories.append(contents(folder / "model_repository"))
    assert repositories[0] == repositories[1]
    assert len(repositories[0]) > 20


def test_one_bad_model_publishes_nothing_and_every_failure_is_told(spec: Path) -> None:
    run(spec)
    before = snapshot(spec.parent / "model_repository")
    graphs.mlp(spec.parent, batch="N")
    graphs.not_onnx(spec.parent)
    graphs.unknown_operator(spec.parent)
    write_spec(spec.parent, "onnx: mlp.onnx", "onnx: not_onnx.onnx", "onnx: cnn.onnx", "onnx: unknown_operator.onnx")
    result, _ = run(spec)
    assert list(result.failures) == ["not_onnx", "unknown_operator"]
    assert snapshot(spec.parent / "model_repository") == before


def test_keep_going_publishes_the_proven_ones(spec: Path) -> None:
    graphs.not_onnx(spec.parent)
    write_spec(spec.parent, "onnx: mlp.onnx", "onnx: not_onnx.onnx")
    result, _ = run(spec, keep_going=True)
    assert [model.name for model in result.models] == ["mlp"]
    assert list(result.failures) == ["not_onnx"]
    assert (spec.parent / "model_repository" / "mlp" / "1" / "model.py").is_file()


def test_models_that_the_spec_no_longer_names(spec: Path) -> None:
    run(spec)
    repository = spec.parent / "model_repository"
    (repository / "by_hand" / "1").mkdir(parents=True)
    write_spec(spec.parent, "onnx: cnn.onnx")
    assert run(spec)[0].foreign == ("by_hand", "mlp")
    assert (repository / "mlp").is_dir()
    assert run(spec, prune=True)[0].foreign == ("by_hand",)
    assert not (repository / "mlp").exists()
    assert (repository / "by_hand" / "1").is_dir()


def test_old_versions_go_beyond_keep_versions(spec: Path) -> None:
    write_spec(spec.parent, "onnx: mlp.onnx", extra="keep_versions: 2\n")
    for batch in ("A", "B", "C"):
        graphs.mlp(spec.parent, batch=batch)
        run(spec)
    folders = sorted(path.name for path in (spec.parent / "model_repository" / "mlp").iterdir() if path.is_dir())
    assert folders == ["2", "3"]


def test_a_lost_cache_costs_time_only(spec: Path) -> None:
    run(spec)
    before = contents(spec.parent / "model_repository")
    shutil.rmtree(spec.parent / ".tritonrepo")
    result, _ = run(spec)
    assert [(model.action, model.cached) for model in result.models] == [("unchanged", False)] * 2
    assert contents(spec.parent / "model_repository") == before


def test_a_second_build_is_refused_while_the_first_holds_the_lock(spec: Path) -> None:
    with (
        repository_lock(spec.parent / "model_repository", wait=True),
        pytest.raises(LockedError, match=f"{os.getpid()}"),
    ):
        run(spec, wait=False)


def test_one_spec_and_two_repositories(spec: Path) -> None:
    loaded = load_spec(spec)
    for name in ("a", "b"):
        other = loaded.model_copy(update={"repository": spec.parent / name})
        result = build(other, BuildOptions(), lambda *event: None)
        assert [model.action for model in result.models] == ["new", "new"]
    assert contents(spec.parent / "a") == contents(spec.parent / "b")


@pytest.mark.slow
def test_a_model_over_two_gib_with_external_data(tmp_path: Path) -> None:
    graphs.over_two_gib(tmp_path)
    spec = write_spec(tmp_path, "onnx: over_two_gib.onnx, batching: {max_batch_size: 0}")
    result, _ = run(spec)
    assert not result.failures
    version = tmp_path / "model_repository" / "over_two_gib" / "1"
    assert (version / "over_two_gib.bin").stat().st_size > 2**31
    assert run(spec)[0].models[0].cached


def test_a_model_that_takes_too_long_or_too_much_is_refused_by_name(tmp_path: Path) -> None:
    graphs.slow(tmp_path)
    graphs.vast(tmp_path)
    graphs.mlp(tmp_path)
    spec = write_spec(tmp_path, "name: slow, onnx: slow.onnx", "name: mlp, onnx: mlp.onnx")
    result, _ = run(spec, limits=Limits(seconds=10))
    assert list(result.failures) == ["slow"]
    assert "took more than 10 s, and was ended during: verify" in result.failures["slow"].message
    spec = write_spec(tmp_path, "name: vast, onnx: vast.onnx", "name: mlp, onnx: mlp.onnx")
    result, _ = run(spec, limits=Limits(memory=1 << 30))
    assert list(result.failures) == ["vast"]
    assert "took more than 1 GiB of memory" in result.failures["vast"].message


def test_no_warmup_request_that_would_keep_the_server_from_loading_the_model(tmp_path: Path) -> None:
    graphs.divides(tmp_path)
    graphs.mlp(tmp_path)
    result, _ = run(write_spec(tmp_path, "onnx: divides.onnx", "onnx: mlp.onnx"))
    configs = [(tmp_path / "model_repository" / name / "config.pbtxt").read_text() for name in ("divides", "mlp")]
    assert ["model_warmup" in text for text in configs] == [False, True]
    assert ["does not run on zeros" in " ".join(model.notes) for model in result.models] == [True, False]
