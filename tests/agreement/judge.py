"""The real server judges: it loads a small repository, or says why not.

One server takes all cases one after the other. The model folders of a case are written into its repository, every one
of them is loaded by name (explicit mode), and they are unloaded and removed again. Triton notices the change because
the models were unloaded in between. That costs two to three milliseconds, and about one and a half seconds for a model
that the Python backend starts.

Beside the real Python backend there are the backends of `STUBS`: a stub (stub_backend.c) that does nothing, under their
names. With it Triton's core judges their configs. What these backends themselves would say about a model or complete in
a config is not judged. The server runs with its defaults, so auto-complete is on; the stub completes nothing.

The server believes in as many GPUs as a case asks for (pretend_gpu.c stands in front of its CUDA runtime), so that
KIND_GPU and KIND_AUTO mean what they mean on a GPU host, on any machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from tritonrepo import _serverlog
from tritonrepo.runtime import TRITON_VERSION, Runtime, find_runtime
from tritonrepo.serve import EmbeddedServer

from .case import Link, Tree, write_tree

STUBS = ("tensorrt", "onnxruntime", "pytorch", "tensorflow", "openvino", "dali", "identity")
"""Backends that the stub stands in for."""
BACKENDS = ("python", *STUBS)
"""All backends that the judging server has."""
SERVER = TRITON_VERSION
RELEASE = "24.10"
"""The release that the server is of."""

Stage = Literal["loaded", "poll", "load", "crash", "hang"]

_HERE = Path(__file__).parent
_VERSION = b"4"  # of this file, as far as judgements depend on it
_FAULT = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<fault>\d+:\d+: .*)", re.DOTALL)
_POLL_FAILED = re.compile(r"Poll failed for model directory '(?P<model>.*?)'")
# Said of models that are still being unloaded, of the case before.
_TRANSIENT = "is not at ready state"
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
# The Python backend starts a model in half a second to a second; one that hangs never ends, and does nothing.
_LIMIT = 5.0
_IDLE = 0.05  # seconds of processor time, in one second
_PATIENCE = 60  # seconds, where the server is busy
_SUSPECTS = 4
_LOADED = ("READY", "LOADING", "UNLOADING")
# KiB of address space. Some configs ask for more memory than any machine has; they must not take this one's.
_MEMORY = 12 << 20


@dataclass(frozen=True)
class Judgement:
    """What the server did with a repository.

    Attributes:
        stage: ``loaded``; or where it was refused: ``poll`` (reading and validating configs, told by the log only) or
            ``load``; or the server ended (``crash``) or did not answer in time (``hang``).
        reason: the server's words; empty for what was loaded. Where it could not read the text, ``LINE:COLUMN: `` and
            the first thing that its parser says.
        model: the model that was not loaded.
        seconds: how long it took.
    """

    stage: Stage
    reason: str = ""
    model: str = ""
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether every model was loaded."""
        return self.stage == "loaded"

    @property
    def crashed(self) -> bool:
        """Whether the server ended."""
        return self.stage == "crash"

    @property
    def hung(self) -> bool:
        """Whether the server gave no answer."""
        return self.stage == "hang"


def missing() -> str:
    """What this machine lacks for judging; empty where it has everything."""
    if find_runtime() is None:
        return "the embedded Triton server is not installed: `tritonrepo serve --install-only`"
    if shutil.which("cc") is None:
        return "there is no C compiler (cc) to build the stub backend with"
    return ""


def identity() -> bytes:
    """What judgements depend on beside the case: they may be kept for as long as this does not change."""
    return b"\0".join(
        [SERVER.encode(), _VERSION, *(_source(name).read_bytes() for name in ("stub_backend", "pretend_gpu"))]
    )


