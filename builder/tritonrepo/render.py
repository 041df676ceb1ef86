"""Spec + Signature + Plan -> the text of a model's files: config.pbtxt, model.py, and what goes with them.

``model_config`` decides what is meant, the templates lay it out, and what they wrote is read back with Triton's own
schema: a template cannot change what is served.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from tritonrepo import _templates
from tritonrepo._model_config import ModelConfig, first_difference, from_mapping, merged, parse
from tritonrepo.errors import ModelError, TemplateError, Where
from tritonrepo.introspect import Signature, Tensor
from tritonrepo.plan import Plan, as_config
from tritonrepo.profiles import Graph, Warm
from tritonrepo.spec import (
    Batching,
    Instances,
    ModelSpec,
    QueuePolicy,
    VersionPolicy,
    Warmup,
    WarmupInput,
    precision_of,
)
from tritonrepo.verify import NO_INT8_FUSION

CONFIG_TEMPLATE = "config.pbtxt.j2"
MODEL_TEMPLATE = "model.py.j2"

#: The folder in a model's directory where Triton looks for the data of warmup requests.
_WARMUP_FOLDER = "warmup"
#: The folder in a model's directory where Triton looks for further configs, by the name of --model-config-name.
_CONFIGS_FOLDER = "configs"
#: Names in a model's directory that are taken: the config, Triton's own folders, versions and what lies beside them.
_TAKEN = re.compile(r"config\.pbtxt|configs|warmup|initial_state|\d+(\.(verdict|provenance)\.json)?")


@dataclass(frozen=True)
class Rendered:
    """The files that are written for a model; the artefact itself is in ``Plan.files``."""

    model_files: Mapping[str, bytes | Path]
    """Path below the model's directory -> content, or the file to copy: config.pbtxt, labels, warmup data."""
    version_files: Mapping[str, bytes]
    """Path below the version's directory -> content: model.py of the python engine."""


def render(spec: ModelSpec, signature: Signature, plan: Plan, templates: Path | None) -> Rendered:
    """Write the files of a model.

    Args:
        spec: the model's settings.
        signature: of the ONNX file that is served.
        plan: what will be served.
        templates: folder whose templates take the place of the built-in ones of the same name.

    Raises:
        ModelError: the settings do not fit the model, or Triton cannot carry it.
        SpecError: ``spec.config`` does not fit Triton's schema.
        TemplateError: a template has a fault, or lays out something other than what was meant.
    """
    config = model_config(spec, signature, plan)
    context = {"config": config, "spec": spec, "signature": signature, "plan": plan}
    model_files: dict[str, bytes | Path] = {"config.pbtxt": _config_text(config, templates, context).encode()}
    for name in plan.configs:
        seen = {**context, "spec": as_config(spec, name), "plan": _as_config(plan, name)}
        seen["config"] = model_config(as_config(spec, name), signature, _as_config(plan, name))
        model_files[f"{_CONFIGS_FOLDER}/{name}.pbtxt"] = _config_text(seen["config"], templates, seen).encode()
    for source, name in _label_files(spec).items():
        model_files[name] = _existing(source, "label file")
    for source, name in _warmup_files(spec).items():
        model_files[f"{_WARMUP_FOLDER}/{name}"] = _existing(source, "warmup data")
    version_files = {}
    if plan.engine == "python":
        version_files["model.py"] = _model_text(signature, plan, templates, context).encode()
    return Rendered(model_files, version_files)


def templates_digest(templates: Path | None) -> str:
    """Give the SHA-256 over all templates that ``render`` would use, for the fingerprint of its result."""
    return _templates.digest(templates)


