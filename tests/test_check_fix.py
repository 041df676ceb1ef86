"""Mends: what --fix changes, what it never touches, and that a file is the old one or the new one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritonrepo.check import Finding
from tritonrepo.check._schema import schema
from tritonrepo.check._textformat import Message, parse
from tritonrepo.check.edits import added, removed, replaced
from tritonrepo.check.fix import Change, Check, apply, diff, mend, write
from tritonrepo.check.model import Model, Repository
from tritonrepo.check.rule import Edit

Swap = tuple[str, str]


def repository(root: Path, *names: str, config: str | bytes = "one two three\n") -> Repository:
    for name in names or ("m",):
        (root / "r" / name / "1").mkdir(parents=True)
        (root / "r" / name / "1" / "model.py").write_text("")
        content = config.encode() if isinstance(config, str) else config
        (root / "r" / name / "config.pbtxt").write_bytes(content)
    return Repository(root / "r", schema("24.10"))


def swaps(*pairs: Swap, rule: str = "TR002") -> Check:
    """A checker that finds words and would have them replaced, each on its own."""

    def check(model: Model) -> Iterator[Finding]:
        text = model.files.read("config.pbtxt")
        for old, new in pairs:
            start = text.find(old.encode())
            if start >= 0:
                edit = Edit(start, start + len(old.encode()), new)
                yield Finding(rule, "reject", model.name, model.path / "config.pbtxt", 1, 1, old, new, (edit,))

    return check


def models(one: Repository) -> list[Model]:
    return list(one.models.values())


class TestEdits:
    def test_offsets_count_bytes(self) -> None:
        text = "# \u00e4\U0001f600\nname".encode()
        at = text.index(b"name")
        assert at == 9
        assert apply(text, [Edit(at, at + 4, "n\u00e4me")]) == "# \u00e4\U0001f600\nn\u00e4me".encode()
        assert apply(b"\xff name", [Edit(2, 6, "x")]) == b"\xff x"

    def test_in_any_order(self) -> None:
        edits = [Edit(4, 7, "2"), Edit(0, 3, "1"), Edit(7, 7, "!"), Edit(0, 0, ">")]
        assert apply(b"one two", edits) == b">1 2!"
        assert apply(b"one", []) == b"one"

    @pytest.mark.parametrize(
        "edits", [[Edit(0, 3, ""), Edit(2, 4, "")], [Edit(3, 2, "")], [Edit(0, 9, "")], [Edit(-1, 0, "")]]
    )
    def test_what_makes_no_sense_is_refused(self, edits: list[Edit]) -> None:
        with pytest.raises(ValueError, match="an edit of the bytes"):
            apply(b"one two", edits)


class TestMending:
    def test_until_nothing_is_left(self, tmp_path: Path) -> None:
        """One mend brings the next finding to light."""
        one = repository(tmp_path)
        done = mend(models(one), swaps(("one", "1"), ("1 two", "1 2"), ("2 three", "2 3")))
        (change,) = done.changes
        assert (change.before, change.after) == (b"one two three\n", b"1 2 3\n")
        assert [finding.message for finding in done.mended] == ["one", "1 two", "2 three"]
        assert done.left == ()
        assert change.file.read_bytes() == b"one two three\n"
        write(done.changes)
        assert change.file.read_bytes() == b"1 2 3\n"

    def test_edits_that_touch_wait_for_the_next_round(self, tmp_path: Path) -> None:
        one = repository(tmp_path)
        done = mend(models(one), swaps(("one two", "1 2"), ("two three", "2 3"), ("2 three", "2 3")))
        assert done.changes[0].after == b"1 2 3\n"
        assert [finding.message for finding in done.mended] == ["one two", "2 three"]

    def test_two_findings_with_the_same_mend(self, tmp_path: Path) -> None:
        one = repository(tmp_path)
        done = mend(models(one), swaps(("one", "1"), ("one", "1")))
        assert done.changes[0].after == b"1 two three\n"
        assert len(done.mended) == 2

    def test_an_end_where_mends_undo_each_other(self, tmp_path: Path) -> None:
        one = repository(tmp_path)
        done = mend(models(one), swaps(("one", "eins"), ("eins", "one")))
        assert len(done.mended) < 100
        assert done.left

    def test_a_mend_that_changes_nothing(self, tmp_path: Path) -> None:
        one = repository(tmp_path)
        done = mend(models(one), swaps(("one", "one")))
        assert (done.changes, done.mended, len(done.left)) == ((), (), 1)

    def test_findings_without_a_mend_are_left(self, tmp_path: Path) -> None:
        one = repository(tmp_path)

        def check(model: Model) -> Iterator[Finding]:
            yield Finding("TR002", "reject", model.name, model.path / "config.pbtxt", 1, 1, "", "")

        done = mend(models(one), check)
        assert (done.changes, len(done.left)) == ((), 1)

    def test_other_models_are_seen_as_mended(self, tmp_path: Path) -> None:
        """A rule may look at another model's config: an ensemble's does."""
        one = repository(tmp_path, "a", "b")

        def check(model: Model) -> Iterator[Finding]:
            other = model.repository.models["b"].files
            if model.name == "a" and other.read("config.pbtxt")[:3] == b"one" and other.size("config.pbtxt") == 14:
                file = model.repository.models["b"].path / "config.pbtxt"
                yield Finding("TR002", "reject", "a", file, 1, 1, "", "", (Edit(0, 3, "1"),))

        done = mend(models(one), check)
        assert [change.file.parent.name for change in done.changes] == ["b"]
        assert done.left == ()

    def test_only_models_that_were_asked_for(self, tmp_path: Path) -> None:
        one = repository(tmp_path, "a", "b")

        def check(model: Model) -> Iterator[Finding]:
            file = model.repository.path / "b" / "config.pbtxt"
            yield Finding("TR002", "reject", "a", file, 1, 1, "", "", (Edit(0, 3, "1"),))

        done = mend([one.models["a"]], check)
        assert (done.changes, len(done.left)) == ((), 1)

    def test_symbolic_links_are_left(self, tmp_path: Path) -> None:
        one = repository(tmp_path)
        config = tmp_path / "r" / "m" / "config.pbtxt"
        config.rename(tmp_path / "shared")
        config.symlink_to(tmp_path / "shared")
        done = mend(models(one), swaps(("one", "1")))
        assert (done.changes, len(done.left)) == ((), 1)


class TestWriting:
    def test_mode_kept_and_nothing_else_touched(self, tmp_path: Path) -> None:
        one = repository(tmp_path, "a", "b")
        config = tmp_path / "r" / "a" / "config.pbtxt"
        config.chmod(0o640)
        others = [path for path in (tmp_path / "r").rglob("*") if path.is_file() and path != config]
        before = {path: (path.stat(), path.read_bytes()) for path in others}
        write([Change(config, config.read_bytes(), b"new")])
        assert config.read_bytes() == b"new"
        assert stat.S_IMODE(config.stat().st_mode) == 0o640
        assert {path: (path.stat(), path.read_bytes()) for path in others} == before
        assert sorted(path.name for path in config.parent.iterdir()) == ["1", "config.pbtxt"]
        assert set(one.models) == {"a", "b"}

    def test_a_file_that_changed_meanwhile_is_left(self, tmp_path: Path) -> None:
        config = tmp_path / "config.pbtxt"
        config.write_bytes(b"newer")
        with pytest.raises(OSError, match="changed while it was being mended"):
            write([Change(config, b"old", b"mended")])
        assert config.read_bytes() == b"newer"

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_the_old_file_where_writing_fails(self, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        config = tmp_path / "config.pbtxt"
        config.write_bytes(b"old")
        monkeypatch.setattr(os, "fsync", fail) if step == "fsync" else monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            write([Change(config, b"old", b"mended")])
        assert config.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"one\ntwo\nthree\n", b"one\n2\nthree\n"),
        (b"one", b"1"),
        (b"one\n", b"1"),
        (b"one", b"1\n"),
        (b"one\r\ntwo\r\n", b"1\r\ntwo\r\n"),
        (b"# \xff\rx\x0c\none\n", b"# \xff\rx\x0c\n1\n"),
    ],
)
def test_the_diff_is_one_that_tools_take(
    before: bytes, after: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "m" / "config.pbtxt"
    config.parent.mkdir()
    config.write_bytes(before)
    shown = diff([Change(config, before, after)])
    assert shown.startswith(b"--- a/m/config.pbtxt\n+++ b/m/config.pbtxt\n@@ ")
    git = shutil.which("git")
    assert git is not None
    subprocess.run([git, "init", "-q"], check=True)
    subprocess.run([git, "apply", "-"], input=shown, check=True)
    assert config.read_bytes() == after


class TestEditsOfAConfig:
    """Each edit, made in the text and read again."""

    @staticmethod
    def root(text: str) -> Message:
        document = parse(text.encode(), schema("24.10"))
        assert document.error is None
        return document.root

    @pytest.mark.parametrize(
        ("text", "name", "value", "wanted"),
        [
            ("max_batch_size: 8", "max_batch_size", "4", "max_batch_size: 4"),
            ("max_batch_size:-8# x", "max_batch_size", "4", "max_batch_size:4# x"),
            ("max_batch_size: - 8\n", "max_batch_size", "4", "max_batch_size: 4\n"),
            (
                "# \u00e4\nname: 'a' \"b\"  'c'; max_batch_size: 1",
                "name",
                '"\u00fc"',
                '# \u00e4\nname: "\u00fc"; max_batch_size: 1',
            ),
            ("dynamic_batching { preferred_batch_size: [1, 2] }", "dynamic_batching", "{}", "dynamic_batching {}"),
            (
                "dynamic_batching: < priority_queue_policy { key: 1 value {} } >",
                "dynamic_batching",
                "{}",
                "dynamic_batching: {}",
            ),
        ],
    )
    def test_a_value_is_replaced(self, text: str, name: str, value: str, wanted: str) -> None:
        assert apply(text.encode(), [replaced(self.root(text), name, value)]).decode() == wanted
        self.root(wanted)

    def test_a_value_of_a_list_is_replaced(self) -> None:
        for text in (
            "input { dims: [1, -1, 3] }",
            "input { dims: 1 dims: - 1 dims: 3 }",
            "input { dims: [1] dims: [-1, 3] }",
        ):
            (input_,) = self.root(text).all("input")
            for index in range(3):
                after = self.root(apply(text.encode(), [replaced(input_, "dims", "7", index)]).decode())
                wanted = [1, -1, 3]
                wanted[index] = 7
                assert after.all("input")[0].all("dims") == tuple(wanted)

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("A\nPOLICY { all {} }\nB", "A\nB"),
            ("A\n  POLICY {\n  all {}\n  },\nB", "A\nB"),
            ("A\nPOLICY { all {} }", "A\n"),
            ("A\nPOLICY { all {} }  # why\nB", "A\n # why\nB"),
            ("A POLICY { all {} } B", "A B"),
            ("A POLICY { all {} }\nB", "A\nB"),
            ("A POLICY: { all {} };B", "A B"),
            ("POLICY: { all {} }", ""),
        ],
    )
    def test_a_field_is_removed(self, text: str, wanted: str) -> None:
        for short, long in (("A", 'name: "a"'), ("B", 'backend: "b"'), ("POLICY", "version_policy")):
            text, wanted = text.replace(short, long), wanted.replace(short, long)
        assert apply(text.encode(), [removed(self.root(text), "version_policy")]).decode() == wanted
        assert not self.root(wanted).has("version_policy")

    def test_one_of_several_is_removed(self) -> None:
        text = 'input { name: "a" } input { name: "b" }\ninput { name: "c" }\n'
        for index, left in enumerate(["bc", "ac", "ab"]):
            after = self.root(apply(text.encode(), [removed(self.root(text), "input", index)]).decode())
            assert "".join(each.get("name") for each in after.all("input")) == left

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("", "max_batch_size: 1\n"),
            ('name: "m"', 'name: "m"\nmax_batch_size: 1\n'),
            ('name: "m" # x', 'name: "m" # x\nmax_batch_size: 1\n'),
            ('name: "m"\n', 'name: "m"\nmax_batch_size: 1\n'),
        ],
    )
    def test_a_field_is_added_to_the_config(self, text: str, wanted: str) -> None:
        assert apply(text.encode(), [added(self.root(text), "max_batch_size: 1")]).decode() == wanted

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("input {}", "input { dims: 1 }"),
            ("input { }", "input { dims: 1 }"),
            ('input [ { name: "}" } ]', 'input [ { name: "}" dims: 1 } ]'),
            ('input {\n  name: "a"\n}\n', 'input {\n  name: "a"\n  dims: 1\n}\n'),
            ('input [\n  {\n    name: "a"\n  }\n]\n', 'input [\n  {\n    name: "a"\n    dims: 1\n  }\n]\n'),
        ],
    )
    def test_a_field_is_added_to_a_message(self, text: str, wanted: str) -> None:
        edit = added(self.root(text).all("input")[0], "dims: 1")
        assert apply(text.encode(), [edit]).decode() == wanted
        assert self.root(wanted).all("input")[0].all("dims") == (1,)

    def test_what_is_not_written_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match=r"name of .* is not written"):
            removed(self.root(""), "name")
        with pytest.raises(ValueError, match=r"name of .* is not written"):
            replaced(self.root(""), "name", "x")


class TestCommand:
    CONFIG = '# kept \u00e4\nname: "other"\nbackend: "python"\n'

    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        repository(tmp_path, "m", config=self.CONFIG)
        code = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
        Path("r/m/1/model.py").write_text(code)
        return Path("r/m/config.pbtxt")

    @staticmethod
    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tritonrepo", "check", "r", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_a_dry_run_shows_and_changes_nothing(self, config: Path) -> None:
        done = self.check("--fix", "--dry-run")
        assert done.stdout == (
            "--- a/r/m/config.pbtxt\n+++ b/r/m/config.pbtxt\n"
            '@@ -1,3 +1,3 @@\n # kept \u00e4\n-name: "other"\n+name: "m"\n backend: "python"\n'
        )
        assert done.stderr == "r: nothing left in 1 model\n"
        assert done.returncode == 1
        assert config.read_text() == self.CONFIG

    def test_fix(self, config: Path) -> None:
        done = self.check("--fix")
        assert config.read_text() == self.CONFIG.replace("other", "m")
        assert done.stdout.startswith("mended r/m/config.pbtxt:2:1: TR")
        assert done.stdout.endswith("\nr: nothing left in 1 model\n")
        assert (done.returncode, done.stderr) == (0, "")
        again = self.check("--fix")
        assert (again.returncode, again.stdout) == (0, "r: nothing found in 1 model\n")
        assert self.check("--fix", "--dry-run").stdout == ""

    def test_what_is_not_chosen_is_not_mended(self, config: Path) -> None:
        assert self.check("--fix", "--select", "TR0").returncode == 0
        assert config.read_text() == self.CONFIG

    def test_it_is_reported(self, config: Path) -> None:
        printed = json.loads(self.check("--fix", "--format", "json").stdout)
        assert printed["findings"] == []
        (mended,) = printed["mended"]
        assert mended["edits"] == [{"start": 16, "end": 23, "text": '"m"'}]
