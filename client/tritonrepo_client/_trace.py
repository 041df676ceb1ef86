"""The trace headers of OpenTelemetry, where that is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from tritonrepo_client.settings import HeaderList


def trace_headers(wanted: bool | None) -> Callable[[], HeaderList] | None:
    """A function that gives the headers of the current span; None where there is nothing to give.

    Args:
        wanted: None: where OpenTelemetry is installed.

    Raises:
        ValueError: wanted, and not installed.
    """
    if wanted is False or (wanted is None and importlib.util.find_spec("opentelemetry") is None):
        return None
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        if wanted:
            raise ValueError("trace needs OpenTelemetry: install tritonrepo-client[otel]") from None
        return None

    def headers() -> HeaderList:
        if not trace.get_current_span().get_span_context().is_valid:
            return ()
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return tuple(carrier.items())

    return headers
