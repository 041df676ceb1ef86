"""The spec: what models.yaml may say, and how it is read.

Every setting is declared once, here. ``load_spec`` turns a file into a frozen ``Spec`` or raises one ``SpecError`` with
every fault in it, each with its file, line and column.

The docstrings of the fields are what users read, in ``tritonrepo schema`` and in docs/spec.md. They are taken from the
source when one of the two is asked for; pydantic's own way would read it again for each class at every start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo

Engine = Literal["auto", "tensorrt", "onnxruntime", "python"]
PrecisionName = Literal["fp32", "fp16", "mixed", "bf16", "int8"]

# Strict: the loader has already made numbers and booleans of what looks like them, so "8" in quotes is a mistake.
Positive = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Magnitude = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Amount = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Values = tuple[Annotated[int, Field(strict=True)], ...]

Level = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number that is a key; keys are text until here."""


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """Seen from the spec's folder, which the loader gives as context.

    Not pathlib's way: its resolve follows symbolic links, and its expanduser raises where there is no such user.
    """
    if not info.context:
        return path
    below = Path(info.context["base"], os.path.expanduser(path))  # noqa: PTH111
    return Path(os.path.abspath(below))  # noqa: PTH100


File = Annotated[Path, AfterValidator(_absolute)]


def _capability(text: str) -> str:
    """A compute capability in the one way in which it is kept: ``sm90`` is 9.0."""
    return text if "." in text else f"{text.lstrip('sm_')[:-1]}.{text[-1]}"


Capability = Annotated[str, Field(pattern=r"^(sm_?[1-9][0-9]{1,2}|[1-9][0-9]?\.[0-9])$"), AfterValidator(_capability)]
"""Compute capability of a GPU, ``9.0``."""


class Block(BaseModel):
    """A mapping in the spec: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QueuePolicy(Block):
    """What the dynamic batcher does with requests that wait (ModelQueuePolicy)."""

    timeout_action: Literal["reject", "delay"] = "reject"
    """What happens to a request that waited too long: it is refused, or it goes behind all others."""
    default_timeout_us: Natural = 0
    """How long a request may wait, in microseconds; 0 is without limit."""
    allow_timeout_override: Flag = False
    """Whether a request may bring its own, shorter timeout."""
    max_queue_size: Natural = 0
    """How many requests may wait; 0 is without limit. Past it, requests are refused at once."""


class Batching(Block):
    """Batching: the largest batch, and how Triton's dynamic batcher forms batches."""

    max_batch_size: Literal["auto"] | Natural = "auto"
    """Largest batch; 0: the model does not batch. ``auto``: default_max_batch_size if it is proven to batch, else 0."""
    default_max_batch_size: Positive = 32
    """What ``auto`` takes for a model that batches."""
    opt_batch_size: Positive | None = None
    """The typical batch, to which plans are tuned; by default max_batch_size, at most 8."""
    dynamic: Flag = True
    """Whether Triton joins requests into batches (dynamic_batching)."""
    max_queue_delay_us: Natural = 500
    """How long a request may wait for others to share its batch, in microseconds."""
    preferred_batch_sizes: tuple[Positive, ...] = ()
    """Batch sizes that are sent on at once when reached; worth it only with several batch-specific profiles."""
    preserve_ordering: Flag = False
    """Replies leave in the order in which requests came."""
    priority_levels: Natural = 0
    """Number of priority levels; level 1 is the highest. 0: no priorities."""
    default_priority_level: Natural | None = None
    """Level of requests that name none; by default the middle one."""
    queue_policy: QueuePolicy | None = None
    """Policy of the queue, or of every level that has none of its own."""
    priority_queue_policies: dict[Level, QueuePolicy] = Field(default_factory=dict)
    """Policy by level."""


