"""Plans of several hosts in one version.

A plan runs on the GPU that it was built for, so each kind of GPU in a fleet needs a host that builds. Each host
publishes its own plan; where the newest version was made from the same model and settings, with the same TensorRT, the
plan is added to it, otherwise a new version begins. The repository's lock makes two hosts on a shared file system take
turns. In the record of a version (``N.verdict.json``) stand what its hosts share and what each of them brought:

    fleet  {"identity": digest of the model, the settings and the TensorRT version}
    plans  compute capability -> {"file", "tensorrt", "verdict"}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo import _record
from tritonrepo._held import held
from tritonrepo._record import Record
from tritonrepo.errors import EngineError
from tritonrepo.fingerprint import digest

if TYPE_CHECKING:
    from tritonrepo.plan import Plan
    from tritonrepo.publish import Staged
    from tritonrepo.spec import ModelSpec

_PLAN = ".plan"


@dataclass(frozen=True)
class Share:
    """What one host brings to a version that several make together."""

    identity: str
    """The same for all hosts whose plans may stand in one version, see `identity`."""
    gpu: str
    """Compute capability of its GPU, ``9.0``."""
    file: str
    """Name of its plan; the description is beside it."""
    gpus: tuple[str, ...] = ()
    """The fleet that the spec names."""
    hold: bool = True
    """Whether it waits for other hosts where a version without their plans would take the model from their GPUs."""


def identity(onnx: object, settings: object, release: str, tensorrt: str) -> str:
    """The digest of what plans in one version have in common.

    Args:
        onnx: digests of the model's files.
        settings: the model's settings, as JSON values.
        release: the Triton release that will serve it.
        tensorrt: the version that builds, build number included: a server loads plans of one version only.
    """
    return digest({"onnx": onnx, "settings": settings, "release": release, "tensorrt": tensorrt})


def in_fleet(staged: Staged, chosen: Plan, release: str, *, hold: bool = True) -> Staged:
    """A staged model as this host's part of a version, where it is built for a fleet; as it is where it is not.

    Args:
        staged: with a plan and its description among the files of its version.
        chosen: what is served.
        release: the Triton release that will serve it.
        hold: see `Share`.
    """
    described = next((path for name, path in chosen.files.items() if name.endswith(f"{_PLAN}.json")), None)
    if not chosen.gpus or described is None:
        return staged
    found = json.loads(described.read_bytes())
    tensorrt, gpu = str(found["tensorrt_version"]), str(found["compute_capability"])
    verdict = staged.verdict
    of = identity(verdict.get("onnx"), verdict.get("settings"), release, tensorrt)
    return as_share(staged, Share(of, gpu, chosen.plan_file(gpu), chosen.gpus, hold), tensorrt)


def as_share(staged: Staged, share: Share, tensorrt: str) -> Staged:
    """A staged model as one host's part of a version: what it has proven stands under its GPU's name, too."""
    own = {"file": share.file, "tensorrt": tensorrt, "verdict": staged.verdict.get("verdict")}
    return replace(
        staged,
        verdict={**staged.verdict, "fleet": {"identity": share.identity}, "plans": {share.gpu: own}},
        provenance={"plans": {share.gpu: staged.provenance}},
        share=share,
    )


def with_held(staged: Staged, state: Path) -> Staged:
    """The staged model together with what other hosts have built of the same, and what is not published yet.

    Args:
        staged: from `as_share`; any other is returned as it is.
        state: the folder beside the repository.
    """
    share = staged.share
    if share is None:
        return staged
    found = [each for each in held(state, staged.name, share.identity) if each.gpu != share.gpu]
    files = {name: path for each in found for name, path in each.files.items()}
    digests = {path: digest for each in found for path, digest in each.digests.items()}
    return replace(
        staged,
        version_files={**files, **staged.version_files},
        digests={**staged.digests, **digests},
        verdict={
            **staged.verdict,
            "plans": {**{each.gpu: each.entry for each in found}, **_mapping(staged.verdict.get("plans"))},
        },
        provenance={
            "plans": {**{each.gpu: each.provenance for each in found}, **_mapping(staged.provenance.get("plans"))}
        },
    )


def waits_for(staged: Staged, record: Record | None) -> tuple[str, ...]:
    """The GPUs of the fleet that the newest version has plans for and that the staged one has none for; none where it
    need not wait.
    """
    share = staged.share
    if share is None or record is None or not share.hold:
        return ()
    missing = _plans_of(record).keys() - _mapping(staged.verdict.get("plans")).keys()
    return tuple(sorted(missing & set(share.gpus)))


def merged(staged: Staged, model: Path, version: int, record: Record | None) -> Staged:
    """The staged model together with what other hosts have brought to the newest version; itself where it has nothing
    in common with it. Plans that are not as they were published are left out.

    Args:
        staged: from `as_share`; any other is returned as it is.
        model: the published model's folder.
        version: the newest version.
        record: its record.
    """
    share = staged.share
    if share is None or record is None or _identity_of(record) != share.identity:
        return staged
    folder = model / str(version)
    kept: dict[str, object] = {}
    files: dict[str, _record.Content] = {}
    for gpu, entry in _plans_of(record).items():
        contents = {path: content for path, content in record.files.items() if path.startswith(f"{entry['file']}")}
        if gpu != share.gpu and contents and _record.intact(folder, contents, record.mtime_ns):
            kept[gpu] = entry
            files |= contents
    said = {key: value for key, value in record.verdict.items() if key not in ("fleet", "plans")}
    plans = {**kept, **_mapping(staged.verdict.get("plans"))}
    hosts = {gpu: host for gpu, host in _provenance(model, version).items() if gpu in kept}
    return replace(
        staged,
        version_files={**{path: folder / path for path in files}, **staged.version_files},
        digests={**staged.digests, **{str(folder / path): content.sha256 for path, content in files.items()}},
        verdict={**staged.verdict, **said, "plans": plans},
        provenance={"plans": {**hosts, **_mapping(staged.provenance.get("plans"))}},
    )


def keep(repository: Path, model: ModelSpec, chosen: Plan) -> None:
    """Do not let a host without TensorRT replace the plans of a fleet, unless the spec says so.

    Raises:
        EngineError: the newest version has plans, and ``engine: auto`` has chosen another engine here.
    """
    if chosen.engine == "tensorrt" or model.engine != "auto":
        return
    folder = repository / model.name
    found = _record.versions(folder)
    record = _record.read_record(folder, found[-1]) if found else None
    plans = _plans_of(record) if record is not None else {}
    if plans:
        raise EngineError(
            f"model {model.name}: version {found[-1]} has TensorRT plans for {', '.join(sorted(plans))}, and no plan "
            f"can be built here: {chosen.engine_reason.removeprefix('auto: ')}",
            where=folder,
            hint=f"Build on a GPU host, or into another repository. `engine: {chosen.engine}` replaces the plans.",
        )


def _identity_of(record: Record) -> object:
    return _mapping(record.verdict.get("fleet")).get("identity")


def _plans_of(record: Record) -> Mapping[str, Mapping[str, Any]]:
    found = _mapping(record.verdict.get("plans"))
    return {gpu: entry for gpu, entry in found.items() if isinstance(entry, Mapping) and entry.get("file")}


def _provenance(model: Path, version: int) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return _mapping(json.loads(_record.provenance_path(model, version).read_bytes()).get("plans"))
    return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
