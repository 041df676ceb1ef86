"""The file of a timing cache: what TensorRT measured once on this GPU need not be measured again.

One file for each TensorRT, GPU and driver, shared by all builds that use the same cache folder. What is in it is
TensorRT's own; how two are merged is told by who opens them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import tensorrt as trt  # types only: this module is given the objects

    from tritonrepo._cuda import Gpu
    from tritonrepo._plan_errors import Log
    from tritonrepo.plan import BuildRequest

_LARGEST = 1 << 30  # a cache has some MB; what is larger is none


def shared(folder: Path, version: str, gpu: str, driver: str) -> Path:
    """The file for a TensorRT version, the name of a GPU and the version of its driver."""
    parts = (re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") for part in (version, gpu, driver))
    return folder / "timing" / ("_".join(parts) + ".cache")


def read(path: Path) -> bytes:
    """What is in it; empty where there is none."""
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:  # what cannot be read is none; saving says why
        return b""


def save(path: Path, merge: Callable[[bytes], bytes]) -> None:
    """Replace the file by what ``merge`` makes of its present content. Builds that end together wait for each other;
    a reader sees the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = merge(read(path))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    finally:
        os.close(lock)


def path_of(request: BuildRequest, version: str, gpu: Gpu, driver: str) -> Path | None:
    where = request.options.timing_cache
    if isinstance(where, Path):
        return where
    name = f"{gpu.name} {gpu.capability}"
    return shared(request.cache, version, name, driver) if where == "shared" else None


def use(config: trt.IBuilderConfig, path: Path | None, log: Log, notes: list[str]) -> None:
    """Start from what is in the file; what is not this TensorRT's and this GPU's is left alone, with a note."""
    if path is None:
        return
    content = read(path)
    for tried in dict.fromkeys((content, b"")):
        with contextlib.suppress(RuntimeError, ValueError, TypeError):
            cache = config.create_timing_cache(tried)
            if cache is not None and config.set_timing_cache(cache, False):
                break
    else:
        notes.append("TensorRT took no timing cache: nothing that it measures is kept")
        return
    if tried != content:
        log.clear()
        notes.append(f"the timing cache {path.name} is damaged or not of this TensorRT and GPU: it was begun anew")


def keep(config: trt.IBuilderConfig, path: Path | None, notes: list[str]) -> None:
    ours = config.get_timing_cache() if path is not None else None
    if path is None or ours is None:
        return

    def merge(current: bytes) -> bytes:
        if current:
            # Damaged or of another GPU: ours takes its place.
            with contextlib.suppress(RuntimeError, ValueError, TypeError):
                theirs = config.create_timing_cache(current)
                if theirs is not None:
                    ours.combine(theirs, False)
        return bytes(memoryview(cast("Any", ours.serialize())))

    try:
        save(path, merge)
    except OSError as error:
        notes.append(f"the timing cache could not be saved: {error.strerror} ({path})")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
