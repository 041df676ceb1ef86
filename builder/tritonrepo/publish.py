"""Staged model -> repository: complete old or complete new at every instant.

A model is staged as a whole new folder beside the repository and then changes places with the published one in one
step. Versions that are kept are hard links, and a version's files are never written again: what reads version N goes
on finding N while N + 1 is published, as long as N is kept. docs/publishing.md says what readers may rely on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tritonrepo import _disk, _record
from tritonrepo._exchange import replace, restore
from tritonrepo._fleet import Share, merged, waits_for, with_held
from tritonrepo._held import forget, hold
from tritonrepo._record import Content, Contents, Record
from tritonrepo.errors import PublishError
from tritonrepo.lock import Lock

_LONGEST_TEXT = 1 << 16
_MOVE_AWAY = "Move it away, or give the model another name."

Source = bytes | Path
Stat = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Staged:
    """A model that is ready to be published.

    The published directory of model ``ocr`` at version 3 looks like this:

        ocr/config.pbtxt, ocr/labels.txt, ...   `model_files`: one set for all versions
        ocr/3/model.onnx, ocr/3/model.py        `version_files`: what makes a version
        ocr/3.verdict.json                      `verdict`: deterministic, part of what is hashed
        ocr/3.provenance.json                   `provenance`: host and times, not hashed
    """

    name: str
    model_files: Mapping[str, Source]
    """Path below the model's directory -> content, or the file to copy."""
    version_files: Mapping[str, Source]
    """Path below the version's directory -> content, or the file to copy."""
    verdict: Mapping[str, object]
    provenance: Mapping[str, object]
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of files to copy, by ``str(path)``, where it is known: such a file is read only if it is new."""
    pinned_versions: tuple[int, ...] = ()
    """Versions that stay however old they are: those that the version policy names."""
    share: Share | None = None
    """Where the version is made by several hosts: what this one brings, see `_fleet`."""


@dataclass(frozen=True)
class Published:
    """What publishing did."""

    name: str
    version: int
    action: str
    """``new``, ``new version``, ``held`` (built, and kept until other hosts have built too), ``added`` (another
    host's version has this one's plan now, too), ``new config`` (the config, labels or the verdict changed; the version
    is the same), ``repaired`` (files of the version were missing or altered and are as published again) or
    ``unchanged``."""
    path: Path
    how: str = ""
    """``exchange``, ``rename`` (there was nothing before), ``two renames`` (the file system has no exchange: for an
    instant there was no such model), or nothing where nothing was changed."""
    waits: tuple[str, ...] = ()
    """Of ``held``: the GPUs whose plans it waits for."""


@dataclass(frozen=True)
class PublishedState:
    """What is published of a model, read without opening its large files."""

    name: str
    version: int
    verdict: Mapping[str, object]
    config_sha256: str
    stat: Stat
    """(path, size, modification time in ns) of every file: the same as last time means that nothing changed."""


@dataclass(frozen=True)
class Pruned:
    """What pruning did: names of models removed, and of those left because of files that are not tritonrepo's."""

    removed: tuple[str, ...]
    left: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Old:
    """The model as it is published now."""

    versions: tuple[int, ...]
    records: Mapping[int, Record]

    @property
    def latest(self) -> int:
        return self.versions[-1] if self.versions else 0

    @property
    def record(self) -> Record | None:
        """The latest version's record; None where there is none, or that version was made by hand."""
        return self.records.get(self.latest)

    @property
    def model_files(self) -> Contents:
        """The model's files that tritonrepo wrote; others are the user's."""
        return self.records[max(self.records)].model_files if self.records else {}


