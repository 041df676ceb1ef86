"""A plain JSON request to a server, for health and metadata: the standard library is enough."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any


def request(url: str, path: str, *, method: str = "GET", timeout: float = 10) -> tuple[int, Any]:
    """Status and parsed JSON body (None where there is none) of a path on ``host:port``; OSError where none answers."""
    connection = http.client.HTTPConnection(url, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{url} does not speak HTTP: {error!r}") from error
    try:
        return response.status, json.loads(body) if body else None
    except ValueError:
        return response.status, None
