"""Repository -> which plans are there, for which GPU and TensorRT, and what is missing. Changes nothing.

What is expected is what the config names: `cc_model_filenames` for a fleet, one plan otherwise. A spec adds models that
are not published yet and GPUs that its config does not name yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tritonrepo import _model_config, _record
from tritonrepo._held import held
from tritonrepo._model_config import ModelConfig
from tritonrepo.errors import ModelError, UsageError
from tritonrepo.lock import state_folder
from tritonrepo.plan import plan_file
from tritonrepo.releases import RELEASES
from tritonrepo.spec import Spec

State = Literal[
    "held", "ok", "missing", "altered", "other TensorRT", "other GPU", "unknown", "not published", "unreadable"
]

_PLANS = ("tensorrt", "tensorrt_plan")


@dataclass(frozen=True)
class Part:
    """One artefact of a model: a plan for one kind of GPU, or what serves everywhere."""

    model: str
    version: int | None
    """The newest version; None where the model is not published."""
    gpu: str
    """Compute capability, ``9.0``; ``any`` where the engine does not build for one; ``?`` where nothing says so."""
    file: str
    state: State
    """``missing``: not there. ``altered``: not what was published. ``other TensorRT``: built by another version than
    the release serves, or than the rest of the version. ``other GPU``: built for another GPU than the config says.
    ``unknown``: there, but nothing describes it. ``held``: built, and kept beside the repository until other hosts
    have built too."""
    tensorrt: str | None = None
    """The version that built it, build number included."""
    bytes: int | None = None
    detail: str = ""
    """What is wrong and what to do, for people."""

    @property
    def ok(self) -> bool:
        """Whether a server on such a GPU can load it, as far as can be told."""
        return self.state in ("ok", "unknown")

    def as_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {**asdict(self), "ok": self.ok}


def status(repository: Path, *, spec: Spec | None = None, release: str | None = None) -> tuple[Part, ...]:
    """Look at every model of a repository, in the order of their names.

    Args:
        repository: the model repository.
        spec: what should be there; by default what the configs name.
        release: the Triton release that serves; by default that of the spec.

    Raises:
        UsageError: there is no such repository, and no spec says what should be in it.
    """
    if not repository.is_dir() and spec is None:
        raise UsageError("there is no such repository", where=repository, hint="Build one, or name another.")
    release = release or (spec.triton if spec else None)
    known = RELEASES.get(release or "")
    names = {entry.name for entry in repository.iterdir() if entry.is_dir()} if repository.is_dir() else set()
    wanted = {model.name for model in spec.models} if spec else set()
    parts: list[Part] = []
    for name in sorted(names | wanted):
        if name not in names:
            hint = "not published yet: tritonrepo build"
            parts += [Part(name, None, gpu, "", "not published", detail=hint) for gpu in (spec and spec.gpus) or ("?",)]
            continue
        gpus = spec.gpus if spec and name in wanted else ()
        parts += _model(repository / name, gpus, known.tensorrt if known else None, release or "")
        parts += _waiting(repository, name)
    return tuple(parts)


def _waiting(repository: Path, name: str) -> Iterator[Part]:
    """Plans that a host has built for the next version, and that wait for those of other hosts."""
    for each in held(state_folder(repository), name):
        file = str(each.entry.get("file", ""))
        size = each.files[file].stat().st_size if file in each.files else None
        detail = "it is published when the hosts of the other GPUs have built too: tritonrepo build"
        yield Part(name, None, each.gpu, file, "held", each.entry.get("tensorrt"), size, detail)


def _model(model: Path, gpus: tuple[str, ...], tensorrt: str | None, release: str) -> Iterator[Part]:
    found = _record.versions(model)
    version = found[-1] if found else None
    try:
        config = _model_config.parse((model / "config.pbtxt").read_bytes().decode())
    except (OSError, UnicodeDecodeError, ModelError) as error:
        said = error.message if isinstance(error, ModelError) else str(error)
        yield Part(model.name, version, "?", "config.pbtxt", "unreadable", detail=said)
        return
    if config.HasField("ensemble_scheduling"):
        yield Part(model.name, version, "any", "", "ok")
        return
    if config.backend not in _PLANS and config.platform not in _PLANS:
        yield _other(model, version, config)
        return
    if version is None:
        yield Part(model.name, None, "?", "", "missing", detail="there is no version: tritonrepo build")
        return
    record = _record.read_record(model, version)
    parts = [
        _plan(model, version, gpu, file, record, tensorrt, release) for gpu, file in _expected(config, gpus).items()
    ]
    yield from _agree(parts)


def _expected(config: ModelConfig, gpus: tuple[str, ...]) -> Mapping[str, str]:
    """Compute capability -> the plan that a GPU of it loads."""
    named = dict(config.cc_model_filenames)
    if named or gpus:
        wanted = {**named, **{gpu: named.get(gpu, plan_file(gpu)) for gpu in gpus}}
        return {gpu: wanted[gpu] for gpu in sorted(wanted, key=lambda gpu: (_major(gpu), gpu))}
    return {"?": config.default_model_filename or "model.plan"}


def _other(model: Path, version: int | None, config: ModelConfig) -> Part:
    usual = {"onnxruntime": "model.onnx", "onnxruntime_onnx": "model.onnx", "python": "model.py"}
    file = config.default_model_filename or usual.get(config.backend or config.platform, "")
    path = model / str(version) / file
    if version is None or (file and not path.exists()):
        return Part(model.name, version, "any", file, "missing", detail="tritonrepo build")
    return Part(model.name, version, "any", file, "ok", bytes=path.stat().st_size if path.is_file() else None)


def _plan(model: Path, version: int, gpu: str, file: str, record: Any, tensorrt: str | None, release: str) -> Part:
    path = model / str(version) / file
    if not path.is_file():
        where = "a GPU" if gpu == "?" else f"a GPU of compute capability {gpu}"
        return Part(model.name, version, gpu, file, "missing", detail=f"run tritonrepo build on a host with {where}")
    size = path.stat().st_size
    found = _description(path.with_name(f"{file}.json"))
    built, capability = found.get("tensorrt_version"), found.get("compute_capability")
    said = Part(model.name, version, str(capability) if gpu == "?" and capability else gpu, file, "ok", built, size)

    def wrong(state: State, detail: str) -> Part:
        return Part(said.model, version, said.gpu, file, state, built, size, detail)

    contents = {file: record.files[file]} if record is not None and file in record.files else {}
    if not _record.intact(path.parent, contents, record.mtime_ns if record is not None else 0) or (
        found and found.get("size_bytes") != size
    ):
        return wrong("altered", "it is not the plan that was published: copy it again, or build it again")
    if not found:
        return wrong("unknown", f"there is no description beside it ({file}.json)")
    compatible = found.get("hardware_compatibility") == "ampere_plus" and _major(gpu) >= 8
    if gpu not in (capability, "?") and not compatible:
        return wrong("other GPU", f"it was built on compute capability {capability}")
    if tensorrt and built != tensorrt and not found.get("version_compatible"):
        return wrong("other TensorRT", f"release {release} serves TensorRT {tensorrt}")
    return said


def _major(capability: str) -> int:
    major = capability.partition(".")[0]
    return int(major) if major.isdecimal() else 0


def _agree(parts: list[Part]) -> Iterator[Part]:
    """Plans of one version are for one server: where they come from several TensorRTs, one of them is wrong."""
    versions = {part.tensorrt for part in parts if part.tensorrt}
    for part in parts:
        if len(versions) > 1 and part.state == "ok":
            others = ", ".join(sorted(versions - {part.tensorrt}))
            detail = f"other plans of this version are of TensorRT {others}"
            yield Part(
                part.model, part.version, part.gpu, part.file, "other TensorRT", part.tensorrt, part.bytes, detail
            )
        else:
            yield part


def _description(path: Path) -> Mapping[str, Any]:
    """The description beside a plan, see docs/sidecar.md; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
