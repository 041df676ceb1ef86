"""The server's own figures over a window: the difference of two readings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_STEPS = ("compute_input", "compute_infer", "compute_output")
_LINE = re.compile(r"^(\w+)(?:\{([^}]*)\})?\s+(\S+)$")


@dataclass(frozen=True)
class Reading:
    """A model's counters at one moment, all its versions together. Times are nanoseconds."""

    success: int = 0
    failed: int = 0
    request_ns: int = 0
    """Sum over requests, from arrival to reply, inside the server."""
    queue_ns: int = 0
    inferences: int = 0
    """Rows."""
    executions: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    batches: Mapping[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """Rows of an executed batch -> how often, and the sums of input, infer and output time."""

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> Reading:
        """Read what the statistics call gave."""
        sums = dict.fromkeys(("success", "fail", "queue", "cache_hit", "cache_miss"), 0)
        times = dict.fromkeys(sums, 0)
        inferences = executions = 0
        batches: dict[int, tuple[int, int, int, int]] = {}
        for entry in entries:
            stats = entry.get("inference_stats", {})
            for name in sums:
                sums[name] += int(stats.get(name, {}).get("count", 0))
                times[name] += int(stats.get(name, {}).get("ns", 0))
            inferences += int(entry.get("inference_count", 0))
            executions += int(entry.get("execution_count", 0))
            for batch in entry.get("batch_stats", ()):
                size = int(batch["batch_size"])
                now = (
                    int(batch.get("compute_infer", {}).get("count", 0)),
                    *(int(batch.get(step, {}).get("ns", 0)) for step in _STEPS),
                )
                batches[size] = tuple(map(sum, zip(batches.get(size, (0, 0, 0, 0)), now, strict=True)))  # type: ignore[assignment]
        return cls(
            sums["success"], sums["fail"], times["success"], times["queue"], inferences, executions,
            sums["cache_hit"], sums["cache_miss"], batches,
        )  # fmt: skip

    def __sub__(self, other: Reading) -> Reading:
        sizes = {}
        for size, now in self.batches.items():
            before = other.batches.get(size, (0, 0, 0, 0))
            if now[0] != before[0]:
                sizes[size] = tuple(a - b for a, b in zip(now, before, strict=True))
        return Reading(
            self.success - other.success, self.failed - other.failed, self.request_ns - other.request_ns,
            self.queue_ns - other.queue_ns, self.inferences - other.inferences, self.executions - other.executions,
            self.cache_hits - other.cache_hits, self.cache_misses - other.cache_misses, sizes,  # type: ignore[arg-type]
        )  # fmt: skip


def breakdown(window: Reading, seconds: float, instances: int) -> dict[str, Any]:
    """Where the server's time went over a window, as the JSON report has it.

    A request's time in the queue is counted by request. The times of an execution come from the batch statistics:
    inference_stats adds the time of a batch once for each request in it, which is no time that was spent.

    Args:
        window: the difference of two readings.
        seconds: between them.
        instances: of the model; 0 if unknown.
    """
    executed = sum(batch[0] for batch in window.batches.values())
    sums = [sum(batch[1 + step] for batch in window.batches.values()) for step in range(3)]
    rows = sum(size * batch[0] for size, batch in window.batches.items())
    busy = sum(sums) / 1e9 / seconds if seconds > 0 else 0.0

    def mean_us(total: float, count: int) -> float | None:
        return total / count / 1e3 if count else None

    return {
        "requests": window.success,
        "failed": window.failed,
        "inferences": window.inferences,
        "executions": executed,
        "request_us": mean_us(window.request_ns, window.success),
        "queue_us": mean_us(window.queue_ns, window.success),
        "execution_us": {
            "input": mean_us(sums[0], executed),
            "infer": mean_us(sums[1], executed),
            "output": mean_us(sums[2], executed),
        },
        "mean_batch": rows / executed if executed else None,
        "batches": {str(size): window.batches[size][0] for size in sorted(window.batches)},
        "busy": busy / instances if instances else None,
        "busy_instances": busy,
        "cache": {"hits": window.cache_hits, "misses": window.cache_misses},
    }


def instances_of(config: Mapping[str, Any]) -> int:
    """How many instances a model has, as far as its config says."""
    total = 0
    for group in config.get("instance_group", ()):
        gpus = len(group.get("gpus", ())) if group.get("kind") == "KIND_GPU" else 1
        total += int(group.get("count", 1)) * max(gpus, 1)
    return total


def parse_metrics(text: str) -> dict[str, float]:
    """Gauges of the machine out of a Prometheus page: ``nv_gpu_utilization{gpu_uuid}`` and the like."""
    wanted = ("nv_gpu_", "nv_cpu_", "nv_energy", "nv_pinned")
    values = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match[1].startswith(wanted):
            label = re.search(r'gpu_uuid="([^"]*)"', match[2] or "")
            name = f"{match[1]}{{{label[1]}}}" if label else match[1]
            try:
                values[name] = float(match[3])
            except ValueError:
                continue
    return values
