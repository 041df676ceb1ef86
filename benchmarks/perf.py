"""tritonrepo perf beside perf_analyzer 2.51, wrk and h2load: the same server, in turn, in one run.

    python benchmarks/perf.py [--what rate large shm overload truth stall repeat inflight poisson] [--rounds 5]

    rate      most requests a second at 16 and 64 in flight, and CPU time of the client for each
    large     602 KB each way: rate and memory
    shm       the same through system shared memory
    overload  asked for twice what the server can do
    truth     a model that sleeps a drawn time and writes down how long it took: percentiles against that
    stall     a model that stalls 500 ms every 5 s, requests at set times: p99 against theory
    repeat    how often the interval of one run holds the figure of the next
    inflight  10,000 requests in flight: memory
    poisson   arrivals as they were sent: Kolmogorov-Smirnov tests, and how late they left

Each client says its own rate. CPU time of the others is that of the whole process over all requests that the server
counted; ours is that of its measured time (all its processes), because a run starts Python first. What is printed are
medians over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from perf_models import write_models
from perf_tools import perf_analyzer, system_tool

from tritonrepo.serve import EmbeddedServer
from tritonrepo_client.perf._plan import OpenLoop
from tritonrepo_client.perf.server import Address, open_server
from tritonrepo_client.perf.statistics import Reading

Json = dict[str, Any]
PERF = [sys.executable, "-m", "tritonrepo_client.perf"]


class Ran(NamedTuple):
    """What one run of a client came to."""

    rate: float
    """Requests a second while it measured."""
    cpu: float
    """Microseconds of CPU time for each request."""
    memory: float
    """MB, largest resident size of all its processes."""
    p50: float
    p99: float
    """ms."""


class Bench:
    """A server, and the clients that are pointed at it."""

    def __init__(self, server: EmbeddedServer, work: Path, seconds: float, rounds: int) -> None:
        self.server, self.work, self.seconds, self.rounds = server, work, seconds, rounds
        self._control = open_server(Address.parse(f"http://{server.http_url}"))
        self.binary, self.environment = perf_analyzer()

    def url(self, protocol: str) -> str:
        return f"{protocol}://{self.server.http_url if protocol == 'http' else self.server.grpc_url}"

    def answered(self, model: str) -> int:
        return Reading.of(self._control.statistics(model, "")).success

    def ours(self, model: str, protocol: str, *options: str, seconds: float | None = None) -> Json:
        """The result of one run."""
        file = self.work / "ours.json"
        duration = str(seconds or self.seconds)
        line = [*PERF, model, "-u", self.url(protocol), "-d", duration, "--min-duration", duration, "--precision", "0",
                "--metrics-url", "", "--json", str(file), *options]  # fmt: skip
        before = self.answered(model)
        file.unlink(missing_ok=True)
        usage = run_measured(line, os.environ)
        if not file.is_file():
            raise SystemExit(f"{' '.join(line)}\n{usage['output']}")
        result: Json = json.loads(file.read_text(encoding="utf-8"))
        result["answered"] = self.answered(model) - before
        result["usage"] = usage
        return result

    def ours_ran(self, model: str, protocol: str, *options: str) -> Ran:
        result = self.ours(model, protocol, *options)
        point = result["points"][-1]
        memory = (point["client"]["memory_bytes"] / 1e6) + result["usage"]["memory"]
        return Ran(
            point["throughput"]["value"], point["client"]["cpu_us_per_request"], memory,
            point["latency_us"]["p50"]["value"] / 1e3, point["latency_us"]["p99"]["value"] / 1e3,
        )  # fmt: skip

    def theirs(self, model: str, protocol: str, *options: str) -> Ran:
        """perf_analyzer; three windows, whatever it thinks of their stability."""
        file = self.work / "pa.csv"
        file.unlink(missing_ok=True)
        window = str(int(self.seconds * 1000 / 3))
        line = [
            str(self.binary), "-m", model, "-u", self.url(protocol).partition("://")[2], "-i", protocol, "-s", "999",
            "--measurement-interval", window, "--max-trials", "3", "-f", str(file), *options,
        ]  # fmt: skip
        before = self.answered(model)
        usage = run_measured(line, self.environment)
        answered = self.answered(model) - before
        if not file.is_file():
            return Ran(math.nan, math.nan, usage["memory"], math.nan, math.nan)
        row = next(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        return Ran(
            float(row["Inferences/Second"]), usage["cpu"] / max(answered, 1) * 1e6, usage["memory"],
            float(row["p50 latency"]) / 1e3, float(row["p99 latency"]) / 1e3,
        )  # fmt: skip

    def wrk(self, model: str, values: int, connections: int) -> Ran | None:
        tool = system_tool("wrk")
        if tool is None:
            return None
        head = json.dumps({
            "inputs": [
                {
                    "name": "x", "datatype": "FP32", "shape": [1, values],
                    "parameters": {"binary_data_size": 4 * values},
                }
            ],
            "parameters": {"binary_data_output": True},
        }).encode()  # fmt: skip
        (self.work / "body").write_bytes(head + np.random.default_rng(0).random(values, np.float32).tobytes())
        script = self.work / "post.lua"
        script.write_text(
            f'local f = io.open("{self.work}/body", "rb")\nwrk.method = "POST"\nwrk.body = f:read("*a")\n'
            f'wrk.headers["Inference-Header-Content-Length"] = "{len(head)}"\n', encoding="utf-8",
        )  # fmt: skip
        line = [tool, "-t1", f"-c{connections}", f"-d{max(1, round(self.seconds))}s", "--latency", "-s", str(script),
                f"{self.url('http')}/v2/models/{model}/infer"]  # fmt: skip
        return self._tool(model, line, r"Requests/sec:\s+([\d.]+)")

    def h2load(self, model: str, values: int, in_flight: int) -> Ran | None:
        tool = system_tool("h2load")
        if tool is None:
            return None
        from tritonclient.grpc import service_pb2

        message = service_pb2.ModelInferRequest(model_name=model)
        message.inputs.add(name="x", datatype="FP32", shape=[1, values])
        message.raw_input_contents.append(np.random.default_rng(0).random(values, np.float32).tobytes())
        data = message.SerializeToString()
        (self.work / "body").write_bytes(b"\0" + struct.pack(">I", len(data)) + data)
        connections = min(4, in_flight)
        line = [
            tool, "-c", str(connections), "-m", str(in_flight // connections), "-t1",
            "-D", str(max(1, round(self.seconds))),
            "-d", str(self.work / "body"), "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://{self.server.grpc_url}/inference.GRPCInferenceService/ModelInfer",
        ]  # fmt: skip
        return self._tool(model, line, r"finished in [\d.]+\w+, ([\d.]+) req/s")

    def _tool(self, model: str, line: Sequence[str], pattern: str) -> Ran:
        before = self.answered(model)
        usage = run_measured(line, os.environ)
        answered = self.answered(model) - before
        found = re.search(pattern, usage["output"])
        rate = float(found[1]) if found else math.nan
        return Ran(rate, usage["cpu"] / max(answered, 1) * 1e6, usage["memory"], math.nan, math.nan)


def run_measured(line: Sequence[str], environment: Any) -> Json:
    """Run a program; its CPU seconds, largest resident size in MB, and output."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return {"cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1e3, "output": text}


