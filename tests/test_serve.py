from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ECHO, StartTriton, write_python_model
from tritonrepo import _keeper, _ports, _serverlog
from tritonrepo.errors import ServeError, UsageError
from tritonrepo.probe import minimal_inputs
from tritonrepo.runtime import Runtime
from tritonrepo.serve import EmbeddedServer, ServeOptions, wants_response_cache
from tritonrepo_client import Client, Signature, TensorSpec

SHM = _keeper.SHM

DTYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")

# Gives every input back with its last axis reversed, so that the order and the number of the elements show.
MIRROR = """
import numpy
import triton_python_backend_utils as pb

assert numpy.__file__ == {numpy!r}, numpy.__file__


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            inputs = {{tensor.name(): tensor.as_numpy() for tensor in request.inputs()}}
            for array in inputs.values():
                array[...] = array  # models may write to what they are given
            outputs = [pb.Tensor("y_" + name, array[..., ::-1]) for name, array in inputs.items()]
            assert all(isinstance(tensor, pb.Tensor) for tensor in outputs)
            responses.append(pb.InferenceResponse(outputs))
        return responses
"""


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def session(pid: int) -> list[int]:
    """The processes of a server's session: itself and its Python stubs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue
        if int(fields[3]) == pid:
            found.append(int(stat.parent.name))
    return found


def shared_memory(pid: int) -> list[Path]:
    """The regions of a running server, found by the prefix on its command line."""
    arguments = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    prefix = next(part for part in arguments if "shm-region-prefix-name" in part).rpartition("=")[2]
    return list(SHM.glob(f"{prefix}*"))


# ------------------------------------------------------------------ a server that works


@pytest.mark.server
def test_arrays_of_every_type_arrive_whole_in_this_environments_numpy(tmp_path: Path, triton: StartTriton) -> None:
    names = (*DTYPES, "STRING")
    tensors = "".join(
        f'input {{ name: "{name}" data_type: TYPE_{name} dims: [-1] }}\n'
        f'output {{ name: "y_{name}" data_type: TYPE_{name} dims: [-1] }}\n'
        for name in names
    )
    code = MIRROR.format(numpy=np.__file__)
    write_python_model(tmp_path, "mirror", max_batch_size=4, code=code, config=tensors)
    server = triton(tmp_path)
    with Client(f"http://{server.http_url}") as client:
        model = client.model("mirror")
        for rows, columns in ((1, 1), (2, 3), (3, 700), (1, 0)):
            inputs = {name: _sample(name, rows, columns) for name in names}
            outputs = model(inputs)
            for name, sent in inputs.items():
                np.testing.assert_array_equal(outputs[f"y_{name}"], sent[:, ::-1], err_msg=name)


def _sample(name: str, rows: int, columns: int) -> np.ndarray[Any, Any]:
    count = rows * columns
    if name == "STRING":
        values = [f"é{index}".encode() * (index % 4) for index in range(count)]
        return np.array(values, object).reshape(rows, columns)
    dtype = {"FP": "float", "UI": "uint", "IN": "int", "BO": "bool"}[name[:2]] + "".join(filter(str.isdigit, name))
    return (np.arange(count) % 100).astype(dtype).reshape(rows, columns)


@pytest.mark.server
def test_what_is_probed_and_what_is_not(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "echo")
    write_python_model(tmp_path, "decoupled", config="model_transaction_policy { decoupled: true }")
    write_python_model(tmp_path, "sequence", max_batch_size=2, config="sequence_batching {}")
    ensemble = tmp_path / "ensemble"
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "config.pbtxt").write_text(
        """
        platform: "ensemble"
        input { name: "in" data_type: TYPE_FP32 dims: [-1] }
        output { name: "out" data_type: TYPE_FP32 dims: [-1] }
        ensemble_scheduling {
          step {
            model_name: "echo" model_version: -1
            input_map { key: "x" value: "in" }
            output_map { key: "y" value: "out" }
          }
        }
        """,
        encoding="utf-8",
    )
    server = triton(tmp_path)
    probes = {probe.model: (probe.status, probe.detail) for probe in server.wait_ready(60)}
    assert probes == {
        "decoupled": ("not probed", "decoupled"),
        "echo": ("answered", ""),
        "ensemble": ("answered", ""),
        "sequence": ("not probed", "sequence model"),
    }


@pytest.mark.server
def test_the_probe_takes_open_dims_from_the_recorded_profile(tmp_path: Path, triton: StartTriton) -> None:
    code = ECHO.replace(
        "        tensors =",
        "        shapes = [pb.get_input_tensor_by_name(r, 'x').as_numpy().shape for r in requests]\n"
        "        assert shapes == [(2, 48)], shapes\n"
        "        tensors =",
    )
    folder = write_python_model(tmp_path, "picky", code=code, max_batch_size=8)
    with pytest.raises(ServeError, match=r"did not answer an inference: picky .*\(1, 1\)"):
        triton(tmp_path)
    profile = {"min": {"x": [2, 32]}, "opt": {"x": [8, 48]}, "max": {"x": [8, 64]}}
    (folder / "1.verdict.json").write_text(json.dumps({"profiles": [profile]}), encoding="utf-8")
    triton(tmp_path)


@pytest.mark.server
def test_explicit_control_loads_only_what_was_named(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "one")
    write_python_model(tmp_path, "other")
    server = triton(tmp_path, control="explicit", models=["one"])
    assert [probe.model for probe in server.wait_ready(60)] == ["one"]


@pytest.mark.server
def test_the_response_cache_is_there_for_models_that_ask_for_it(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "cached", config="response_cache { enable: true }")
    server = triton(tmp_path)
    with Client(f"http://{server.http_url}") as client:
        for _ in range(2):
            client.model("cached")(np.ones(3, np.float32))
    metrics = _get(server.metrics_url, "/metrics")
    assert 'nv_cache_num_hits_per_model{model="cached",version="1"} 1' in metrics


def _get(url: str, path: str) -> str:
    host, _, port = url.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_a_commented_response_cache_asks_for_nothing(tmp_path: Path) -> None:
    folder = write_python_model(tmp_path, "model", config="# response_cache { enable: true }")
    assert not wants_response_cache(tmp_path)
    with (folder / "config.pbtxt").open("a", encoding="utf-8") as config:
        config.write("response_cache {\n  enable: true\n}\n")
    assert wants_response_cache(tmp_path)


@pytest.mark.server
def test_a_log_that_was_asked_for_stays(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path / "repository", "echo")
    log = tmp_path / "logs" / "triton.log"
    server = triton(tmp_path / "repository", log=log)
    server.stop()
    assert "successfully loaded 'echo'" in log.read_text(encoding="utf-8")
    assert server.log_text().endswith(log.read_text(encoding="utf-8")[-100:])


# ------------------------------------------------------------------ a server that does not


@pytest.mark.server
def test_a_model_that_cannot_be_loaded_is_named_with_the_reason(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "good")
    write_python_model(tmp_path, "bad", code='raise ValueError("no weights\\nhere")')
    write_python_model(tmp_path, "worse", config='nme: "worse"')
    with pytest.raises(ServeError) as caught:
        triton(tmp_path)
    message = caught.value.message
    assert message.startswith("Triton could not load 2 models:")
    assert "bad: Internal: ValueError: no weights here" in message
    assert "worse: failed to read text proto" in message and 'has no field named "nme"' in message
    assert "good" not in message
    log = Path(str(caught.value.hint).partition(": ")[2])
    assert "successfully loaded 'good'" in log.read_text(encoding="utf-8")
    assert [path.name for path in log.parent.iterdir()] == [log.name]
    shutil.rmtree(log.parent)


@pytest.mark.server
def test_a_model_that_answers_with_an_error_is_not_ready(tmp_path: Path, triton: StartTriton) -> None:
    code = ECHO.replace("        tensors =", "        raise RuntimeError('out of luck')\n        tensors =")
    write_python_model(tmp_path, "broken", code=code)
    with pytest.raises(ServeError, match=r"1 model did not answer an inference: broken \(version 1\): .*out of luck"):
        triton(tmp_path, log=tmp_path / "log")


@pytest.mark.server
def test_a_load_that_hangs_is_named(tmp_path: Path, runtime: Runtime) -> None:
    folder = write_python_model(tmp_path, "hangs", code="import time\ntime.sleep(3600)")
    with EmbeddedServer(tmp_path, runtime=runtime, grace=0.5, log=tmp_path / "log") as server:
        pid = server.pid
        with pytest.raises(ServeError, match="not ready within 2 s; still loading: hangs:1"):
            server.wait_ready(2)
    assert pid is not None and not session(pid)
    assert folder.exists()


def test_a_port_in_use_is_named_with_who_uses_it(tmp_path: Path, runtime: Runtime) -> None:
    write_python_model(tmp_path, "echo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=rf"port {port} .* in use by .*\(process {os.getpid()}\)") as caught:
            EmbeddedServer(tmp_path, runtime=runtime, grpc_port=port).start()
    assert "--grpc-port" in str(caught.value.hint)


@pytest.mark.server
def test_a_port_that_another_server_takes_meanwhile_is_chosen_again(
    tmp_path: Path, triton: StartTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_python_model(tmp_path / "first", "first")
    write_python_model(tmp_path / "second", "second")
    other = triton(tmp_path / "first")
    taken = int(other.http_url.rpartition(":")[2])
    choose = _ports.free_ports
    calls: list[int] = []

    def unlucky(host: str, count: int) -> list[int]:
        calls.append(count)
        ports = choose(host, count)
        return [taken, *ports[1:]] if len(calls) == 1 else ports

    monkeypatch.setattr(_ports, "free_ports", unlucky)
    server = triton(tmp_path / "second")
    assert calls == [3, 3]
    assert [probe.model for probe in server.wait_ready(60)] == ["second"]


def test_models_are_named_in_explicit_mode_only(tmp_path: Path) -> None:
    for make in (ServeOptions, functools.partial(EmbeddedServer, tmp_path)):
        with pytest.raises(UsageError, match="control mode poll loads all models"):
            make(control="poll", models=("a",))


def test_no_repository_and_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServeError, match="no such model repository"):
        EmbeddedServer(tmp_path / "nowhere").start()
    monkeypatch.setattr("tritonrepo.serve.find_runtime", lambda: None)
    with pytest.raises(ServeError, match="not installed") as caught:
        EmbeddedServer(tmp_path).start()
    assert "--install-only" in str(caught.value.hint)


# ------------------------------------------------------------------ nothing is left

RUN = """
import sys
from pathlib import Path
from tritonrepo.runtime import Runtime
from tritonrepo.serve import ServeOptions, run_embedded

