"""What the Python backend needs beside the server: a stub, a Python, and the packages that tritonrepo itself sees."""

from __future__ import annotations

import ctypes.util
import os
import sys
import sysconfig
from pathlib import Path

from tritonrepo.errors import ServeError
from tritonrepo.runtime import STUB, Runtime

_SITE_FOLDERS = ("site-packages", "dist-packages")


def link_backends(runtime: Runtime, folder: Path) -> None:
    """Make a backend directory for the running Python: the runtime may serve several, and may not be ours to change."""
    stub = runtime.stub
    for backend in runtime.backends.iterdir():
        (folder / backend.name).mkdir(parents=True)
        for file in backend.iterdir():
            (folder / backend.name / file.name).symlink_to(file)
    target = folder / "python" / STUB
    target.unlink(missing_ok=True)
    target.symlink_to(stub)


def link_python(runtime: Runtime, folder: Path) -> dict[str, str]:
    """Make a small virtual environment in ``folder`` for the backend's processes; returns the variables to run with.

    The stub embeds libpython and, from Python 3.11 on, ignores PYTHONHOME and all variables like it. But it looks for
    ``python3`` on PATH to learn where its standard library and packages are, and finds this one.

    Raises:
        ServeError: this Python has no shared library that the stub could load.
    """
    site = folder / "lib" / f"python{_version()}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    numpy2 = Path(__file__).with_name("_numpy2.py")
    (site / "tritonrepo_numpy2.py").symlink_to(numpy2)
    extra = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    packages = [path for path in sys.path if Path(path).name in _SITE_FOLDERS and path not in extra]
    lines = [
        *extra,
        # A __pycache__ in a version directory looks like a changed model in poll mode.
        "import sys; sys.dont_write_bytecode = True",
        # addsitedir also does what the .pth files in those folders say, as for editable installs.
        f"import site; list(map(site.addsitedir, {packages!r}))",
        "import tritonrepo_numpy2",
    ]
    (site / "tritonrepo.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    libraries = [str(runtime.libraries), libpython_folder(runtime), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **environment,
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def libpython_folder(runtime: Runtime) -> str:
    """The folder to search for libpython; empty where the dynamic linker finds it, or the runtime brings it.

    Raises:
        ServeError: this Python has no shared library that the stub could load.
    """
    version = _version()
    for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"):
        if folder and (Path(folder) / f"libpython{version}.so.1.0").exists():
            return str(folder)
    bundled = list(runtime.libraries.glob(f"libpython{sys.version_info.major}-*.{sys.version_info.minor}.so*"))
    if bundled or ctypes.util.find_library(f"python{version}"):
        return ""
    raise ServeError(
        f"the server's Python backend needs libpython{version}.so.1.0, and this Python ({sys.executable}) has none",
        hint=f"install it (`apt install libpython{version}`), use a Python from uv, or serve with Docker",
    )


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