def publish(staged: Staged, repository: Path, *, keep_versions: int, lock: Lock) -> Published:
    """Put a model into the repository, as a new version if its files differ from the latest version's.

    Args:
        staged: the model.
        repository: the repository; made if it does not exist.
        keep_versions: how many versions stay, this one included; versions made by hand and pinned ones always stay.
        lock: from `repository_lock` on this repository.

    Raises:
        PublishError: it cannot be published; the repository is as it was.
    """
    lock.require(repository)
    _check_paths(staged)
    target = lock.repository / staged.name
    with _disk.explained(f"{staged.name} cannot be published", lock.repository):
        recover(repository, lock)
        old = _read_old(target)
        if not old.records and (target / "config.pbtxt").exists():
            raise PublishError(
                f"there is a model {staged.name} that tritonrepo did not publish; its config would be lost",
                where=target,
                hint=_MOVE_AWAY,
            )
        staged = merged(with_held(staged, lock.state), target, old.latest, old.record)
        action = _action(staged, target, old)
        if action == "unchanged":
            return Published(staged.name, old.latest, action, target)
        waits = waits_for(staged, old.record) if action == "new version" else ()
        if waits and staged.share:
            hold(staged, staged.share, lock.state)
            return Published(staged.name, old.latest, "held", target, waits=waits)
        version = old.latest if action in ("new config", "added", "repaired") else old.latest + 1
        keep = _kept(old, version, keep_versions, staged.pinned_versions)
        # The version's files are written, except where only what is around them changes.
        stays = action in ("new config", "added")
        how = _publish(staged, target, old, version, keep if stays else keep - {version}, lock)
    _disk.settle(lock.repository)
    if staged.share:
        forget(lock.state, staged.name)
    return Published(staged.name, version, action, target, how)


def published(repository: Path, name: str) -> PublishedState | None:
    """What is published of a model; None where there is nothing, or its latest version was made by hand."""
    model = repository / name
    found = _record.versions(model)
    record = _record.read_record(model, found[-1]) if found else None
    try:
        config = (model / "config.pbtxt").read_bytes()
        files = ((path, entry.stat()) for path, entry in _record.scan(model))
        stat = tuple((path, each.st_size, each.st_mtime_ns) for path, each in files)
    except FileNotFoundError:
        return None
    if record is None:
        return None
    return PublishedState(name, found[-1], record.verdict, hashlib.sha256(config).hexdigest(), stat)


def recover(repository: Path, lock: Lock) -> None:
    """Clear what a killed build has left beside the repository; `publish`, `prune` and `rollback` begin with it."""
    lock.require(repository)
    lock.once(lambda: _recover(lock))


def prune(repository: Path, keep: set[str], lock: Lock) -> Pruned:
    """Remove the models that tritonrepo published and that are not in ``keep``.

    Models made by hand are never touched, nor are published ones that hold a file that tritonrepo did not write.

    Raises:
        PublishError: a model cannot be removed; it is as it was.
    """
    lock.require(repository)
    repository = lock.repository
    removed: list[str] = []
    left: dict[str, tuple[str, ...]] = {}
    with _disk.explained("the repository cannot be pruned", repository):
        recover(repository, lock)
        for name in _model_names(repository):
            old = _read_old(repository / name)
            if name in keep or not old.records:
                continue
            foreign = _foreign(repository / name, old)
            if foreign:
                left[name] = foreign
                continue
            with _scratch(lock) as scratch:
                (repository / name).rename(scratch / "gone")
                _disk.settle(repository)
            removed.append(name)
    return Pruned(tuple(removed), left)


def rollback(repository: Path, name: str, version: int | None, lock: Lock) -> Published:
    """Publish an earlier version's files and config again, as the newest version; no version is dropped.

    Args:
        repository: the repository.
        name: the model.
        version: which one; None for the one before the latest.
        lock: from `repository_lock` on this repository.

    Raises:
        PublishError: there is no such version, or it is not as it was published.
    """
    lock.require(repository)
    model = lock.repository / name
    with _disk.explained(f"{name} cannot be rolled back", lock.repository):
        recover(repository, lock)
        old = _read_old(model)
        earlier = [number for number in old.records if number != old.latest]
        chosen = version if version is not None else max(earlier, default=0)
        record = old.records.get(chosen)
        if record is None:
            there = ", ".join(map(str, sorted(old.records))) or "none"
            wanted = f"no version {version}" if version is not None else "no earlier version"
            raise PublishError(
                f"{name} has {wanted} that tritonrepo published", where=model, hint=f"Versions to choose from: {there}."
            )
        if not _record.intact(model / str(chosen), record.files, record.mtime_ns):
            raise PublishError(f"version {chosen} of {name} is not as it was published", where=model / str(chosen))
        files: dict[str, Source] = {path: model / str(chosen) / path for path in record.files}
        staged = Staged(
            name=name,
            model_files=_model_files_of(model, chosen, record),
            version_files=files,
            verdict=record.verdict,
            provenance={"rollback_to": chosen, "rollback_from": old.latest},
            digests={str(model / str(chosen) / path): content.sha256 for path, content in record.files.items()},
        )
    return publish(staged, repository, keep_versions=sys.maxsize, lock=lock)