class Preparation(Block):
    """Which passes go over the ONNX graph before it is planned (docs/preparation.md)."""

    weight_inputs: Flag = True
    """Weights are no longer listed as inputs."""
    order: Flag = True
    """Nodes are brought into topological order."""
    training: Flag = True
    """Dropout is removed, BatchNormalization is taken out of training mode."""
    opset: Annotated[int, Field(ge=7, le=64, strict=True)] | None = None
    """The opset to which the model is brought; by default it keeps its own."""
    identities: Flag = True
    """Nodes that hand on what they get are removed."""
    dynamic_batch: Flag = True
    """A batch that is fixed in the file is made dynamic, where it is then proven that rows are independent."""
    scalars_batch: Flag = True
    """A scalar input of a model that batches becomes one number for each row, where that can be."""
    scalars: Flag = True
    """Other scalars get an axis of size 1, for engines that have no shape for them."""
    fold: Flag = True
    """Small values that do not depend on the inputs are computed beforehand."""
    duplicates: Flag = True
    """Equal weights are kept once."""
    unused: Flag = True
    """Nodes and weights that no output depends on are removed."""
    names: Flag = True
    """Names that Triton cannot carry are replaced."""


class AxisRange(Block):
    """Range of one symbolic axis."""

    min: Positive
    """The smallest value."""
    opt: Positive | None = None
    """The typical value; by default max."""
    max: Positive
    """The largest value."""


class TensorRange(Block):
    """Range of a whole input shape, batch axis included or left out (as in the config's dims)."""

    min: tuple[Natural, ...]
    """The smallest shape."""
    opt: tuple[Natural, ...] | None = None
    """The typical shape; by default max."""
    max: tuple[Natural, ...]
    """The largest shape."""


def _range_kind(value: object) -> str:
    """Which of the two a range is: lists make it a range of shapes."""
    if isinstance(value, Block):
        return type(value).__name__
    ends = value.values() if isinstance(value, Mapping) else ()
    return "TensorRange" if any(isinstance(end, list | tuple) for end in ends) else "AxisRange"


Range = Annotated[
    Annotated[AxisRange, Tag("AxisRange")] | Annotated[TensorRange, Tag("TensorRange")], Discriminator(_range_kind)
]


class ValueRange(Block):
    """Range of the values of a shape tensor: an input whose values are the sizes of other tensors."""

    min: Values
    """The smallest value of each element."""
    opt: Values | None = None
    """The typical values; by default max."""
    max: Values
    """The largest value of each element."""


class ProfileRange(Block):
    """One optimization profile, where the spec lists them; what it does not say is as the model's ranges say."""

    batch: AxisRange | None = None
    """Its batches; by default from 1 to the largest batch. Together the profiles must hold every batch."""
    shapes: dict[str, Range] = Field(default_factory=dict)
    """Ranges that differ from the model's ``shapes``, by the same names."""
    shape_values: dict[str, ValueRange] = Field(default_factory=dict)
    """Values that differ from the model's ``shape_values``."""


class CudaGraph(Block):
    """Shapes for which the TensorRT backend captures a CUDA graph (optimization.cuda.graph_spec)."""

    batch_size: Natural = 1
    """Its batch; 0 where the model does not batch."""
    inputs: dict[str, tuple[Positive, ...]] = Field(default_factory=dict)
    """Dims of inputs without the batch axis; of others, those at the opt shape."""
    lower_batch_size: Natural | None = None
    """The smallest batch that is run by this graph, padded; by default batch_size, so that only its own is."""


ProfileChoice = (
    Literal["auto", "single", "latency+throughput"] | Annotated[tuple[ProfileRange, ...], Field(min_length=1)]
)
GraphChoice = Literal["off", "auto"] | Annotated[tuple[CudaGraph, ...], Field(min_length=1)]


class MemoryPools(Block):
    """Limits of the builder's other memory pools; by default TensorRT's own."""

    tactic_dram_gib: Amount | None = None
    """GPU memory that tactics may take while they are timed, in GiB."""
    tactic_shared_memory_kib: Positive | None = None
    """Shared memory of a kernel, in KiB."""
    dla_managed_sram_mib: Amount | None = None
    """Fast memory of one DLA subgraph, in MiB; a power of 2."""
    dla_local_dram_mib: Amount | None = None
    """Host memory that one DLA subgraph shares with DLA, in MiB; a power of 2."""
    dla_global_dram_mib: Amount | None = None
    """Host memory for the weights and metadata of one DLA subgraph, in MiB; a power of 2."""


