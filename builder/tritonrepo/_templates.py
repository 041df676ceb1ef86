"""The templates: where they are found, the filters they may use, and their errors with a template's file and line."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import struct
import textwrap
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo._model_config import FieldDescriptor, Message, is_map, is_repeated, present_fields
from tritonrepo.errors import TemplateError, Where

if TYPE_CHECKING:
    import jinja2

_PACKAGE = "tritonrepo_templates"
_COMMENT_WIDTH = 110


def lay_out(name: str, templates: Path | None, **context: object) -> str:
    """Fill the template ``name``; one of that name in the folder ``templates`` takes the place of the built-in one.

    Raises:
        TemplateError: the template is missing, has a fault or uses a variable that is not there; with file and line.
    """
    import jinja2

    environment = _environment(templates)
    try:
        return environment.get_template(name).render(context)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            error.message or "syntax error", where=Where(error.filename or name, error.lineno)
        ) from error
    except Exception as error:  # whatever a template does wrong, a filter's TypeError included, is the template's error
        raise TemplateError(_what(error), where=_where(error, templates) or Where(name)) from error


def digest(templates: Path | None) -> str:
    """Give the SHA-256 (hexadecimal) over the names and contents of all templates that ``lay_out`` can find."""
    files = dict(_files(_built_in_folder()))
    if templates is not None:
        files.update(_files(_checked(templates)))
    result = hashlib.sha256()
    for name, file in sorted(files.items()):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise TemplateError(f"cannot read the template: {error.strerror}", where=file) from error
        result.update(f"{len(name.encode('utf-8', 'surrogateescape'))} {len(content)}\n".encode())
        result.update(name.encode("utf-8", "surrogateescape") + content)
    return result.hexdigest()


def _built_in_folder() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise TemplateError("the built-in templates are missing", hint="reinstall tritonrepo")
    return Path(package.origin).parent


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in folder.rglob("*"):
        if file.suffix not in {".py", ".pyc"} and file.is_file():
            yield file.relative_to(folder).as_posix(), file


def _checked(templates: Path) -> Path:
    if not templates.is_dir():
        raise TemplateError("there is no such folder of templates", where=templates)
    return templates


def _environment(templates: Path | None) -> jinja2.Environment:
    import jinja2

    built_in = jinja2.PackageLoader(_PACKAGE, "")
    # built-in/NAME is the built-in template also where the user's own of that name takes its place.
    loaders: list[jinja2.BaseLoader] = [built_in, jinja2.PrefixLoader({"built-in": built_in})]
    if templates is not None:
        loaders.insert(0, jinja2.FileSystemLoader(_checked(templates)))
    # Not the sandboxed environment: templates are the user's own code, and what comes from a model (names) enters as
    # data, never as template source. No autoescape: the output is text format and Python, to which HTML's escapes are
    # foreign; `quote` and `py` are the ways to write a value.
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quote=quote, comment=comment, entries=entries, py=python_literal)
    return environment


def _what(error: Exception) -> str:
    import jinja2

    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no template {error.message}"
    if isinstance(error, jinja2.TemplateError):
        return error.message or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _where(error: Exception, templates: Path | None) -> Where | None:
    """The innermost line of a template in the traceback, which jinja2 rewrites to name templates."""
    folders = [folder for folder in (templates, _built_in_folder()) if folder is not None]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(folder) for folder in folders):
            return Where(frame.filename, frame.lineno)
    return None


# ---- filters ---------------------------------------------------------------------------------------------------------

_NAMED_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: Backslash, quote, and all that a terminal or an editor may take for a control character or the end of a line.
_TO_ESCAPE = re.compile('[\\\\"\x00-\x1f\x7f-\x9f\u2028\u2029]')


def quote(value: str) -> str:
    """Write a text as protobuf's text format reads it, in C++ as in Python; readable non-ASCII text stays as it is."""
    return '"' + _TO_ESCAPE.sub(_escape, value) + '"'


def _escape(match: re.Match[str]) -> str:
    # Octal with three digits: unlike hexadecimal escapes, which have no fixed length in C++, it ends by itself.
    character = match.group()
    return _NAMED_ESCAPES.get(character) or "".join(f"\\{byte:03o}" for byte in character.encode())


def comment(text: str) -> str:
    """Write a text as lines of comment that begin with ``# ``; a line break in it cannot end the comment."""
    words = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip().encode("utf-8", "backslashreplace").decode()
    lines = textwrap.wrap(words, _COMMENT_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines) or "#"


def python_literal(value: object) -> str:
    """Write texts, numbers, switches, None and tuples of these as Python does, texts in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # each of JSON's escapes means the same in Python
    if isinstance(value, tuple):
        return f"({', '.join(map(python_literal, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


@dataclass(frozen=True)
class Entry:
    """One ``name: text`` or ``name { entries }`` of a message; the other of ``text`` and ``entries`` is None."""

    name: str
    text: str | None = None
    entries: tuple[Entry, ...] | None = None


def entries(message: Message) -> tuple[Entry, ...]:
    """Give all that is set in a message, in the schema's order; maps by key, lists of plain values as one entry."""
    return tuple(entry for field, value in present_fields(message) for entry in _field_entries(field, value))


def _field_entries(field: FieldDescriptor, value: Any) -> Iterator[Entry]:
    if is_map(field):
        key, item = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for name in sorted(value):
            yield Entry(field.name, entries=(_entry(key, name), _entry(item, value[name])))
    elif not is_repeated(field):
        yield _entry(field, value)
    elif field.message_type is not None:
        yield from (_entry(field, item) for item in value)
    else:
        yield Entry(field.name, text=f"[ {', '.join(_text(field, item) for item in value)} ]")


def _entry(field: FieldDescriptor, value: Any) -> Entry:
    if field.message_type is not None:
        return Entry(field.name, entries=entries(value))
    return Entry(field.name, text=_text(field, value))


def _text(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_text(value) if field.cpp_type == field.CPPTYPE_FLOAT else repr(value)
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return str(field.enum_type.values_by_number[value].name)
    return str(value)


def _float_text(value: float) -> str:
    """Shortest text that reads back as the same 32-bit float."""
    texts = (f"{value:.{digits}g}" for digits in range(6, 10))
    packed = struct.pack("<f", value)
    return next((text for text in texts if struct.pack("<f", float(text)) == packed), f"{value:.9g}")