def _check_paths(staged: Staged) -> None:
    """Refuse paths that would leave the model's folder, and names that stand for something else there."""
    if staged.name in ("", ".", "..") or "/" in staged.name or "\0" in staged.name:
        raise PublishError(f"{staged.name!r} is not fit for a folder's name")
    if "config.pbtxt" not in staged.model_files or not staged.version_files:
        raise PublishError(f"{staged.name} has no config.pbtxt or no file in its version; Triton could not load it")
    for path in (*staged.model_files, *staged.version_files):
        pure = PurePosixPath(path)
        if pure.is_absolute() or str(pure) != path or ".." in pure.parts or path == "." or "\0" in path:
            raise PublishError(f"{staged.name}: {path!r} is not a path inside the model's folder")
    for path in staged.model_files:
        first = PurePosixPath(path).parts[0]
        if _record.as_version(first) is not None or _record.sidecar_version(first) is not None:
            raise PublishError(f"{staged.name}: {path!r} is where a version or its record belongs")


def _read_old(model: Path) -> _Old:
    if model.is_symlink() or (model.exists() and not model.is_dir()):
        raise PublishError(
            f"{model.name} is a symbolic link or a file; only a folder can be replaced", where=model, hint=_MOVE_AWAY
        )
    found = _record.versions(model)
    records = {number: _record.read_record(model, number) for number in found}
    return _Old(found, {number: record for number, record in records.items() if record is not None})


def _action(staged: Staged, target: Path, old: _Old) -> str:
    """What there is to do, in the words of `Published.action`."""
    record = old.record
    if not old.records:
        return "new"
    if record is None:
        return "new version"
    common = {path: source for path, source in staged.version_files.items() if path in record.files}
    if not _same(common, record.files, staged.digests):
        return "new version"
    if len(common) < len(staged.version_files):  # `merged` has left nothing of the version out, or it is no share
        whole = staged.share is not None and _record.intact(target / str(old.latest), record.files, record.mtime_ns)
        return "added" if whole else "new version"
    if not _record.intact(target / str(old.latest), record.files, record.mtime_ns):
        return "repaired"
    same_rest = (
        _record.plain(staged.verdict) == record.verdict
        and _same(staged.model_files, record.model_files, staged.digests)
        and _record.intact(target, record.model_files, record.mtime_ns)
    )
    return "unchanged" if same_rest else "new config"


def _same(sources: Mapping[str, Source], recorded: Contents, digests: Mapping[str, str]) -> bool:
    """Whether the sources are what was recorded; reads a file only where size and a known digest do not decide."""
    if sources.keys() != recorded.keys():
        return False
    if any(_size(source) != recorded[path].size for path, source in sources.items()):
        return False
    return all(_digest(source, digests) == recorded[path].sha256 for path, source in sources.items())


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _digest(source: Source, digests: Mapping[str, str]) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return digests.get(str(source)) or _disk.file_digest(source)


def _kept(old: _Old, version: int, count: int, pinned: tuple[int, ...]) -> set[int]:
    """Versions that stay: the newest ``count`` of those published, the pinned ones, and all that were made by hand."""
    newest = sorted({*old.records, version})[-count:]
    by_hand = set(old.versions) - old.records.keys()
    return set(newest) | (set(pinned) & set(old.versions)) | by_hand


def _publish(staged: Staged, target: Path, old: _Old, version: int, keep: set[int], lock: Lock) -> str:
    """Stage the model with the versions of ``keep`` from the old one, and exchange the two."""
    repository = lock.repository
    if repository.exists() and repository.stat().st_dev != lock.state.stat().st_dev:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    with _scratch(lock) as scratch:
        new = scratch / "new" / staged.name
        new.mkdir(parents=True)
        _stage(staged, new, target, old, version, keep)
        if not repository.exists():
            repository.mkdir(parents=True)
            _disk.sync(repository.parent)
        return replace(new, target, scratch / "old" / staged.name)


