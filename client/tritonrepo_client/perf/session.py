"""A whole run: connect, prepare requests, measure point after point, and give the results as one plain value."""

from __future__ import annotations

import datetime
import os
import platform
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from tritonrepo_client.perf._plan import ExpectedOutput, SequencePlan, Template, WorkerPlan
from tritonrepo_client.perf.data import Data, Shapes, load_data, random_data, with_expected
from tritonrepo_client.perf.errors import PerfError, ServerError, UsageError, WorkerError
from tritonrepo_client.perf.measure import Interrupted, OnProgress, measure
from tritonrepo_client.perf.poller import Poller, read_metrics
from tritonrepo_client.perf.requests import SharedMemory, Target, serialize
from tritonrepo_client.perf.search import search
from tritonrepo_client.perf.server import Address, Server, open_server, signature_of
from tritonrepo_client.perf.settings import Load, Settings, check
from tritonrepo_client.perf.shared_memory import Regions
from tritonrepo_client.perf.statistics import instances_of
from tritonrepo_client.perf.summary import Json, summarize
from tritonrepo_client.perf.workers import Payload, Workers
from tritonrepo_client.tensor import Signature

SCHEMA_VERSION = 1
_PINGS = 30
_MIX = 1000

OnPoint = Callable[[Json], None] | None
OnNote = Callable[[str], None] | None


def run(
    settings: Settings, *, on_progress: OnProgress = None, on_point: OnPoint = None, on_note: OnNote = None
) -> Json:
    """Measure everything that the settings ask for. The result has the shape of docs/perf.schema.json.

    Ctrl-C ends it early: what was measured until then is in the result, and ``result["interrupted"]`` is True. So does
    a server that dies (``result["server_gone"]``).

    Args:
        settings: what to measure.
        on_progress: called about four times a second, for a live view.
        on_point: called with each point when it is done.
        on_note: called with words for people.

    Raises:
        PerfError: nothing could be measured.
    """
    check(settings)
    with ExitStack() as stack:
        return _Session(settings, stack, on_progress, on_point, on_note or (lambda text: None)).run()