def in_turn(bench: Bench, clients: dict[str, Callable[[], Ran | None]]) -> dict[str, list[Ran]]:
    """Each client once in each round."""
    runs: dict[str, list[Ran]] = {}
    for _ in range(bench.rounds):
        for name, client in clients.items():
            ran = client()
            if ran is not None:
                runs.setdefault(name, []).append(ran)
    return runs


def median(runs: Sequence[Ran], name: str) -> float:
    values = [value for run in runs if not math.isnan(value := getattr(run, name))]
    return statistics.median(values) if values else math.nan


def compare(title: str, runs: dict[str, list[Ran]]) -> None:
    print(f"\n{title}")
    ours = runs["ours"]
    for name, mine in runs.items():
        line = f"  {name:14} {median(mine, 'rate'):9,.0f}/s  {median(mine, 'cpu'):6.1f} us of CPU"
        line += f"  {median(mine, 'memory'):7,.0f} MB"
        if not math.isnan(median(mine, "p50")):
            line += f"  p50 {median(mine, 'p50'):7.3f} ms  p99 {median(mine, 'p99'):7.3f} ms"
        if name != "ours":
            ratios = [a.rate / b.rate for a, b in zip(ours, mine, strict=True) if not math.isnan(b.rate)]
            cpus = [a.cpu / b.cpu for a, b in zip(ours, mine, strict=True) if not math.isnan(b.cpu)]
            if ratios:
                line += f"  ours/it: rate {statistics.median(ratios):.2f}, CPU {statistics.median(cpus):.2f}"
        print(line, flush=True)


