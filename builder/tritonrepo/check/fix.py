"""Mends: the edits of findings that have exactly one right mend, made in memory first and then in the files."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonrepo.check.model import CONFIG, DiskFiles, Files, Model, Repository
from tritonrepo.check.rule import Edit, Finding

#: A mend may bring another finding to light; a config that still changes after so many rounds is left as it is then.
_ROUNDS = 20

Check = Callable[[Model], Iterable[Finding]]


@dataclass(frozen=True)
class Change:
    """What becomes of one config."""

    file: Path
    before: bytes
    after: bytes


@dataclass(frozen=True)
class Mended:
    """What mending does; nothing is written yet."""

    changes: tuple[Change, ...]
    mended: tuple[Finding, ...]
    """The findings whose edits were made, in the order in which they were."""
    left: tuple[Finding, ...]
    """What is still found afterwards."""


def mend(models: Sequence[Model], check: Check) -> Mended:
    """Make the edits that findings carry, check again, and go on until there is nothing to mend.

    Only the configs of these models are mended, and none that is a symbolic link: its text may be that of other
    models, too.
    """
    texts: dict[Path, bytes] = {}
    mended: list[Finding] = []
    mendable = {model.path / CONFIG for model in models if not (model.path / CONFIG).is_symlink()}
    current = models
    for _ in range(_ROUNDS):
        found = [finding for model in current for finding in check(model)]
        made = _make({file: texts.get(file) for file in mendable}, found)
        if not made.changes:
            break
        texts |= {change.file: change.after for change in made.changes}
        mended += made.mended
        current = _reread(models, texts)
    else:
        found = [finding for model in current for finding in check(model)]
    changes = (Change(file, file.read_bytes(), text) for file, text in sorted(texts.items()))
    return Mended(tuple(change for change in changes if change.before != change.after), tuple(mended), tuple(found))


def write(changes: Iterable[Change]) -> None:
    """Put the changes into the files, each in one step; a file keeps its mode.

    Raises:
        OSError: a file cannot be written, or is not what it was; those before it are done, it and those after it are
            as they were.
    """
    for change in changes:
        if change.file.read_bytes() != change.before:
            raise OSError(None, "the file changed while it was being mended; run again", str(change.file))
        _replace(change.file, change.after)


def diff(changes: Iterable[Change]) -> bytes:
    """The changes as a unified diff that ``git apply`` and ``patch -p1`` take."""
    import difflib
    from io import BytesIO

    lines: list[bytes] = []
    for change in changes:
        name = os.fsencode(os.path.relpath(change.file))
        before, after = (BytesIO(text).readlines() for text in (change.before, change.after))
        for line in difflib.diff_bytes(difflib.unified_diff, before, after, b"a/" + name, b"b/" + name):
            lines.append(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n")
    return b"".join(lines)


def apply(text: bytes, edits: Iterable[Edit]) -> bytes:
    """A text with edits made.

    Raises:
        ValueError: edits overlap, or lie outside the text.
    """
    parts, done = [], 0
    for edit in sorted(edits, key=lambda each: (each.start, each.end)):
        if not done <= edit.start <= edit.end <= len(text):
            raise ValueError(f"an edit of the bytes {edit.start} to {edit.end} after one up to {done} of {len(text)}")
        parts += [text[done : edit.start], edit.text.encode()]
        done = edit.end
    return b"".join([*parts, text[done:]])


def _make(texts: Mapping[Path, bytes | None], findings: Iterable[Finding]) -> Mended:
    """Make the edits of as many findings as do not touch each other; the others wait for the next round."""
    chosen: dict[Path, set[Edit]] = {}
    mended = []
    for finding in findings:
        edits = set(finding.edits)
        if not edits or finding.file not in texts:
            continue
        others = chosen.setdefault(finding.file, set())
        if edits <= others or not any(_touch(edit, other) for edit in edits for other in others):
            others |= edits
            mended.append(finding)
    changes = []
    for file, edits in chosen.items():
        known = texts[file]
        before = file.read_bytes() if known is None else known
        changes.append(Change(file, before, apply(before, edits)))
    return Mended(tuple(change for change in changes if change.before != change.after), tuple(mended), ())


def _touch(one: Edit, other: Edit) -> bool:
    return one.start <= other.end and other.start <= one.end


def _reread(models: Sequence[Model], texts: Mapping[Path, bytes]) -> list[Model]:
    """The models anew, with these texts in place of their configs'."""
    repositories = {model.repository: _Mending(model.repository, texts) for model in models}
    return [repositories[model.repository].models[model.name] for model in models]


class _Mending(Repository):
    """A repository as it would be with other texts in its configs."""

    def __init__(self, repository: Repository, texts: Mapping[Path, bytes]) -> None:
        super().__init__(repository.path, repository.types)
        self._texts = texts

    def files_of(self, name: str) -> Files:
        text = self._texts.get(self.path / name / CONFIG)
        return super().files_of(name) if text is None else _MendedFiles(self.path / name, text)


class _MendedFiles(DiskFiles):
    """A model's files with another text in the config."""

    def __init__(self, root: Path, config: bytes) -> None:
        super().__init__(root)
        self._config = config

    def read(self, path: str) -> bytes:
        return self._config if path == CONFIG else super().read(path)

    def size(self, path: str) -> int:
        return len(self._config) if path == CONFIG else super().size(path)


def _replace(file: Path, content: bytes) -> None:
    with _temporary(file) as (descriptor, temporary):
        with os.fdopen(descriptor, "wb") as sink:
            os.fchmod(sink.fileno(), stat.S_IMODE(file.stat().st_mode))
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(file)


@contextlib.contextmanager
def _temporary(file: Path) -> Iterator[tuple[int, Path]]:
    """A new file beside another, that is gone when something fails."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        yield descriptor, Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
