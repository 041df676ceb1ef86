"""Files as they are published: copied with their digest, durable, and errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tritonrepo.errors import PublishError

_CHUNK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: share the source's blocks (Btrfs, XFS, bcachefs)
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}

CACHES = "__pycache__"
"""What Python writes beside a model.py that it loads; never part of what is published."""


def write(source: bytes | Path, target: Path) -> str:
    """Write a file that is not there yet, and make it durable.

    A file as source is cloned where the file system can (both then share their blocks) and copied otherwise, zero
    blocks left out; symbolic links are followed. Modes follow the umask, but the owner may always read and write.

    Returns:
        SHA-256 of what was written.

    Raises:
        PublishError: the source is no regular file, or it changed while it was read.
        OSError: it cannot be read or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as sink:
        os.fchmod(sink.fileno(), stat.S_IMODE(os.fstat(sink.fileno()).st_mode) | 0o600)
        if isinstance(source, bytes):
            sink.write(source)
            digest = hashlib.sha256(source).hexdigest()
        else:
            digest = _copy(source, sink.fileno(), target)
        sink.flush()
        os.fsync(sink.fileno())
    return digest


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb", buffering=0) as file:
        return _read_through(file.fileno(), lambda block: None)


def link(source: Path, target: Path) -> None:
    """Give a file (or a symbolic link) a second name; copy it where the file system has no hard links for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if source.is_symlink():
            target.symlink_to(source.readlink())
            return
        write(source, target)
        shutil.copystat(source, target)


def sync(path: Path) -> None:
    """Make a folder's entries durable. File systems that cannot (some FUSE and SMB ones) say so, and are let be."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(folder)


def sync_tree(root: Path) -> None:
    """Make all folders from ``root`` down durable; the files are so already."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync(Path(folder))


def settle(repository: Path) -> None:
    """Make a change of the repository durable, once it has been made."""
    try:
        sync(repository)
    except OSError as error:
        raise PublishError(
            f"the repository was changed, but the disk does not confirm it: {error.strerror}",
            where=repository,
            hint="Look for disk errors, then build again.",
        ) from error


@contextlib.contextmanager
def explained(doing: str, repository: Path) -> Iterator[None]:
    """Turn an OSError from before the repository is changed into a PublishError that says what to do."""
    try:
        yield
    except OSError as error:
        raise _explain(doing, repository, error) from error


def _explain(doing: str, repository: Path, error: OSError) -> PublishError:
    where = error.filename or repository
    beside = repository.parent
    if error.errno in _FULL:
        reason = _FULL[error.errno]
        todo = f"Free some space on the file system of {beside}, or lower keep_versions."
    elif error.errno == errno.EFBIG:
        reason = "the file is larger than is allowed here"
        todo = "The file system, or `ulimit -f` of this process, sets the limit."
    elif error.errno == errno.EROFS:
        reason = "the file system is mounted read-only"
        todo = f"Mount it for writing, or build into another folder than {repository}."
    elif error.errno in (errno.EACCES, errno.EPERM):
        reason = "permission denied"
        todo = f"This user has to be able to write in {repository} and beside it, in {beside}."
    elif error.errno == errno.EXDEV:
        reason = "the folder cannot be moved within its file system"
        where = repository
        todo = (
            f"If {repository} is itself a mount point, use a folder inside the mount; if the folder comes from a lower "
            "layer of a container image, build into a volume or a new folder."
        )
    else:
        reason = error.strerror or str(error)
        todo = ""
    return PublishError(
        f"{doing}: {reason}", where=Path(os.fsdecode(where)), hint=f"Nothing was changed. {todo}".strip()
    )


def _copy(source: Path, sink: int, target: Path) -> str:
    with os.fdopen(_open_regular(source), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if _clone(file.fileno(), sink):
            digest = file_digest(target)
        else:
            digest = _read_through(file.fileno(), lambda block: _write_sparse(sink, block))
            os.ftruncate(sink, os.lseek(sink, 0, os.SEEK_CUR))
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise PublishError(
            "the file changed while it was copied", where=source, hint="Nothing was changed. Build again."
        )
    return digest


def _open_regular(path: Path) -> int:
    # Without O_NONBLOCK a named pipe would block here for ever.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise PublishError("only regular files can be published", where=path)
    return file


def _clone(source: int, sink: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(sink, _FICLONE, source)
    except OSError:
        return False  # copying will say why, if it is not just that this file system has no clones
    return True


def _read_through(file: int, use: Callable[[memoryview], None]) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(file, [buffer]):
        digest.update(view[:count])
        use(view[:count])
    return digest.hexdigest()


def _write_sparse(sink: int, block: memoryview) -> None:
    if not any(block[:16]) and bytes(block) == bytes(len(block)):
        os.lseek(sink, len(block), os.SEEK_CUR)
        return
    while block:
        block = block[os.write(sink, block) :]