def rate(bench: Bench) -> None:
    for protocol in ("http", "grpc"):
        for count in (16, 64):
            many = str(count)
            clients: dict[str, Callable[[], Ran | None]] = {
                "ours": lambda p=protocol, m=many: bench.ours_ran("tiny", p, "-c", m, "--warmup", "1"),  # type: ignore[misc]
                "perf_analyzer": lambda p=protocol, m=many: bench.theirs("tiny", p, "--concurrency-range", m),  # type: ignore[misc]
            }
            if protocol == "http":
                clients["wrk"] = lambda c=count: bench.wrk("tiny", 784, c)  # type: ignore[misc]
            else:
                clients["h2load"] = lambda c=count: bench.h2load("tiny", 784, c)  # type: ignore[misc]
            compare(f"{protocol}, {count} in flight, 784 floats", in_turn(bench, clients))


def large(bench: Bench) -> None:
    for protocol in ("http", "grpc"):
        clients: dict[str, Callable[[], Ran | None]] = {
            "ours": lambda p=protocol: bench.ours_ran("large", p, "-c", "4", "--warmup", "1"),  # type: ignore[misc]
            "perf_analyzer": lambda p=protocol: bench.theirs("large", p, "--concurrency-range", "4"),  # type: ignore[misc]
        }
        compare(f"{protocol}, 4 in flight, 602 KB each way", in_turn(bench, clients))


def shm(bench: Bench) -> None:
    sizes = ("--output-shared-memory-size", "700000")
    for protocol in ("http", "grpc"):
        clients: dict[str, Callable[[], Ran | None]] = {
            "ours": lambda p=protocol: bench.ours_ran(
                "large", p, "-c", "4", "--warmup", "1", "--shared-memory", "system"
            ),  # type: ignore[misc]
            "perf_analyzer": lambda p=protocol: bench.theirs(
                "large", p, "--concurrency-range", "4", "--shared-memory", "system", *sizes
            ),  # type: ignore[misc]
        }
        compare(f"{protocol}, 4 in flight, 602 KB through shared memory", in_turn(bench, clients))


def overload(bench: Bench) -> None:
    print("\nasked for twice what the server can do")
    for protocol in ("http", "grpc"):
        ratios = []
        for _ in range(bench.rounds):
            best = bench.ours_ran("tiny", protocol, "-c", "64", "--warmup", "1").rate
            point = bench.ours("tiny", protocol, "-r", str(round(2 * best)), "--warmup", "1", "--deadline", "50ms")[
                "points"
            ][-1]
            ratios.append(point["throughput"]["value"] / best)
            queue = point["queue"]
            print(
                f"  {protocol}: capacity {best:,.0f}/s, asked {2 * best:,.0f}/s, "
                f"offered {point['offered_per_second']:,.0f}/s, "
                f"answered {point['throughput']['value']:,.0f}/s ({ratios[-1]:.2f}), queue {queue['at_begin']:,.0f} -> "
                f"{queue['at_end']:,.0f}, within 50 ms {point['goodput']['per_second']:,.0f}/s, errors "
                f"{errors_of(point)}, valid {point['valid']}"
            )
        print(f"  {protocol}: answered / capacity, median {statistics.median(ratios):.3f}", flush=True)


