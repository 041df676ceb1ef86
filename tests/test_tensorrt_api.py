"""TensorRT's real bindings against what tritonrepo uses of them, and against the double that stands for them in tests.

The oldest and the newest version; `make trt-api` takes all. Needs a C compiler, for libraries that hold nothing.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tensorrt_api import check
from tensorrt_api.bindings import VERSIONS, Bindings, bindings, missing, missing_version, repaired

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.xdist_group("tensorrt-api"),
]
USABLE = [version for version in VERSIONS if not missing_version(version)]
ENDS = (USABLE[0], USABLE[-1])
DOUBLE = Path(__file__).with_name("tensorrt_double.py")

#: Classes of the double that stand for something else than TensorRT.
OTHERS = {"HostDriver"}


@pytest.fixture(params=ENDS)
def version(request: pytest.FixtureRequest) -> Bindings:
    return bindings(request.param)


def test_the_versions_are_those_of_the_docs() -> None:
    assert VERSIONS == ("10.8.0.43", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106")


def test_types_fit(version: Bindings) -> None:
    assert check.type_faults(version) == []


def test_names_are_there(version: Bindings) -> None:
    assert check.name_faults(version) == []


def test_names_that_are_asked_for_are_in_some_version() -> None:
    known = [bindings(each).names() for each in ENDS]
    asked = list(check.by_name(ast.parse(check.DOOR.read_text())))
    assert asked
    for line, enum, name in asked:
        assert any(name in names[enum] for names in known), f"line {line}: no version has {enum}.{name}"


def test_a_wrong_name_and_a_wrong_type_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = bindings(ENDS[1])
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt as trt\n\n\n"
        "def f(builder: trt.Builder, config: trt.IBuilderConfig) -> bool:\n"
        "    config.set_flag(trt.BuilderFlag.FP16)\n"  # gone in 11
        "    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 'much')\n"
        "    return builder.platform_has_fast_fp16\n"  # gone in 11
    )
    monkeypatch.setattr(check, "DOOR", wrong)
    monkeypatch.setattr(check, "TYPED", (wrong,))
    assert check.name_faults(newest) == ["wrong.py:5: tensorrt.BuilderFlag.FP16"]
    faults = "\n".join(check.type_faults(newest))
    for said in ('has no attribute "FP16"', 'incompatible type "str"', 'has no attribute "platform_has_fast_fp16"'):
        assert said in faults


def test_stubs_that_cannot_be_read_are_mended() -> None:
    text = repaired(
        "class C:\n"
        "    def a(self, in: int) -> bool:\n"
        "        ...\n"
        "    def b(self, x: int = 1, y: int) -> None:\n"
        "        ...\n"
        "    def c(self, flag: ..., name: str = None) -> bool:\n"
        '        """\n            words\n        """\n'
        "bool: DataType\n"
    )
    assert "def c(self, flag: typing.Any, name: str | None=None) -> builtins.bool" in text
    assert text.count("*args: typing.Any") == 2
    assert "words" not in text
    compile(text, "stub", "exec")


# ------------------------------------------------------------------ the double


def test_the_double_has_nothing_that_tensorrt_has_not() -> None:
    oldest = bindings(ENDS[0])
    real = classes(ast.parse((oldest.types / "tensorrt" / "__init__.pyi").read_text()))
    names = oldest.names()
    tree = ast.parse(DOUBLE.read_text())
    for name, members in enums(tree).items():
        real_name = "ILogger" if name == "Severity" else name
        assert set(members) <= set(names[real_name]), f"{name} of the double"
    checked = 0
    for name, methods in classes(tree).items():
        if name in OTHERS or name.startswith("_"):
            continue
        assert name in real, f"TensorRT has no {name}"
        for method, parameters in methods.items():
            assert method in names[name], f"TensorRT has no {name}.{method}"
            signatures = real[name].get(method, [])
            if parameters[0] is not None and signatures and signatures[0] is not None:
                # ParserError's and Dims' constructors are the double's own way to fill them.
                assert (name, method) in OWN or parameters[0] in signatures, f"{name}.{method}{parameters[0]}"
                checked += 1
    assert checked > 40


#: Made by TensorRT itself, never by its users.
OWN = {
    (name, "__init__")
    for name in ("ITensor", "ILayer", "ParserError", "Dims", "ITimingCache", "IBuilderConfig", "INetworkDefinition",
                 "IOptimizationProfile", "ICudaEngine", "EngineInspector", "IExecutionContext")
}  # fmt: skip


def test_the_double_has_all_that_is_used() -> None:
    used = {first for _, first, _ in check.used(ast.parse(check.DOOR.read_text()))}
    import tensorrt_double

    assert {name for name in used if not hasattr(tensorrt_double, name)} == set()


Signature = tuple[str, ...]


def classes(tree: ast.Module) -> dict[str, dict[str, list[Signature | None]]]:
    """Class -> member -> its signatures as names of parameters; None for what is no method."""
    found: dict[str, dict[str, list[Signature | None]]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        members: dict[str, list[Signature | None]] = found.setdefault(node.name, {})
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or not item.name.startswith("_")):
                decorators = {ast.unparse(each) for each in item.decorator_list}
                is_value = any(each == "property" or each.endswith(".setter") for each in decorators)
                signature = None if is_value else tuple(each.arg for each in item.args.args[1:])
                members.setdefault(item.name, []).append(signature)
            elif isinstance(item, ast.AnnAssign | ast.Assign):
                targets = [item.target] if isinstance(item, ast.AnnAssign) else item.targets
                for target in targets:
                    if isinstance(target, ast.Name) and not target.id.startswith("_"):
                        members.setdefault(target.id, []).append(None)
    return found


def enums(tree: ast.Module) -> dict[str, list[str]]:
    """Enum -> members, of the double's calls of ``_enum``."""
    return {
        str(node.args[0].value): str(node.args[1].value).split()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "_enum"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[1], ast.Constant)
    }
