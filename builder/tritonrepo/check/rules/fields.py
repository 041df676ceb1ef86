"""TR1xx: fields of the model as a whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath

from tritonrepo.check.edits import removed, replaced
from tritonrepo.check.model import Model, first_folder
from tritonrepo.check.rule import Spot, Target, rule
from tritonrepo.check.rules._help import MODEL_PY, TENSORS, example, exists, nearest

#: Platforms that go with a backend, for the backends whose platform the server looks at.
_PLATFORMS_OF = {
    "tensorrt": ("tensorrt_plan",),
    "onnxruntime": ("onnxruntime_onnx",),
    "pytorch": ("pytorch_libtorch", "torch_aoti"),
    "tensorflow": ("tensorflow_savedmodel", "tensorflow_graphdef"),
}
_NEWER_PLATFORMS = {"torch_aoti": "26.03"}

#: Backends in the image with all of them, which had TensorFlow, too, at first.
_IMAGE = frozenset(
    {"dali", "fil", "identity", "onnxruntime", "openvino", "python", "pytorch", "repeat", "square", "tensorrt"}
)
#: Backends in images of their own; a release alone does not say which image it is.
_OTHER_IMAGES = frozenset({"vllm", "tensorrtllm"})
_TENSORFLOW_UNTIL = "25.03"


@rule(
    "TR101",
    "reject",
    "the name in a config is the directory's",
    "The model's name is the name of its directory. A config need not repeat it; if it does, the two must be equal.",
    wrong=example(f'name: "resnet"{TENSORS}'),
    right=example(f'name: "m"{TENSORS}'),
)
def name_is_the_directory(model: Model, target: Target) -> Iterator[Spot]:
    name = model.config.get("name")
    if name not in ("", model.name):
        edits = [replaced(model.config, "name", f'"{model.name}"')] if _PLAIN.fullmatch(model.name) else ()
        message = f"the directory is {model.name}, and the name in the config is {name}"
        yield model.spot("name", message, f"Write {model.name}, or leave the name out.", edits=edits)


_PLAIN = re.compile(r"[A-Za-z0-9_. ~-]+")


@rule(
    "TR102",
    "reject",
    "a config says which backend serves the model",
    "Either `backend` names it, or `platform` is one of those that stand for a backend. Without both the server goes "
    "by default_model_filename, and without that by the model's file (model.onnx, model.plan, model.pt, model.py, "
    "model.xml, model.savedmodel, model.graphdef) in the first of the sub-directories in the order of their names.",
    wrong={"m/config.pbtxt": f'platform: "libtorch_pytorch"{TENSORS}', "m/1/model.pt": ""},
    right=example(TENSORS),
)
def backend_is_known(model: Model, target: Target) -> Iterator[Spot]:
    platform = model.completed.platform
    if model.backend or platform == "ensemble" or (model.document is None and not model.numbers):
        return
    if platform:
        hint = nearest(platform, [*sum(_PLATFORMS_OF.values(), ()), "ensemble"]) or 'Name the backend: backend: "...".'
        yield model.spot("platform", f"no backend belongs to the platform {platform}", hint)
    else:
        message = "neither the config nor the name of a file says which backend serves the model"
        folders = [name for name, folder in model.entries.items() if folder]
        looked = f" The server looked for a file in {first_folder(folders)} only." if folders else ""
        yield model.spot("default_model_filename", message, f'Name the backend: backend: "...".{looked}')


@rule(
    "TR103",
    "reject",
    "platform and backend fit together",
    "For tensorrt, onnxruntime, pytorch and tensorflow the platform has to be one of the backend's own. It may be left "
    "out, for tensorflow only where the file has its usual name.",
    wrong=example(f'platform: "onnxruntime_onnx"{TENSORS}'),
    right=example(f'platform: "pytorch_libtorch"{TENSORS}'),
)
def platform_fits(model: Model, target: Target) -> Iterator[Spot]:
    backend, platform = model.backend, model.completed.platform
    own = [each for each in _PLATFORMS_OF.get(backend, ()) if target.release >= _NEWER_PLATFORMS.get(each, "")]
    if not own or platform in own or platform == "ensemble":
        return
    if platform:
        message, hint = f"the platform {platform} is not {backend}'s", f"Write {' or '.join(own)}, or leave it out."
    else:
        message, hint = f"{backend} needs a platform here", f"Write platform: {' or '.join(own)}."
    yield model.spot("platform" if platform else "backend", message, hint)


@rule(
    "TR104",
    "reject",
    "the server has the backend",
    "The server looks for the backend's library, libtriton_NAME.so, in its own directory of backends, in the model's "
    "directory and in the version's. `--backends` says which backends the server has; otherwise those of the release's "
    "image count.",
    wrong={"m/config.pbtxt": f'backend: "onnx"{TENSORS}', "m/1/model.onnx": ""},
    right=example(TENSORS),
)
def server_has_the_backend(model: Model, target: Target) -> Iterator[Spot]:
    backend = model.backend
    if not backend or model.completed.platform == "ensemble" or (model.document is None and not model.numbers):
        return
    there = target.backends
    if there is None:
        there = _IMAGE | _OTHER_IMAGES | ({"tensorflow"} if target.release < _TENSORFLOW_UNTIL else set())
    library = f"libtriton_{backend}.so"
    if backend in there or any(exists(model, folder, library) for folder in ("", *map(str, model.served))):
        return
    field = "backend" if model.config.has("backend") else "platform"
    message = f"the server has no backend {backend}"
    if not model.config.has(field) and model.document is None:
        message += f", for which it takes a model of the name {model.name}"
    known = ", ".join(sorted(there))
    yield model.spot(field, message, nearest(backend, there) or f"It has: {known}.")


@rule(
    "TR105",
    "reject",
    "max_batch_size is not negative",
    "0 says that the model does not batch: its dims are complete. A larger number says how many requests the server "
    "may put together along a first axis that dims leave out.",
    wrong=example(f"max_batch_size: -1{TENSORS}"),
    right=example(f"max_batch_size: 0{TENSORS}"),
)
def batch_size_is_natural(model: Model, target: Target) -> Iterator[Spot]:
    size = model.config.get("max_batch_size")
    if size < 0:
        yield model.spot("max_batch_size", f"max_batch_size is {size}", "Write 0 for a model that does not batch.")


@rule(
    "TR106",
    "reject",
    "the response cache is for plain models",
    "The server refuses a response cache for models with sequence batching, whose answers depend on earlier requests, "
    "and for decoupled models, which answer a request any number of times.",
    wrong=example(f"response_cache {{ enable: true }}\nmodel_transaction_policy {{ decoupled: true }}{TENSORS}"),
    right=example(f"response_cache {{ enable: true }}{TENSORS}"),
)
def cache_is_for_plain_models(model: Model, target: Target) -> Iterator[Spot]:
    config = model.config
    if not (config.has("response_cache") and config.get("response_cache").get("enable")):
        return
    if config.has("sequence_batching"):
        yield model.spot("response_cache", "no response cache with sequence_batching", "Take one of the two out.")
    if config.get("model_transaction_policy").get("decoupled"):
        yield model.spot("response_cache", "no response cache for a decoupled model", "Take one of the two out.")


@rule(
    "TR107",
    "advice",
    "a response cache is one of the server's, too",
    "`response_cache` has an effect only where the server has a cache: `--cache-config local,size=...`.",
    wrong=example(f"response_cache {{ enable: true }}{TENSORS}"),
    right=example(TENSORS),
    target=Target(response_cache=False),
)
def server_has_a_cache(model: Model, target: Target) -> Iterator[Spot]:
    if target.response_cache is not False or not model.config.has("response_cache"):
        return
    if model.config.get("response_cache").get("enable"):
        hint = "Start it with --cache-config local,size=..., or take response_cache out."
        yield model.spot("response_cache", "the server has no response cache", hint)


@rule(
    "TR108",
    "crash",
    "keys of metric_tags can be labels of metrics",
    "The server makes of each key a Prometheus label, with an underscore in front. A key with another character than "
    "letters, digits and underscores, or one that begins with an underscore, ends the server.",
    wrong=example(f'metric_tags {{ key: "cost-center" value: "7" }}{TENSORS}'),
    right=example(f'metric_tags {{ key: "cost_center" value: "7" }}{TENSORS}'),
)
def metric_tags_are_labels(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("metric_tags"):
        return
    for index, entry in enumerate(model.config.all("metric_tags")):
        if not _LABEL.fullmatch(entry.get("key")):
            message = f"{entry.get('key')!r} cannot be a label of metrics"
            hint = "Use ASCII letters, digits and, not in front, underscores."
            yield model.spot("metric_tags", message, hint, index=index)


_LABEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9_]*)?", re.ASCII)


@rule(
    "TR109",
    "crash",
    "model_repository_agents lists agents",
    "An empty list of repository agents ends the server.",
    wrong=example(f"model_repository_agents {{ }}{TENSORS}"),
    right=example(TENSORS),
)
def there_are_agents(model: Model, target: Target) -> Iterator[Spot]:
    config = model.config
    if config.has("model_repository_agents") and not config.get("model_repository_agents").all("agents"):
        edits = [removed(config, "model_repository_agents")]
        yield model.spot("model_repository_agents", "there are no agents in it", "Take it out.", edits=edits)


@rule(
    "TR110",
    "reject",
    "the server has the repository agents",
    "The server looks for libtritonrepoagent_NAME.so. Its image has one, checksum.",
    wrong=example(f'model_repository_agents {{ agents {{ name: "sha256" }} }}{TENSORS}'),
    right=example(TENSORS),
)
def server_has_the_agents(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("model_repository_agents"):
        return
    there = frozenset[str]() if target.only_core else {"checksum"}
    for agent in model.config.get("model_repository_agents").all("agents"):
        name = agent.get("name")
        if name not in there:
            message = f"the server has no repository agent {name!r}"
            yield model.spot("name", message, "Install it in the server, or take it out.", within=agent)


@rule(
    "TR111",
    "reject",
    "runtime names the backend's library",
    "`runtime` is the name of the library that serves a backend, libtriton_NAME.so, or model.py for a backend that is "
    "written in Python. The server refuses a model when it does not find it.",
    wrong=example(f'runtime: "cuda"{TENSORS}'),
    right=example(TENSORS),
)
def runtime_exists(model: Model, target: Target) -> Iterator[Spot]:
    runtime, backend = model.config.get("runtime"), model.backend
    if not runtime or backend not in _IMAGE | {"tensorflow"}:
        return
    if runtime == "model.py" and backend == "pytorch" and not target.only_core:
        return
    if normpath(f"{backend}/{runtime}") == f"{backend}/libtriton_{backend}.so":
        return
    if not re.search(r"/|^model\.py$", runtime) and any(
        exists(model, folder, runtime) for folder in ("", *map(str, model.served))
    ):
        return
    message = f"the server does not find the runtime {runtime} of {backend}"
    hint = f"Take it out: libtriton_{backend}.so is found without."
    yield model.spot("runtime", message, hint, edits=[removed(model.config, "runtime")])


@rule(
    "TR112",
    "reject",
    "a batching strategy is a library, and not one for sequences",
    "The parameter TRITON_BATCH_STRATEGY_PATH is the path of a library that decides what goes into a batch. The server "
    "refuses an empty path, and the parameter beside sequence_batching.",
    wrong=example(
        'sequence_batching { }\nparameters { key: "TRITON_BATCH_STRATEGY_PATH" '
        f'value {{ string_value: "/models/m/batching.so" }} }}{TENSORS}'
    ),
    right=example(f"sequence_batching {{ }}{TENSORS}"),
)
def batch_strategy_exists(model: Model, target: Target) -> Iterator[Spot]:
    path = _parameter(model, "TRITON_BATCH_STRATEGY_PATH")
    if path is None:
        return
    if model.config.has("sequence_batching"):
        message = "TRITON_BATCH_STRATEGY_PATH does not go with sequence_batching"
        yield model.spot("parameters", message, "Take one of the two out.")
    elif not path or (target.this_machine and not _is_library(path)):
        message = f"TRITON_BATCH_STRATEGY_PATH names no library: {path!r}"
        yield model.spot("parameters", message, "Give the path of a library.")


@rule(
    "TR113",
    "reject",
    "FORCE_CPU_ONLY_INPUT_TENSORS is yes or no",
    "The Python backend knows only the values yes and no of this parameter.",
    wrong={
        "m/config.pbtxt": f'backend: "python"{TENSORS}'
        'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "false" } }\n',
        "m/1/model.py": MODEL_PY,
    },
    right={
        "m/config.pbtxt": f'backend: "python"{TENSORS}'
        'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }\n',
        "m/1/model.py": MODEL_PY,
    },
)
def force_cpu_is_yes_or_no(model: Model, target: Target) -> Iterator[Spot]:
    value = _parameter(model, "FORCE_CPU_ONLY_INPUT_TENSORS") if model.backend == "python" else None
    if value not in {None, "yes", "no"}:
        yield model.spot("parameters", f"FORCE_CPU_ONLY_INPUT_TENSORS is {value!r}", "Write yes or no.")


@rule(
    "TR114",
    "reject",
    "a Python model's environment exists",
    "EXECUTION_ENV_PATH names an archive or a folder with a Python environment. Of a path that begins with "
    "$$TRITON_MODEL_DIRECTORY the rest is looked for in the model's directory.",
    wrong={
        "m/config.pbtxt": f'backend: "python"{TENSORS}parameters {{ key: "EXECUTION_ENV_PATH" '
        'value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }\n',
        "m/1/model.py": MODEL_PY,
    },
    right={"m/config.pbtxt": f'backend: "python"{TENSORS}', "m/1/model.py": MODEL_PY},
)
def environment_exists(model: Model, target: Target) -> Iterator[Spot]:
    path = _parameter(model, "EXECUTION_ENV_PATH") if model.backend == "python" else None
    if not path:
        return
    inside = path.removeprefix(_MODEL_DIRECTORY)
    there = exists(model, "", inside) if inside != path else not target.this_machine or os.path.exists(path)  # noqa: PTH110
    if not there:
        hint = "Put the environment there, or correct EXECUTION_ENV_PATH."
        yield model.spot("parameters", f"the Python environment {path} does not exist", hint)


_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"


def _parameter(model: Model, key: str) -> str | None:
    """A parameter's text; None where there is no such parameter."""
    if not model.config.has("parameters"):
        return None
    value = model.config.map("parameters").get(key)
    return None if value is None else str(value.get("string_value"))


