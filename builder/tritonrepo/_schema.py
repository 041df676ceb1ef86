"""The spec for those who write one: JSON Schema for editors, and the tables of docs/spec.md.

Both are made from the models in ``spec`` and the docstrings of their fields, which are read from its source.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from typing import Any

from tritonrepo import _assemble, _rules, spec

#: The file that ``tritonrepo schema > models.schema.json`` writes, and that a written spec's first line names.
FILE = "models.schema.json"

Schema = dict[str, Any]

#: Any value may be written as a variable, whatever it is once that is replaced.
_VARIABLE = {"type": "string", "pattern": r"\$\{", "description": "${NAME} or ${NAME:-default}"}
_VARIABLE_REF = {"$ref": "#/$defs/Variable"}
_NULL = {"type": "null"}
_NOT_TEXT = ("integer", "number", "boolean")


def json_schema() -> Schema:
    """See ``spec.json_schema``."""
    blocks = _documented_blocks()
    for block in blocks.values():
        block["properties"] = {key: _as_written(value) for key, value in block["properties"].items()}
    top = blocks.pop("SpecFile")
    top["properties"]["triton"]["anyOf"].append({"type": "number"})  # 26.10 without quotes
    models = top["properties"]["models"]
    top["properties"]["models"] = {**models.pop("anyOf")[0], **models, "minItems": 1}  # not empty
    blocks["ModelSpec"]["properties"]["name"]["pattern"] = rf"^{_rules.NAME.pattern}$|\$\{{"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": FILE,
        "title": "models.yaml",
        **top,
        "$defs": {**blocks, "Variable": _VARIABLE},
    }


def reference() -> str:
    """Markdown: a heading and a table of keys for each block of the spec."""
    blocks = _documented_blocks()
    del blocks["ModelDefaults"]  # its keys are among those of ModelSpec
    order = ["SpecFile", "ModelSpec", *(name for name in vars(spec) if name in blocks and name != "ModelSpec")]
    keys = blocks["ModelSpec"]["properties"]
    blocks["ModelSpec"]["properties"] = {
        key: keys[key] for key in spec.ModelSpec.__annotations__
    } | keys  # own ones first
    return "\n\n".join("\n".join(_table(name, blocks[name])) for name in order) + "\n"


def _documented_blocks() -> dict[str, Schema]:
    """JSON Schema of each block by class name, as pydantic makes it, with the fields' docstrings as descriptions."""
    made = _assemble.SpecFile.model_json_schema()
    blocks: dict[str, Schema] = {**made.pop("$defs"), "SpecFile": made}
    docs = {**_field_docs(spec), **_field_docs(_assemble)}
    # What models may say is the same class as what defaults may say, and a little more.
    docs |= {("ModelSpec", key): text for (name, key), text in docs.items() if name == "ModelDefaults"}
    docs |= {("SpecFile", key): text for (name, key), text in docs.items() if name == "Spec"}
    for name, block in blocks.items():
        del block["title"]
        block["description"] = _markdown(block["description"])
        for key, value in block["properties"].items():
            value.pop("title", None)
            value["description"] = _markdown(docs[name, key])
    return blocks


def _field_docs(module: Any) -> dict[tuple[str, str], str]:
    """The string below each annotated field, by class and field."""
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    return {
        (block.name, field.target.id): str(text.value.value)
        for block in classes
        for field, text in zip(block.body, block.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _markdown(docstring: str) -> str:
    return " ".join(inspect.cleandoc(docstring).replace("``", "`").split())


def _as_written(made: Schema) -> Schema:
    """A key as the file may have it: also as a variable, and empty where it holds a block or a list."""
    about = {"description": made["description"]}
    if isinstance(made.get("default"), str | bool | int | float):
        about["default"] = made["default"]
    alternatives = list(_alternatives(made))
    if any("$ref" in schema or schema["type"] in ("array", "object") for schema in made.get("anyOf", [made])):
        alternatives.append(_NULL)
    return {**_one_of(alternatives), **about}


def _one_of(alternatives: list[Schema]) -> Schema:
    unique = [schema for index, schema in enumerate(alternatives) if schema not in alternatives[:index]]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _alternatives(made: Schema) -> Iterator[Schema]:
    branches = made.get("anyOf", made.get("oneOf"))
    if branches:
        for branch in branches:
            yield from _alternatives(branch)
        return
    schema = {key: value for key, value in made.items() if key not in ("title", "description", "default", "format")}
    if schema.get("additionalProperties") is True:  # says nothing, and some releases of pydantic leave it out
        del schema["additionalProperties"]
    for bound in schema.keys() & {"minimum", "exclusiveMinimum"}:  # 0 or 0.0, as the release has it
        schema[bound] = int(schema[bound])
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            schema[inner] = _one_of(list(_alternatives(schema[inner])))
    yield schema
    if "enum" in schema or "const" in schema or "pattern" in schema or schema.get("type") in _NOT_TEXT:
        yield _VARIABLE_REF


_HEADINGS = {"SpecFile": "The file", "ModelSpec": "Models and defaults"}


def _table(name: str, block: Schema) -> Iterator[str]:
    yield f"### {_HEADINGS.get(name, name)}"
    yield ""
    yield block["description"]
    yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, value in block["properties"].items():
        default = "required" if key in block.get("required", ()) else _default(value.get("default"))
        yield f"| `{key}` | {_value(value)} | {default} | {value['description'].replace('|', chr(92) + '|')} |"


def _default(value: object) -> str:
    if value in (None, "") or isinstance(value, dict | list):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _value(schema: Schema) -> str:
    """What may stand there, in words."""
    if branches := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(_value(branch) for branch in branches if branch != _NULL)
    if "$ref" in schema:
        return _link(schema["$ref"].rsplit("/", 1)[1])
    if "enum" in schema or "const" in schema:
        return ", ".join(_default(choice) for choice in schema.get("enum") or [schema["const"]])
    if schema["type"] == "array":
        return f"list: {_value(schema['items'])}"
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"mapping: {_value(values)}" if isinstance(values, dict) else "mapping"
    least = f" ≥ {schema['minimum']:g}" if "minimum" in schema else ""
    return _KINDS[str(schema.get("format", schema["type"]))] + least


_KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "string": "text",
    "path": "path",
}


def _link(block: str) -> str:
    heading = _HEADINGS.get("ModelSpec" if block == "ModelDefaults" else block, block)
    return f"[{heading}](#{heading.lower().replace(' ', '-')})"
