"""All that can be asked of a server besides inference, once for gRPC and once for HTTP.

| question | arguments | answer |
|---|---|---|
| live, ready | | bool |
| model_ready | model, version | bool |
| server_metadata | | dict |
| metadata, config | model, version | dict |
| statistics | model, version | list of dicts |
| index | | list of dicts: name, version, state, reason |
| load | model, config (JSON text) or None, files (path -> bytes) | None |
| unload | model, dependents | None |
| system_status, cuda_status | | list of dicts: name, ... |
| system_register | region, key, offset, size | None |
| cuda_register | region, handle (bytes), device, size | None |
| system_unregister, cuda_unregister | region | None |
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from tritonrepo_client._pb import as_mapping

Arguments = Mapping[str, Any]


class HttpQuestion(NamedTuple):
    """A request without its head's fixed part."""

    method: str
    path: str
    body: bytes


def http_question(question: str, arguments: Arguments) -> HttpQuestion:
    """How the question is put over HTTP."""
    return _HTTP[question](arguments)


def http_answer(question: str, content: Any) -> Any:
    """The answer, out of the JSON of a reply.

    Raises:
        ValueError: it does not answer the question.
    """
    wanted = _SHAPES.get(question)
    if question == "statistics" and isinstance(content, dict):
        content = content.get("model_stats", [])
    if wanted is not None and not isinstance(content, wanted):
        raise ValueError(f"the reply is not a {'list' if wanted is list else 'JSON object'}")
    return None if wanted is None else content


def model_path(model: str, version: str = "") -> str:
    """The path of a model."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


_SHAPES: Mapping[str, type] = {
    "server_metadata": dict, "metadata": dict, "config": dict, "statistics": list, "index": list,
    "system_status": list, "cuda_status": list,
}  # fmt: skip


def _get(suffix: str) -> Callable[[Arguments], HttpQuestion]:
    return lambda a: HttpQuestion("GET", model_path(a["model"], a["version"]) + suffix, b"")


def _load_http(a: Arguments) -> HttpQuestion:
    parameters: dict[str, Any] = {} if a["config"] is None else {"config": a["config"]}
    parameters.update({f"file:{path}": base64.b64encode(content).decode() for path, content in a["files"].items()})
    return _post(f"/v2/repository/models/{quote(a['model'], safe='')}/load", {"parameters": parameters})


def _unload_http(a: Arguments) -> HttpQuestion:
    path = f"/v2/repository/models/{quote(a['model'], safe='')}/unload"
    return _post(path, {"parameters": {"unload_dependents": a["dependents"]}})


def _statistics_http(a: Arguments) -> HttpQuestion:
    path = model_path(a["model"], a["version"]) if a["model"] else "/v2/models"
    return HttpQuestion("GET", path + "/stats", b"")


def _post(path: str, content: Any = None) -> HttpQuestion:
    return HttpQuestion("POST", path, b"" if content is None else json.dumps(content).encode())


def _region(kind: str, name: str, action: str) -> str:
    return f"/v2/{kind}sharedmemory/region/{quote(name, safe='')}/{action}"


_HTTP: Mapping[str, Callable[[Arguments], HttpQuestion]] = {
    "live": lambda a: HttpQuestion("GET", "/v2/health/live", b""),
    "ready": lambda a: HttpQuestion("GET", "/v2/health/ready", b""),
    "model_ready": _get("/ready"),
    "server_metadata": lambda a: HttpQuestion("GET", "/v2", b""),
    "metadata": _get(""),
    "config": _get("/config"),
    "statistics": _statistics_http,
    "index": lambda a: _post("/v2/repository/index"),
    "load": _load_http,
    "unload": _unload_http,
    "system_status": lambda a: HttpQuestion("GET", "/v2/systemsharedmemory/status", b""),
    "cuda_status": lambda a: HttpQuestion("GET", "/v2/cudasharedmemory/status", b""),
    "system_register": lambda a: _post(
        _region("system", a["region"], "register"), {"key": a["key"], "offset": a["offset"], "byte_size": a["size"]}
    ),
    "cuda_register": lambda a: _post(
        _region("cuda", a["region"], "register"),
        {
            "raw_handle": {"b64": base64.b64encode(a["handle"]).decode()},
            "device_id": a["device"],
            "byte_size": a["size"],
        },
    ),
    "system_unregister": lambda a: _post(_region("system", a["region"], "unregister")),
    "cuda_unregister": lambda a: _post(_region("cuda", a["region"], "unregister")),
}


def grpc_question(question: str, arguments: Arguments) -> tuple[str, Any]:
    """The method's name and its message."""
    from tritonclient.grpc import service_pb2

    method, fields = _GRPC[question]
    return method, getattr(service_pb2, method + "Request")(**fields(arguments))


