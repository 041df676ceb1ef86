"""Ready means answered: one minimal valid inference request to every model of a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tritonrepo.errors import ServeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritonrepo_client import Client, ModelStatus, Signature

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Probe:
    """What one version of one model answered."""

    model: str
    version: str
    status: Literal["answered", "failed", "not probed"]
    detail: str
    """The server's reason where it failed, ours where it was not probed; else empty."""
    seconds: float
    """How long the one request took."""


def probe_models(url: str, repository: Path | None = None, *, timeout: float = 60) -> tuple[Probe, ...]:
    """Send one request to every loaded version of every model.

    The request holds zeros and empty strings. A dim that the model leaves open is taken from the profile in the
    version's verdict file in ``repository`` where there is one, else it is 1. Not probed are decoupled and sequence
    models, for which one request and one reply say little, and models with inputs whose values are shapes.

    Args:
        url: ``host:port`` of the server's HTTP endpoint.
        repository: the folder it serves, if it is at hand.
        timeout: seconds for each request.

    Raises:
        ServeError: the server does not say which models it has.
    """
    from tritonrepo_client import Client, TritonClientError

    with Client(f"http://{url}", timeout=timeout) as client:
        try:
            models = client.models()
        except TritonClientError as error:
            raise ServeError(f"the server does not say which models it has: {error}") from error
        return tuple(
            _probe(client, model, repository)
            for model in sorted(models, key=lambda model: (model.name, len(model.version), model.version))
            # A model that nobody asked to load has no state.
            if model.state and model.reason != "unloaded"
        )


def _probe(client: Client, status: ModelStatus, repository: Path | None) -> Probe:
    from tritonrepo_client import TritonClientError

    name, version = status.name, status.version

    if status.state != "READY":
        reason = status.reason or "the server gives no reason"
        return Probe(name, version, "failed", f"{status.state.lower()}: {reason}", 0)
    model = client.model(name, version)
    start = time.monotonic()
    try:
        reason = _why_not(model.config, model.signature) or _refuses_zeros(repository, name, version)
        if reason:
            return Probe(name, version, "not probed", reason, 0)
        inputs = minimal_inputs(model.signature, _profile(repository, name, version))
        start = time.monotonic()
        model(inputs)
    except (TritonClientError, ValueError) as error:
        detail = error.detail if isinstance(error, TritonClientError) else str(error)
        return Probe(name, version, "failed", detail, time.monotonic() - start)
    return Probe(name, version, "answered", "", time.monotonic() - start)


def _why_not(config: Mapping[str, Any], signature: Signature) -> str:
    if (config.get("model_transaction_policy") or {}).get("decoupled"):
        return "decoupled"
    if "sequence_batching" in config:
        return "sequence model"
    shapes = [tensor.name for tensor in signature.inputs if tensor.shape_tensor]
    return f"the values of {', '.join(shapes)} are a shape" if shapes else ""


def _refuses_zeros(repository: Path | None, name: str, version: str) -> str:
    """What the build found: a request of zeros would say nothing of this model."""
    verdict = _record(repository, name, version).get("verdict")
    refused = isinstance(verdict, dict) and verdict.get("refuses_zeros")
    return "it does not run on zeros" if refused else ""


def minimal_inputs(signature: Signature, profile: Mapping[str, Shapes]) -> dict[str, NDArray[np.generic]]:
    """Zeros (empty strings for BYTES) for every input that a request must have.

    Args:
        signature: what the model takes.
        profile: whole shapes by input name under ``min`` and ``opt``, for dims that the model leaves open; may be
            empty. The batch is as small as ``min`` allows.

    Raises:
        ValueError: a data type that cannot be sent.
    """
    import numpy as np

    from tritonrepo_client.tensor import numpy_dtype

    inputs: dict[str, NDArray[np.generic]] = {}
    for tensor in signature.inputs:
        if tensor.optional:
            continue
        low, typical = (profile.get(key, {}).get(tensor.name, ()) for key in ("min", "opt"))
        known = list(typical) if len(typical) == len(tensor.shape) else [1] * len(tensor.shape)
        if signature.max_batch_size and len(low) == len(known):
            known[0] = low[0]
        elif signature.max_batch_size:
            known[0] = 1
        shape = [given if dim == -1 else dim for dim, given in zip(tensor.shape, known, strict=True)]
        if tensor.dtype == "BYTES":
            # numpy's own zero of an object array is the number.
            inputs[tensor.name] = np.full(shape, b"", object)
        else:
            inputs[tensor.name] = np.zeros(shape, numpy_dtype(tensor.dtype))
    return inputs


def _profile(repository: Path | None, name: str, version: str) -> Mapping[str, Shapes]:
    """The first profile in the version's verdict file; empty where there is no such record."""
    verdict = _record(repository, name, version)
    try:
        return {
            key: {str(tensor): [int(dim) for dim in shape] for tensor, shape in verdict["profiles"][0][key].items()}
            for key in ("min", "opt")
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        # Any repository may be served, also one where such a file means something else.
        return {}


def _record(repository: Path | None, name: str, version: str) -> Mapping[str, Any]:
    """The version's verdict file; empty where there is none that can be read."""
    if repository is None:
        return {}
    try:
        verdict = json.loads((repository / name / f"{version}.verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return verdict if isinstance(verdict, dict) else {}