def model_config(spec: ModelSpec, signature: Signature, plan: Plan) -> ModelConfig:
    """Decide the ModelConfig of a model: derived from the plan, with the spec's ``config`` laid over it.

    Raises:
        ModelError: the settings do not fit the model, or Triton cannot carry it.
        SpecError: ``spec.config`` does not fit Triton's schema.
    """
    labels = _labels(spec, signature)
    outputs = [replace(each, shape=plan.output_shapes.get(each.name, each.shape)) for each in signature.outputs]
    derived: dict[str, object] = {
        "name": plan.name,
        **_backend(plan),
        "version_policy": _version_policy(spec.versions),
        "max_batch_size": plan.max_batch_size,
        "input": [_tensor(tensor, signature, plan) for tensor in signature.inputs],
        "output": [{**_tensor(tensor, signature, plan), **labels.get(tensor.name, {})} for tensor in outputs],
        "instance_group": [_instance_group(group, plan) for group in spec.instances],
        "model_warmup": _warmups(spec, signature, plan),
    }
    if plan.gpus:
        derived["cc_model_filenames"] = {gpu: plan.plan_file(gpu) for gpu in plan.gpus}
    if plan.accelerator:
        derived["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [plan.accelerator]}}
    if plan.serving.graphs:
        derived["optimization"] = {"cuda": _cuda_graphs(plan.serving.graphs)}
    if _joins_requests(spec.batching, plan):
        derived["dynamic_batching"] = _dynamic_batching(spec.batching, plan)
    if spec.response_cache:
        derived["response_cache"] = {"enable": True}
    if precision_of(spec).type == "int8":
        derived |= _unfused_int8(plan)
    config = merged(from_mapping(derived), spec.config)
    _check_unchanged(config, plan)
    return config


# ---- the parts of the config -----------------------------------------------------------------------------------------


def _backend(plan: Plan) -> dict[str, object]:
    """``backend`` names the backend in every release. TensorRT gets its older name, the platform, as well: the core
    derives from it what only TensorRT has (model.plan as the file's name), and tools that read configs ask for it."""
    if plan.engine == "tensorrt":
        return {"platform": "tensorrt_plan", "backend": "tensorrt"}
    return {"backend": plan.engine}


def _unfused_int8(plan: Plan) -> dict[str, object]:
    """Q/DQ pairs are run as they are written: ONNX Runtime's integer kernels round otherwise, and saturate on
    processors without VNNI, so that the answers would depend on the host."""
    if plan.engine == "python":
        return {"parameters": {NO_INT8_FUSION: {"string_value": "1"}}}
    if plan.engine == "onnxruntime":
        return {"optimization": {"graph": {"level": -1}}}  # the backend's word for ONNX Runtime's basic optimizations
    return {}


def _version_policy(policy: VersionPolicy) -> dict[str, object]:
    if policy.all:
        return {"all": {}}
    if policy.specific is not None:
        return {"specific": {"versions": policy.specific}}
    return {"latest": {"num_versions": policy.latest or 1}}


def _tensor(tensor: Tensor, signature: Signature, plan: Plan) -> dict[str, object]:
    if tensor.dtype == "BF16" and plan.engine != "tensorrt":
        raise ModelError(
            f"tensor {tensor.name!r} is BF16, which Triton's {plan.engine} backend cannot carry",
            where=signature.path,
            hint="cast it to FP32 or FP16 at the model's edge, or serve the model with engine: tensorrt",
        )
    entry: dict[str, object] = {"name": tensor.name, "data_type": f"TYPE_{tensor.dtype}", "dims": _dims(tensor, plan)}
    if not tensor.shape and (plan.max_batch_size > 0 or plan.engine != "python"):
        why = f"the {plan.engine} backend has no shape for it when the model does not batch"
        if plan.max_batch_size > 0:
            why = f"it has no batch axis, but max_batch_size is {plan.max_batch_size}"
        raise ModelError(
            f"tensor {tensor.name!r} is a scalar: {why}",
            where=signature.path,
            hint="set engine: python and batching.max_batch_size: 0, or give the tensor an axis in the model",
        )
    if len(tensor.shape) == 1 and plan.max_batch_size > 0:
        # Triton wants at least one dim; the empty shape is what the model sees behind the batch axis.
        entry["reshape"] = {"shape": []}
    return entry


def _dims(tensor: Tensor, plan: Plan) -> tuple[int, ...]:
    """Shape as the config gives it: without the batch axis, -1 for any size, and never empty.

    Triton knows no dim of size 0; it carries such a tensor where any size is allowed, and the model itself refuses all
    other sizes.
    """
    shape = tensor.shape[1:] if plan.max_batch_size > 0 else tensor.shape
    return tuple(dim if isinstance(dim, int) and dim > 0 else -1 for dim in shape) or (1,)


def _instance_group(group: Instances, plan: Plan) -> dict[str, object]:
    kind = _instance_kind(group, plan)
    if plan.engine == "tensorrt" and kind != "KIND_GPU":
        raise ModelError(f"model {plan.name!r}: TensorRT runs on GPUs only", hint="set instances.kind to gpu or auto")
    if group.gpus and kind != "KIND_GPU":
        raise ModelError(f"model {plan.name!r}: instances of kind {group.kind} take no gpus", hint="set kind: gpu")
    entry: dict[str, object] = {"kind": kind, "count": group.count, "gpus": group.gpus}
    if plan.engine == "tensorrt" and len(plan.profiles) > 1:  # by default only the first is used
        entry["profile"] = [str(index) for index in plan.serving.selected or range(len(plan.profiles))]
    return entry


def _instance_kind(group: Instances, plan: Plan) -> str:
    if group.kind != "auto":
        return f"KIND_{group.kind.upper()}"
    if group.gpus or plan.engine == "tensorrt" or plan.accelerator:
        return "KIND_GPU"
    # model.py runs on the CPU unless it is told otherwise; ONNX Runtime's backend takes a GPU where there is one.
    return "KIND_CPU" if plan.engine == "python" else "KIND_AUTO"


def _joins_requests(batching: Batching, plan: Plan) -> bool:
    """Whether there is a dynamic batcher. Priorities and queue policies are its work too, where it joins nothing."""
    queues = batching.priority_levels or batching.queue_policy or batching.priority_queue_policies
    return batching.dynamic and (plan.max_batch_size > 1 or (plan.max_batch_size == 1 and bool(queues)))


def _dynamic_batching(batching: Batching, plan: Plan) -> dict[str, object]:
    preferred = plan.serving.preferred_batch_sizes or batching.preferred_batch_sizes
    too_large = [size for size in preferred if size > plan.max_batch_size]
    if too_large:
        raise ModelError(
            f"model {plan.name!r}: preferred batch size {too_large[0]} is above max_batch_size {plan.max_batch_size}",
            hint="leave it out of batching.preferred_batch_sizes, or raise batching.max_batch_size",
        )
    entry: dict[str, object] = {
        "preferred_batch_size": preferred,
        "max_queue_delay_microseconds": batching.max_queue_delay_us,
        "preserve_ordering": batching.preserve_ordering,
    }
    if batching.priority_levels:
        entry["priority_levels"] = batching.priority_levels
        entry["default_priority_level"] = batching.default_priority_level or (batching.priority_levels + 1) // 2
    if batching.queue_policy:
        entry["default_queue_policy"] = _queue_policy(batching.queue_policy)
    if batching.priority_queue_policies:
        policies = batching.priority_queue_policies
        entry["priority_queue_policy"] = {level: _queue_policy(policy) for level, policy in policies.items()}
    return entry


def _cuda_graphs(graphs: tuple[Graph, ...]) -> dict[str, object]:
    """Every graph names every input: of one that names none the backend ignores the lower bound."""

    def dims(graph: Graph) -> dict[str, object]:
        return {name: {"dim": shape} for name, shape in graph.inputs.items()}

    def spec(graph: Graph) -> dict[str, object]:
        entry: dict[str, object] = {"batch_size": graph.batch_size, "input": dims(graph)}
        if graph.lower != graph.batch_size:
            entry["graph_lower_bound"] = {"batch_size": graph.lower, "input": dims(graph)}
        return entry

    return {"graphs": True, "graph_spec": [spec(graph) for graph in graphs]}


def _as_config(plan: Plan, name: str) -> Plan:
    """The plan as a further config sees it."""
    of = plan.configs[name]
    return replace(
        plan,
        max_batch_size=of.max_batch_size,
        batch_reason=of.batch_reason,
        serving=of.serving,
        accelerator=of.accelerator,
        configs={},
    )


def _queue_policy(policy: QueuePolicy) -> dict[str, object]:
    return {
        "timeout_action": policy.timeout_action.upper(),
        "default_timeout_microseconds": policy.default_timeout_us,
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size,
    }


def _labels(spec: ModelSpec, signature: Signature) -> dict[str, dict[str, object]]:
    files = _label_files(spec)
    for output in spec.labels:
        _check_known(output, signature.outputs, "labels", "output", signature)
    return {output: {"label_filename": files[source]} for output, source in spec.labels.items()}


def _check_unchanged(config: ModelConfig, plan: Plan) -> None:
    """What the rest of the build rests on cannot be changed by the pass-through."""
    if config.name != plan.name:
        raise ModelError(
            f"model {plan.name!r}: config.name says {config.name!r}, but a model is named as its directory",
            hint="change the model's name in the spec, and leave out config.name",
        )
    if config.max_batch_size != plan.max_batch_size:
        raise ModelError(
            f"model {plan.name!r}: config.max_batch_size says {config.max_batch_size}, "
            f"but the model is planned and verified for {plan.max_batch_size} ({plan.batch_reason})",
            hint="set batching.max_batch_size instead of config.max_batch_size",
        )


# ---- warmup ----------------------------------------------------------------------------------------------------------


def _warmups(spec: ModelSpec, signature: Signature, plan: Plan) -> list[dict[str, object]]:
    if spec.warmup == "off":
        return []
    if spec.warmup != "auto":
        return [_warmup(warmup, _warmup_files(spec), signature, plan) for warmup in spec.warmup]
    if plan.serving.warmups:
        return [_warmup(_as_warmup(each), {}, signature, plan) for each in plan.serving.warmups]
    # An empty text, which is what zeros mean for STRING, is no likely input of any model.
    if any(tensor.dtype == "STRING" or _usual_dims(tensor, plan) is None for tensor in signature.inputs):
        return []
    if not signature.inputs or any(0 in (_usual_dims(tensor, plan) or ()) for tensor in signature.inputs):
        return []  # Triton takes no warmup without values
    return [_warmup(Warmup(name="opt"), {}, signature, plan)]


def _as_warmup(warm: Warm) -> Warmup:
    inputs = {name: WarmupInput(dims=dims) for name, dims in warm.inputs.items()}
    return Warmup(name=warm.name, batch_size=max(1, warm.batch_size), inputs=inputs)


def _warmup(warmup: Warmup, files: Mapping[Path, str], signature: Signature, plan: Plan) -> dict[str, object]:
    for name in warmup.inputs:
        _check_known(name, signature.inputs, f"warmup {warmup.name!r}", "input", signature)
    largest = max(1, plan.max_batch_size)
    if not 1 <= warmup.batch_size <= largest:
        raise ModelError(
            f"warmup {warmup.name!r}: batch_size {warmup.batch_size} is not within 1 to {largest}",
            where=signature.path,
            hint="Triton crashes on larger ones" if warmup.batch_size > largest else None,
        )
    entry: dict[str, object] = {"name": warmup.name, "batch_size": warmup.batch_size, "inputs": {
        tensor.name: _warmup_input(tensor, warmup, files, signature, plan) for tensor in signature.inputs
    }}  # fmt: skip
    if warmup.count > 1:
        entry["count"] = warmup.count
    return entry


def _warmup_input(
    tensor: Tensor, warmup: Warmup, files: Mapping[Path, str], signature: Signature, plan: Plan
) -> dict[str, object]:
    given = warmup.inputs.get(tensor.name)
    dims = given.dims if given and given.dims is not None else _usual_dims(tensor, plan)
    known = _dims(tensor, plan)
    if dims is None or not _fit(dims, known):
        raise ModelError(
            f"warmup {warmup.name!r}: {'no' if dims is None else 'wrong'} dims for input {tensor.name!r}, "
            f"whose dims without the batch axis are {list(known)}",
            where=signature.path,
            hint=f"set warmup inputs.{tensor.name}.dims, with numbers for each axis",
        )
    source: dict[str, object] = {"zero_data": True}
    if given and isinstance(given.data, Path):
        source = {"input_data_file": files[given.data]}
    elif given and given.data == "random":
        source = {"random_data": True}
    return {"data_type": f"TYPE_{tensor.dtype}", "dims": dims, **source}


def _fit(dims: tuple[int, ...], known: tuple[int, ...]) -> bool:
    pairs = zip(known, dims, strict=False)
    return len(dims) == len(known) and all(want in (-1, got) for want, got in pairs)


def _usual_dims(tensor: Tensor, plan: Plan) -> tuple[int, ...] | None:
    """Dims of an input at the typical call, without the batch axis; None where an axis is not known."""
    if plan.profiles:
        shape = plan.profiles[0].opt[tensor.name]
        return (shape[1:] if plan.max_batch_size > 0 else shape) or (1,)
    dims = _dims(tensor, plan)
    return None if -1 in dims else dims


# ---- files that go with the config -----------------------------------------------------------------------------------


def _label_files(spec: ModelSpec) -> dict[Path, str]:
    return _named(spec.labels.values())


def _warmup_files(spec: ModelSpec) -> dict[Path, str]:
    requests = () if isinstance(spec.warmup, str) else spec.warmup
    return _named(given.data for one in requests for given in one.inputs.values() if isinstance(given.data, Path))


def _named(sources: Iterable[Path]) -> dict[Path, str]:
    """Give each file the name under which it is copied: its own, or a numbered one where that is taken."""
    names: dict[Path, str] = {}
    for source in sources:
        if source not in names:
            candidates = chain([source.name], (f"file{number}-{source.name}" for number in count(2)))
            names[source] = next(
                name for name in candidates if name not in names.values() and not _TAKEN.fullmatch(name)
            )
    return names


def _existing(source: Path, what: str) -> Path:
    if not source.is_file():
        raise ModelError(f"there is no such {what}", where=source)
    return source


def _check_known(name: str, tensors: Iterable[Tensor], key: str, what: str, signature: Signature) -> None:
    names = [tensor.name for tensor in tensors]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        raise ModelError(
            f"{key}: the model has no {what} {name!r}; it has {', '.join(map(repr, names))}",
            where=signature.path,
            hint=f"did you mean {close[0]!r}?" if close else None,
        )


# ---- text ------------------------------------------------------------------------------------------------------------


def _config_text(config: ModelConfig, templates: Path | None, context: Mapping[str, object]) -> str:
    """Lay out a config and prove that it reads back as what was meant."""
    text = _templates.lay_out(CONFIG_TEMPLATE, templates, **context)
    try:
        got = parse(text)
    except ModelError as error:
        raise TemplateError(
            f"{CONFIG_TEMPLATE} lays out text that Triton cannot read: {error.message}",
            where=error.where,
            hint=_line_of(text, error.where),
        ) from error
    difference = first_difference(config, got)
    if difference is not None:
        raise TemplateError(
            f"{CONFIG_TEMPLATE} lays out something other than what was meant: {difference} differs",
            where=Where(CONFIG_TEMPLATE),
            hint="write every field of `config` as it is; to change what is meant, change the spec (config: ...)",
        )
    return text


def _model_text(signature: Signature, plan: Plan, templates: Path | None, context: Mapping[str, object]) -> str:
    tensors = {"input": signature.inputs, "output": signature.outputs}
    names = {f"{side}s": tuple(tensor.name for tensor in of) for side, of in tensors.items()}
    scalars = {f"scalar_{side}s": tuple(t.name for t in of if not t.shape) for side, of in tensors.items()}
    text_inputs = tuple(tensor.name for tensor in signature.inputs if tensor.dtype == "STRING")
    batches = plan.max_batch_size > 0
    text = _templates.lay_out(
        MODEL_TEMPLATE, templates, **context, **names, **scalars, text_inputs=text_inputs, batches=batches
    )
    try:
        ast.parse(text)
    except SyntaxError as error:
        where = Where("model.py", error.lineno, error.offset)
        raise TemplateError(
            f"{MODEL_TEMPLATE} lays out Python that does not parse: {error.msg}",
            where=where,
            hint=_line_of(text, where),
        ) from error
    return text


def _line_of(text: str, where: Where | None) -> str | None:
    """The line of the laid out text that a fault is in, to show it: the text itself is kept nowhere."""
    lines = text.split("\n")
    if where is None or where.line is None or not 1 <= where.line <= len(lines):
        return None
    return f"line {where.line} is: {lines[where.line - 1].strip()}"