class _Session:
    def __init__(
        self,
        settings: Settings,
        stack: ExitStack,
        on_progress: OnProgress,
        on_point: OnPoint,
        on_note: Callable[[str], None],
    ) -> None:
        self._settings, self._stack = settings, stack
        self._on_progress, self._on_point, self._on_note = on_progress, on_point, on_note
        self._addresses = [Address.parse(url) for url in settings.urls]
        self._servers: list[Server] = []
        for address in self._addresses:
            self._servers.append(open_server(address))
            stack.callback(self._servers[-1].close)
        self._targets: list[Target] = []
        self._configs: list[Mapping[str, Any]] = []
        self._points: list[Json] = []
        self._pool: Workers | None = None
        self._count = settings.workers or 1
        self._rows = 1.0
        self._interrupted = self._gone = False

    def run(self) -> Json:
        about = [dict(server.about()) for server in self._servers]
        baseline = self._baseline()
        self._describe()
        payload = self._stack.enter_context(Payload())
        self._plan, self._payload = self._prepare(payload), payload
        metrics = self._metrics_url()
        self._stack.callback(self._end_workers)
        started = datetime.datetime.now(datetime.timezone.utc)
        found: Json | None = None
        # The poller has connections of its own: it runs beside whatever else is asked.
        servers = [open_server(address) for address in self._addresses]
        for server in servers:
            self._stack.callback(server.close)
        interval = min(0.25, self._settings.duration / 12)
        with Poller(servers, self._settings.models, metrics, interval) as self._poller:
            try:
                if self._settings.slo is not None:
                    found = search(self._settings.slo, self._settings, self._measure)
                else:
                    for load in self._settings.loads:
                        self._measure(load)
            except _Ended:
                pass
        return {
            "schema": SCHEMA_VERSION,
            "tool": {"name": "tritonrepo perf", "version": _version(), "python": platform.python_version()},
            "started": started.isoformat(timespec="seconds"),
            "settings": settings_as_json(self._settings),
            "servers": [
                {"url": str(address), **{name: each.get(name) for name in ("name", "version", "extensions")}}
                for address, each in zip(self._addresses, about, strict=True)
            ],
            "models": [
                {
                    "name": target.name,
                    "version": target.version,
                    "signature": str(target.signature),
                    "max_batch_size": target.signature.max_batch_size,
                    "instances": instances_of(config),
                    "platform": str(config.get("platform") or config.get("backend") or ""),
                }
                for target, config in zip(self._targets, self._configs, strict=True)
            ],
            "host": _host(),
            "baseline": baseline,
            "interval_level": 0.95,
            "points": self._points,
            "slo": found,
            "interrupted": self._interrupted,
            "server_gone": self._gone,
        }

    # --- preparing

    def _baseline(self) -> Json:
        """Round trips of a health call: the least that any request can take."""
        times = sorted(server.ping() for server in self._servers for _ in range(_PINGS))
        return {"health_call_us": {"min": times[0] / 1e3, "p50": statistics.median(times) / 1e3, "count": len(times)}}

    def _describe(self) -> None:
        for number, model in enumerate(self._settings.models):
            found: list[tuple[Signature, Mapping[str, Any], Mapping[str, Any]]] = [
                signature_of(server, model.name, model.version) for server in self._servers
            ]
            signature, _, config = found[0]
            for other, address in zip(found[1:], self._addresses[1:], strict=True):
                if other[0] != signature:
                    raise UsageError(
                        f"{address}: model '{model.name}' is another one than at {self._addresses[0]}",
                        hint=f"{other[0]} against {signature}",
                    )
            self._check_model(model.name, signature, config)
            self._targets.append(
                Target(number, model.name, model.version, signature, self._settings.outputs, self._settings.parameters)
            )
            self._configs.append(config)

    def _check_model(self, name: str, signature: Signature, config: Mapping[str, Any]) -> None:
        settings = self._settings
        if settings.batch > 1 and not signature.max_batch_size:
            raise UsageError(f"--batch {settings.batch}: model '{name}' does not batch", hint="Leave --batch out.")
        if signature.max_batch_size and settings.batch > signature.max_batch_size:
            raise UsageError(f"--batch {settings.batch}: model '{name}' takes at most {signature.max_batch_size} rows")
        if config.get("model_transaction_policy", {}).get("decoupled") and not settings.streaming:
            raise UsageError(
                f"model '{name}' is decoupled: it may answer a request any number of times",
                hint="Add --streaming, with --url grpc://HOST:PORT.",
            )
        if "sequence_batching" in config and not settings.sequence_length:
            raise UsageError(
                f"model '{name}' takes sequences of requests", hint="Give the length: --sequence-length 20."
            )
        if settings.sequence_length and "sequence_batching" not in config:
            raise UsageError(f"--sequence-length: model '{name}' takes no sequences", hint="Leave it out.")
        for output in settings.outputs:
            if output not in {spec.name for spec in signature.outputs}:
                raise UsageError(f"--output {output}: model '{name}' is {signature}")

    def _prepare(self, payload: Payload) -> WorkerPlan:
        settings = self._settings
        templates: list[Template] = []
        expected: list[tuple[ExpectedOutput, ...]] = []
        by_model: list[list[int]] = []
        streams: list[tuple[int, ...]] = []
        shared = self._shared_memory()
        for target in self._targets:
            data = self._data(target)
            made, wanted = serialize(target, data, settings.protocol, payload, shared)
            offset = len(expected)
            expected += wanted
            mine: list[int] = []
            for stream in made:
                numbers = []
                for template in stream:
                    moved = template.expected + offset if template.expected >= 0 else -1
                    numbers.append(len(templates))
                    templates.append(template._replace(expected=moved))
                streams.append(tuple(numbers))
                mine += numbers
            by_model.append(mine)
        self._rows = sum(template.rows for template in templates) / len(templates)
        return WorkerPlan(
            settings.protocol, settings.streaming, tuple(address.endpoint() for address in self._addresses),
            tuple(templates), _mixed(settings, by_model), tuple(expected), (settings.rtol, settings.atol),
            self._sequences(streams), round(settings.timeout * 1e9), self._connections(), 0, 1,
        )  # fmt: skip

    def _data(self, target: Target) -> Data:
        settings, signature = self._settings, target.signature
        batch = settings.batch if signature.max_batch_size else 1
        path = settings.data.get(target.name)
        shapes = self._shapes(target)
        if path is not None:
            data = load_data(path, signature, batch=batch, shapes=shapes)
        else:
            data = random_data(
                signature, shapes=shapes, batch=batch, count=settings.distinct, seed=settings.seed, low=settings.low,
                high=settings.high, text_length=settings.text_length,
            )  # fmt: skip
        expect = settings.expect.get(target.name)
        return data if expect is None else with_expected(data, expect, signature, batch)

    def _shapes(self, target: Target) -> Shapes:
        """The shapes that concern a model: those that name it win."""
        given = self._settings.shapes
        known = {name for each in self._targets for name in each.signature.by_name}
        known |= {f"{each.name}/{name}" for each in self._targets for name in each.signature.by_name}
        strange = [name for name in given if name not in known]
        if strange:
            raise UsageError(f"--shape: no input named '{strange[0]}'", hint=f"The model takes {target.signature}.")
        names = target.signature.by_name
        named = {name: given[f"{target.name}/{name}"] for name in names if f"{target.name}/{name}" in given}
        return {**{name: given[name] for name in names if name in given}, **named}

    def _shared_memory(self) -> SharedMemory | None:
        settings = self._settings
        if settings.shared_memory == "none":
            return None
        if settings.shared_memory == "cuda":
            raise UsageError("--shared-memory cuda is not there yet", hint="Use --shared-memory system.")
        regions = self._stack.enter_context(Regions(self._servers))
        most = max((int(load.value) for load in settings.loads if load.kind == "concurrency"), default=0)
        opened = settings.slo is not None or any(load.open for load in settings.loads)
        slots = max(most, settings.max_in_flight if opened else 0)
        return SharedMemory(regions, slots, settings.output_shared_memory)

    def _sequences(self, streams: Sequence[tuple[int, ...]]) -> SequencePlan | None:
        settings = self._settings
        if not settings.sequence_length:
            return None
        spread = round(settings.sequence_length * settings.sequence_variation)
        shortest, longest = settings.sequence_length - spread, settings.sequence_length + spread
        return SequencePlan(settings.sequence_first_id, max(1, shortest), max(1, longest), tuple(streams))

    def _connections(self) -> int:
        if self._settings.connections:
            return self._settings.connections
        most = max((int(load.value) for load in self._settings.loads if load.kind == "concurrency"), default=4)
        return max(1, min(4, most))

    def _metrics_url(self) -> str:
        url = self._settings.metrics_url
        if url is None:
            host = self._addresses[0].host
            url = f"http://{f'[{host}]' if ':' in host else host}:8002/metrics"
            return url if read_metrics(url) else ""
        if url and not read_metrics(url):
            raise ServerError(
                f"{url}: there are no metrics", hint="Give the server's metrics page, or --metrics-url ''."
            )
        return url

    # --- measuring

    def _measure(self, load: Load) -> Json:
        """Measure one point; with more workers when one was not enough.

        Raises:
            _Ended: the run is over.
        """
        while True:
            point = self._measure_once(load)
            more = min(self._count * 2, os.cpu_count() or 1)
            saturated = point["client"]["busiest_worker_cpu"] > 0.9
            if self._settings.workers or not saturated or more <= self._count or self._interrupted or self._gone:
                break
            self._on_note(f"{load}: {self._count} worker process(es) were not enough; once more with {more}")
            self._count = more
            self._end_workers()
        self._points.append(point)
        if self._on_point:
            self._on_point(point)
        if self._interrupted or self._gone:
            raise _Ended
        return point

    def _measure_once(self, load: Load) -> Json:
        count = self._count
        if load.kind == "concurrency":
            count = min(count, int(load.value))
        if self._pool is None or self._pool.count != count:
            self._end_workers()
            self._pool = Workers(self._plan, count, self._payload)
        seed = self._settings.seed + len(self._points)
        try:
            measured = measure(load, self._settings, self._pool, self._poller, self._on_progress, seed)
        except Interrupted as interrupted:
            measured, self._interrupted = interrupted.measured, True
        self._gone = measured.stopped == "server gone"
        counts = {number: instances_of(config) * len(self._servers) for number, config in enumerate(self._configs)}
        return summarize(measured, self._settings, self._rows, counts)

    def _end_workers(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class _Ended(Exception):  # noqa: N818  it is no error
    """The run is over before its end."""


def _mixed(settings: Settings, by_model: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The order of templates: models in proportion to their weights, evenly spread; each model's requests in order."""
    if len(by_model) == 1:
        return tuple(by_model[0])
    weights = [model.weight for model in settings.models]
    credit = [0.0] * len(weights)
    taken = [0] * len(weights)
    order = []
    for _ in range(max(_MIX, 2 * sum(map(len, by_model)))):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        number = max(range(len(credit)), key=credit.__getitem__)
        credit[number] -= sum(weights)
        order.append(by_model[number][taken[number] % len(by_model[number])])
        taken[number] += 1
    return tuple(order)


def settings_as_json(settings: Settings) -> Json:
    """The settings, as the report has them."""
    content = asdict(replace(settings, loads=()))
    content["loads"] = [
        {**asdict(replace(load, trace=())), "trace_arrivals": len(load.trace)} for load in settings.loads
    ]
    content["data"] = {name: str(path) for name, path in settings.data.items()}
    content["expect"] = {name: str(path) for name, path in settings.expect.items()}
    content["shapes"] = {
        name: ["x".join(map(str, (axis.low, axis.high, axis.step))) for axis in axes]
        for name, axes in settings.shapes.items()
    }
    content["slo"] = str(settings.slo) if settings.slo else None
    return content


def _host() -> Json:
    cpu = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        pass
    return {
        "name": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "command": " ".join(sys.argv),
        "time": time.time(),
    }


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("tritonrepo-client")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


__all__ = ["SCHEMA_VERSION", "PerfError", "WorkerError", "run", "settings_as_json"]
