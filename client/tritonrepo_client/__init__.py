"""A thin client for NVIDIA Triton: numpy in, numpy out.

from tritonrepo_client import Client

with Client("grpc://127.0.0.1:8001") as triton:
    heatmap = triton.model("ocr_det")(image)
"""

from tritonrepo_client.aio import AsyncClient, AsyncModel
from tritonrepo_client.client import Client, Model, ModelStatus
from tritonrepo_client.errors import (
    BadReply,
    CircuitOpen,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    SharedMemoryError,
    TritonClientError,
)
from tritonrepo_client.settings import TLS, Breaker, Retry
from tritonrepo_client.tensor import Classification, Signature, TensorSpec, as_classes, as_text

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncModel",
    "BadReply",
    "Breaker",
    "CircuitOpen",
    "Classification",
    "Client",
    "DeadlineExceeded",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelStatus",
    "Retry",
    "ServerBusy",
    "ServerError",
    "ServerUnreachable",
    "SharedMemoryError",
    "Signature",
    "TensorSpec",
    "TritonClientError",
    "as_classes",
    "as_text",
]

__version__ = "0.1.0"