def truth(bench: Bench) -> None:
    """The model writes down what each request took in it; an empty request says what the way there and back takes."""
    log = bench.work / "repository" / "drawn.log"
    print("\npercentiles against what the model wrote down (plus the time of an empty request)")
    for protocol in ("http", "grpc"):
        empty = bench.ours("drawn", protocol, "-c", "1", "--low", "0", "--high", "0.0001", seconds=3)["points"][-1]
        way = (empty["latency_us"]["p50"]["value"] or 0) / 1e3
        times = np.random.default_rng(1).lognormal(math.log(20), 0.5, 2000).clip(2, 200).astype(np.float32)
        np.savez(bench.work / "times.npz", x=times.reshape(-1, 1))
        log.write_bytes(b"")
        point = bench.ours("drawn", protocol, "-r", "100", "--data", str(bench.work / "times.npz"), "--warmup", "1",
                           seconds=max(bench.seconds, 20))["points"][-1]  # fmt: skip
        took = np.frombuffer(log.read_bytes(), np.float64)
        for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
            true, said = float(np.percentile(took, share)) + way, point["latency_us"][name]["value"] / 1e3
            near = abs(said - true) <= max(0.03 * true, 0.05)
            print(
                f"  {protocol} {name}: true {true:8.3f} ms, said {said:8.3f} ms, "
                f"{said / true - 1:+.2%} {'ok' if near else 'OFF'}"
            )
        theirs = bench.theirs("drawn", protocol, "--request-rate-range", "100", "--request-distribution", "poisson",
                              "--input-data", str(as_json(bench.work / "times.json", times)))  # fmt: skip
        print(f"  {protocol} perf_analyzer: p50 {theirs.p50:.3f} ms, p99 {theirs.p99:.3f} ms", flush=True)


def as_json(file: Path, values: Any) -> Path:
    file.write_text(json.dumps({"data": [{"x": [float(value)]} for value in values]}), encoding="utf-8")
    return file


def stall(bench: Bench) -> None:
    """500 requests a second; for 500 ms of each 5 s nothing is answered. Whoever comes then waits for the rest of it:
    1 in 100 requests waits at least 450 ms."""
    print(
        "\na stall of 500 ms every 5 s, 500 requests a second (theory: p99 450 ms and the time to work off the queue)"
    )
    for protocol in ("http", "grpc"):
        point = bench.ours("stalls", protocol, "-r", "500", "--warmup", "1", seconds=max(bench.seconds, 20))["points"][
            -1
        ]
        theirs = bench.theirs("stalls", protocol, "--request-rate-range", "500", "--request-distribution", "poisson")
        latency, sent = point["latency_us"], point["service_latency_us"]
        print(
            f"  {protocol}: p50 {latency['p50']['value'] / 1e3:.2f} ms, p95 {latency['p95']['value'] / 1e3:.0f} ms, "
            f"p99 {latency['p99']['value'] / 1e3:.0f} ms (from the send: {sent['p99'] / 1e3:.0f} ms); "
            f"perf_analyzer p99 {theirs.p99:.2f} ms", flush=True,
        )  # fmt: skip


def repeat(bench: Bench) -> None:
    print("\nhow often the interval of a run holds the figure of the next run")
    for options in (("-c", "8"), ("-r", "500")):
        runs = [bench.ours("tiny", "grpc", *options)["points"][-1] for _ in range(max(11, 2 * bench.rounds))]
        for name, figures in (
            ("rate", [run["throughput"] for run in runs]),
            ("p50", [run["latency_us"]["p50"] for run in runs]),
            ("p99", [run["latency_us"]["p99"] for run in runs]),
        ):
            pairs = list(itertools.pairwise(figures))
            held = sum(
                (a["low"] or -math.inf) <= b["value"] <= (math.inf if a["high"] is None else a["high"])
                for a, b in pairs
            )
            widths = [
                (a["high"] - a["low"]) / 2 / a["value"]
                for a in figures
                if a["high"] is not None and a["low"] is not None
            ]
            width = f"median half width {statistics.median(widths):.1%}" if widths else "no interval"
            print(f"  {' '.join(options)}: {name} {held} of {len(pairs)}, {width}", flush=True)


