"""Repository -> running Triton. Ready means that every model has answered an inference."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from tritonrepo import _http, _keeper, _ports, _serverlog, _stubs
from tritonrepo.errors import ServeError
from tritonrepo.probe import Probe, probe_models
from tritonrepo.runtime import Runtime, find_runtime

Control = Literal["none", "poll", "explicit"]

_BIND_ATTEMPTS = 5
_POLL = 0.05
_CACHE_BYTES = 64 << 20
_KEPT_LOG = 1 << 20
_RESPONSE_CACHE = re.compile(r"\bresponse_cache\s*:?\s*[{<][^}>]*\benable\s*:\s*true\b")


class EmbeddedServer:
    """A Triton server from the embedded runtime, as a child of this process.

        with EmbeddedServer(Path("model_repository")) as server:
            server.wait_ready(60)
            print(server.http_url)

    However this process ends, also by SIGKILL, the server ends with it and its shared memory is removed. A terminal's
    Ctrl-C does not reach the server. Not for use by several threads at once.

    Args:
        repository: the model repository.
        runtime: the server to run; by default what `find_runtime` finds.
        http_port, grpc_port, metrics_port: 0 picks a free port.
        host: address to bind, for all three.
        control: Triton's model control mode. ``none`` loads all models once; one that cannot be loaded ends the server.
        poll_seconds: how often ``poll`` looks for changes.
        models: what ``explicit`` loads at the start; ``("*",)`` for all, None for nothing.
        log: file for the server's log (appended to); by default a temporary one, which survives only a failure.
        extra_args: more arguments for tritonserver.
        grace: seconds that requests in flight have to finish when the server is stopped.
    """

    def __init__(
        self,
        repository: Path,
        *,
        runtime: Runtime | None = None,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        host: str = "127.0.0.1",
        control: Control = "none",
        poll_seconds: int = 1,
        models: Sequence[str] | None = None,
        log: Path | None = None,
        extra_args: Sequence[str] = (),
        grace: float = 15,
    ) -> None:
        if models is not None and control != "explicit":
            raise ValueError("models are chosen with control='explicit' only")
        self.repository = Path(repository).absolute()
        self.host = host
        self.control = control
        self._runtime = runtime
        self._asked = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._ports = dict(self._asked)
        self._poll_seconds = poll_seconds
        self._models = tuple(models or ())
        self._log = log
        self._extra_args = tuple(extra_args)
        self._grace = grace
        self._keeper: subprocess.Popen[bytes] | None = None
        self._work: Path | None = None
        self._prefix = ""
        self._final_log = ""
        self._failed = False
        self.pid: int | None = None
        """Process id of tritonserver itself; None when it does not run."""

    @property
    def http_url(self) -> str:
        """``host:port`` of the HTTP endpoint, as clients take it."""
        return self._url("http")

    @property
    def grpc_url(self) -> str:
        """``host:port`` of the gRPC endpoint."""
        return self._url("grpc")

    @property
    def metrics_url(self) -> str:
        """``host:port`` of the Prometheus endpoint (path /metrics)."""
        return self._url("metrics")

    @property
    def log_path(self) -> Path:
        """Where the log is, or will be, written."""
        if self._log is not None:
            return self._log
        if self._work is None:
            raise ServeError("the server has not been started, so it has no log")
        return self._work / "server.log"

    def log_text(self) -> str:
        """What the server has logged; after `stop` the last megabyte of it."""
        if self._keeper is None:
            return self._final_log
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._keeper is not None and not self._ended(0)

    def start(self) -> EmbeddedServer:
        """Start the process and return at once.

        Raises:
            ServeError: there is no runtime, no repository, or a given port is in use.
        """
        if self._keeper is not None:
            raise ServeError("the server is running already")
        if not self.repository.is_dir():
            raise ServeError(
                "there is no such model repository", where=self.repository, hint="build it: `tritonrepo build`"
            )
        runtime = self._runtime or find_runtime()
        if runtime is None:
            raise ServeError(
                "the embedded Triton server is not installed",
                hint="install it: `tritonrepo serve --install-only`; or use Docker: `tritonrepo serve --with docker`",
            )
        self._choose_ports()
        self._failed = False
        self._work = Path(tempfile.mkdtemp(prefix="tritonrepo-"))
        try:
            _stubs.link_backends(runtime, self._work / "backends")
            self._spawn(runtime, _stubs.link_python(runtime, self._work / "python"))
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, timeout: float = 120, *, probe: bool = True) -> tuple[Probe, ...]:
        """Wait until the server is ready and, with ``probe``, every model has answered; returns what they answered.

        Raises:
            ServeError: the server ended (the message names the models it could not load, and its reasons), was not
                ready in time, or a model gave an error instead of an answer.
        """
        end = time.monotonic() + timeout
        attempts = 1
        while not self._is_ready():
            if self._ended(_POLL):
                log = self.log_text()
                if not _serverlog.bind_failed(log):
                    raise self._failure()
                if any(self._asked.values()) or attempts == _BIND_ATTEMPTS:
                    raise self._port_failure()
                # Another process took a port between our choice and the server's use of it.
                attempts += 1
                self.stop()
                self.start()
            elif time.monotonic() > end:
                raise self._failure(f"the server was not ready within {timeout:g} s")
        if not probe:
            return ()
        probes = probe_models(self.http_url, self.repository, timeout=max(1, end - time.monotonic()))
        failed = [each for each in probes if each.status == "failed"]
        if failed:
            reasons = _listed((f"{each.model} (version {each.version})", each.detail) for each in failed)
            raise self._failure(f"{_count(len(failed), 'model')} did not answer an inference: {reasons}")
        return probes

    def stop(self) -> None:
        """Stop the server: SIGTERM, and SIGKILL after the grace period. Nothing happens where none runs."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            assert keeper.stdin is not None and keeper.stdout is not None  # noqa: S101 - both were asked for as pipes
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.close()
            try:
                keeper.wait(self._grace + 10)
            except subprocess.TimeoutExpired:
                # The kernel ends the server with its keeper.
                keeper.kill()
                keeper.wait()
                _keeper.remove_shared_memory(self._prefix)
            keeper.stdout.close()
        self.pid = None
        if self._work is None:
            return
        with contextlib.suppress(OSError):
            self._final_log = _tail(self.log_path, _KEPT_LOG)
        if self._failed and self._log is None:
            shutil.rmtree(self._work / "backends", ignore_errors=True)
        else:
            shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> EmbeddedServer:
        return self if self._keeper is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _url(self, name: str) -> str:
        return f"{reachable(self.host)}:{self._ports[name]}"

    def _choose_ports(self) -> None:
        for name, port in self._asked.items():
            if port and not _ports.is_free(self.host, port):
                raise port_in_use(self.host, port, f"--{name}-port")
        chosen = iter(_ports.free_ports(self.host, sum(not port for port in self._asked.values())))
        self._ports = {name: port or next(chosen) for name, port in self._asked.items()}

    def _spawn(self, runtime: Runtime, environment: dict[str, str]) -> None:
        self._prefix = f"{_keeper.SHM_PREFIX}{uuid.uuid4().hex[:12]}"
        command = [
            sys.executable, "-I", "-S", _keeper.__file__, str(self._grace), self._prefix, str(self._work), "--",
            *self._arguments(runtime),
        ]  # fmt: skip
        with self._open_log() as log:
            self._keeper = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None  # noqa: S101 - it was asked for as a pipe
        word, _, number = self._keeper.stdout.readline().decode().partition(" ")
        if word != "pid":
            raise self._failure("the server could not be started")
        self.pid = int(number)

    def _open_log(self) -> IO[bytes]:
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            return self.log_path.open("ab")
        except OSError as error:
            raise ServeError(f"the log cannot be written: {error.strerror}", where=self.log_path) from error

    def _arguments(self, runtime: Runtime) -> list[str]:
        assert self._work is not None  # noqa: S101 - made by start()
        arguments = [
            str(runtime.binary),
            f"--model-repository={self.repository}",
            f"--backend-directory={self._work / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            f"--model-control-mode={self.control}",
            f"--exit-timeout-secs={max(1, int(self._grace))}",
        ]
        for name, port in self._ports.items():
            arguments += [f"--{name}-address={self.host}", f"--{name}-port={port}"]
        if self.control == "poll":
            arguments.append(f"--repository-poll-secs={self._poll_seconds}")
        arguments += [f"--load-model={name}" for name in self._models]
        if wants_response_cache(self.repository):
            arguments += [f"--cache-directory={runtime.caches}", f"--cache-config=local,size={_CACHE_BYTES}"]
        return [*arguments, *self._extra_args]

    def _is_ready(self) -> bool:
        if self._keeper is None:
            raise ServeError("the server is not running; start it first")
        try:
            return _http.request(self.http_url, "/v2/health/ready", timeout=5)[0] == 200
        except OSError:
            return False

    def _ended(self, wait: float) -> bool:
        """Whether the server has ended, after waiting for that at most so many seconds."""
        assert self._keeper is not None and self._keeper.stdout is not None  # noqa: S101 - callers looked
        return bool(select.select([self._keeper.stdout], [], [], wait)[0])

    def _port_failure(self) -> ServeError:
        for name, port in self._ports.items():
            if not _ports.is_free(self.host, port):
                return port_in_use(self.host, port, f"--{name}-port")
        return self._failure("the server could not bind its ports")

    def _failure(self, message: str = "") -> ServeError:
        """The error for a server that did not come up; its log is kept, and named in the hint."""
        self._failed = True
        log = self.log_text()
        failures = _serverlog.model_failures(log)
        if failures and not message:
            reasons = _listed((each.model, each.reason) for each in failures)
            message = f"Triton could not load {_count(len(failures), 'model')}: {reasons}"
        elif not message:
            said = _serverlog.errors(log)[-3:] or tuple(line for line in log.splitlines()[-3:] if line.strip())
            message = f"Triton ended before it was ready: {'; '.join(said) or 'it gave no reason'}"
        return ServeError(message, where=self.repository, hint=f"the server's whole log: {self.log_path}")


def port_in_use(host: str, port: int, option: str) -> ServeError:
    """The error for a port that is taken."""
    who = _ports.listener(port)
    return ServeError(
        f"port {port} on {host} is in use{f' by {who}' if who else ''}",
        hint=f"stop that process, or give another port with {option} (0 picks a free one)",
    )


def reachable(host: str) -> str:
    """The address at which a server that binds ``host`` is reached from this machine."""
    if host in ("", "0.0.0.0"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{'::1' if host == '::' else host}]" if ":" in host else host


def wants_response_cache(repository: Path) -> bool:
    """Whether a model's config asks for the response cache, without which the server refuses to load it."""
    for config in repository.glob("*/config.pbtxt"):
        with contextlib.suppress(OSError):
            text = re.sub(r"#[^\n]*", "", config.read_text(encoding="utf-8", errors="replace"))
            if _RESPONSE_CACHE.search(text):
                return True
    return False


def _tail(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _listed(reasons: Iterator[tuple[str, str]]) -> str:
    lines = [f"{name}: {reason}" for name, reason in reasons]
    return lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