class Judge:
    """A server that judges; a context manager.

    Args:
        limit: seconds after which a load counts as hanging, if the server does nothing by then.
    """

    def __init__(self, *, limit: float = _LIMIT) -> None:
        self._limit = limit
        self._work = Path(tempfile.mkdtemp(prefix="tritonrepo-judge-"))
        self._repository = self._work / "repository"
        self._repository.mkdir()
        self._log = self._work / "server.log"
        self._server: EmbeddedServer | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._gpus = -1
        self.starts = 0
        """How often a server was started."""

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self._work, ignore_errors=True)

    def judge(self, trees: Sequence[Tree], *, gpus: int = 1) -> list[Judgement]:
        """Judge repositories, each on its own, by a server with so many GPUs.

        A crash that does not happen again when its case is alone is looked for in the cases before it, because a server
        may end a moment after it answered.
        """
        results: list[Judgement] = []
        for tree in trees:
            result = self._try(tree, gpus)
            if result.crashed or result.hung or _TRANSIENT in result.reason:
                again = self.alone(tree, gpus=gpus)
                if result.crashed and not again.crashed:
                    for index in range(max(0, len(results) - _SUSPECTS), len(results)):
                        if results[index].accepted:
                            results[index] = self._suspect(trees[index], gpus)
                result = again
            results.append(result)
        return results

    def alone(self, tree: Tree, *, gpus: int = 1) -> Judgement:
        """Judge a repository by a server that has just been started."""
        self._stop()
        return self._try(tree, gpus)

    def _suspect(self, tree: Tree, gpus: int) -> Judgement:
        result = self.alone(tree, gpus=gpus)
        if result.accepted and self._server is not None and self._server.wait(0.3):
            return replace(result, stage="crash", reason=self._last_words())
        return result

    def _try(self, tree: Tree, gpus: int) -> Judgement:
        began = time.monotonic()
        self._start(gpus)
        write_tree(tree, str(self._repository))
        names = sorted({path.split("/")[0] for path in tree if "/" in path or isinstance(tree[path], Link)})
        try:
            for name in names:
                result = self._load(name)
                if not result.accepted:
                    break
            else:
                result = Judgement("loaded")
            if not result.crashed and not result.hung:
                self._unload(names)
        finally:
            for name in names:
                path = self._repository / name
                path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
        if result.crashed or result.hung:
            self._stop()
        return replace(result, seconds=round(time.monotonic() - began, 4))

    def _load(self, name: str) -> Judgement:
        mark = self._log.stat().st_size
        try:
            error = self._ask("load", name)
        except TimeoutError:
            return Judgement("hang", f"no answer within {self._limit:g} s", name)
        except (OSError, http.client.HTTPException):
            assert self._server is not None
            if self._server.wait(5):
                return Judgement("crash", self._last_words(mark), name)
            raise
        if not error:
            return Judgement("loaded")
        log = self._log_since(mark)
        fault = _first_faults(log).get(name)
        if fault:
            return Judgement("poll", fault, name)
        said = _serverlog.model_failures(log)
        if "failed to poll from model repository" in error:
            reasons = [each.reason for each in said if each.model == name] or [each.reason for each in said]
            return Judgement("poll", reasons[-1] if reasons else error, name)
        return Judgement("load", " ".join(error.replace(f"{self._repository}/", "").split()), name)

    def _unload(self, names: Sequence[str]) -> None:
        """Unload models, and wait until that is done where an ensemble could find them half unloaded."""
        # A server that ends here is noticed by the next case, which then looks for who was guilty.
        with contextlib.suppress(OSError, http.client.HTTPException):
            for name in names:
                self._ask("unload", name)
            end = time.monotonic() + self._limit
            while len(names) > 1 and time.monotonic() < end:
                _, body = self._post("/v2/repository/index")
                models = json.loads(body)
                # A link to nothing among the models, and the server cannot list them.
                if not isinstance(models, list) or not any(model.get("state") in _LOADED for model in models):
                    break
                time.sleep(0.001)

    def _ask(self, what: Literal["load", "unload"], name: str) -> str:
        """Load or unload a model; returns the server's error, or nothing."""
        assert self._server is not None
        # The HTTP server does not decode names.
        if not _PLAIN.fullmatch(name):
            return _ask_grpc(self._server.grpc_url, what, name, 4 * self._limit)
        status, body = self._post(f"/v2/repository/models/{name}/{what}")
        return "" if status == 200 else _error(body)

    def _post(self, path: str) -> tuple[int, str]:
        assert self._server is not None
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._server.http_url)
            self._connection.connect()
        try:
            self._connection.request("POST", path, b"{}")
            self._wait()
            reply = self._connection.getresponse()
            return reply.status, reply.read().decode("utf-8", errors="replace")
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def _wait(self) -> None:
        """Wait for an answer; TimeoutError when there is none and the server does nothing to get there."""
        assert self._connection is not None and self._server is not None
        if select.select([self._connection.sock], [], [], self._limit)[0]:
            return
        before = _processor_time(self._server.pid)
        for _ in range(_PATIENCE):
            if select.select([self._connection.sock], [], [], 1)[0]:
                return
            now = _processor_time(self._server.pid)
            if now - before < _IDLE:
                break
            before = now
        raise TimeoutError

    def _log_since(self, mark: int) -> str:
        with self._log.open("rb") as file:
            file.seek(mark)
            return file.read().decode("utf-8", errors="replace").replace(f"{self._repository}/", "")

    def _last_words(self, mark: int = 0) -> str:
        """What the log says of an end: the error that nobody caught, and the signal."""
        lines = [line.strip() for line in self._log_since(mark).splitlines()]
        told = [line for line in lines if line.startswith(("terminate called", "what():", "Signal (", "E"))]
        return " ".join(told)[-400:] or "the server ended without a word"

    def _start(self, gpus: int) -> None:
        if self._server is not None and self._gpus == gpus and self._server.running():
            return
        self._stop()
        self._gpus = gpus
        self._server = EmbeddedServer(
            self._repository,
            runtime=_judging_runtime(self._work, gpus),
            control="explicit",
            log=self._log,
            grace=0.05,
            extra_args=(
                # A backend's library has to be a file in the backend's folder, not a link to one elsewhere.
                f"--backend-directory={_backends(self._work)}",
                # No real memory of GPUs, and no library that looks for real ones.
                "--cuda-memory-pool-byte-size=0:0",
                "--pinned-memory-pool-byte-size=0",
                "--allow-gpu-metrics=false",
            ),
        ).start()
        self._server.wait_ready(60, probe=False)
        self.starts += 1

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        server, self._server = self._server, None
        if server is not None:
            server.stop()