class Dla(Block):
    """Layers run on a DLA core of a Jetson or DRIVE system."""

    core: Natural = 0
    """Number of the DLA core."""
    gpu_fallback: Flag = True
    """Whether layers that DLA cannot run go to the GPU; otherwise they are an error."""


class TensorRT(Block):
    """How TensorRT builds the plan. A setting that the installed version does not have is an error."""

    gpu: Natural = 0
    """CUDA ordinal of the GPU that builds and verifies; the plan is for its compute capability."""
    workspace_gib: Amount | None = None
    """Largest scratch memory of any layer, in GiB; by default all of the GPU's."""
    memory_pools: MemoryPools = Field(default_factory=MemoryPools)
    """Limits of the builder's other memory pools."""
    builder_optimization_level: Annotated[int, Field(ge=0, le=5, strict=True)] | None = None
    """From 0 (quick build) to 5 (longest search); by default TensorRT's own, 3."""
    avg_timing_iterations: Positive | None = None
    """How many runs of a tactic are averaged when it is timed; by default TensorRT's own, 1."""
    max_num_tactics: Positive | None = None
    """Largest number of tactics that are timed for a layer (TensorRT 10.8 and later)."""
    tactic_sources: tuple[str, ...] | None = None
    """Where tactics come from, by TensorRT's names (EDGE_MASK_CONVOLUTIONS, JIT_CONVOLUTIONS, ...), and no others."""
    tiling_optimization_level: Literal["none", "fast", "moderate", "full"] | None = None
    """How hard the builder looks for tilings that keep data on the chip (TensorRT 10.8 and later)."""
    l2_limit_for_tiling_mib: Amount | None = None
    """How much of the L2 cache a tiled kernel may plan with, in MiB (TensorRT 10.8 and later)."""
    build_route: str | None = None
    """A route of the builder by its name (TensorRT 11.1 and later)."""
    preview_features: tuple[str, ...] = ()
    """Preview features to switch on, by TensorRT's names."""
    timing_cache: Literal["shared", "off"] | File = "shared"
    """``shared``: one in ``cache`` for each TensorRT, GPU and driver; or a file of your own, which grows; or none."""
    editable_timing_cache: Flag = False
    """Build with a timing cache that can be edited afterwards (TensorRT 10.8 and later)."""
    error_on_timing_cache_miss: Flag = False
    """Fail where a tactic is not in the timing cache, so that a build is repeated exactly."""
    tf32: Flag = True
    """Whether FP32 layers may round their inputs to TF32; TensorRT's own default. false: full FP32."""
    sparsity: Flag = False
    """Use the sparse tensor cores for weights that have 2:4 sparsity."""
    refit: Literal["off", "all", "identical", "individual"] = "off"
    """Whether weights can be replaced later: all of them, by identical ones only, or those that are marked."""
    strip_plan: Flag = False
    """Leave refittable weights out of the plan. Triton's backend does not put them back: refit it before serving."""
    weight_streaming: Flag = False
    """Let weights stay in host memory and be streamed to the GPU."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which other GPUs run the plan; may cost speed. ``same_compute_capability``: TensorRT 10.13 and later."""
    version_compatible: Flag = False
    """Whether later versions load the plan; the server needs --backend-config=tensorrt,version-compatible=true."""
    exclude_lean_runtime: Flag = False
    """Leave the lean runtime out of a version compatible plan. Triton cannot load such a plan."""
    runtime_platform: Literal["same_as_build", "windows_amd64"] = "same_as_build"
    """Operating system that the plan is for."""
    plugins: tuple[File, ...] = ()
    """Libraries (.so) with plugins; loaded by the build, and the server has to load them too. They run code."""
    plugins_in_plan: tuple[File, ...] = ()
    """Libraries with plugins that are stored in a version compatible plan."""
    profiling_verbosity: Literal["layer_names_only", "none", "detailed"] = "layer_names_only"
    """What the plan tells of its layers to profilers and to the report of the build."""
    max_aux_streams: Natural | None = None
    """Streams beside the main one, for branches that run side by side; by default TensorRT's choice."""
    direct_io: Flag = False
    """Allow no reformatting of inputs and outputs."""
    strict_nans: Flag = False
    """Keep optimizations out that could lose a NaN."""
    native_instancenorm: Flag = True
    """Parse InstanceNormalization to TensorRT's own layer, not to the plugin."""
    uint8_asymmetric_quantization_dla: Flag = False
    """Let the parser take UINT8 asymmetric quantization, for DLA only."""
    dla: Dla | None = None
    """Run on a DLA core; by default the GPU runs all."""
    flags: tuple[str, ...] = ()
    """Further builder flags to switch on, by TensorRT's names (MONITOR_MEMORY, DISTRIBUTIVE_INDEPENDENCE, ...)."""
    time_limit_s: Positive | None = None
    """Seconds after which a build is given up; by default none."""
    memory_limit_gib: Amount | None = None
    """Host memory that the process of a build may take, in GiB; by default no limit of its own."""


