"""Installs the Python bindings that fit an image's TensorRT library, and checks that they do.

    python3 tensorrt_bindings.py install --target FOLDER [--tensorrt 10.13.3.9] [--cuda 13]
    python3 tensorrt_bindings.py check

Runs inside the image that builder.Dockerfile makes, with what is there: it needs nothing but Python and pip.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_VERSION = re.compile(r"(\d+\.\d+\.\d+\.\d+)(?:-\d+)?(?:\+cuda(\d+))?")
_SHIM = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("install", "check"))
    parser.add_argument("--target", type=Path)
    parser.add_argument("--tensorrt", default="")
    parser.add_argument("--cuda", default="")
    given = parser.parse_args(arguments)
    if given.command == "check":
        return check()
    found = version_in(os.environ, packages())
    tensorrt, cuda = given.tensorrt or found[0], given.cuda or found[1]
    if not tensorrt or not cuda:
        sys.stderr.write(
            f"which TensorRT is in this image cannot be seen (TensorRT {tensorrt or '?'}, CUDA {cuda or '?'}): give "
            "--build-arg TENSORRT=10.13.3.9 --build-arg CUDA=13, as the release notes of the container say\n"
        )
        return 1
    requirement = f"tensorrt-cu{cuda}-bindings=={tensorrt}"
    print(f"TensorRT {tensorrt} for CUDA {cuda}: installing {requirement}")
    pip = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, f"--target={given.target}", requirement], check=False)
    if done.returncode:
        return done.returncode
    # The package `tensorrt` would bring libraries of its own; it is no more than this.
    (given.target / "tensorrt").mkdir(exist_ok=True)
    (given.target / "tensorrt" / "__init__.py").write_text(_SHIM)
    return 0


def version_in(environ: Mapping[str, str], installed: str) -> tuple[str, str]:
    """TensorRT's version with build number and CUDA's major version, each empty where it cannot be seen.

    Args:
        environ: NGC images set TRT_VERSION (10.13.3.9+cuda13.0) and CUDA_VERSION (13.0.1.012).
        installed: lines "package version" of Debian's packages, the library's being libnvinfer10 10.13.3.9-1+cuda13.0.
    """
    named = [line.partition(" ")[2] for line in installed.splitlines() if re.match(r"libnvinfer\d+ ", line)]
    cuda_of_image = environ.get("CUDA_VERSION", "").partition(".")[0]
    for text in (*named, environ.get("TRT_VERSION", "")):
        match = _VERSION.match(text)
        if match:
            return match[1], match[2] or cuda_of_image
    return "", cuda_of_image


def packages() -> str:
    """What dpkg says of libnvinfer's packages; empty where there is no dpkg."""
    try:
        done = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", "libnvinfer*"],  # noqa: S607
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout


def check() -> int:
    """Load the library and import the bindings; both must be of one version."""
    import tensorrt  # noqa: TID251 - this runs in the image

    version = str(tensorrt.__version__)
    library = int(ctypes.CDLL(f"libnvinfer.so.{version.partition('.')[0]}").getInferLibVersion())
    found = f"{library // 10000}.{library // 100 % 100}.{library % 100}"
    if not version.startswith(f"{found}."):
        sys.stderr.write(f"the bindings are those of TensorRT {version}, but libnvinfer is {found}\n")
        return 1
    print(f"TensorRT {version}: bindings and library fit")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
