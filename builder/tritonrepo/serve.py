"""Repository -> running Triton. Ready means that every model has answered an inference."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from tritonrepo import _http, _keeper, _ports, _serverlog, _stubs
from tritonrepo.errors import ServeError, UsageError
from tritonrepo.probe import Probe, probe_models
from tritonrepo.runtime import TRITON_VERSION, Runtime, find_runtime

Control = Literal["none", "poll", "explicit"]

_BIND_ATTEMPTS = 5
_POLL = 0.05
_LOG = "server.log"
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
        extra_args: more arguments for tritonserver; files in them must be given by absolute paths.
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
        _check_models(models, control)
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
        return self._work / _LOG

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
                    raise self.failure()
                if any(self._asked.values()) or attempts == _BIND_ATTEMPTS:
                    raise self._port_failure()
                # Another process took a port between our choice and the server's use of it.
                attempts += 1
                self.stop()
                self.start()
            elif time.monotonic() > end:
                loading = ", ".join(_serverlog.still_loading(self.log_text()))
                raise self.failure(
                    f"the server was not ready within {timeout:g} s{f'; still loading: {loading}' if loading else ''}"
                )
        if not probe:
            return ()
        probes = probe_models(self.http_url, self.repository, timeout=max(1, end - time.monotonic()))
        failed = probe_failure(probes)
        if failed:
            raise self.failure(failed)
        return probes

    def wait(self, seconds: float) -> bool:
        """Wait so long for the server to end by itself; returns whether it has."""
        return self._keeper is None or self._ended(seconds)

    def exit_code(self) -> int | None:
        """Exit code of a server that has ended by itself; 128 + N where signal N ended it, None while it runs."""
        if self._keeper is None or not self._ended(0):
            return None
        # It ends as the server did, as soon as it has cleaned up.
        return self._keeper.wait(self._grace + 10)

    def stop(self) -> None:
        """Stop the server: SIGTERM, and SIGKILL after the grace period. Nothing happens where none runs.

        An interruption (KeyboardInterrupt, say) while this waits ends the server at once.
        """
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                self._stop(keeper)
        finally:
            self.pid = None
            work, self._work = self._work, None
            if work is not None:
                self._clear(work)

    def _stop(self, keeper: subprocess.Popen[bytes]) -> None:
        stdin, stdout = _pipes(keeper)
        try:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(self._grace + 10)
        finally:
            # Where it has not ended, the kernel ends the server with it.
            keeper.kill()
            if keeper.wait() < 0 and self.pid is not None:
                # Nobody has ended the Python backend's processes; one may wait for ever for a lock of the dead server.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            stdout.close()
            _keeper.remove_shared_memory(self._prefix)

    def _clear(self, work: Path) -> None:
        with contextlib.suppress(OSError):
            self._final_log = _tail(self._log or work / _LOG, _KEPT_LOG)
        if not self._failed or self._log is not None:
            shutil.rmtree(work, ignore_errors=True)
            return
        for folder in ("backends", "python"):
            shutil.rmtree(work / folder, ignore_errors=True)

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
        word, _, number = _pipes(self._keeper)[1].readline().decode().partition(" ")
        if word != "pid":
            raise self.failure("the server could not be started")
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
            status, _ = _http.request(self.http_url, "/v2/health/ready", timeout=5)
        except OSError:
            return False
        # Another server may have been faster to take the port, and then it is that one which answers.
        return status == 200 and self.pid is not None and _ports.listens(self.pid, self._ports["http"])

    def _ended(self, wait: float) -> bool:
        """Whether the server has ended, after waiting for that at most so many seconds."""
        assert self._keeper is not None  # noqa: S101 - callers looked
        return bool(select.select([_pipes(self._keeper)[1]], [], [], wait)[0])

    def _port_failure(self) -> ServeError:
        for name, port in self._ports.items():
            if not _ports.is_free(self.host, port):
                return port_in_use(self.host, port, f"--{name}-port")
        return self.failure("the server could not bind its ports")

    def failure(self, message: str = "") -> ServeError:
        """The error for a server that did not come up; its log is kept, and named in the hint."""
        self._failed = True
        message = message or load_failure(self.log_text())
        return ServeError(message, where=self.repository, hint=f"the server's whole log: {self.log_path}")


@dataclass(frozen=True)
class ServeOptions:
    """How a repository is served, whichever way; the words are those of `EmbeddedServer`."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    control: Control = "none"
    poll_seconds: int = 1
    models: tuple[str, ...] | None = None
    log: Path | None = None
    extra_args: tuple[str, ...] = ()
    grace: float = 15
    timeout: float = 300
    """Seconds within which every model must have answered."""

    def __post_init__(self) -> None:
        _check_models(self.models, self.control)


