"""Reading Triton's log: which models it could not load, and why."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_LINE = re.compile(r"^(?P<level>[IWEF])\d{4} [\d:.]+ \d+ \S+:\d+\] (?P<message>.*)$")
_FAILED = re.compile(r"^failed to load '(?P<model>.+?)' version (?P<version>\S+): (?P<reason>.*)$", re.DOTALL)
_POLL_FAILED = re.compile(r"^Poll failed for model directory '(?P<model>.+?)': (?P<reason>.*)$", re.DOTALL)
_PARSER = re.compile(r"^\[libprotobuf ERROR .*\] (?P<message>Error parsing text-format .*)$")
_LOADING = re.compile(r"^loading: (?P<model>.+:\S+)$")
_ENDED = re.compile(r"^(successfully loaded|failed to load) '(?P<model>.+?)'")
_FATAL = re.compile(r"^error: (?P<message>.*)$")
_BIND = re.compile(r"(?i)already in use|failed to start (the )?(http|grpc|metrics) service|unable to (find|bind)")
# Said on every machine without a GPU.
_HARMLESS = ("CudaDriverHelper has not been initialized",)


@dataclass(frozen=True)
class ModelFailure:
    """A model that the server could not load, with the server's reason on one line."""

    model: str
    reason: str


def model_failures(log: str) -> tuple[ModelFailure, ...]:
    """Every model that could not be loaded, in the order of the log, each once with its last reason."""
    failures: dict[str, str] = {}
    parser = ""
    for line in log.splitlines():
        parsed = _PARSER.match(line)
        if parsed:
            # The text parser says what is wrong and where; the line after it says in which model.
            parser = parsed["message"]
            continue
        message = _error(line)
        match = _FAILED.match(message) or _POLL_FAILED.match(message)
        if match:
            reason = f"{match['reason']} ({parser})" if parser and match.re is _POLL_FAILED else match["reason"]
            failures[match["model"]] = _one_line(reason)
            parser = ""
    return tuple(ModelFailure(model, reason) for model, reason in failures.items())


def still_loading(log: str) -> tuple[str, ...]:
    """Models (``name:version``) whose loading began and has neither succeeded nor failed."""
    loading: dict[str, None] = {}
    for line in log.splitlines():
        message = _message(line)
        begun = _LOADING.match(message)
        if begun:
            loading[begun["model"]] = None
        ended = _ENDED.match(message)
        if ended:
            for name in [name for name in loading if name.rpartition(":")[0] == ended["model"]]:
                del loading[name]
    return tuple(loading)


def errors(log: str) -> tuple[str, ...]:
    """The server's error messages, each on one line, without those that mean nothing."""
    messages = (_error(line) for line in log.splitlines())
    return tuple(_one_line(message) for message in messages if message and not message.startswith(_HARMLESS))


def bind_failed(log: str) -> bool:
    """Whether the server ended because one of its ports was taken."""
    return any(_BIND.search(message) for message in errors(log))


def _error(line: str) -> str:
    """The message of a line that reports an error, else nothing."""
    match = _LINE.match(line)
    if match is None:
        fatal = _FATAL.match(line)
        return fatal["message"] if fatal else ""
    return _message(line) if match["level"] in "EF" else ""


def _message(line: str) -> str:
    match = _LINE.match(line)
    message = match["message"] if match else ""
    if not message.startswith('"'):
        return message
    try:
        # Messages are JSON strings, which keeps one of several lines on one line.
        return str(json.loads(message))
    except ValueError:
        return message.strip('"')


def _one_line(text: str) -> str:
    return " ".join(text.split())