class Instances(Block):
    """One entry of instance_group."""

    count: Positive = 1
    """How many instances, on each GPU if there are several."""
    kind: Literal["auto", "cpu", "gpu", "model"] = "auto"
    """``auto``: GPU for tensorrt, the server's choice for the others."""
    gpus: tuple[Natural, ...] = ()
    """GPU ids; by default all that the server sees."""


class NamedConfig(Block):
    """A second config of the model, configs/NAME.pbtxt, for a server with --model-config-name=NAME."""

    gpus: Annotated[tuple[Capability, ...], Field(min_length=1)] | None = None
    """Compute capabilities of the GPUs that it is for; by default all. Only their plans get its profiles."""
    batching: Batching | None = None
    """How it batches; by default as the model does."""
    instances: Annotated[tuple[Instances, ...], Field(min_length=1)] | None = None
    """Its instances; by default those of the model."""
    profiles: ProfileChoice | None = None
    """Its profiles; by default as the model says."""
    cuda_graphs: GraphChoice | None = None
    """Its CUDA graphs; by default as the model says."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of ModelConfig that are laid over the model's own ``config``."""


class Tolerance(Block):
    """An element passes where |got - want| <= atol + rtol * |want| + of_range * max |want|, max over the output."""

    atol: Magnitude | None = None
    """By default 1e-4 for FP32 artefacts, 1e-2 for others."""
    rtol: Magnitude | None = None
    """By default 1e-3 for FP32 artefacts, 1e-2 for others."""
    of_range: Magnitude | None = None
    """Share of the output's largest magnitude; by default 0 for FP32, 2e-3 for FP16, 2e-2 for BF16, 0.1 for INT8."""
    cosine: Annotated[float, Field(ge=-1, le=1, strict=True, allow_inf_nan=False)] | None = None
    """Smallest cosine similarity of the whole output; by default 0.99 for INT8, none for others."""