def _stage(staged: Staged, new: Path, target: Path, old: _Old, version: int, keep: set[int]) -> None:
    """Make the whole new folder: what is kept as links, what is new as files, the record last."""
    model_files = {path: _write(source, new / path, staged.digests) for path, source in staged.model_files.items()}
    there = old.record.files if old.record is not None and version in keep else {}
    folder = new / str(version)
    files = {
        path: there.get(path) or _write(source, folder / path, staged.digests)
        for path, source in staged.version_files.items()
    }
    _link_kept(target, new, lambda path: path not in old.model_files and _stays(path, keep, version))
    texts = _texts(new, model_files)
    _disk.write(_record.to_json(staged.provenance), _record.provenance_path(new, version))
    _record.write_record(_record.verdict_path(new, version), files, model_files, texts, staged.verdict)
    _disk.sync_tree(new)


def _write(source: Source, target: Path, digests: Mapping[str, str]) -> Content:
    """Write a file and hold it against the digest that is known of it: what is published is what was verified."""
    digest = _disk.write(source, target)
    known = digests.get(str(source)) if isinstance(source, Path) else None
    if known not in (None, digest):
        raise PublishError(
            "the file is not the one that was built and verified",
            where=str(source),
            hint="Nothing was changed. Something wrote to it; build again.",
        )
    return Content(digest, target.stat().st_size)


def _stays(path: str, keep: set[int], version: int) -> bool:
    """Whether a file of the old folder has a place in the new one."""
    first, slash, _ = path.partition("/")
    folder = _record.as_version(first)
    if folder is not None and slash:
        return folder in keep
    sidecar = _record.sidecar_version(path)
    return sidecar is None or (sidecar in keep and sidecar != version)


def _link_kept(source: Path, target: Path, stays: Callable[[str], bool]) -> None:
    """Link what stays of the old folder, empty folders included; what is in the new one already takes precedence."""
    for path in _all_below(source):
        if stays(path) and not os.path.lexists(target / path):
            if path.endswith("/"):
                (target / path).mkdir(parents=True)
            else:
                _disk.link(source / path, target / path)


def _all_below(folder: Path) -> Iterator[str]:
    """Paths of all files, and of the folders that are empty, these with a slash at the end."""
    for root, folders, files in os.walk(folder):
        below = Path(root).relative_to(folder)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        if not folders and not files and root != str(folder):
            yield f"{below}/"
        folders[:] = sorted(set(folders) - {_disk.CACHES, *links})
        yield from (str(below / name) for name in sorted([*files, *links]))


def _texts(new: Path, model_files: Contents) -> dict[str, str]:
    texts = {}
    for path, content in model_files.items():
        if content.size <= _LONGEST_TEXT:
            with contextlib.suppress(UnicodeDecodeError):
                texts[path] = (new / path).read_bytes().decode()
    return texts


def _model_files_of(model: Path, version: int, record: Record) -> dict[str, Source]:
    """The files that were beside a version when it was published."""
    files: dict[str, Source] = {}
    for path, content in record.model_files.items():
        if path in record.texts:
            files[path] = record.texts[path].encode()
        elif _record.intact(model, {path: content}, since_ns=0):
            files[path] = model / path
        else:
            raise PublishError(
                f"{path} of version {version} has been replaced since, and is too long to have been kept",
                where=model,
                hint="Build that version from its own spec.",
            )
    return files


def _model_names(repository: Path) -> tuple[str, ...]:
    try:
        with os.scandir(repository) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)))
    except FileNotFoundError:
        return ()


def _foreign(model: Path, old: _Old) -> tuple[str, ...]:
    """Files in a published model's folder that tritonrepo did not write."""
    ours = {path for record in old.records.values() for path in record.model_files}
    for number, record in old.records.items():
        ours |= {f"{number}/{path}" for path in record.files}
    return tuple(
        path for path, _ in _record.scan(model) if path not in ours and _record.sidecar_version(path) not in old.records
    )


@contextlib.contextmanager
def _scratch(lock: Lock) -> Iterator[Path]:
    """A folder beside the repository, gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=lock.state, prefix="publish-"))
    try:
        yield folder
    finally:
        _discard(folder, lock)


def _recover(lock: Lock) -> None:
    for left in lock.state.glob("publish-*"):
        _discard(left, lock)


def _discard(folder: Path, lock: Lock) -> None:
    """Remove a scratch folder. A model that was on its way out when the build was killed goes back first."""
    with contextlib.suppress(FileNotFoundError):
        for aside in (folder / "old").iterdir():
            restore(aside, lock.repository / aside.name)
    shutil.rmtree(folder, ignore_errors=True)
