"""Fetches the bindings of a TensorRT version, makes them importable, and writes their types down.

All of it is kept in the user's cache, by version and Python, and done once. Nothing of TensorRT itself is fetched: its
three libraries are stubs that are compiled here, so that a version's classes, enums and signatures can be looked at,
and no object of them can be made.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PINNED = HERE / "bindings.txt"
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")

#: Lines of bindings.txt: the requirement of each version, with its hashes.
REQUIREMENTS = {
    match[1]: match[0]
    for match in re.finditer(r"^tensorrt-cu12-bindings==([0-9.]+)(?: \\\n +--hash=\S+)+$", PINNED.read_text(), re.M)
}
VERSIONS = tuple(REQUIREMENTS)


@dataclass(frozen=True)
class Bindings:
    """One version, ready to use."""

    version: str
    root: Path

    @property
    def site(self) -> Path:
        """Folder with the package ``tensorrt``, for PYTHONPATH."""
        return self.root / "site"

    @property
    def types(self) -> Path:
        """Folder with ``tensorrt/__init__.pyi``, for MYPYPATH."""
        return self.root / "types"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that may ``import tensorrt``."""
        return {**os.environ, "PYTHONPATH": str(self.site), "LD_LIBRARY_PATH": str(self.root / "lib")}

    def run(self, code: str) -> str:
        """What a Python program prints that uses this version."""
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"TensorRT {self.version}: {done.stderr}")
        return done.stdout

    def names(self) -> dict[str, list[str]]:
        """Every public name of the package and, for classes, every name in them."""
        code = (
            "import json, tensorrt as t; print(json.dumps({n: dir(v) if isinstance(v, type) else [] "
            "for n, v in vars(t).items() if not n.startswith('_')}))"
        )
        found: dict[str, list[str]] = json.loads(self.run(code))
        return found


def missing() -> str | None:
    """Why this machine cannot use the bindings; None where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the pinned bindings are for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    if compiler() is None:
        return "no C compiler (cc, gcc or clang) to make the stub libraries with"
    return None


def missing_version(version: str) -> str | None:
    """Why this Python cannot use that version; None where it can."""
    if sys.version_info >= (3, 13) and version.startswith("10.8."):
        return f"TensorRT {version} has no bindings for Python {sys.version_info.major}.{sys.version_info.minor}"
    return None


def compiler() -> str | None:
    """The C compiler of this machine."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def bindings(version: str) -> Bindings:
    """The bindings of a version, from the cache or made now; two processes may ask at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    root = cache / "tritonrepo" / "tensorrt-api" / _recipe() / f"{version}-{python}"
    if not root.is_dir():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".new-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            _fetch(version, made / "site")
            _compile(version.partition(".")[0], made / "lib")
            _write_types(Bindings(version, made))
            try:
                made.rename(root)
            except OSError:  # another process was first
                if not root.is_dir():
                    raise
    return Bindings(version, root)


def _recipe() -> str:
    """Changes when what is kept would be made otherwise."""
    import hashlib

    content = b"".join(path.read_bytes() for path in (PINNED, HERE / "stub_libraries.c", Path(__file__)))
    return hashlib.sha256(content).hexdigest()[:12]


def _fetch(version: str, site: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "bindings.txt"
        wanted.write_text(REQUIREMENTS[version] + "\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--require-hashes", f"--dest={folder}", f"--requirement={wanted}"],
            check=True, timeout=300,
        )  # fmt: skip
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    # The package `tensorrt` itself comes from the vendor's index, with the libraries; it is no more than this.
    (site / "tensorrt").mkdir()
    (site / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )


def _compile(major: str, folder: Path) -> None:
    folder.mkdir()
    found = compiler()
    assert found is not None, "ask missing() first"
    for name in LIBRARIES:
        soname = f"lib{name}.so.{major}"
        subprocess.run(
            [found, "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", folder / soname, HERE / "stub_libraries.c"],
            check=True, timeout=120,
        )  # fmt: skip


def _write_types(made: Bindings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [Path(sys.executable).with_name("pybind11-stubgen"), "--ignore-all-errors", "-o", folder,
             "tensorrt_bindings.tensorrt"],
            env=made.environment, capture_output=True, check=True, timeout=300,
        )  # fmt: skip
        (found,) = Path(folder).rglob("tensorrt.pyi")
        text = repaired(found.read_text(encoding="utf-8"))
    package = made.types / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.pyi").write_text(text, encoding="utf-8")


def repaired(text: str) -> str:
    """Stubs that a type checker can read, from those that pybind11's docstrings give.

    A method whose docstring is no valid signature (a parameter named ``in``, a default before none) takes anything;
    what a docstring does not say (``...``) is Any; and ``bool`` is Python's, not the DataType of that name.
    """
    tree = _Types().visit(ast.parse("".join(map(_parsable, text.splitlines(keepends=True)))))
    head = "# mypy: ignore-errors\nimport builtins\nimport typing\n__version__: str\n"
    return head + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _parsable(line: str) -> str:
    found = re.match(r"( *)def (\w+)\(.*:\s*$", line)
    if not found:
        return line
    try:
        ast.parse(f"{line.strip()} ...")
    except SyntaxError:
        return f"{found[1]}def {found[2]}(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:\n"
    return line


class _Types(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = [ast.Expr(ast.Constant(...))]
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if argument.annotation:
                argument.annotation = self._type(argument.annotation)
        for argument, default in zip(node.args.args[::-1], node.args.defaults[::-1], strict=False):
            if isinstance(default, ast.Constant) and default.value is None and argument.annotation:
                argument.annotation = ast.BinOp(argument.annotation, ast.BitOr(), ast.Constant(None))
        if node.returns:
            node.returns = self._type(node.returns)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = self._type(node.annotation)
        return node

    @staticmethod
    def _type(annotation: ast.expr) -> ast.expr:
        class Names(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.expr:
                known = {"bool": "builtins.bool", "capsule": "typing.Any"}.get(node.id)
                return ast.parse(known, mode="eval").body if known else node

            def visit_Constant(self, node: ast.Constant) -> ast.expr:
                return ast.parse("typing.Any", mode="eval").body if node.value is ... else node

        changed: ast.expr = Names().visit(annotation)
        return changed