options = ServeOptions(http_port=0, grpc_port=0, metrics_port=0, control=sys.argv[3])
run_embedded(Path(sys.argv[1]), options, lambda line: print(line, flush=True), runtime=Runtime(Path(sys.argv[2]), ""))
print("returned", flush=True)
"""


@pytest.fixture
def served(tmp_path: Path, runtime: Runtime) -> Any:
    """`run_embedded` in a process of its own, ready; with the server's process id."""
    write_python_model(tmp_path / "repository", "echo")
    command = [sys.executable, "-c", RUN, str(tmp_path / "repository"), str(runtime.root), "poll"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    pid = 0
    for line in process.stdout:
        if "process " in line:
            pid = int(line.partition("process ")[2].partition(")")[0])
        if "Ctrl-C" in line:
            break
    yield process, pid
    process.kill()
    process.communicate()


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it(served: tuple[subprocess.Popen[str], int], number: int, tmp_path: Path) -> None:
    process, pid = served
    processes, regions = session(pid), shared_memory(pid)
    assert len(processes) >= 2
    assert len(regions) >= 2
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-2:] == ["Stopped.", "returned"]
    assert not any(map(alive, processes))
    assert not any(region.exists() for region in regions)
    assert not list(tmp_path.glob("tritonrepo-*"))