@contextlib.contextmanager
def judging() -> Iterator[Judge]:
    """A judge, with the plain reason as an error where there can be none."""
    reason = missing()
    if reason:
        raise RuntimeError(reason)
    with Judge() as judge:
        yield judge


def _first_faults(log: str) -> dict[str, str]:
    """The first thing that the text parser said of each model's config; it may go on after an error."""
    faults: dict[str, str] = {}
    fault = ""
    # Lines end where the server ends them: what it quotes may hold other line ends.
    for line in log.split("\n"):
        said = _FAULT.search(line)
        failed = _POLL_FAILED.search(line)
        if said and not fault:
            fault = said["fault"]
        elif failed and fault:
            faults.setdefault(failed["model"], fault)
            fault = ""
    return faults


def _ask_grpc(url: str, what: Literal["load", "unload"], name: str, limit: float) -> str:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call, request = {
            "load": (stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest),
            "unload": (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest),
        }[what]
        try:
            call(request(model_name=name), timeout=limit)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ConnectionError from error
            return str(error.details())
    return ""


def _judging_runtime(work: Path, gpus: int) -> Runtime:
    """A runtime whose server believes in its GPUs and cannot take all memory; the rest is the installed one's."""
    installed = _installed()
    root = work / f"runtime-{gpus}"
    server = root / "pytriton" / "tritonserver"
    if server.exists():
        return Runtime(root, installed.version)
    (server / "bin").mkdir(parents=True)
    for name in ("caches", "python_backend_stubs", "backends"):
        (server / name).symlink_to(installed.binary.parents[1] / name)
    (root / "nvidia_pytriton.libs").symlink_to(installed.libraries)
    gpu = _compile("pretend_gpu", work)
    command = f'LD_PRELOAD={shlex.quote(str(gpu))} PRETEND_GPUS={gpus} exec {shlex.quote(str(installed.binary))} "$@"'
    binary = server / "bin" / "tritonserver"
    binary.write_text(f"#!/bin/sh\nulimit -c 0\nulimit -v {_MEMORY}\n{command}\n", encoding="utf-8")
    binary.chmod(0o755)
    return Runtime(root, installed.version)


def _backends(work: Path) -> Path:
    """A backend directory with the Python backend and the stubs."""
    folder = work / "backends"
    if not folder.exists():
        installed = _installed()
        shutil.copytree(installed.backends / "python", folder / "python")
        shutil.copy(installed.stub, folder / "python")
        stub = _compile("stub_backend", work)
        for name in STUBS:
            (folder / name).mkdir()
            shutil.copy(stub, folder / name / f"libtriton_{name}.so")
    return folder


def _installed() -> Runtime:
    runtime = find_runtime()
    assert runtime is not None, missing()
    return runtime


def _compile(name: str, folder: Path) -> Path:
    library = folder / f"{name}.so"
    if not library.exists():
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(_source(name))]
        subprocess.run(command, check=True, capture_output=True)
    return library


def _processor_time(session: int | None) -> float:
    """Seconds that the processes of a session have computed."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _source(name: str) -> Path:
    return _HERE / f"{name}.c"


def _error(body: str) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body