def run_embedded(
    repository: Path, options: ServeOptions, report: Callable[[str], None], *, runtime: Runtime | None = None
) -> None:
    """Serve the repository with the embedded server until SIGINT or SIGTERM; then stop it and return.

    Args:
        repository: the model repository.
        options: ports, control mode, log and the like.
        report: called with each line of progress.
        runtime: the server to run; by default what `find_runtime` finds.

    Raises:
        ServeError: the server cannot be started, a model does not answer, or the server ends by itself.
    """
    require_models(repository)
    settings = {name: value for name, value in vars(options).items() if name != "timeout"}
    began = time.monotonic()
    server = EmbeddedServer(repository, runtime=runtime, **settings)
    with until_stopped(), server:
        try:
            report(f"Triton {TRITON_VERSION} (embedded, process {server.pid}) loads {server.repository}")
            probes = server.wait_ready(options.timeout)
            report_ready(probes, began, report)
            report(f"HTTP {server.http_url}  gRPC {server.grpc_url}  metrics http://{server.metrics_url}/metrics")
            report_exposure(options.host, report)
            report("Ctrl-C stops it.")
            _watch(server, report)
        except Stopped:
            report(f"Stopping; requests in flight have {options.grace:g} s to finish. Ctrl-C again ends them.")
            server.stop()
            report("Stopped.")
            raise


def _watch(server: EmbeddedServer, report: Callable[[str], None]) -> None:
    """Pass on what the server reports as errors, such as a model that poll mode could not load, until it ends."""
    told = len(_serverlog.errors(server.log_text()))
    size = server.log_path.stat().st_size
    while not server.wait(0.5):
        if server.log_path.stat().st_size != size:
            size = server.log_path.stat().st_size
            errors = _serverlog.errors(server.log_text())
            for message in errors[told:]:
                report(f"Triton: {message}")
            told = len(errors)
    raise server.failure(f"Triton ended by itself, with exit code {server.exit_code()}")


class Stopped(BaseException):
    """SIGINT or SIGTERM came; derived from BaseException so that no handler of errors swallows it."""


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped`, and end quietly on it. In other threads than the main one: nothing."""

    def stop(*_: object) -> None:
        raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_models(models: Sequence[str] | None, control: Control) -> None:
    if models is not None and control != "explicit":
        raise UsageError(f"control mode {control} loads all models; none can be named", hint="add `--control explicit`")


def require_models(repository: Path) -> None:
    """ServeError where there is no repository, or nothing in it."""
    if not repository.is_dir():
        raise ServeError("there is no such model repository", where=repository, hint="build it: `tritonrepo build`")
    if not any(path.is_dir() for path in repository.iterdir()):
        raise ServeError("the model repository holds no model", where=repository, hint="build one: `tritonrepo build`")


def load_failure(log: str) -> str:
    """Why a server ended before it was ready, told from its log: the models it could not load, and its reasons."""
    failures = _serverlog.model_failures(log)
    if failures:
        reasons = _listed((each.model, each.reason) for each in failures)
        return f"Triton could not load {_count(len(failures), 'model')}: {reasons}"
    said = _serverlog.errors(log)[-3:] or tuple(line for line in log.splitlines()[-3:] if line.strip())
    return f"Triton ended before it was ready: {'; '.join(said) or 'it gave no reason'}"


def probe_failure(probes: Sequence[Probe]) -> str:
    """What to say of the models that did not answer; empty where all did."""
    failed = [each for each in probes if each.status == "failed"]
    if not failed:
        return ""
    reasons = _listed((f"{each.model} (version {each.version})", each.detail) for each in failed)
    return f"{_count(len(failed), 'model')} did not answer an inference: {reasons}"


def report_ready(probes: Sequence[Probe], began: float, report: Callable[[str], None]) -> None:
    """One line for each model that answered, or was not asked, and one for all of them."""
    for probe in probes:
        result = probe.detail if probe.status == "not probed" else f"{probe.seconds * 1000:.0f} ms"
        report(f"  {probe.model} {probe.version}: {probe.status} ({result})")
    report(f"Ready after {time.monotonic() - began:.1f} s: {_count(len(probes), 'model version')}.")


def report_exposure(host: str, report: Callable[[str], None]) -> None:
    """Warn where other machines may reach the server, because Triton asks nobody who they are."""
    if not _ports.is_loopback(host):
        report(f"Warning: {host} can be reached from other machines, and Triton asks nobody for a password.")


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


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both were asked for
    return process.stdin, process.stdout


def _tail(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _listed(reasons: Iterator[tuple[str, str]]) -> str:
    lines = [f"{name}: {reason}" for name, reason in reasons]
    return lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
