"""What the real server makes of a config's text, and whether ``check._textformat`` makes the same of it.

    python tests/textformat_oracle.py --seed 1 --count 5000

shows both the same texts and tells where they differ: in accepting them, in the place or the words of the first error,
or in the values.
"""

from __future__ import annotations

import argparse
import http.client
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from textformat_texts import texts
from tritonrepo.check._schema import Schema, schema
from tritonrepo.check._textformat import Message, parse
from tritonrepo.runtime import Runtime, find_runtime, install_runtime
from tritonrepo.serve import EmbeddedServer

RELEASE = "24.10"
"""The release that the embedded server, 2.51, belongs to."""

_ERROR = re.compile(rb"^\[libprotobuf ERROR [^\]]*\] Error parsing text-format inference\.ModelConfig: ", re.MULTILINE)
_PLACE = re.compile(r"(\d+):(\d+): (.*)", re.DOTALL)
_SHOWN = re.compile(rb"^I\d+ [^\n]*Server side auto-completed config: \"\n", re.MULTILINE)
_LOG_LINE = re.compile(rb"^(?:[IWE]\d{4} \d\d:|\[libprotobuf )", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What the server made of a text."""

    error: tuple[str, int, int] | None
    """Message, line and column of its first error."""
    shown: bytes | None
    """The config as it understood it, as text, with a name and perhaps backend and platform filled in."""
    crashed: bool = False
    """Whether it ended after it had read the text."""


class Oracle:
    """A server that reads configs; a context manager. No model is ever loaded: none has a version directory."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._work = Path(tempfile.mkdtemp(prefix="tritonrepo-oracle-"))
        self._server: EmbeddedServer | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._read = 0

    def __enter__(self) -> Oracle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self._work, ignore_errors=True)

    def judge(self, texts: Sequence[bytes]) -> Iterator[Verdict]:
        """What the server makes of each of them."""
        for text in texts:
            yield self._judge(text)

    def _judge(self, text: bytes) -> Verdict:
        server = self._running()
        # A name with a suffix gives a model without a backend one, so that every config is shown.
        folder = server.repository / "m.any"
        folder.mkdir()
        try:
            (folder / "config.pbtxt").write_bytes(text)
            try:
                assert self._connection is not None
                self._connection.request("POST", "/v2/repository/models/m.any/load", b"{}")
                self._connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                assert server.wait(10), "the server neither answered nor ended"
            log = self._said(server.log_path)
            crashed = not server.running()
            if crashed:
                self._stop()
        finally:
            shutil.rmtree(folder)
        return Verdict(_first_error(log), _config_shown(log), crashed)

    def _running(self) -> EmbeddedServer:
        if self._server is None:
            repository = self._work / "repository"
            repository.mkdir(exist_ok=True)
            options: dict[str, Any] = {"control": "explicit", "grace": 0.05, "log": self._work / "log"}
            (self._work / "log").unlink(missing_ok=True)
            self._server = EmbeddedServer(
                repository, runtime=self._runtime, extra_args=["--log-verbose=1"], **options
            ).start()
            self._server.wait_ready(60, probe=False)
            self._connection = http.client.HTTPConnection(self._server.http_url, timeout=60)
            self._read = (self._work / "log").stat().st_size
        return self._server

    def _said(self, log: Path) -> bytes:
        with log.open("rb") as file:
            file.seek(self._read)
            said = file.read()
        self._read += len(said)
        return said

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._server is not None:
            self._server.stop()
            self._server = None


def _first_error(log: bytes) -> tuple[str, int, int] | None:
    start = _ERROR.search(log)
    if start is None:
        return None
    end = _LOG_LINE.search(log, start.end())
    text = log[start.end() : end.start() if end else len(log)].decode("utf-8", "replace").removesuffix("\n")
    place = _PLACE.fullmatch(text)
    assert place, text
    return place[3], int(place[1]), int(place[2])


def _config_shown(log: bytes) -> bytes | None:
    start = _SHOWN.search(log)
    if start is None:
        return None
    end = _LOG_LINE.search(log, start.end())
    return log[start.end() : end.start() if end else len(log)]


def values(message: Message) -> dict[str, Any]:
    """What a message holds, to be compared: without scalars that equal their default, as the server prints it."""
    held: dict[str, Any] = {}
    for name in message.fields:
        field = message.type.fields[name]
        if field.map:
            held[name] = {key: _value(value) for key, value in message.map(name).items()}
        elif field.repeated:
            held[name] = [_value(value) for value in message.all(name)]
        elif field.presence or _value(message.get(name)) != _value(message.default(name)):
            held[name] = _value(message.get(name))
    return {
        name: value
        for name, value in held.items()
        if value not in ([],) and (value != {} or not message.type.fields[name].map)
    }


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return values(value)
    return repr(value) if isinstance(value, float) else value


def differences(text: bytes, verdict: Verdict, types: Schema) -> list[str]:
    """Where the server and the parser differ on a text: ``acceptance``, ``place``, ``message``, ``values``."""
    document = parse(text, types)
    error = document.error
    if verdict.error is None or error is None:
        found = [] if verdict.error is None and error is None else ["acceptance"]
    else:
        found = ["message"] if verdict.error[0] != error.message else []
        found += ["place"] if verdict.error[1:] != (error.line, error.column) else []
    if verdict.shown is not None and not found:
        shown = parse(verdict.shown, types)
        assert shown.error is None, shown.error
        theirs, ours = values(shown.root), values(document.root)
        for filled in ("name", "backend", "platform", "default_model_filename"):
            if filled not in ours:
                theirs.pop(filled, None)
        found += ["values"] if theirs != ours else []
    return found


def main() -> int:
    """Show both the same texts; write the differences and the totals."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--count", type=int, default=1000)
    options = arguments.parse_args()
    types = schema(RELEASE)
    wanted = list(texts(options.seed, options.count, types))
    totals: Counter[str] = Counter()
    with Oracle(find_runtime() or install_runtime()) as oracle:
        for text, verdict in zip(wanted, oracle.judge(wanted), strict=True):
            totals["refused" if verdict.error else "accepted"] += 1
            totals["shown"] += verdict.shown is not None
            totals["crashed"] += verdict.crashed
            found = differences(text, verdict, types)
            totals.update(f"differs in {name}" for name in found)
            if found:
                sys.stdout.write(f"{found}\n  {text!r}\n  {verdict}\n  {parse(text, types).error}\n")
    sys.stdout.write(f"{dict(totals)}\n")
    return any(name.startswith("differs") for name in totals)


if __name__ == "__main__":
    sys.exit(main())