class Precision(Block):
    """The precision of the graph that is served (docs/precision.md). Given alone, the type stands for all of it."""

    type: PrecisionName = "fp32"
    """``fp32``: as the file has it. ``fp16``, ``bf16``: every operator that can. ``mixed``: FP16 where it pays.
    ``int8``: Q/DQ pairs at convolutions and matrix products."""
    io: Literal["keep", "convert"] = "keep"
    """Whether FP32 inputs and outputs keep their type or become FP16."""
    keep_fp32: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Operators (``Softmax``) and names of nodes (``/head/*``) that stay in FP32."""
    search: Flag = True
    """Whether operators to keep in FP32 are looked for when the error is too large; otherwise that is an error."""
    max_runs: Positive = 40
    """How many choices of operators the search may judge."""
    calibration: tuple[File, ...] = ()
    """Files .npz, one array for each input, from which INT8 ranges are taken; by default verification.samples."""
    calibration_method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How INT8 ranges are taken: the largest magnitude, the least loss of information, or a share of all values."""
    rest: Literal["fp32", "fp16"] = "fp32"
    """``int8``: the precision of what is not quantized, and of the scales."""
    percentile: Annotated[float, Field(gt=0, le=100, strict=True, allow_inf_nan=False)] = 99.99
    """The share of all values that lies within the range, in percent, for calibration_method ``percentile``."""


class Verification(Block):
    """How the artefact is compared with ONNX Runtime on the untouched model."""

    samples: tuple[File, ...] = ()
    """Files .npz, one array for each input; generated inputs when there are none."""
    generated: Natural = 1
    """Generated sample sets at each of the min, opt and max shapes."""
    seed: Natural = 0
    """Seed of the generated inputs."""
    low: Number | None = None
    """Lower end of generated values; by default 0 for floats (uniform in [0, 1)) and for integers."""
    high: Number | None = None
    """Upper end (not reached) of generated values; by default 1 for floats, 2 for integers."""
    tolerance: Tolerance = Tolerance()
    """Tolerance of every output that has none of its own."""
    outputs: dict[str, Tolerance] = Field(default_factory=dict)
    """Tolerance by output name."""


class VersionPolicy(Block):
    """Which versions Triton serves; give one of the three. By default the latest."""

    latest: Positive | None = None
    """This many of the latest."""
    all: Literal[True] | None = None
    """All that the repository holds."""
    specific: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """These versions."""


class WarmupInput(Block):
    """Data of one input in a warmup request."""

    dims: tuple[Positive, ...] | None = None
    """Shape without the batch axis; by default the opt shape."""
    data: Literal["zero", "random"] | File = "zero"
    """Zeros, random values, or a file of raw bytes that is copied into the repository."""


class Warmup(Block):
    """One warmup request."""

    name: Annotated[str, Field(min_length=1)]
    """Its name in the server's log."""
    batch_size: Natural = 1
    """Size of its batch."""
    count: Positive = 1
    """How often it is sent."""
    inputs: dict[str, WarmupInput] = Field(default_factory=dict)
    """Data by input name; other inputs get zeros."""


class ModelDefaults(Block):
    """What every model may say, and what ``defaults`` may say for all of them."""

    engine: Engine = "auto"
    """``auto``: tensorrt where it can be built, else python."""
    precision: PrecisionName | Precision = "fp32"
    """Precision of the graph that is served; ``fp32`` is as the file has it."""
    prepare: Preparation = Preparation()
    """Passes over the graph."""
    batching: Batching = Field(default_factory=Batching)
    """How the model batches."""
    instances: Annotated[tuple[Instances, ...], Field(min_length=1)] = (Instances(),)
    """How many copies run, and where."""
    profiles: ProfileChoice = "auto"
    """TensorRT's optimization profiles: one for all, one for small and one for large batches, or a list.
    ``auto``: one."""
    cuda_graphs: GraphChoice = "off"
    """CUDA graphs of the TensorRT backend: ``auto`` covers every batch at the opt shape; or a list."""
    tensorrt: TensorRT = Field(default_factory=TensorRT)
    """How TensorRT builds: for the engine tensorrt, and as far as it goes for the accelerator tensorrt."""
    accelerator: Literal["none", "cuda", "tensorrt"] = "none"
    """Engine onnxruntime: what runs the model on a GPU. ``none``: the backend's own choice, CUDA where there is one."""
    accelerator_parameters: dict[str, str] = Field(default_factory=dict)
    """Parameters of the accelerator, by the backend's names; they win over those that are derived."""
    accelerator_cache: str | None = None
    """Accelerator tensorrt: folder on the server, which it can write to, for built engines and timings; what lies there
    is loaded and runs code. By default none: engines are built at every load."""
    fallback: Literal["none", "onnxruntime"] = "none"
    """Engine tensorrt: a second model, NAME_onnx, that serves the ONNX itself on GPUs without a plan."""
    configs: dict[str, NamedConfig] = Field(default_factory=dict)
    """Further configs by name, for GPUs where batching differs."""
    verification: Verification = Field(default_factory=Verification)
    """How the artefact is compared with the original before it is published."""
    versions: VersionPolicy = VersionPolicy()
    """Which versions are served."""
    warmup: Literal["auto", "off"] | tuple[Warmup, ...] = "auto"
    """``auto``: one request at the opt shape where all dims are known; or a list of requests."""
    response_cache: Flag = False
    """Whether the server may answer from its response cache (the server needs --cache-config)."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Any field of Triton's ModelConfig, by its own names; checked against the schema; wins over what is derived."""


class ModelSpec(ModelDefaults):
    """One model."""

    name: str = ""
    """Directory and model name; by default the file's name without its ending."""
    onnx: File
    """The ONNX file; relative paths are relative to the spec."""
    shapes: dict[str, Range] = Field(default_factory=dict)
    """Ranges of dynamic axes: by symbolic axis name (min/opt/max numbers) or by input name (min/opt/max shapes)."""
    shape_values: dict[str, ValueRange] = Field(default_factory=dict)
    """Ranges of the values of shape tensors, by input name."""
    labels: dict[str, File] = Field(default_factory=dict)
    """Label file by output name; copied into the repository."""


class Spec(Block):
    """A whole models.yaml."""

    repository: File = Field(Path("model_repository"), validate_default=True)
    """Where the repository is written."""
    triton: Annotated[str, Field(pattern=r"^[0-9]{2}\.(0[1-9]|1[0-2])$")] = "26.09"
    """Target Triton release: the NGC container's tag, year.month."""
    gpus: tuple[Capability, ...] = ()
    """Compute capabilities (sm80, sm90, ...) of the GPUs that will serve; plans for them come together in one
    repository. By default that of the GPU that builds."""
    incomplete: Literal["hold", "publish"] = "hold"
    """A new version that lacks plans which the published one has: ``hold`` keeps it beside the repository until the
    other hosts have built, ``publish`` takes the model from their GPUs meanwhile."""
    keep_versions: Positive = 3
    """How many versions of each model stay in the repository."""
    cache: File = Field(Path(".tritonrepo"), validate_default=True)
    """Where build results are kept for the next build; never inside the repository."""
    templates: File | None = None
    """Folder whose templates take the place of the built-in ones of the same name."""
    models: tuple[ModelSpec, ...]
    """The models, at least one."""


def load_spec(path: Path, *, environ: Mapping[str, str] = os.environ) -> Spec:
    """Read models.yaml.

    Relative paths in it become absolute, seen from its folder; ``${NAME}`` is replaced in every value.

    Args:
        path: the file.
        environ: what ``${NAME}`` and ``${NAME:-default}`` are replaced from.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        SpecError: it has faults; all of them, in the order of the file.
    """
    from tritonrepo import _assemble

    return _assemble.from_file(path, environ)


def spec_for(
    onnx: Sequence[Path],
    *,
    repository: Path,
    cache: Path | None = None,
    templates: Path | None = None,
    triton: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> Spec:
    """The spec of a build that has no models.yaml. Models are named after their files.

    Args:
        onnx: the models; relative paths are relative to the current folder.
        repository: where the repository is written.
        cache: where build results are kept; by default ``.tritonrepo`` beside the repository.
        templates: folder of the user's own templates.
        triton: target release, by default that of ``Spec``.
        settings: what ``defaults`` would say in a models.yaml.

    Raises:
        SpecError: files that do not exist, names that collide, settings that are wrong.
    """
    from tritonrepo import _assemble

    given = {"repository": repository, "cache": cache, "templates": templates, "triton": triton}
    return _assemble.from_files(onnx, {key: value for key, value in given.items() if value is not None}, settings or {})


#: The element type that a precision stands for.
ELEMENT_TYPE: Mapping[PrecisionName, str] = {
    "fp32": "FP32", "fp16": "FP16", "mixed": "FP16", "bf16": "BF16", "int8": "INT8",
}  # fmt: skip


def precision_of(model: ModelDefaults) -> Precision:
    """The precision's settings, also where the spec gives the type alone."""
    given = model.precision
    return given if isinstance(given, Precision) else Precision(type=given)


def fragment(model: ModelSpec) -> dict[str, Any]:
    """A model's settings as plain JSON values, defaults included: what a build of it depends on, besides the files."""
    return model.model_dump(mode="json")


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of models.yaml as it is written, ``defaults`` included, for editors."""
    from tritonrepo import _schema

    return _schema.json_schema()
