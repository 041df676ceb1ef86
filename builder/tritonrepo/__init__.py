"""ONNX models in, a proven NVIDIA Triton model repository out.

    from tritonrepo import BuildOptions, load_spec
    from tritonrepo.build import build

    result = build(load_spec(Path("models.yaml")), BuildOptions(), on_event=print)

Each step is a module with a function of the same name, such as ``tritonrepo.check.check``; what they take and give is
exported here. Importing this package imports nothing else until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonrepo.build import BuildOptions, BuildResult, ModelResult
    from tritonrepo.check import Finding, Target
    from tritonrepo.errors import TritonrepoError
    from tritonrepo.introspect import Signature
    from tritonrepo.serve import EmbeddedServer, ServeOptions
    from tritonrepo.spec import ModelSpec, Spec, load_spec

__version__ = "0.1.0"

__all__ = [
    "BuildOptions",
    "BuildResult",
    "EmbeddedServer",
    "Finding",
    "ModelResult",
    "ModelSpec",
    "ServeOptions",
    "Signature",
    "Spec",
    "Target",
    "TritonrepoError",
    "__version__",
    "load_spec",
]

_HOME = {
    "BuildOptions": "build",
    "BuildResult": "build",
    "EmbeddedServer": "serve",
    "Finding": "check",
    "ModelResult": "build",
    "ModelSpec": "spec",
    "ServeOptions": "serve",
    "Signature": "introspect",
    "Spec": "spec",
    "Target": "check",
    "TritonrepoError": "errors",
    "load_spec": "spec",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
