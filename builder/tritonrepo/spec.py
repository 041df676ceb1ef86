"""The spec: what models.yaml may say, and how it is read.

Every setting is declared once, here. ``load_spec`` turns a file into a frozen ``Spec`` or raises one ``SpecError`` with
every fault in it, each with its file, line and column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Engine = Literal["auto", "tensorrt", "onnxruntime", "python"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Block(BaseModel):
    """A mapping in the spec: frozen, unknown keys refused, each field documented for ``tritonrepo schema``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class QueuePolicy(Block):
    """What the dynamic batcher does with requests that wait (ModelQueuePolicy)."""

    timeout_action: Literal["reject", "delay"] = "reject"
    """What happens to a request that waited too long: it is refused, or it goes behind all others."""
    default_timeout_us: Natural = 0
    """How long a request may wait, in microseconds; 0 is without limit."""
    allow_timeout_override: bool = False
    """Whether a request may bring its own, shorter timeout."""
    max_queue_size: Natural = 0
    """How many requests may wait; 0 is without limit. Past it, requests are refused at once."""


class Batching(Block):
    """Batching: the largest batch, and how Triton's dynamic batcher forms batches."""

    max_batch_size: Literal["auto"] | Natural = "auto"
    """Largest batch. ``auto``: `default_max_batch_size` where the model is proven to batch, else 0. 0: the model does not batch."""
    default_max_batch_size: Positive = 32
    """What ``auto`` takes for a model that batches."""
    opt_batch_size: Positive | None = None
    """The typical batch, to which plans are tuned; by default max_batch_size, at most 8."""
    dynamic: bool = True
    """Whether Triton joins requests into batches (dynamic_batching)."""
    max_queue_delay_us: Natural = 500
    """How long a request may wait for others to share its batch, in microseconds."""
    preferred_batch_sizes: tuple[Positive, ...] = ()
    """Batch sizes that are sent on at once when reached; worth it only with several batch-specific profiles."""
    preserve_ordering: bool = False
    """Replies leave in the order in which requests came."""
    priority_levels: Natural = 0
    """Number of priority levels; level 1 is the highest. 0: no priorities."""
    default_priority_level: Natural | None = None
    """Level of requests that name none; by default the middle one."""
    queue_policy: QueuePolicy | None = None
    """Policy of the queue, or of every level that has none of its own."""
    priority_queue_policies: dict[Positive, QueuePolicy] = Field(default_factory=dict)
    """Policy by level."""


class AxisRange(Block):
    """Range of one symbolic axis."""

    min: Positive
    opt: Positive | None = None
    """The typical value; by default max."""
    max: Positive


class TensorRange(Block):
    """Range of a whole input shape, batch axis included or left out (as in the config's dims)."""

    min: tuple[Natural, ...]
    opt: tuple[Natural, ...] | None = None
    """The typical shape; by default max."""
    max: tuple[Natural, ...]


class Instances(Block):
    """One entry of instance_group."""

    count: Positive = 1
    kind: Literal["auto", "cpu", "gpu", "model"] = "auto"
    """``auto``: GPU for tensorrt, the server's choice for the others."""
    gpus: tuple[Natural, ...] = ()
    """GPU ids; by default all that the server sees."""


class Tolerance(Block):
    """An element passes where |got - want| <= atol + rtol * |want|."""

    atol: Annotated[float, Field(ge=0)] | None = None
    """By default 1e-4 for FP32 artefacts, 1e-2 for FP16 and BF16."""
    rtol: Annotated[float, Field(ge=0)] | None = None
    """By default 1e-3 for FP32 artefacts, 1e-2 for FP16 and BF16."""


class Verification(Block):
    """How the artefact is compared with ONNX Runtime on the untouched model."""

    samples: tuple[Path, ...] = ()
    """Files .npz, one array for each input; generated inputs when there are none."""
    generated: Natural = 1
    """Generated sample sets at each of the min, opt and max shapes."""
    seed: Natural = 0
    """Seed of the generated inputs."""
    low: float | None = None
    """Lower end of generated values; by default 0 for floats (uniform in [0, 1)) and for integers."""
    high: float | None = None
    """Upper end (not reached) of generated values; by default 1 for floats, 2 for integers."""
    tolerance: Tolerance = Tolerance()
    outputs: dict[str, Tolerance] = Field(default_factory=dict)
    """Tolerance by output name."""


class VersionPolicy(Block):
    """Which versions Triton serves; give one of the three. By default the latest."""

    latest: Positive | None = None
    all: Literal[True] | None = None
    specific: tuple[Positive, ...] | None = None


class WarmupInput(Block):
    """Data of one input in a warmup request."""

    dims: tuple[Positive, ...] | None = None
    """Shape without the batch axis; by default the opt shape."""
    data: Literal["zero", "random"] | Path = "zero"
    """Zeros, random values, or a file of raw bytes that is copied into the repository."""


class Warmup(Block):
    """One warmup request."""

    name: str
    batch_size: Natural = 1
    count: Positive = 1
    inputs: dict[str, WarmupInput] = Field(default_factory=dict)


class ModelDefaults(Block):
    """What every model may say, and what ``defaults`` may say for all of them."""

    engine: Engine = "auto"
    """``auto``: tensorrt where it can be built, else python."""
    precision: Precision = "fp32"
    """Precision of the artefact."""
    batching: Batching = Batching()
    instances: tuple[Instances, ...] = (Instances(),)
    verification: Verification = Verification()
    versions: VersionPolicy = VersionPolicy()
    warmup: Literal["auto", "off"] | tuple[Warmup, ...] = "auto"
    """``auto``: one request at the opt shape where all dims are known; or a list of requests."""
    response_cache: bool = False
    """Whether the server may answer from its response cache (the server needs --cache-config)."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Any field of Triton's ModelConfig, by its own names; checked against the schema; wins over what is derived."""


class ModelSpec(ModelDefaults):
    """One model."""

    name: str = ""
    """Directory and model name; by default the file's name without its ending."""
    onnx: Path
    """The ONNX file; relative paths are relative to the spec. ${VAR} and ${VAR:-default} are replaced."""
    shapes: dict[str, AxisRange | TensorRange] = Field(default_factory=dict)
    """Ranges of dynamic axes: by symbolic axis name (min/opt/max numbers) or by input name (min/opt/max shapes)."""
    labels: dict[str, Path] = Field(default_factory=dict)
    """Label file by output name; copied into the repository."""


class Spec(Block):
    """A whole models.yaml."""

    repository: Path = Path("model_repository")
    """Where the repository is written."""
    triton: str = "26.09"
    """Target Triton release: the NGC container's tag, year.month."""
    keep_versions: Positive = 3
    """How many versions of each model stay in the repository."""
    cache: Path = Path(".tritonrepo")
    """Where build results are kept for the next build; never inside the repository."""
    templates: Path | None = None
    """Folder whose templates take the place of the built-in ones of the same name."""
    models: tuple[ModelSpec, ...]
    """The models; ``defaults`` are merged into each before this value is made."""
