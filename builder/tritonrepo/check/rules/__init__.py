"""The rules, by topic. A new topic is a new module and a word in ``TOPICS``."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from tritonrepo.check.rule import RULES

#: Modules of this package, in the order of their ids: TR0xx, TR1xx, ...
TOPICS = (
    "layout", "fields", "tensors", "instances", "batching", "sequences", "warmup", "ensembles", "onnx", "tensorrt",
)  # fmt: skip


@cache
def load_rules() -> None:
    """Import every topic, which fills ``RULES``, in the order of the ids."""
    for topic in TOPICS:
        import_module(f"{__name__}.{topic}")
    ordered = dict(sorted(RULES.items()))
    RULES.clear()
    RULES.update(ordered)
