"""Five lines that ask a running server (`tritonrepo serve`) for the answer of one model."""

import numpy as np

from tritonrepo_client import Client

with Client("grpc://127.0.0.1:8001") as triton:
    model = triton.model("mlp")
    logits = model(np.random.default_rng().random((1, 784), np.float32))
    print("class", logits.argmax(), "logits", logits.round(2))
