"""Edits of a config that has been parsed: a field's value replaced, a field taken out, a line added.

For rules whose finding has exactly one right mend:

    yield model.spot("max_batch_size", "...", "...", edits=[replaced(model.config, "max_batch_size", "8")])
"""

from __future__ import annotations

from tritonrepo.check._textformat import Message
from tritonrepo.check.rule import Edit

_CLOSING = {"{": "}", "<": ">", "[": "]"}


def replaced(message: Message, name: str, text: str, index: int = 0) -> Edit:
    """Write something else as a field's value, or as one of the values of a repeated field."""
    mark = _mark(message, name, index)
    first = message._value_token(mark)
    return Edit(_start(message, first), _end(message, _last(message, first)), text)


def removed(message: Message, name: str, index: int = 0) -> Edit:
    """Take out a field, or one occurrence of a repeated field; a list ``[...]`` goes as a whole.

    Lines on which nothing else stands go with it.
    """
    mark = _mark(message, name, index)
    first = mark[0] if isinstance(mark, tuple) else mark
    tokens = message._document._tokens
    value = first + 2 if tokens[first + 1] == ":" else first + 1
    last = _last(message, value)
    if tokens[last + 1] in {",", ";"}:
        last += 1
    text, start, end = message._document._text, _start(message, first), _end(message, last)
    line = text.rfind("\n", 0, start) + 1
    rest = text.find("\n", end)
    rest = len(text) if rest < 0 else rest + 1
    if not text[line:start].strip() and not text[end:rest].strip():
        return Edit(line, rest, "")
    # One of the blanks around it goes with it.
    if text[end : end + 1] == " ":
        end += 1
    elif not text[end:rest].strip() and text[start - 1 : start] == " ":
        start -= 1
    return Edit(start, end, "")


def added(message: Message, text: str) -> Edit:
    """Write another field at the end of a message; of the config, where the message is its root."""
    document = message._document
    if message._token < 0:
        end = len(document._text)
        newline = "" if document._text[-1:] in {"", "\n"} else "\n"
        return Edit(end, end, f"{newline}{text}\n")
    end = _start(message, _last(message, message._token))
    line = document._text.rfind("\n", 0, end) + 1
    indent = document._text[line:end]
    if line and not indent.strip():
        return Edit(line, line, f"{indent}  {text}\n")
    blank = "" if document._text[end - 1].isspace() else " "
    return Edit(end, end, f"{blank}{text} ")


def _mark(message: Message, name: str, index: int) -> int | tuple[int, int]:
    if index >= len(message._marks.get(name, ())):
        raise ValueError(f"{name} of {message.kind} is not written in the config")
    return message._mark(name, index)


def _last(message: Message, first: int) -> int:
    """The last token of the value that begins with a token."""
    tokens = message._document._tokens
    if tokens[first] == "-":
        return first + 1
    last = first
    if tokens[first][:1] in {'"', "'"}:
        while tokens[last + 1][:1] in {'"', "'"}:
            last += 1
    depth = 0
    while tokens[last] in _CLOSING or depth:
        depth += (tokens[last] in _CLOSING) - (tokens[last] in _CLOSING.values())
        if not depth:
            break
        last += 1
    return last


def _start(message: Message, token: int) -> int:
    return message._document._starts[token]


def _end(message: Message, token: int) -> int:
    return message._document._starts[token] + len(message._document._tokens[token])
