"""A load generator for Triton whose numbers can be believed.

from tritonrepo_client.perf import Load, ModelShare, Settings, run

result = run(Settings((ModelShare("mlp"),), (Load("rate", 500),), ("grpc://127.0.0.1:8001",)))

Needs Linux (epoll, timerfd), and the extra: ``pip install 'tritonrepo-client[perf]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritonrepo_client.perf.errors import DataError, PerfError, ServerError, UsageError, WorkerError

if TYPE_CHECKING:
    from tritonrepo_client.perf.compare import Comparison, compare
    from tritonrepo_client.perf.session import run
    from tritonrepo_client.perf.settings import Load, ModelShare, Settings, Slo

__all__ = [
    "Comparison",
    "DataError",
    "Load",
    "ModelShare",
    "PerfError",
    "ServerError",
    "Settings",
    "Slo",
    "UsageError",
    "WorkerError",
    "compare",
    "run",
]

_HOMES = {
    "Comparison": "compare", "compare": "compare", "run": "session", "Load": "settings", "ModelShare": "settings",
    "Settings": "settings", "Slo": "settings",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: worker processes need little of this."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
