"""The real server, and what it answers: many models loaded side by side, asked through the client over gRPC."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

from tritonrepo.runtime import find_runtime, install_runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client import Client, TritonClientError

from .case import Case, Value, difference

#: Seconds for one load: a model takes one to two on an idle core, and shares the cores with its neighbours.
_LOAD_LIMIT = 300
_INFER_LIMIT = 60
_NOT_THERE = "the server gives no answer"
#: How the words on a model begin whose load was never answered: the server has ended.
NO_ANSWER = f"not loaded: {_NOT_THERE}"
#: Otherwise the Python backend starts every model twice, the first time to ask it what its config lacks. Ours lack
#: nothing: 0.4 s of processor time for a load instead of 0.9.
_NO_COMPLETING = "--disable-auto-complete-config"


class Serving:
    """A server in explicit mode; a context manager.

    Args:
        repository: where the models lie; it may be empty at first.
        at_once: models that are loaded at the same time.
        stop: when it is set, no more models are loaded.
    """

    def __init__(self, repository: Path, at_once: int, stop: Event) -> None:
        repository.mkdir(parents=True, exist_ok=True)
        self._at_once = at_once
        self._stop = stop
        runtime = find_runtime() or install_runtime()
        self.server = EmbeddedServer(
            repository, runtime=runtime, control="explicit", grace=0.1, extra_args=[_NO_COMPLETING]
        )

    def __enter__(self) -> Serving:
        self.server.start()
        self.server.wait_ready(120, probe=False)
        self.client = Client(f"grpc://{self.server.grpc_url}", timeout=_INFER_LIMIT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.server.stop()

    def each(self, names: Sequence[str], work: Callable[[str], str]) -> dict[str, str]:
        """Load models, do something with each as soon as it is there, and unload it; what ``work`` gave, or why it was
        not loaded, by name.
        """
        with ThreadPoolExecutor(self._at_once) as pool:
            return dict(zip(names, pool.map(lambda name: self._one(name, work), names), strict=True))

    def _one(self, name: str, work: Callable[[str], str]) -> str:
        if self._stop.is_set():
            return "not loaded: stopped"
        said = self._ask(name, "load")
        if said:
            return f"not loaded: {said}"
        try:
            return work(name)
        finally:
            self._ask(name, "unload")

    def _ask(self, name: str, what: str) -> str:
        """Ask for a load or unload; the server's words where it refuses, else an empty text."""
        with closing(http.client.HTTPConnection(self.server.http_url, timeout=_LOAD_LIMIT)) as connection:
            try:
                connection.request("POST", f"/v2/repository/models/{name}/{what}", body=b"{}")
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                return f"{_NOT_THERE}: {error!r}"
        return "" if response.status == 200 else str(json.loads(body).get("error", body.decode()))


def answers(client: Client, name: str, case: Case) -> str:
    """Send a case's data sets to a model; how the answers differ from what is expected, or an empty text."""
    model = client.model(name)
    shaped = _columns if model.signature.max_batch_size else dict
    for given, want in case.sets:
        try:
            got = model(shaped(given))
        except TritonClientError as error:
            return f"not answered: {error}"
        found = first_difference(got, shaped(want), case)
        if found:
            return f"wrong answer: {found}"
    return ""


def answers_rows(client: Client, name: str, case: Case) -> str:
    """Send a case's data as rows of a batch: one by one (at the same time, so that the server joins them), all in one
    request, and twice in one request, in turned order. Every row must be answered as the case expects.
    """
    import numpy as np

    model = client.model(name)
    largest = model.signature.max_batch_size
    for given, want in case.sets:
        rows = len(next(iter(given.values())))
        orders = [[row] for row in range(rows)]
        orders += [list(range(rows)), [*range(rows)[::-1], *range(rows)]]
        orders = [order for order in orders if len(order) <= largest]

        def ask(order: list[int], given: Mapping[str, Value] = given, want: Mapping[str, Value] = want) -> str:
            try:
                got = model(_columns({key: np.ascontiguousarray(value[order]) for key, value in given.items()}))
            except TritonClientError as error:
                return f"rows {order} not answered: {error}"
            found = first_difference(got, _columns({key: value[order] for key, value in want.items()}), case)
            return f"wrong answer for rows {order}: {found}" if found else ""

        with ThreadPoolExecutor(min(8, len(orders))) as pool:
            found = next(filter(None, pool.map(ask, orders)), "")
        if found:
            return found
    return ""


def _columns(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Rows that are single values have one element each: in a batch, Triton has no tensor with the batch axis alone."""
    return {name: rows.reshape(-1, 1) if rows.ndim == 1 else rows for name, rows in arrays.items()}


def first_difference(got: Mapping[str, Any], want: Mapping[str, Value], case: Case) -> str:
    """The first output that differs, and how. A scalar may come as one element: Triton has no tensor without axes."""
    import numpy as np

    for name, expected in want.items():
        if name not in got:
            return f"output {name} is missing"
        value = got[name]
        if np.ndim(expected) == 0 and np.shape(value) == (1,):
            value = value.reshape(())
        found = difference(value, expected, case.rtol, case.atol)
        if found:
            return f"output {name}: {found}"
    return ""