def inflight(bench: Bench) -> None:
    print("\n10,000 requests in flight")
    for protocol in ("grpc", "http"):
        result = bench.ours("tiny", protocol, "-c", "10000", "--warmup", "2", "--timeout", "120")
        point = result["points"][-1]
        worker, parent = point["client"]["memory_bytes"] / 1e6, result["usage"]["memory"]
        print(
            f"  {protocol}: worker {worker:.0f} MB, parent {parent:.0f} MB, together {worker + parent:.0f} MB; "
            f"{point['throughput']['value']:,.0f}/s, in flight {point['checks']['little']['in_flight']:,.0f}, errors "
            f"{errors_of(point)}", flush=True,
        )  # fmt: skip


def poisson(bench: Bench) -> None:
    """In this process, because single times of sending leave a worker nowhere else."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from perf_servers import driven, plan_for

    print("\narrivals as they were sent: distance from the exponential, from the uniform, and what 1% allows")
    for per_second in (100, 1000, 5000):
        count = per_second * max(10, round(bench.seconds))
        plan, memory = plan_for("http", int(bench.server.http_url.rpartition(":")[2]), size=4 * 784)
        head = b'"inputs":[{"name":"x","datatype":"FP32","shape":[1,784],"parameters":{"binary_data_size":3136}}]}'
        template = plan.templates[0]._replace(path="/v2/models/tiny/infer", head=head)
        load = OpenLoop("poisson", float(per_second), 7, 2000)
        kinds, engine = driven(plan._replace(templates=(template,)), memory, load, requests=count, seconds=60)
        records = engine.records
        intended, sent = (np.sort(np.array(each)) for each in (records.intended, records.sent))
        late = (np.array(records.sent) - np.array(records.intended)) / 1e3
        lateness = ", ".join(f"p{p:g} {np.percentile(late, p):.0f}" for p in (50, 90, 99, 99.9))
        print(
            f"  {per_second}/s: due {distance(intended, per_second):.4f}, sent {distance(sent, per_second):.4f}, "
            f"uniform "
            f"{uniform(sent):.4f}; allowed {1.63 / math.sqrt(len(sent)):.4f} ({len(sent)} requests, {kinds}); "
            f"late, us: {lateness}",
            flush=True,
        )  # fmt: skip


def distance(times: Any, per_second: float) -> float:
    """Kolmogorov and Smirnov's distance of the gaps from an exponential distribution of that rate."""
    gaps = np.sort(np.diff(times)) / 1e9
    expected, ranks = 1 - np.exp(-per_second * gaps), np.arange(1, len(gaps) + 1) / len(gaps)
    return float(max(np.abs(ranks - expected).max(), np.abs(ranks - 1 / len(gaps) - expected).max()))


def uniform(times: Any) -> float:
    """The same of the times from a uniform one: in a Poisson process they are, given how many there were."""
    share = (times - times[0]) / (times[-1] - times[0])
    ranks = np.arange(1, len(share) + 1) / len(share)
    return float(np.abs(ranks - share).max())


def errors_of(point: Json) -> dict[str, int]:
    """Failed requests by kind."""
    return {kind: each["count"] for kind, each in point["requests"]["errors"].items()}


MEASURES: dict[str, Callable[[Bench], None]] = {
    "rate": rate, "large": large, "shm": shm, "overload": overload, "truth": truth, "stall": stall, "repeat": repeat,
    "inflight": inflight, "poisson": poisson,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="of each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_models(work / "repository")
        with EmbeddedServer(work / "repository", grace=0.1) as server:
            server.wait_ready(120)
            time.sleep(1)
            bench = Bench(server, work, options.seconds, options.rounds)
            print(
                f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, "
                f"{options.rounds} rounds of {options.seconds:g} s"
            )
            for name in options.what:
                MEASURES[name](bench)


if __name__ == "__main__":
    main()