@rule(
    "TR115",
    "reject",
    "model_metrics says which metric, and its buckets",
    "Each metric_control needs a metric_identifier with a family, and histogram_options with buckets.",
    wrong=example(
        f'model_metrics {{ metric_control {{ metric_identifier {{ family: "nv_inference_first_response_histogram_ms" }}'
        f" }} }}{TENSORS}"
    ),
    right=example(
        f'model_metrics {{ metric_control {{ metric_identifier {{ family: "nv_inference_first_response_histogram_ms" }}'
        f" histogram_options {{ buckets: [ 10, 100, 1000 ] }} }} }}{TENSORS}"
    ),
)
def metrics_are_complete(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("model_metrics"):
        return
    for control in model.config.get("model_metrics").all("metric_control"):
        if not control.get("metric_identifier").get("family"):
            message = "metric_control does not say which family of metrics it is about"
            yield model.spot_in(control, message, 'Add metric_identifier { family: "..." }.')
        if not control.get("histogram_options").all("buckets"):
            yield model.spot_in(control, "there are no buckets", "Add histogram_options { buckets: [ ... ] }.")


@rule(
    "TR116",
    "breaks",
    "buckets of a histogram ascend",
    "The buckets of a histogram are upper bounds, each larger than the one before.",
    wrong=example(
        f'model_metrics {{ metric_control {{ metric_identifier {{ family: "nv_inference_first_response_histogram_ms" }}'
        f" histogram_options {{ buckets: [ 100, 10 ] }} }} }}{TENSORS}"
    ),
    right=example(
        f'model_metrics {{ metric_control {{ metric_identifier {{ family: "nv_inference_first_response_histogram_ms" }}'
        f" histogram_options {{ buckets: [ 10, 100 ] }} }} }}{TENSORS}"
    ),
)
def buckets_ascend(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("model_metrics"):
        return
    for control in model.config.get("model_metrics").all("metric_control"):
        options = control.get("histogram_options")
        buckets = options.all("buckets")
        for index in range(1, len(buckets)):
            if not buckets[index - 1] < buckets[index]:
                message = f"the bucket {buckets[index]:g} comes after {buckets[index - 1]:g}"
                yield model.spot("buckets", message, "Sort them, each once.", within=options, index=index)
                break


@rule(
    "TR117",
    "breaks",
    "only backends that can are decoupled",
    "A decoupled model answers a request any number of times, over a gRPC stream. These backends answer once; when "
    "their models are decoupled, the server turns away plain requests over HTTP and gRPC.",
    wrong=example(f"model_transaction_policy {{ decoupled: true }}{TENSORS}"),
    right=example(TENSORS),
)
def backend_can_be_decoupled(model: Model, target: Target) -> Iterator[Spot]:
    config = model.config
    if config.has("model_transaction_policy") and model.backend in _ANSWER_ONCE:
        policy = config.get("model_transaction_policy")
        if policy.get("decoupled"):
            message = f"{model.backend} answers each request once"
            edits = [replaced(policy, "decoupled", "false")]
            yield model.spot("decoupled", message, "Write decoupled: false.", within=policy, edits=edits)


_ANSWER_ONCE = frozenset({"onnxruntime", "openvino", "pytorch", "tensorflow", "tensorrt"})


@rule(
    "TR118",
    "reject",
    "libraries in a model's directory are libraries",
    "batchstrategy.so in the directory of the model or of a version decides what goes into a batch; libtriton_NAME.so "
    "there takes the place of the server's backend, and so does a file that `runtime` names. The server refuses a "
    "model when such a file is no shared library.",
    wrong={**example(TENSORS), "m/batchstrategy.so": "to do"},
    right=example(TENSORS),
)
def libraries_can_be_loaded(model: Model, target: Target) -> Iterator[Spot]:
    names = [] if model.config.has("sequence_batching") else ["batchstrategy.so"]
    names += [f"libtriton_{model.backend}.so"] if model.backend else []
    runtime = model.config.get("runtime")
    if runtime not in ("", "model.py", *names) and "/" not in runtime:
        names.append(runtime)
    for folder in ("", *map(str, model.served)):
        for name in names:
            path = f"{folder}/{name}".lstrip("/")
            if exists(model, folder, name) and not _is_library(model.files.open_path(path)):
                yield model.spot_at(path, "this is no shared library", "Take it out of the model's directory.")


def _is_library(path: Path | str | None) -> bool:
    try:
        with open(path or "", "rb") as file:  # noqa: PTH123
            return file.read(4) == b"\x7fELF"
    except (OSError, ValueError):
        return False
