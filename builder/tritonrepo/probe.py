"""Ready means answered: one minimal valid inference request to every model of a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from tritonrepo import _http
from tritonrepo.errors import ServeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Probe:
    """What one version of one model answered."""

    model: str
    version: str
    status: Literal["answered", "failed", "not probed"]
    detail: str
    """The server's reason where it failed, ours where it was not probed; else empty."""
    seconds: float


def probe_models(url: str, repository: Path | None = None, *, timeout: float = 60) -> tuple[Probe, ...]:
    """Send one request to every loaded version of every model.

    The request holds zeros. A dim that the config leaves open (-1) is taken from the opt shape in the version's verdict
    file in ``repository`` where there is one, else it is 1. Decoupled and sequence models are not probed: one request
    and one reply is not what they are for.

    Args:
        url: ``host:port`` of the server's HTTP endpoint.
        repository: the folder it serves, if it is at hand.
        timeout: seconds for each request.

    Raises:
        ServeError: the server does not answer questions about its models.
    """
    index = _ask(url, "/v2/repository/index", method="POST")
    return tuple(
        _probe(url, entry, repository, timeout)
        for entry in sorted(index, key=lambda entry: (entry["name"], str(entry.get("version", ""))))
        # A model that nobody asked to load has no state.
        if entry.get("state") and entry.get("reason") != "unloaded"
    )


def _probe(url: str, entry: Mapping[str, str], repository: Path | None, timeout: float) -> Probe:
    name, version = entry["name"], str(entry.get("version", ""))
    start = time.monotonic()

    def result(status: Literal["answered", "failed", "not probed"], detail: str = "") -> Probe:
        return Probe(name, version, status, detail, time.monotonic() - start)

    if entry["state"] != "READY":
        return result("failed", f"{entry['state'].lower()}: {entry.get('reason') or 'the server gives no reason'}")
    config = _ask(url, f"/v2/models/{quote(name, safe='')}/versions/{version}/config")
    reason = _why_not(config)
    if reason:
        return result("not probed", reason)
    recorded = _recorded_shapes(repository, name, version)
    try:
        inputs = minimal_inputs(config, recorded)
        _infer(url, name, version, inputs, timeout)
    except ServeError as error:
        return result("failed", str(error))
    return result("answered")


def _why_not(config: Mapping[str, Any]) -> str:
    if (config.get("model_transaction_policy") or {}).get("decoupled"):
        return "decoupled"
    return "sequence model" if "sequence_batching" in config else ""


def minimal_inputs(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.generic]]:
    """Zeros for every input that a request must have.

    Args:
        config: ModelConfig as the server's JSON.
        shapes: whole shapes (batch axis included) to take where a dim is open, by input name.
    """
    import numpy as np

    batched = int(config.get("max_batch_size", 0)) > 0
    inputs: dict[str, NDArray[np.generic]] = {}
    for tensor in config.get("input", ()):
        if tensor.get("optional"):
            continue
        dims = [int(dim) for dim in tensor["dims"]]
        whole = [1, *dims] if batched else dims
        recorded = shapes.get(tensor["name"], ())
        if len(recorded) == len(whole):
            shape = [known if dim == -1 else dim for dim, known in zip(whole, recorded, strict=True)]
        else:
            shape = [1 if dim == -1 else dim for dim in whole]
        datatype = tensor["data_type"].removeprefix("TYPE_")
        inputs[tensor["name"]] = (
            np.full(shape, b"", object) if datatype == "STRING" else np.zeros(shape, _dtype(datatype))
        )
    return inputs


def _dtype(datatype: str) -> np.dtype[Any]:
    import numpy as np
    from tritonclient.utils import triton_to_np_dtype

    found: Any = triton_to_np_dtype(datatype)
    if found is None:
        raise ServeError(f"its input has the data type {datatype}, which cannot be sent")
    dtype: np.dtype[Any] = np.dtype(found)
    return dtype


def _recorded_shapes(repository: Path | None, name: str, version: str) -> Mapping[str, Sequence[int]]:
    """The opt shapes of the first profile in the version's verdict file; none where there is no such record."""
    if repository is None:
        return {}
    try:
        verdict = json.loads((repository / name / f"{version}.verdict.json").read_text(encoding="utf-8"))
        return {str(key): [int(dim) for dim in shape] for key, shape in verdict["profiles"][0]["opt"].items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        # Any repository may be served, also one where such a file means something else.
        return {}


def _infer(url: str, name: str, version: str, inputs: Mapping[str, NDArray[np.generic]], timeout: float) -> None:
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype

    tensors = []
    for key, value in inputs.items():
        tensor = triton.InferInput(key, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    client = triton.InferenceServerClient(url, network_timeout=timeout, connection_timeout=timeout)
    try:
        client.infer(name, tensors, model_version=version)
    except (InferenceServerException, OSError) as error:
        raise ServeError(error.message() if isinstance(error, InferenceServerException) else str(error)) from error
    finally:
        client.close()


def _ask(url: str, path: str, *, method: str = "GET") -> Any:
    try:
        status, body = _http.request(url, path, method=method)
    except OSError as error:
        raise ServeError(f"the server at {url} does not answer: {error}") from error
    if status != 200:
        reason = body.get("error", "") if isinstance(body, dict) else ""
        raise ServeError(f"the server at {url} refuses {path}: {reason or f'HTTP status {status}'}")
    return body