@pytest.mark.server
def test_what_the_server_complains_of_later_is_passed_on(
    served: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, pid = served
    assert process.stdout is not None
    with (tmp_path / "repository" / "echo" / "config.pbtxt").open("a", encoding="utf-8") as config:
        config.write("nme: 1\n")
    assert process.stdout.readline().startswith("Triton: Poll failed for model directory 'echo'")
    os.kill(pid, signal.SIGKILL)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ServeError" in complaint and "Triton ended by itself, with exit code 137" in complaint


@pytest.mark.server
def test_a_second_signal_ends_it_at_once(tmp_path: Path, runtime: Runtime) -> None:
    slow = ECHO.replace("        tensors =", "        import time\n        time.sleep(3600)\n        tensors =")
    write_python_model(tmp_path / "repository", "slow", code=slow)
    command = [sys.executable, "-c", RUN, str(tmp_path / "repository"), str(runtime.root), "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().partition("process ")[2].partition(")")[0])
        # The probe's request is in execute() when the model has told so.
        wait_until(lambda: len(session(pid)) > 1)
        process.send_signal(signal.SIGINT)
        assert "Stopping" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    wait_until(lambda: not session(pid))


@pytest.mark.server
def test_sigkill_of_the_parent_leaves_nothing(served: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    process, pid = served
    processes, regions = session(pid), shared_memory(pid)
    process.kill()
    wait_until(lambda: not any(map(alive, processes)))
    wait_until(lambda: not any(region.exists() for region in regions))
    wait_until(lambda: not list(tmp_path.glob("tritonrepo-*")))


@pytest.mark.server
def test_a_server_that_is_killed_is_noticed_and_cleaned_up(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "echo")
    server = triton(tmp_path, log=tmp_path / "log")
    assert server.pid is not None
    processes, regions = session(server.pid), shared_memory(server.pid)
    assert server.exit_code() is None
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait(10)
    assert not server.running()
    assert server.exit_code() == 128 + signal.SIGKILL
    wait_until(lambda: not any(map(alive, processes)))
    wait_until(lambda: not any(region.exists() for region in regions))


@pytest.mark.server
def test_a_server_whose_keeper_is_killed_ends_and_stop_cleans_up(tmp_path: Path, triton: StartTriton) -> None:
    write_python_model(tmp_path, "echo")
    server = triton(tmp_path)
    assert server.pid is not None
    processes, regions = session(server.pid), shared_memory(server.pid)
    parent = int(Path(f"/proc/{server.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: server.pid is not None and not alive(server.pid))
    server.stop()
    wait_until(lambda: not any(map(alive, processes)))
    assert not any(region.exists() for region in regions)


def test_shared_memory_without_an_owner_is_swept_and_other_is_not() -> None:
    mine, orphan = (f"{_keeper.SHM_PREFIX}test{kind}{os.getpid()}" for kind in ("mine", "orphan"))
    paths = [SHM / f"{prefix}{end}" for prefix in (mine, orphan) for end in (".lock", "-region")]
    try:
        for path in paths:
            path.touch()
        with paths[0].open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _keeper._sweep()
            assert [path.exists() for path in paths] == [True, True, False, False]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------ parts


def test_the_log_tells_failures_and_what_still_loads() -> None:
    log = textwrap.dedent(
        r"""
        E1120 13:43:49.152343 9734 server.cc:241] "CudaDriverHelper has not been initialized."
        I1120 13:43:49.154848 9734 model_lifecycle.cc:472] "loading: a:1"
        I1120 13:43:49.154848 9734 model_lifecycle.cc:472] "loading: b:12"
        I1120 13:43:49.154848 9734 model_lifecycle.cc:472] "loading: c:1"
        E1120 13:44:01.549052 9865 model_lifecycle.cc:642] "failed to load 'b' version 12: Internal: it's\nbad"
        I1120 13:44:01.549071 9865 model_lifecycle.cc:777] "failed to load 'b'"
        I1120 13:43:50.848032 9734 model_lifecycle.cc:839] "successfully loaded 'a'"
        error: creating server: Internal - failed to load all models
        """
    )
    assert _serverlog.model_failures(log) == (_serverlog.ModelFailure("b", "Internal: it's bad"),)
    assert _serverlog.still_loading(log) == ("c:1",)
    assert _serverlog.errors(log)[-1] == "creating server: Internal - failed to load all models"
    assert not any("Cuda" in message for message in _serverlog.errors(log))


def test_minimal_inputs() -> None:
    inputs = (
        TensorSpec("image", "FP32", (-1, 3, -1, -1)),
        TensorSpec("text", "BYTES", (-1, 1)),
        TensorSpec("maybe", "INT8", (-1, 1), optional=True),
    )
    profile = {"min": {"image": [1, 3, 8, 8]}, "opt": {"image": [8, 3, 32, 48]}}
    made = minimal_inputs(Signature(inputs, (), 8), profile)
    assert {name: array.shape for name, array in made.items()} == {"image": (1, 3, 32, 48), "text": (1, 1)}
    assert made["text"].item() == b""
    made = minimal_inputs(Signature(inputs, (), 0), profile)
    assert made["image"].shape == (8, 3, 32, 48)
    made = minimal_inputs(Signature(inputs, (), 8), {})
    assert made["image"].shape == (1, 3, 1, 1)


def test_listener_of_a_free_port_is_nobody() -> None:
    (port,) = _ports.free_ports("127.0.0.1", 1)
    assert _ports.is_free("127.0.0.1", port)
    assert _ports.listener(port) is None
