"""A thin client for NVIDIA Triton: numpy in, numpy out.

from tritonrepo_client import Client

with Client("grpc://127.0.0.1:8001") as triton:
    heatmap = triton.model("ocr_det")(image)
"""

from tritonrepo_client.client import Client, Model, ModelStatus
from tritonrepo_client.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TritonClientError,
)
from tritonrepo_client.tensor import Signature, TensorSpec, as_text

__all__ = [
    "BadReply",
    "Client",
    "DeadlineExceeded",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelStatus",
    "ServerBusy",
    "ServerError",
    "ServerUnreachable",
    "Signature",
    "TensorSpec",
    "TritonClientError",
    "as_text",
]

__version__ = "0.1.0"