def grpc_answer(question: str, message: Any) -> Any:
    """The answer, out of a reply's message."""
    read = _GRPC_ANSWERS.get(question)
    return None if read is None else read(message)


def grpc_reply_type(method: str) -> Any:
    """The message class of a method's reply."""
    from tritonclient.grpc import service_pb2

    return getattr(service_pb2, method + "Response")


def _load_grpc(a: Arguments) -> dict[str, Any]:
    from tritonclient.grpc import service_pb2

    parameters = {
        f"file:{path}": service_pb2.ModelRepositoryParameter(bytes_param=content)
        for path, content in a["files"].items()
    }
    if a["config"] is not None:
        parameters["config"] = service_pb2.ModelRepositoryParameter(string_param=a["config"])
    return {"model_name": a["model"], "parameters": parameters}


def _unload_grpc(a: Arguments) -> dict[str, Any]:
    from tritonclient.grpc import service_pb2

    dependents = service_pb2.ModelRepositoryParameter(bool_param=a["dependents"])
    return {"model_name": a["model"], "parameters": {"unload_dependents": dependents}}


def _nothing(a: Arguments) -> dict[str, Any]:
    return {}


def _model(a: Arguments) -> dict[str, Any]:
    return {"name": a["model"], "version": a["version"]}


def _system_grpc(a: Arguments) -> dict[str, Any]:
    return {"name": a["region"], "key": a["key"], "offset": a["offset"], "byte_size": a["size"]}


def _cuda_grpc(a: Arguments) -> dict[str, Any]:
    return {"name": a["region"], "raw_handle": a["handle"], "device_id": a["device"], "byte_size": a["size"]}


def _region_name(a: Arguments) -> dict[str, Any]:
    return {"name": a["region"]}


_GRPC: Mapping[str, tuple[str, Callable[[Arguments], dict[str, Any]]]] = {
    "live": ("ServerLive", _nothing),
    "ready": ("ServerReady", _nothing),
    "model_ready": ("ModelReady", _model),
    "server_metadata": ("ServerMetadata", _nothing),
    "metadata": ("ModelMetadata", _model),
    "config": ("ModelConfig", _model),
    "statistics": ("ModelStatistics", _model),
    "index": ("RepositoryIndex", _nothing),
    "load": ("RepositoryModelLoad", _load_grpc),
    "unload": ("RepositoryModelUnload", _unload_grpc),
    "system_status": ("SystemSharedMemoryStatus", _nothing),
    "cuda_status": ("CudaSharedMemoryStatus", _nothing),
    "system_register": ("SystemSharedMemoryRegister", _system_grpc),
    "cuda_register": ("CudaSharedMemoryRegister", _cuda_grpc),
    "system_unregister": ("SystemSharedMemoryUnregister", _region_name),
    "cuda_unregister": ("CudaSharedMemoryUnregister", _region_name),
}

_GRPC_ANSWERS: Mapping[str, Callable[[Any], Any]] = {
    "live": lambda m: bool(m.live),
    "ready": lambda m: bool(m.ready),
    "model_ready": lambda m: bool(m.ready),
    "server_metadata": as_mapping,
    "metadata": as_mapping,
    "config": lambda m: as_mapping(m.config),
    "statistics": lambda m: [as_mapping(each) for each in m.model_stats],
    "index": lambda m: [as_mapping(each) for each in m.models],
    "system_status": lambda m: [as_mapping(each) for each in m.regions.values()],
    "cuda_status": lambda m: [as_mapping(each) for each in m.regions.values()],
}
