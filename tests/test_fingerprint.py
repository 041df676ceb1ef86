"""Keys, hashes of files, and the cache on disk."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tritonrepo import fingerprint
from tritonrepo.fingerprint import Cache, digest, key_of, stat_of


def settle(path: Path) -> None:
    """Give a file a time that lies back far enough for its hash to be remembered."""
    then = time.time_ns() - 10**10
    os.utime(path, ns=(then, then))


def hashes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose contents are read from now on."""
    read: list[Path] = []
    original = fingerprint._hash_file

    def spy(path: Path) -> str:
        read.append(path)
        return original(path)

    monkeypatch.setattr(fingerprint, "_hash_file", spy)
    return read


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_contents_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    settle(file)
    read = hashes(monkeypatch)
    values = [Cache(tmp_path / "cache").file_digest(file) for _ in range(3)]
    assert values == [hashlib.sha256(b"one").hexdigest()] * 3
    assert read == [file]


def test_a_touched_file_is_read_again_and_keeps_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    settle(file)
    cache = Cache(tmp_path / "cache")
    before = cache.file_digest(file)
    os.utime(file, ns=(1, 1))
    read = hashes(monkeypatch)
    assert cache.file_digest(file) == before
    assert read == [file]


def test_a_change_that_keeps_size_and_time_is_seen_by_its_inode(tmp_path: Path) -> None:
    file, other = tmp_path / "weights", tmp_path / "other"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    settle(file)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    cache = Cache(tmp_path / "cache")
    before = cache.file_digest(file)
    other.replace(file)
    assert cache.file_digest(file) != before


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """Within one tick of the clock a file can change twice and show one time."""
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    cache = Cache(tmp_path / "cache")
    before = cache.file_digest(file)
    stat = file.stat()
    with file.open("r+b") as same:
        same.write(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert stat_of(file)[1:3] == (stat.st_size, stat.st_mtime_ns)
    assert cache.file_digest(file) != before


def test_values_come_back_and_damage_counts_as_absence(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("steps", "aa11", {"x": [1, None, "ü"]})
    assert cache.get("steps", "aa11") == {"x": [1, None, "ü"]}
    assert cache.get("steps", "bb22") is None
    (tmp_path / "steps" / "aa" / "aa11.json").write_text('{"x": [1')
    assert cache.get("steps", "aa11") is None


def test_a_folder_is_filled_once_and_whole(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def fill(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("content")

    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cache.folder("prepared", "cc33", fail)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert (cache.folder("prepared", "cc33", fill) / "file").read_text() == "content"
    cache.folder("prepared", "cc33", fill)
    assert len(calls) == 1


def test_a_key_depends_on_step_inputs_and_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_of("verify", ("onnx",), {"a": 1})
    assert key == key_of("verify", ("onnx",), {"a": 1})
    assert key != key_of("render", ("onnx",), {"a": 1})
    assert key != key_of("verify", ("onnx",), {"a": 2})
    monkeypatch.setattr(fingerprint, "tool_version", lambda name: f"{name} 2")
    assert key != key_of("verify", ("onnx",), {"a": 1})


def test_tool_versions() -> None:
    import onnx

    assert fingerprint.tool_version("onnx") == onnx.__version__
    assert fingerprint.tool_version("no-such-distribution") == "absent"
    assert len(fingerprint.tool_version("tritonrepo")) == 64
