"""Results as files: JSON, CSV, and CSV with perf_analyzer's columns. Each is complete or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from pathlib import Path
from typing import Any

from tritonrepo_client.perf.errors import PerfError

Json = dict[str, Any]
_LATENCIES = ("mean", "min", "p50", "p90", "p95", "p99", "p99.9", "max", "standard_deviation")


def write(path: Path, text: str) -> None:
    """Write a file in one step.

    Raises:
        PerfError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105  the target may exist
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PerfError(f"{path}: cannot be written: {error.strerror}") from None


def as_json(result: Json) -> str:
    """The result as JSON."""
    return json.dumps(result, indent=1, allow_nan=False) + "\n"


def as_csv(result: Json) -> str:
    """A line for each point: figures and their intervals, times in microseconds."""
    rows = []
    for point in result["points"]:
        load, latency = point["load"], point["latency_us"]
        row: Json = {
            "load": load["text"],
            "kind": load["kind"],
            "value": load["value"],
            "valid": point["valid"],
            "stopped": point["window"]["stopped"],
            "seconds": point["window"]["seconds"],
            "requests_ok": point["requests"]["ok"],
            "requests_failed": point["requests"]["total"] - point["requests"]["ok"],
            "offered_per_second": point["offered_per_second"],
            "inferences_per_second": point["inferences_per_second"],
        }
        for name, figure in (
            ("throughput_per_second", point["throughput"]),
            *((f"{n}_us", latency[n]) for n in _LATENCIES),
        ):
            if isinstance(figure, dict):
                row[name] = figure["value"]
                row[f"{name}_low"], row[f"{name}_high"] = figure["low"], figure["high"]
            else:
                row[name] = figure
        server = _first_server(point)
        row["server_queue_us"] = server.get("queue_us")
        for step in ("input", "infer", "output"):
            row[f"server_{step}_us"] = server.get("execution_us", {}).get(step)
        row["server_mean_batch"] = server.get("mean_batch")
        row["client_cpu_us_per_request"] = point["client"]["cpu_us_per_request"]
        row["problems"] = "; ".join(point["problems"])
        rows.append(row)
    return _table(rows)


def as_perf_analyzer_csv(result: Json) -> str:
    """The columns that perf_analyzer writes with -f, for tools that read those; whole microseconds."""
    rows = []
    for point in result["points"]:
        load, latency, server = point["load"], point["latency_us"], _first_server(point)
        execution = server.get("execution_us", {})
        first = "Concurrency" if load["kind"] == "concurrency" else "Request Rate"
        average, request, queue = (
            latency["mean"]["value"] or 0.0,
            server.get("request_us") or 0.0,
            server.get("queue_us") or 0.0,
        )
        compute = {step: execution.get(step) or 0.0 for step in ("input", "infer", "output")}
        row: Json = {
            first: f"{load['value']:g}",
            "Inferences/Second": f"{point['inferences_per_second'] or 0:.6g}",
            "Client Send": 0,
            "Network+Server Send/Recv": round(max(average - request, 0.0)),
            "Server Queue": round(queue),
            "Server Compute Input": round(compute["input"]),
            "Server Compute Infer": round(compute["infer"]),
            "Server Compute Output": round(compute["output"]),
            "Client Recv": 0,
        }
        for name in ("p50", "p90", "p95", "p99"):
            row[f"{name} latency"] = round(latency[name]["value"] or 0.0)
        row["Avg latency"] = round(average)
        rows.append(row)
    return _table(rows)


def _first_server(point: Json) -> Json:
    models = (point["server"] or {}).get("models", {})
    return next(iter(models.values()), {})


def _table(rows: list[Json]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
