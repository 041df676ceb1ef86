"""Plans that wait for those of other hosts.

A new version that lacks the plan of a GPU which the published one serves would take the model away from that GPU. So
what a host has built for it is kept beside the repository, and the host that brings the last of those plans publishes
the version as a whole:

    .models.tritonrepo/held/NAME/IDENTITY/GPU/    the host's files, and share.json, written last
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo import _disk, _record
from tritonrepo.errors import PublishError

if TYPE_CHECKING:
    from tritonrepo._fleet import Share
    from tritonrepo.publish import Staged

_FOLDER = "held"
_SHARE = "share.json"


@dataclass(frozen=True)
class Held:
    """What one host has built and nobody has published yet."""

    gpu: str
    identity: str
    files: Mapping[str, Path]
    """Name in the version's folder -> the file."""
    digests: Mapping[str, str]
    """SHA-256 by ``str(path)``."""
    entry: Mapping[str, Any]
    """What stands under the GPU's name in the version's record."""
    provenance: Mapping[str, Any]


def hold(staged: Staged, share: Share, state: Path) -> None:
    """Keep a host's part; an earlier one of the same GPU is replaced.

    Args:
        staged: from `as_share`.
        share: what it brings.
        state: the folder beside the repository.
    """
    target = state / _FOLDER / staged.name / share.identity / share.gpu
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as temporary:
        new = Path(temporary) / share.gpu
        own = {name: source for name, source in staged.version_files.items() if name.startswith(share.file)}
        digests = {name: _disk.write(source, new / name) for name, source in own.items()}
        for name, source in own.items():
            if isinstance(source, Path) and staged.digests.get(str(source), digests[name]) != digests[name]:
                raise PublishError("the file is not the one that was built and verified", where=source)
        about = {
            "digests": digests,
            "entry": _under(staged.verdict, share.gpu),
            "provenance": _under(staged.provenance, share.gpu),
        }
        _disk.write(_record.to_json(about), new / _SHARE)
        _disk.sync_tree(new)
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)
        _disk.sync(target.parent)


def held(state: Path, name: str, identity: str | None = None) -> Iterator[Held]:
    """What waits of a model, in the order of the GPUs' names; of one identity, where it is given."""
    folder = state / _FOLDER / name
    for path in sorted(folder.glob(f"{identity or '*'}/*/{_SHARE}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            about = json.loads(path.read_bytes())
            files = {each: path.parent / each for each in about["digests"]}
            if all(file.is_file() for file in files.values()):
                digests = {str(files[each]): str(digest) for each, digest in about["digests"].items()}
                found = path.parent
                yield Held(found.name, found.parent.name, files, digests, about["entry"], about["provenance"])


def forget(state: Path, name: str) -> None:
    """Remove all that waits of a model."""
    shutil.rmtree(state / _FOLDER / name, ignore_errors=True)


def _under(document: Mapping[str, object], gpu: str) -> object:
    plans = document.get("plans")
    return plans.get(gpu) if isinstance(plans, Mapping) else None
