"""A server that is a dict of functions, for the tests of code that uses the client.

    fake = FakeTriton()
    fake.add("mlp", Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 1)),), 8), run)
    with Client(fake) as triton:              # or AsyncClient(fake)
        scores = triton.model("mlp")(x)       # calls run({"x": x}), which returns {"y": ...}

Signatures, casts, batches, retries and errors are those of the real client; only the way to the server is another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tritonrepo_client.errors import ModelNotFound, ModelNotReady, TritonClientError
from tritonrepo_client.tensor import Array, Signature, TensorSpec, check_inputs, decode, encode_arrays
from tritonrepo_client.transport import InferReply, InferRequest, OutputRequest

Function = Callable[[dict[str, Array]], "Mapping[str, Any] | Iterable[Mapping[str, Any]]"]

__all__ = ["FakeTriton"]


@dataclass
class _Model:
    signature: Signature
    function: Function
    loaded: bool = True


class FakeTriton:
    """A ``Transport`` to functions."""

    def __init__(self, endpoint: str = "fake://triton") -> None:
        self.endpoint = endpoint
        self.requests: list[InferRequest] = []
        """Every request that came, in order."""
        self.questions: list[str] = []
        """Every other question."""
        self._models: dict[str, _Model] = {}
        self._failures: list[TritonClientError | None] = []

    def add(self, name: str, signature: Signature, function: Function) -> None:
        """Serve a model: a function from arrays to arrays, by name. A decoupled one returns any number of dicts."""
        self._models[name] = _Model(signature, function)

    def fail(self, *errors: TritonClientError | None) -> None:
        """What the next requests for inference end with; None for a reply as usual."""
        self._failures += errors

    async def infer(self, request: InferRequest, deadline: float | None) -> InferReply:
        """Run the model's function."""
        model, arrays = self._begin(request)
        result = model.function(arrays)
        return _reply(request, model.signature, result)  # type: ignore[arg-type]

    async def stream(self, request: InferRequest, deadline: float | None) -> AsyncGenerator[InferReply, None]:
        """Run the model's function, and give each of its results."""
        model, arrays = self._begin(request)
        results = model.function(arrays)
        for result in [results] if isinstance(results, Mapping) else results:
            yield _reply(request, model.signature, result)
        yield InferReply((), parameters={"triton_final_response": True})

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float | None) -> Any:
        """Answers as a server in explicit model control mode gives them."""
        self.questions.append(question)
        name = str(arguments.get("model", ""))
        if question == "model_ready":
            return name in self._models and self._models[name].loaded
        if question == "index":
            return [
                {"name": each, "version": "1", "state": "READY" if model.loaded else "UNAVAILABLE"}
                for each, model in self._models.items()
            ]
        if question in ("metadata", "config", "load", "unload"):
            return self._about(question, name)
        known = {"server_metadata": {"name": "fake", "version": "0", "extensions": []}, "live": True, "ready": True}
        return known.get(question, [])

    async def close(self) -> None:
        """Nothing to drop."""

    def _about(self, question: str, name: str) -> Any:
        model = self._model(name)
        if question in ("load", "unload"):
            model.loaded = question == "load"
            return None
        if not model.loaded:
            raise ModelNotReady(
                f"Request for unknown model: '{name}' has no available versions", model=name, endpoint=self.endpoint
            )
        return (_metadata if question == "metadata" else _config)(name, model.signature)

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            words = f"Request for unknown model: '{name}' is not found"
            raise ModelNotFound(words, model=name, endpoint=self.endpoint)
        return self._models[name]

    def _begin(self, request: InferRequest) -> tuple[_Model, dict[str, Array]]:
        self.requests.append(request)
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            failure.model, failure.endpoint = failure.model or request.model, failure.endpoint or self.endpoint
            raise failure
        self._about("metadata", request.model)
        return self._models[request.model], {tensor.name: decode(tensor) for tensor in request.inputs}


def _reply(request: InferRequest, signature: Signature, result: Mapping[str, Any]) -> InferReply:
    wanted = [output.name if isinstance(output, OutputRequest) else output for output in request.outputs]
    outputs = Signature(tuple(dataclasses.replace(spec, optional=True) for spec in signature.outputs), (), 0)
    arrays = check_inputs(outputs, {name: array for name, array in result.items() if not wanted or name in wanted})
    return InferReply(encode_arrays(outputs, arrays), "1", request.request_id)


def _metadata(name: str, signature: Signature) -> dict[str, Any]:
    def described(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)} for spec in specs]

    tensors = {"inputs": described(signature.inputs), "outputs": described(signature.outputs)}
    return {"name": name, "versions": ["1"], "platform": "fake", **tensors}


def _config(name: str, signature: Signature) -> dict[str, Any]:
    inputs = [
        {"name": spec.name, "optional": spec.optional, "is_shape_tensor": spec.shape_tensor}
        for spec in signature.inputs
    ]
    config: dict[str, Any] = {"name": name, "max_batch_size": signature.max_batch_size, "input": inputs}
    if signature.stateful:
        config["sequence_batching"] = {}
    if signature.decoupled:
        config["model_transaction_policy"] = {"decoupled": True}
    if signature.queue_timeout:
        policy = {"allow_timeout_override": True, "default_timeout_microseconds": 60_000_000}
        config["dynamic_batching"] = {"default_queue_policy": policy}
    return config
