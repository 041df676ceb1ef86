"""The load generator against a real Triton."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_python_model
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer
from tritonrepo_client.perf import Load, ModelShare, ServerError, Settings, Slo, UsageError, run
from tritonrepo_client.perf.data import parse_shape
from tritonrepo_client.perf.server import Address, open_server
from tritonrepo_client.perf.shared_memory import Regions
from tritonrepo_client.perf.statistics import Reading

SHM = "/dev/shm"  # noqa: S108  where Linux keeps it

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("perf")]

SLEEP = """
import time
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tensor = pb.get_input_tensor_by_name(request, "x")
            time.sleep(float(tensor.as_numpy().reshape(-1)[0]) / 1e3)
            answers.append(pb.InferenceResponse([pb.Tensor("y", tensor.as_numpy())]))
        return answers
"""
COUNT = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.places = {}

    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        start, end, name = (
            int(pb.get_input_tensor_by_name(request, each).as_numpy().reshape(-1)[0]) for each in ("START", "END", "ID")
        )
        if start:
            self.places[name] = 0
        if name not in self.places:
            return pb.InferenceResponse(error=pb.TritonError(f"sequence {name} has not begun"))
        self.places[name] += 1
        place = self.places.pop(name) if end else self.places[name]
        return pb.InferenceResponse([pb.Tensor("y", np.array([[place]], np.int32))])
"""
SEQUENCE = """
input { name: "x" data_type: TYPE_INT32 dims: [1] }
output { name: "y" data_type: TYPE_INT32 dims: [1] }
sequence_batching {
  max_sequence_idle_microseconds: 60000000 direct {}
  control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }
  control_input { name: "END" control { kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] } }
  control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
}
"""
SEVERAL = """
import time
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(int(pb.get_input_tensor_by_name(request, "n").as_numpy()[0])):
                time.sleep(0.002)
                sender.send(pb.InferenceResponse([pb.Tensor("y", np.array([number], np.int32))]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
DECOUPLED = """
model_transaction_policy { decoupled: true }
input { name: "n" data_type: TYPE_INT32 dims: [1] }
output { name: "y" data_type: TYPE_INT32 dims: [1] }
"""
ONE = 'input { name: "x" data_type: TYPE_FP32 dims: [1] } output { name: "y" data_type: TYPE_FP32 dims: [1] }'


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("repository")
    write_python_model(repository, "echo", max_batch_size=4, config="dynamic_batching {}")
    write_python_model(repository, "sleep", code=SLEEP, config=ONE + " instance_group { count: 2 kind: KIND_CPU }")
    narrow = " dynamic_batching { default_queue_policy { max_queue_size: 4 } }"
    write_python_model(repository, "narrow", code=SLEEP, max_batch_size=1, config=ONE + narrow)
    write_python_model(repository, "count", code=COUNT, max_batch_size=4, config=SEQUENCE)
    write_python_model(repository, "several", code=SEVERAL, config=DECOUPLED)
    with EmbeddedServer(repository, runtime=runtime, grace=0.1) as running:
        running.wait_ready(120, probe=False)
        yield running


def http(server: EmbeddedServer) -> str:
    return f"http://{server.http_url}"


def grpc(server: EmbeddedServer) -> str:
    return f"grpc://{server.grpc_url}"


def settings(server: EmbeddedServer, model: str, protocol: str = "http", **more: Any) -> Settings:
    url = http(server) if protocol == "http" else grpc(server)
    some: dict[str, Any] = {
        "urls": (url,), "duration": 1.2, "min_duration": 1.0, "warmup": 0.3, "precision": 0.0, "lag_limit": 1.0,
        "shapes": dict([parse_shape("x=10")]) if model == "echo" else {}, "metrics_url": "",
    }  # fmt: skip
    return Settings(**{"models": (ModelShare(model),), **some, **more})


def point_of(wanted: Settings) -> dict[str, Any]:
    result = run(wanted)
    json.dumps(result, allow_nan=False)
    assert len(result["points"]) == 1
    point: dict[str, Any] = result["points"][0]
    return point


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("load", [Load("concurrency", 8), Load("rate", 300)], ids=["closed", "open"])
def test_a_point(server: EmbeddedServer, protocol: str, load: Load) -> None:
    metrics = f"http://{server.metrics_url}/metrics"
    point = point_of(settings(server, "echo", protocol, loads=(load,), batch=2, metrics_url=metrics, duration=2.5))
    requests, latency = point["requests"], point["latency_us"]
    assert requests["errors"] == {}
    assert requests["ok"] > 20
    order = [latency[name]["value"] for name in ("min", "p50", "p90", "p95", "p99", "p99.9", "max")]
    assert order == sorted(order)
    assert point["window"]["batches"] < 5 or latency["p50"]["low"] <= latency["p50"]["value"]
    assert point["inferences_per_second"] == pytest.approx(2 * point["throughput"]["value"])
    assert point["checks"]["counts"]["agree"], point["checks"]
    assert point["checks"]["little"]["agree"], point["checks"]
    of_server = point["server"]["models"]["echo"]
    executed = sum(int(size) * count for size, count in of_server["batches"].items())
    assert executed == pytest.approx(2 * of_server["requests"], abs=40)
    assert set(of_server["batches"]) <= {"2", "4"}
    assert of_server["queue_us"] < latency["mean"]["value"]
    assert point["machine"]["nv_cpu_memory_used_bytes"]["max"] > 0
    assert point["client"]["cpu_us_per_request"] > 0
    assert point["window"]["stopped"] == "time"
    assert point["histogram"]["hdr"].startswith("HISTF")
    if load.open:
        assert point["offered_per_second"] == pytest.approx(300, rel=0.3)
        assert point["lag_us"]["p50"] >= 0


def test_latency_is_what_the_server_takes(server: EmbeddedServer) -> None:
    """Twenty requests a second that sleep 20 ms."""
    wanted = settings(server, "sleep", loads=(Load("rate", 20, "constant"),), low=20, high=20.0001, duration=2.0)
    point = point_of(wanted)
    assert point["latency_us"]["min"]["value"] >= 20_000
    assert 20_000 <= point["latency_us"]["p50"]["value"] <= 100_000
    assert point["requests"]["total"] == pytest.approx(20 * point["window"]["seconds"], abs=2)


def test_time_runs_while_the_server_is_behind(server: EmbeddedServer) -> None:
    """Two instances that take 20 ms answer 100 a second. Asked for 200, the queue grows and is in the latency."""
    wanted = settings(
        server, "sleep", "grpc", loads=(Load("rate", 200),), low=20, high=20.0001, duration=2, deadline=0.03
    )
    point = point_of(replace(wanted, max_in_flight=16))
    assert 10 < point["throughput"]["value"] <= 105
    assert point["latency_us"]["p99"]["value"] > 300_000
    assert point["service_latency_us"]["p99"] < point["latency_us"]["p99"]["value"]
    assert point["queue"]["at_end"] > point["queue"]["at_begin"] + 20
    assert point["queue"]["held"] > 0
    assert point["queue"]["most_in_flight"] <= 16
    assert any(note.startswith("overload") for note in point["notes"]), point["notes"]
    assert point["goodput"]["share"] < 0.5


def test_refusals_are_counted_and_do_not_end_the_run(server: EmbeddedServer) -> None:
    point = point_of(settings(server, "narrow", "grpc", loads=(Load("rate", 300),), low=10, high=10.001))
    errors = point["requests"]["errors"]
    assert set(errors) == {"queue full"}
    assert errors["queue full"]["count"] > 50
    assert "queue" in errors["queue full"]["sample"]
    assert point["requests"]["ok"] >= 1


@pytest.mark.parametrize(("protocol", "load"), [("http", Load("concurrency", 3)), ("grpc", Load("rate", 30))])
def test_sequences(server: EmbeddedServer, protocol: str, load: Load) -> None:
    point = point_of(settings(server, "count", protocol, loads=(load,), sequence_length=5))
    assert set(point["requests"]["errors"]) <= {"unfinished"}  # of an open loop, on a machine that is busy
    assert point["requests"]["ok"] > 10


def test_sequences_send_their_stream_in_order_and_are_ended(server: EmbeddedServer, tmp_path: Path) -> None:
    """The model says at which place of its sequence a request is; the data say at which it should be."""
    steps = {"data": [[{"x": [0]}] * 4], "validation_data": [[{"y": [place]} for place in range(1, 5)]]}
    file = tmp_path / "steps.json"
    file.write_text(json.dumps(steps), encoding="utf-8")
    wanted = settings(server, "count", "grpc", loads=(Load("concurrency", 2),), sequence_length=4, data={"count": file})
    point = point_of(replace(wanted, sequence_variation=0.0))
    assert point["requests"]["errors"] == {}
    assert point["requests"]["ok"] > 20


def test_streams_of_a_decoupled_model(server: EmbeddedServer) -> None:
    wanted = settings(server, "several", "grpc", loads=(Load("concurrency", 2),), streaming=True, low=3, high=4)
    point = point_of(wanted)
    assert point["requests"]["errors"] == {}
    assert point["responses_per_second"] == pytest.approx(3 * point["throughput"]["value"], rel=0.2)
    assert 1_900 <= point["first_response_us"]["p50"] < point["latency_us"]["p50"]["value"]
    assert point["between_responses_us"]["max"] >= 1_900


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_system_shared_memory(server: EmbeddedServer, protocol: str) -> None:
    wanted = settings(server, "echo", protocol, loads=(Load("concurrency", 3),), shared_memory="system", batch=3)
    point = point_of(wanted)
    assert point["requests"]["errors"] == {}
    assert point["requests"]["ok"] > 20
    control = open_server(Address.parse(http(server)))
    assert control.regions() == []
    control.close()
    assert not [path for path in Path(SHM).glob("tritonrepo-perf-*") if f"-{os.getpid()}-" in path.name]


def test_what_a_killed_run_left_in_shared_memory_is_removed(
    server: EmbeddedServer, request: pytest.FixtureRequest
) -> None:
    code = (
        "import os, sys\nfrom tritonrepo_client.perf.shared_memory import Regions\n"
        "from tritonrepo_client.perf.server import Address, open_server\n"
        f"print(Regions([open_server(Address.parse('{http(server)}'))]).add(64)[0], flush=True)\nos._exit(1)\n"
    )
    name = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    control = open_server(Address.parse(http(server)))
    request.addfinalizer(control.close)
    assert name in control.regions()
    assert (Path(SHM) / name).exists()
    with Regions([control]):
        pass
    assert name not in control.regions()
    assert not (Path(SHM) / name).exists()


@pytest.mark.parametrize(("protocol", "right"), [("http", False), ("grpc", False), ("grpc", True)])
def test_replies_are_checked(server: EmbeddedServer, tmp_path: Path, protocol: str, right: bool) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "in.npz", x=values)
    values[2, 1] += 0 if right else 0.5
    np.savez(tmp_path / "out.npz", y=values)
    paths = {"data": {"echo": tmp_path / "in.npz"}, "expect": {"echo": tmp_path / "out.npz"}}
    wanted = settings(server, "echo", protocol, loads=(Load("concurrency", 2),), shapes={}, **paths)
    point = point_of(wanted)
    assert point["valid"] is right
    if not right:
        wrong = point["requests"]["errors"]["wrong reply"]
        assert wrong["count"] == pytest.approx(point["requests"]["ok"] / 3, rel=0.3)
        assert "[0, 1]" in wrong["sample"]
        assert point_of(replace(wanted, atol=0.6))["valid"] is True


def test_models_are_mixed_by_weight_and_endpoints_take_turns(server: EmbeddedServer) -> None:
    port = server.http_url.rpartition(":")[2]
    shapes = dict([parse_shape("echo/x=4")])
    both = (ModelShare("echo", "", 3), ModelShare("sleep"))
    wanted = settings(server, "echo", loads=(Load("rate", 120),), models=both, shapes=shapes, low=1, high=1.001)
    point = point_of(replace(wanted, urls=(http(server), f"http://localhost:{port}")))
    assert point["requests"]["errors"] == {}
    counts = {model["name"]: model["ok"] for model in point["models"]}
    assert counts["echo"] == pytest.approx(3 * counts["sleep"], rel=0.25)
    assert point["models"][1]["latency_us"]["p50"] > 1_000
    assert all(endpoint["ok"] > 5 for endpoint in point["endpoints"])
    assert set(point["server"]["models"]) == {"echo", "sleep"}


def test_several_workers_share_the_load(server: EmbeddedServer) -> None:
    point = point_of(settings(server, "echo", "grpc", loads=(Load("rate", 200, "constant"),), workers=2))
    assert point["offered_per_second"] == pytest.approx(200, rel=0.1)
    assert point["client"]["workers"] == 2
    assert point["checks"]["counts"]["agree"]


def test_all_of_a_ramp_and_a_trace_is_sent(server: EmbeddedServer) -> None:
    ramp = point_of(settings(server, "echo", loads=(Load("ramp", 150, start=50),)))
    assert ramp["requests"]["ok"] == 120  # the integral of the rate over 1.2 s
    trace = tuple(range(0, 1_000_000_000, 20_000_000))
    replay = point_of(settings(server, "echo", loads=(Load("trace", 50, trace=trace),)))
    assert (replay["requests"]["ok"], replay["window"]["stopped"]) == (50, "ended")


@pytest.mark.slow
def test_the_rate_that_keeps_a_limit_is_found(server: EmbeddedServer) -> None:
    """Two instances of 20 ms: at most 100 a second, and fewer where a queue must not build up."""
    wanted = settings(server, "sleep", slo=Slo("p90", 0.2), low=20, high=20.001, duration=1.5, warmup=0.2)
    result = run(replace(wanted, loads=(Load("concurrency", 1),)))
    found = result["slo"]
    assert 20 < found["rate"] <= 110
    assert len(found["steps"]) == len(result["points"]) >= 4
    assert {step["kept"] for step in found["steps"]} >= {True, False}


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ("nothing", {}, "model 'nothing' is not ready"),
        ("echo", {"shapes": {}}, "its shape is not fixed"),
        ("echo", {"batch": 5}, "at most 4 rows"),
        ("sleep", {"batch": 2}, "does not batch"),
        ("several", {}, "decoupled"),
        ("count", {}, "takes sequences"),
        ("sleep", {"sequence_length": 3}, "takes no sequences"),
        ("sleep", {"outputs": ("z",)}, "--output z"),
        ("sleep", {"metrics_url": "http://127.0.0.1:9/metrics"}, "no metrics"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_cannot_be_measured(
    server: EmbeddedServer, model: str, more: dict[str, Any], words: str, protocol: str
) -> None:
    with pytest.raises((ServerError, UsageError), match=words):
        run(settings(server, model, protocol, **more))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_server(protocol: str) -> None:
    with pytest.raises(ServerError, match="no server answers"):
        run(Settings((ModelShare("m"),), urls=(f"{protocol}://127.0.0.1:9",)))


def command(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "tritonrepo_client.perf", *arguments]


def test_the_command_writes_what_it_measured(server: EmbeddedServer, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("r.json", "r.csv", "pa.csv")}
    line = command(
        "sleep", "-u", http(server), "-c", "1,2", "-d", "1", "--precision", "0", "--low", "2", "--high", "2.001",
        "--max-warmup", "0.5", "--json", str(files["r.json"]), "--csv", str(files["r.csv"]),
        "--perf-analyzer-csv", str(files["pa.csv"]),
    )  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 in flight" in done.stdout
    result = json.loads(files["r.json"].read_text())
    assert [point["load"]["value"] for point in result["points"]] == [1, 2]
    assert files["r.csv"].read_text().count("\n") == 3
    heading = files["pa.csv"].read_text().splitlines()[0]
    assert heading == (
        "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
        "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,"
        "Avg latency"
    )
    slower = [*line[:-6], "--compare", str(files["r.json"])]
    slower[slower.index("--low") + 1], slower[slower.index("--high") + 1] = "30", "30.001"
    worse = subprocess.run(slower, capture_output=True, text=True, check=False)
    assert worse.returncode == 1, worse.stdout
    assert "worse" in worse.stdout


def wait_for_requests(server: EmbeddedServer, count: int) -> None:
    """Until the model ``sleep`` has answered so many more."""
    control = open_server(Address.parse(http(server)))
    before, deadline = Reading.of(control.statistics("sleep", "")), time.monotonic() + 60
    while (Reading.of(control.statistics("sleep", "")) - before).success < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    control.close()


def test_an_interrupt_keeps_what_was_measured(server: EmbeddedServer, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    time_of = ("--low", "5", "--high", "5.001")
    line = command(
        "sleep", "-u", grpc(server), *time_of, "-c", "1", "-d", "60", "--precision", "0", "--json", str(file)
    )
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_requests(server, 200)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    result = json.loads(file.read_text())
    assert result["interrupted"] is True
    assert result["points"][0]["requests"]["ok"] > 20
    assert "1 in flight" in out


def test_a_server_that_dies_ends_the_run(runtime: Runtime, tmp_path: Path) -> None:
    write_python_model(tmp_path / "repository", "sleep", code=SLEEP, config=ONE)
    file = tmp_path / "r.json"
    with EmbeddedServer(tmp_path / "repository", runtime=runtime, grace=0.1) as mortal:
        mortal.wait_ready(120)
        line = command("sleep", "-u", http(mortal), "-c", "2,3", "-d", "60", "--precision", "0", "--json", str(file))
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_requests(mortal, 1500)
        assert mortal.pid is not None
        os.kill(mortal.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the server went away" in err
    result = json.loads(file.read_text())
    assert result["server_gone"] is True
    (point,) = result["points"]
    assert point["valid"] is False
    assert point["requests"]["ok"] > 20
    assert set(point["requests"]["errors"]) <= {"connection lost", "connection refused"}
