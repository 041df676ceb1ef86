from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kill.generations import check_repository
from kill.generations import staged as generation
from tritonrepo import _disk, _exchange
from tritonrepo.errors import PublishError
from tritonrepo.lock import repository_lock, state_folder
from tritonrepo.publish import Pruned, Published, Staged, prune, publish, published, recover, rollback

CONFIG = b'name: "m"\nbackend: "python"\n'
Publish = Callable[..., Published]


def model(text: str = "one", config: bytes = CONFIG, **changes: object) -> Staged:
    """A staged model whose only weights are a text."""
    whole = Staged(
        name="m",
        model_files={"config.pbtxt": config},
        version_files={"model.py": b"# code", "data/weights": text.encode()},
        verdict={"ok": True, "error": 0.5},
        provenance={"host": "here"},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def put(repository: Path) -> Publish:
    """Publish under a lock of its own, keeping three versions."""

    def put(staged: Staged, keep: int = 3) -> Published:
        with repository_lock(repository, wait=False) as lock:
            return publish(staged, repository, keep_versions=keep, lock=lock)

    return put


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stats(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Every file and folder with what a change would change."""
    found = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for path, each in found.items()}


def versions(repository: Path) -> set[str]:
    return {entry.name for entry in (repository / "m").iterdir() if entry.is_dir()}


def left_over(repository: Path) -> list[str]:
    return [entry.name for entry in state_folder(repository).iterdir() if entry.name != "lock"]


def test_a_first_publication(repository: Path, put: Publish) -> None:
    done = put(model())

    assert done == Published("m", 1, "new", repository / "m", "rename")
    assert tree(repository).keys() == {
        "m/config.pbtxt", "m/1/model.py", "m/1/data/weights", "m/1.verdict.json", "m/1.provenance.json",
    }  # fmt: skip
    record = json.loads((repository / "m/1.verdict.json").read_bytes())
    assert record["error"] == 0.5
    assert record["files"]["data/weights"] == {"sha256": hashlib.sha256(b"one").hexdigest(), "bytes": 3}
    assert json.loads((repository / "m/1.provenance.json").read_bytes()) == {"host": "here"}
    assert left_over(repository) == []


def test_the_same_again_changes_nothing(repository: Path, put: Publish) -> None:
    put(model())
    before = stats(repository)

    # Provenance (times, host) is of the build that made the version.
    assert put(model(provenance={"host": "elsewhere"})) == Published("m", 1, "unchanged", repository / "m")
    assert stats(repository) == before


def test_new_files_are_a_new_version_and_old_ones_keep_their_inodes(repository: Path, put: Publish) -> None:
    put(model("one"))
    inode = (repository / "m/1/data/weights").stat().st_ino
    done = put(model("two"))

    assert (done.version, done.action, done.how) == (2, "new version", "exchange")
    assert (repository / "m/1/data/weights").stat().st_ino == inode
    assert (repository / "m/1/data/weights").read_text() == "one"
    assert (repository / "m/2/data/weights").read_text() == "two"
    assert (repository / "m/1/data/weights").stat().st_nlink == 1, "the old folder is gone"


def test_a_new_config_keeps_the_version(repository: Path, put: Publish) -> None:
    put(model(model_files={"config.pbtxt": CONFIG, "labels.txt": b"a\n", "warm/up.raw": b"0"}))
    inode = (repository / "m/1/data/weights").stat().st_ino
    done = put(model(config=CONFIG + b"# changed\n"))

    assert (done.version, done.action) == (1, "new config")
    assert (repository / "m/1/data/weights").stat().st_ino == inode
    assert (repository / "m/config.pbtxt").read_bytes().endswith(b"# changed\n")
    assert not (repository / "m/labels.txt").exists()
    assert not (repository / "m/warm").exists()


def test_a_new_verdict_keeps_the_version(repository: Path, put: Publish) -> None:
    put(model())
    done = put(model(verdict={"ok": True, "error": 0.25}))

    assert (done.version, done.action) == (1, "new config")
    assert json.loads((repository / "m/1.verdict.json").read_bytes())["error"] == 0.25


def test_only_the_last_versions_stay(repository: Path, put: Publish) -> None:
    for text in ("one", "two", "three", "four"):
        put(model(text), keep=2)

    assert versions(repository) == {"3", "4"}
    assert {path.name for path in (repository / "m").glob("*.json")} == {
        "3.verdict.json", "3.provenance.json", "4.verdict.json", "4.provenance.json",
    }  # fmt: skip


def test_pinned_versions_stay(repository: Path, put: Publish) -> None:
    for text in ("one", "two", "three"):
        put(model(text, pinned_versions=(1,)), keep=1)

    assert versions(repository) == {"1", "3"}
    assert (repository / "m/1.verdict.json").exists()


def test_what_others_put_into_the_folder_stays(repository: Path, put: Publish) -> None:
    put(model(model_files={"config.pbtxt": CONFIG, "extra/ours.txt": b"ours"}))
    folder = repository / "m"
    (folder / "configs").mkdir()
    (folder / "configs/small.pbtxt").write_text("hand-made")
    (folder / "extra/theirs.txt").write_text("theirs")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("configs/small.pbtxt")
    for cache in (folder / "1/__pycache__", folder / "configs/__pycache__"):
        cache.mkdir()
        (cache / "model.pyc").write_text("")
    put(model("two"))

    assert (folder / "configs/small.pbtxt").read_text() == "hand-made"
    assert (folder / "extra/theirs.txt").read_text() == "theirs"
    assert not (folder / "extra/ours.txt").exists()
    assert (folder / "empty").is_dir()
    assert (folder / "link").readlink() == Path("configs/small.pbtxt")
    assert not list(folder.rglob("__pycache__"))


def test_versions_made_by_hand_count_and_stay(repository: Path, put: Publish) -> None:
    put(model("one"))
    (repository / "m/7").mkdir()
    (repository / "m/7/model.py").write_text("# by hand")
    done = put(model("one"), keep=1)

    assert (done.version, done.action) == (8, "new version")
    assert versions(repository) == {"7", "8"}
    assert put(model("one"), keep=1).action == "unchanged"


def test_folders_that_are_no_versions_do_not_count(repository: Path, put: Publish) -> None:
    put(model("one"))
    for name in ("05", "9a", "v7", "٣"):
        (repository / "m" / name).mkdir()
    (repository / "m/6").write_text("a file")

    assert put(model("two")).version == 2


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", ".", "a//b", "./a", "a/", "a\0b"])
@pytest.mark.parametrize("which", ["model_files", "version_files"])
def test_paths_that_leave_the_folder_are_refused(repository: Path, put: Publish, path: str, which: str) -> None:
    changes: dict[str, Any] = {which: {"config.pbtxt": CONFIG, path: b"x"}}

    with pytest.raises(PublishError, match="is not a path inside"):
        put(model(**changes))
    assert not repository.exists()


@pytest.mark.parametrize("path", ["1/model.py", "3.verdict.json", "12.provenance.json"])
def test_model_files_cannot_pose_as_versions(put: Publish, path: str) -> None:
    with pytest.raises(PublishError, match="where a version or its record belongs"):
        put(model(model_files={"config.pbtxt": CONFIG, path: b"x"}))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_names_that_are_no_folder_names_are_refused(put: Publish, name: str) -> None:
    with pytest.raises(PublishError, match="not fit for a folder's name"):
        put(model(name=name))


@pytest.mark.parametrize("lacking", ["model_files", "version_files"])
def test_models_that_could_not_be_loaded_are_refused(put: Publish, lacking: str) -> None:
    changes: dict[str, Any] = {lacking: {}}

    with pytest.raises(PublishError, match="could not load it"):
        put(model(**changes))


def test_the_verdict_cannot_use_the_records_own_keys(repository: Path, put: Publish) -> None:
    with pytest.raises(PublishError, match="files"):
        put(model(verdict={"files": 1}))
    assert not repository.exists()


def test_a_model_made_by_hand_is_not_written_over(repository: Path, put: Publish) -> None:
    (repository / "m/1").mkdir(parents=True)
    (repository / "m/config.pbtxt").write_text("by hand")
    before = stats(repository)

    with pytest.raises(PublishError, match="did not publish"):
        put(model())
    assert stats(repository) == before


def test_links_and_files_in_a_models_place_are_refused(repository: Path, put: Publish, tmp_path: Path) -> None:
    repository.mkdir()
    (repository / "m").symlink_to(tmp_path)
    with pytest.raises(PublishError, match="only a folder can be replaced"):
        put(model())
    (repository / "m").unlink()
    (repository / "m").write_text("a file")
    with pytest.raises(PublishError, match="only a folder can be replaced"):
        put(model())


def test_a_repository_behind_a_link_is_staged_beside_the_real_one(tmp_path: Path) -> None:
    real, link = tmp_path / "disk/models", tmp_path / "models"
    real.mkdir(parents=True)
    link.symlink_to(real)
    with repository_lock(link, wait=False) as lock:
        publish(model(), link, keep_versions=1, lock=lock)

    assert (real / "m/1/model.py").exists()
    assert link.is_symlink()
    assert {entry.name for entry in tmp_path.iterdir()} == {"disk", "models"}


def test_links_in_the_sources_are_resolved(repository: Path, put: Publish, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("content")
    (tmp_path / "link").symlink_to("real")
    put(model(version_files={"model.onnx": tmp_path / "link"}))

    target = repository / "m/1/model.onnx"
    assert not target.is_symlink()
    assert target.read_text() == "content"
    assert target.stat().st_nlink == 1, "a copy: what happens to the source later does not reach the repository"


def test_sources_that_are_no_files(repository: Path, put: Publish, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source, match in (
        (tmp_path / "pipe", "only regular files"),
        (tmp_path, "only regular files"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(PublishError, match=match) as caught:
            put(model(version_files={"model.onnx": source}))
        assert str(source) in str(caught.value)
    assert not repository.exists()
    assert left_over(repository) == []


def test_a_file_that_changed_since_it_was_verified_is_refused(repository: Path, put: Publish, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_text("verified")
    digests = {str(source): hashlib.sha256(b"verified").hexdigest()}
    put(model(version_files={"model.onnx": source}, digests=digests))
    before = stats(repository)
    source.write_text("CHANGED!!")

    with pytest.raises(PublishError, match="not the one that was built and verified"):
        put(model(version_files={"model.onnx": source}, digests=digests))
    assert stats(repository) == before
    assert left_over(repository) == []


def test_an_unchanged_publication_reads_no_large_file(
    put: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"x" * 1000)
    staged = model(
        version_files={"model.onnx": source}, digests={str(source): hashlib.sha256(source.read_bytes()).hexdigest()}
    )
    put(staged)
    monkeypatch.setattr(_disk, "file_digest", lambda path: pytest.fail(f"{path} was read"))

    assert put(staged).action == "unchanged"


def test_content_decides_where_no_digest_is_known(put: Publish, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_text("aaaa")
    staged = model(version_files={"model.onnx": source})

    assert [put(staged).action, put(staged).action] == ["new", "unchanged"]
    source.write_text("bbbb")
    assert put(staged).action == "new version"


def _remove(file: Path) -> None:
    file.unlink()


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _alter(file: Path) -> None:
    """A change that size does not show; later than the record, as every change is."""
    file.write_bytes(bytes(len(file.read_bytes())))
    later = time.time_ns() + 1_000_000
    os.utime(file, ns=(later, later))


@pytest.mark.parametrize("damage", [_remove, _shorten, _alter])
def test_damage_is_repaired(repository: Path, put: Publish, damage: Callable[[Path], None]) -> None:
    put(model("one"))
    put(model("two"))
    good = tree(repository)
    damage(repository / "m/2/data/weights")
    done = put(model("two"))

    assert (done.version, done.action) == (2, "repaired")
    assert tree(repository) == good
    damage(repository / "m/config.pbtxt")
    assert put(model("two")).action == ("new" if damage is _remove and not good else "new config")
    assert tree(repository) == good


def test_a_copied_repository_is_unchanged(put: Publish, repository: Path) -> None:
    """Times that a copy does not keep make files be read again, no more."""
    put(model())
    copy = repository.with_name("copy")
    shutil.copytree(repository, copy, copy_function=shutil.copyfile)
    os.utime(copy / "m/1.verdict.json", (1, 1))

    with repository_lock(copy, wait=False) as lock:
        assert publish(model(), copy, keep_versions=3, lock=lock).action == "unchanged"


def test_two_publications_of_the_same_give_the_same_bytes(tmp_path: Path) -> None:
    trees = []
    for name in ("a", "b"):
        with repository_lock(tmp_path / name, wait=False) as lock:
            for text in ("one", "two"):
                files = {"model.py": b"# code", "weights": text.encode()}
                if name == "b":
                    files = dict(reversed(files.items()))
                staged = model(version_files=files, provenance={"at": time.time_ns()})
                publish(staged, tmp_path / name, keep_versions=3, lock=lock)
        trees.append(tree(tmp_path / name))

    differ = {path for path in trees[0].keys() | trees[1].keys() if trees[0].get(path) != trees[1].get(path)}
    assert differ == {"m/1.provenance.json", "m/2.provenance.json"}


def test_figures_that_json_lacks(repository: Path, put: Publish) -> None:
    staged = model(verdict={"worst": float("nan"), "errors": ({"max_rel": float("inf")},), "shape": (1, 2)})
    put(staged)

    def refuse(word: str) -> object:
        raise AssertionError(word)

    record = json.loads((repository / "m/1.verdict.json").read_bytes(), parse_constant=refuse)
    assert (record["worst"], record["errors"], record["shape"]) == ("nan", [{"max_rel": "inf"}], [1, 2])
    assert put(staged).action == "unchanged"


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o777, 0o600, 0)])
def test_modes_follow_the_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    """Sources' own modes do not count: a cache may be private, the server is another user."""
    (tmp_path / "source").write_text("x")
    (tmp_path / "source").chmod(0o400)
    target = tmp_path / "target"
    before = os.umask(umask)
    try:
        if folder:
            with repository_lock(tmp_path / "models", wait=False) as lock:
                staged = model(version_files={"model.onnx": tmp_path / "source"})
                publish(staged, tmp_path / "models", keep_versions=1, lock=lock)
        _disk.write(tmp_path / "source", target)
    finally:
        os.umask(before)

    assert stat.S_IMODE(target.stat().st_mode) == file
    if folder:
        assert stat.S_IMODE((tmp_path / "models/m/1/model.onnx").stat().st_mode) == file
        for path in ("models/m", "models/m/1"):
            assert stat.S_IMODE((tmp_path / path).stat().st_mode) == folder


def test_holes_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.write(b"head")
        file.seek(20 << 20)
        file.write(b"tail")
        file.truncate(40 << 20)

    assert _disk.write(source, target) == hashlib.sha256(source.read_bytes()).hexdigest()
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 4 << 20


def test_a_file_that_changes_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100)
    readv = os.readv

    def read_and_change(file: int, buffers: list[bytearray]) -> int:
        count = readv(file, buffers)
        if count:
            source.write_bytes(b"y" * 200)
        return count

    monkeypatch.setattr(os, "readv", read_and_change)
    with pytest.raises(PublishError, match="changed while it was copied"):
        _disk.write(source, tmp_path / "target")


def _refuse_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def test_without_hard_links_versions_are_copied(
    repository: Path, put: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(model("one"))
    (repository / "m/link").symlink_to("config.pbtxt")
    written = (repository / "m/1/data/weights").stat().st_mtime_ns
    monkeypatch.setattr(os, "link", _refuse_links)
    put(model("two"))

    assert (repository / "m/1/data/weights").read_text() == "one"
    assert (repository / "m/1/data/weights").stat().st_mtime_ns == written
    assert (repository / "m/link").is_symlink()


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(first: Path, second: Path) -> None:
        raise OSError(errno.EINVAL, "no exchange here")

    monkeypatch.setattr(_exchange, "exchange", refuse)


@pytest.mark.usefixtures("no_exchange")
def test_without_exchange_two_renames_do(repository: Path, put: Publish) -> None:
    put(model("one"))
    done = put(model("two"))

    assert (done.version, done.how) == (2, "two renames")
    assert versions(repository) == {"1", "2"}
    assert left_over(repository) == []


@pytest.mark.usefixtures("no_exchange")
def test_a_failure_between_the_two_renames_is_undone(
    repository: Path, put: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(model("one"))
    good = tree(repository)
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if "new" in self.parts:
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(PublishError, match="input/output error"):
        put(model("two"))
    assert tree(repository) == good
    assert left_over(repository) == []


def test_the_system_call_stands_in_for_an_old_c_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    class Old:
        """A C library from before renameat2."""

        def __init__(self, *_: object, **__: object) -> None:
            self.syscall = real.syscall

    real = ctypes.CDLL(None, use_errno=True)
    monkeypatch.setattr(ctypes, "CDLL", Old)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    _exchange.exchange(tmp_path / "a", tmp_path / "b")

    assert (tmp_path / "a/b").exists()
    assert (tmp_path / "b/a").exists()
    with pytest.raises(FileNotFoundError):
        _exchange.exchange(tmp_path / "a", tmp_path / "none")


def test_what_killed_builds_left_is_cleared(repository: Path, put: Publish) -> None:
    put(model("one"))
    (repository / "m").rename(repository / "kept")
    half = state_folder(repository) / "publish-half"
    shutil.copytree(repository / "kept", half / "new/m")
    (half / "new/m/1/model.py").unlink()
    # Killed between two renames: the model goes back before anything else is done.
    (state_folder(repository) / "publish-moved/old").mkdir(parents=True)
    (repository / "kept").rename(state_folder(repository) / "publish-moved/old/m")

    with repository_lock(repository, wait=False) as lock:
        recover(repository, lock)
        assert versions(repository) == {"1"}
        assert left_over(repository) == []
        # Only once for a lock: what another thread is staging right now is not left over.
        half.mkdir()
        recover(repository, lock)
        assert half.exists()


def test_a_lock_is_asked_for_as_proof(repository: Path, tmp_path: Path) -> None:
    with repository_lock(tmp_path / "other", wait=False) as other, pytest.raises(ValueError, match="this lock is on"):
        publish(model(), repository, keep_versions=1, lock=other)
    with repository_lock(repository, wait=False) as lock:
        pass
    with pytest.raises(ValueError, match="released"):
        publish(model(), repository, keep_versions=1, lock=lock)


def test_threads_publish_models_side_by_side(repository: Path) -> None:
    names = tuple(f"m{number}" for number in range(8))
    with repository_lock(repository, wait=False) as lock, ThreadPoolExecutor(8) as pool:
        for number in range(3):
            models = [generation(name, number, 1 << 16) for name in names]
            list(pool.map(lambda each: publish(each, repository, keep_versions=2, lock=lock), models))

    check_repository(repository, names, 2)
    assert {entry.name for entry in repository.iterdir()} == set(names)
    assert left_over(repository) == []


def test_published_tells_the_state(repository: Path, put: Publish) -> None:
    assert published(repository, "m") is None
    put(model("one"))
    state = published(repository, "m")
    assert state is not None
    assert (state.name, state.version) == ("m", 1)
    assert state.verdict == {"ok": True, "error": 0.5}
    assert state.config_sha256 == hashlib.sha256(CONFIG).hexdigest()
    assert [path for path, _, _ in state.stat] == [
        "1/data/weights", "1/model.py", "1.provenance.json", "1.verdict.json", "config.pbtxt",
    ]  # fmt: skip

    (repository / "m/1/__pycache__").mkdir()
    (repository / "m/1/__pycache__/model.pyc").touch()
    assert published(repository, "m") == state, "what Python caches is no change"
    _alter(repository / "m/1/data/weights")
    assert published(repository, "m") != state
    (repository / "m/2").mkdir()
    assert published(repository, "m") is None, "the latest version was made by hand"


def test_prune_removes_only_what_is_tritonrepos(repository: Path, put: Publish) -> None:
    for name in ("kept", "gone", "annotated"):
        put(model(name=name))
    (repository / "annotated/notes.txt").write_text("mine")
    (repository / "gone/1/__pycache__").mkdir()
    (repository / "hand/1").mkdir(parents=True)
    (repository / "hand/1/model.py").touch()
    (repository / "README.md").touch()

    with repository_lock(repository, wait=False) as lock:
        assert prune(repository, {"kept"}, lock) == Pruned(("gone",), {"annotated": ("notes.txt",)})
    assert {entry.name for entry in repository.iterdir()} == {"kept", "annotated", "hand", "README.md"}
    assert left_over(repository) == []


def test_prune_of_a_repository_that_is_not_there(repository: Path) -> None:
    with repository_lock(repository, wait=False) as lock:
        assert prune(repository, set(), lock) == Pruned((), {})


def test_rollback_brings_back_files_and_config(repository: Path, put: Publish) -> None:
    put(model("one", config=CONFIG + b"# first\n"))
    put(model("two", config=CONFIG + b"# second\n", verdict={"ok": True, "error": 9}))
    with repository_lock(repository, wait=False) as lock:
        done = rollback(repository, "m", None, lock)

    assert (done.version, done.action) == (3, "new version")
    assert (repository / "m/3/data/weights").read_text() == "one"
    assert (repository / "m/config.pbtxt").read_bytes().endswith(b"# first\n")
    assert json.loads((repository / "m/3.verdict.json").read_bytes())["error"] == 0.5
    assert json.loads((repository / "m/3.provenance.json").read_bytes()) == {"rollback_to": 1, "rollback_from": 2}
    assert versions(repository) == {"1", "2", "3"}


def test_rollback_to_a_version_by_number(repository: Path, put: Publish) -> None:
    for text in ("one", "two", "three"):
        put(model(text))
    with repository_lock(repository, wait=False) as lock:
        assert rollback(repository, "m", 2, lock).version == 4
        assert rollback(repository, "m", 4, lock).action == "unchanged"
        with pytest.raises(PublishError, match=r"no version 9[\s\S]*1, 2, 3, 4"):
            rollback(repository, "m", 9, lock)
        with pytest.raises(PublishError, match="no earlier version"):
            rollback(repository, "none", None, lock)
    assert (repository / "m/4/data/weights").read_text() == "two"


def test_rollback_refuses_what_is_not_as_it_was_published(repository: Path, put: Publish) -> None:
    long = b"x" * 100_000
    put(model("one", model_files={"config.pbtxt": CONFIG, "warmup.raw": long}))
    put(model("two", model_files={"config.pbtxt": CONFIG, "warmup.raw": b"other"}))
    with repository_lock(repository, wait=False) as lock:
        with pytest.raises(PublishError, match=r"warmup\.raw of version 1 has been replaced"):
            rollback(repository, "m", 1, lock)
        put_same = model("three", model_files={"config.pbtxt": CONFIG, "warmup.raw": long})
        publish(put_same, repository, keep_versions=3, lock=lock)
        assert rollback(repository, "m", 1, lock).version == 4, "the same file is there again"
        _shorten(repository / "m/1/model.py")
        with pytest.raises(PublishError, match="not as it was published"):
            rollback(repository, "m", 1, lock)


def test_a_reader_never_sees_a_mix(repository: Path, put: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader opens the folder, reads through it, and looks whether it is still the one that is published.

    If it is, what it read is one complete generation. If not, the old folder may have been on its way out meanwhile,
    and the reader starts again.
    """
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power fails here, and exchanges come faster
    put(generation("m", 0, 1 << 12), keep=2)
    faults: list[str] = []
    whole: list[int] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            folder = os.open(repository / "m", os.O_RDONLY | os.O_DIRECTORY)
            try:
                found: int | str = _read_generation(folder)
            except (OSError, AssertionError, ValueError) as error:
                found = str(error)
            if os.path.samestat(os.fstat(folder), (repository / "m").stat()):
                whole.append(found) if isinstance(found, int) else faults.append(found)
            os.close(folder)

    reader = threading.Thread(target=read_on)
    reader.start()
    for number in range(1, 201):
        assert put(generation("m", number, 1 << 12), keep=2).how == "exchange"
    done.set()
    reader.join()

    assert faults == []
    assert len(set(whole)) > 20, "the reader was quick enough to see many of them"
    assert whole == sorted(whole)


def _read_generation(folder: int) -> int:
    """Read a model through its open folder; returns the generation, which every file agrees on."""

    def read(path: str) -> bytes:
        with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=folder), "rb") as file:
            return file.read()

    number = int(read("labels.txt").split()[1])
    assert f'"{number}"'.encode() in read("config.pbtxt")
    version = max(int(name) for name in os.listdir(folder) if name.isdecimal())
    manifest = json.loads(read(f"{version}/manifest.json"))
    assert manifest["content"] == number // 2, f"config {number}, manifest {manifest['content']}"
    for path, digest in manifest["weights"].items():
        assert hashlib.sha256(read(f"{version}/{path}")).hexdigest() == digest, f"{path} of another version"
    return number


# File systems as they really fail. Mounting needs root; elsewhere these are skipped, and a limit stands in for one.


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount something for the length of a test."""
    mounted: list[Path] = []

    def mount(where: Path, *arguments: str) -> None:
        where.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(where)], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        if where not in mounted:
            mounted.append(where)

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    yield mount
    for where in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_a_full_disk(tmp_path: Path, mount: Callable[..., None]) -> None:
    mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "none")
    repository = tmp_path / "disk/models"
    with repository_lock(repository, wait=False) as lock:
        publish(model("one"), repository, keep_versions=3, lock=lock)
        before = stats(repository)
        with pytest.raises(PublishError, match=r"m cannot be published: the disk is full[\s\S]*Nothing was changed"):
            publish(model("x" * (2 << 20)), repository, keep_versions=3, lock=lock)
        assert stats(repository) == before
        assert left_over(repository) == []
        assert publish(model("two"), repository, keep_versions=3, lock=lock).version == 2


def test_a_file_larger_than_allowed(repository: Path, put: Publish) -> None:
    import resource

    put(model("one"))
    before = stats(repository)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(PublishError, match=r"larger than is allowed[\s\S]*ulimit"):
            put(model("x" * (1 << 17)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stats(repository) == before
    assert left_over(repository) == []


def test_a_disk_mounted_read_only(tmp_path: Path, mount: Callable[..., None]) -> None:
    disk = tmp_path / "disk"
    mount(disk, "-t", "tmpfs", "none")
    with repository_lock(disk / "models", wait=False) as lock:
        publish(model("one"), disk / "models", keep_versions=3, lock=lock)
    mount(disk, "-o", "remount,ro")

    with pytest.raises(PublishError, match="Read-only file system"), repository_lock(disk / "models", wait=False):
        pass


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"the disk is full[\s\S]*Free some space"),
        (errno.EDQUOT, r"quota is used up[\s\S]*Free some space"),
        (errno.EROFS, r"mounted read-only[\s\S]*Mount it for writing"),
        (errno.EACCES, r"permission denied[\s\S]*able to write in"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "exchange", "mkdir"])
def test_what_the_system_says_becomes_advice(
    repository: Path, put: Publish, monkeypatch: pytest.MonkeyPatch, code: int, message: str, call: str
) -> None:
    put(model("one"))
    before = tree(repository)

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched, pytest.raises(PublishError, match=message) as caught:
        patched.setattr(_exchange if call == "exchange" else os, call, fail)
        put(model("two"))
    assert "Nothing was changed" in str(caught.value)
    assert tree(repository) == before
    assert left_over(repository) == []


def test_folders_without_permission(repository: Path, put: Publish) -> None:
    put(model("one"))
    before = tree(repository)
    repository.chmod(0o500)
    try:
        if os.access(repository, os.W_OK):
            pytest.skip("modes do not hold this user back")
        with pytest.raises(PublishError, match=r"permission denied[\s\S]*has to be able to write"):
            put(model("two"))
    finally:
        repository.chmod(0o700)
    assert tree(repository) == before
    assert left_over(repository) == []


@pytest.mark.parametrize("kind", [("-t", "tmpfs", "none"), ("--bind", "SOURCE")])
def test_a_repository_that_is_a_mount_point(
    tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch, kind: tuple[str, ...]
) -> None:
    """Nothing beside it is on its file system: the model cannot come in, or be replaced, in one step."""
    if "tmpfs" in kind:  # seen at once; a bind mount shows only when the rename fails
        monkeypatch.setattr(_disk, "write", lambda source, target: pytest.fail("staged in vain"))
    (tmp_path / "source").mkdir()
    repository = tmp_path / "models"
    mount(repository, *(str(tmp_path / "source") if each == "SOURCE" else each for each in kind))
    with (
        repository_lock(repository, wait=False) as lock,
        pytest.raises(PublishError, match=r"cannot be moved[\s\S]*use a folder inside the mount"),
    ):
        publish(model("one"), repository, keep_versions=3, lock=lock)
    assert list(repository.iterdir()) == []
    assert left_over(repository) == []


def test_a_model_from_a_lower_layer_of_an_image(tmp_path: Path, mount: Callable[..., None]) -> None:
    mount(tmp_path / "disk", "-t", "tmpfs", "none")
    lower, upper, work = (tmp_path / "disk" / name for name in ("lower", "upper", "work"))
    for folder in (lower, upper, work):
        folder.mkdir()
    with repository_lock(lower / "models", wait=False) as lock:
        publish(model("one"), lower / "models", keep_versions=3, lock=lock)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
    mount(tmp_path / "image", "-t", "overlay", "-o", options, "none")
    repository = tmp_path / "image/models"
    before = tree(repository)
    with repository_lock(repository, wait=False) as lock:
        with pytest.raises(PublishError, match="lower layer of a container image"):
            publish(model("two"), repository, keep_versions=3, lock=lock)
        assert tree(repository) == before
        assert publish(model("two", name="new"), repository, keep_versions=3, lock=lock).action == "new"
        assert publish(model("three", name="new"), repository, keep_versions=3, lock=lock).how == "exchange"


@pytest.mark.parametrize("make", [("mkfs.xfs", "-q"), ("mkfs.btrfs", "-q")])
def test_files_are_cloned_where_the_file_system_can(
    tmp_path: Path, mount: Callable[..., None], make: tuple[str, ...]
) -> None:
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    disk = tmp_path / "disk"
    mount(disk, "-o", "loop", str(image))
    source = disk / "source"
    source.write_bytes(os.urandom(64 << 20))
    os.sync()
    before = shutil.disk_usage(disk).used
    with repository_lock(disk / "models", wait=False) as lock:
        staged = model(version_files={"model.onnx": source})
        publish(staged, disk / "models", keep_versions=3, lock=lock)
        assert publish(model("two"), disk / "models", keep_versions=3, lock=lock).how == "exchange"
    os.sync()

    assert (disk / "models/m/1/model.onnx").read_bytes() == source.read_bytes()
    assert shutil.disk_usage(disk).used - before < 32 << 20


def test_a_disk_that_does_not_confirm(repository: Path, put: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the exchange it is too late to say that nothing was changed."""
    put(model("one"))
    sync = _disk.sync

    def fail_for_the_repository(path: Path) -> None:
        if path == repository:
            raise OSError(errno.EIO, "input/output error")
        sync(path)

    monkeypatch.setattr(_disk, "sync", fail_for_the_repository)
    with pytest.raises(PublishError, match="was changed, but the disk does not confirm it"):
        put(model("two"))
    with contextlib.suppress(FileNotFoundError):
        assert versions(repository) == {"1", "2"}
