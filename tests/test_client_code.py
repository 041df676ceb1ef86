"""tritonrepo client-code: modules that type-check and call the model."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conftest import write_python_model
from test_cli import refused, tritonrepo
from tritonrepo.client_code import from_repository, render
from tritonrepo.errors import ModelError
from tritonrepo_client import AsyncClient, Client, Signature, TensorSpec
from tritonrepo_client.testing import FakeTriton

USE = """
from typing import assert_type
import numpy as np
from numpy.typing import NDArray
from tritonrepo_client import AsyncClient, Client
from generated import AsyncOddNames3, OddNames3, OddNames3Outputs


def use(client: Client, x: NDArray[np.float32], y: NDArray[np.object_]) -> None:
    out = OddNames3(client)(x, y, class_=x, timeout=3)
    assert_type(out, OddNames3Outputs)
    assert_type(out.scores_0, NDArray[np.int64])


async def use_async(client: AsyncClient, x: NDArray[np.float32], y: NDArray[np.object_]) -> NDArray[np.int64]:
    return (await AsyncOddNames3(client)(x, y)).scores_0
"""
WRONG = """
import numpy as np
from numpy.typing import NDArray
from tritonrepo_client import Client
from generated import OddNames3

whole: NDArray[np.int8] = np.zeros(3, np.int8)
OddNames3(Client("http://h:1"))(whole, np.zeros(3, np.object_))
OddNames3(Client("http://h:1"))(np.zeros(3, np.float32))
OddNames3(Client("http://h:1"))(np.zeros(3, np.float32), np.zeros(3, np.object_)).nope
"""
ODD = Signature(
    (
        TensorSpec("gpu_0/data", "FP32", (-1, 3)),
        TensorSpec("0:text", "BYTES", (-1, 1)),
        TensorSpec("class", "FP32", (-1,), optional=True),
        TensorSpec('"""\\', "BF16", (-1,), optional=True),
    ),
    (TensorSpec("scores:0", "INT64", (-1,)), TensorSpec("scores_0", "BF16", (-1,)), TensorSpec("", "BOOL", (-1,))),
    8,
)


def load(text: str, folder: Path) -> ModuleType:
    path = folder / "generated.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generated"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["generated"]
    return module


def mypy(folder: Path, *files: str) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_the_module_type_checks_and_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "generated.py").write_text(render("odd-names.3", ODD), encoding="utf-8")
    decoupled = Signature((TensorSpec("x", "INT32", (1,)),), (TensorSpec("y", "INT32", (1,)),), 0, decoupled=True)
    (tmp_path / "streaming.py").write_text(render("3d", decoupled), encoding="utf-8")
    (tmp_path / "use.py").write_text(USE.replace("from typing", "from typing_extensions"), encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    said = mypy(tmp_path, "generated.py", "streaming.py", "use.py", "wrong.py")
    errors = [line for line in said.splitlines() if ": error:" in line]
    assert [line.split(":")[0] for line in errors] == ["wrong.py"] * 3, said
    assert "incompatible type" in errors[0] and "Missing positional" in errors[1] and "nope" in errors[2]


def test_the_module_calls_the_model(tmp_path: Path) -> None:
    module: Any = load(render("odd-names.3", ODD), tmp_path)
    fake = FakeTriton()

    def run(given: dict[str, Any]) -> dict[str, Any]:
        rows = given["gpu_0/data"].shape[0]
        bits = np.arange(rows, dtype=np.uint16)
        return {"scores:0": np.full(rows, len(given), np.int64), "scores_0": bits, "": np.ones(rows, np.bool_)}

    fake.add("odd-names.3", ODD, run)
    x, text = np.zeros((2, 3), np.float32), np.full((2, 1), b"a", np.object_)
    with Client(fake) as client:
        assert module.OddNames3(client)(x, text).scores_0.tolist() == [2, 2]
        out = module.OddNames3(client)(x, text, class_=np.zeros(2, np.float32))
        assert out.scores_0.tolist() == [3, 3] and out.tensor.tolist() == [True, True]

    async def with_asyncio() -> Any:
        async with AsyncClient(fake) as client:
            return (await module.AsyncOddNames3(client)(x, text)).scores_0.tolist()

    assert asyncio.run(with_asyncio()) == [2, 2]


def test_streams_of_decoupled_models(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "INT32", (1,)),), (TensorSpec("y", "INT32", (1,)),), 0, decoupled=True)
    module: Any = load(render("count", signature), tmp_path)
    fake = FakeTriton()
    fake.add("count", signature, lambda given: [{"y": np.array([each], np.int32)} for each in range(3)])
    with Client(fake) as client:
        assert [out.y[0] for out in module.Count(client).stream(np.zeros(1, np.int32))] == [0, 1, 2]


def test_the_command(tmp_path: Path) -> None:
    write_python_model(tmp_path / "model_repository", "echo", max_batch_size=4)
    done = tritonrepo("client-code", "echo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "class AsyncEcho:" in done.stdout and "x: FP32[-1, -1]" in done.stdout
    done = tritonrepo("client-code", "echo", "-o", "echo_client.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "wrote echo_client.py\n")
    assert "MODEL = 'echo'" in (tmp_path / "echo_client.py").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["echo_client.py", "model_repository"]
    refused(tritonrepo("client-code", "nope", cwd=tmp_path), 1, "there is no such model", "--url")
    refused(tritonrepo("client-code", "echo", "--url", "http://127.0.0.1:1", cwd=tmp_path), 1, "is the server up")
    refused(tritonrepo("client-code", "echo", "--url", "nonsense", cwd=tmp_path), 2, "grpc://host:port")


def test_configs_say_as_much_as_servers(tmp_path: Path) -> None:
    config = """
    input { name: "a" data_type: TYPE_STRING dims: [2] optional: true }
    output { name: "b" data_type: TYPE_BF16 dims: [-1] }
    model_transaction_policy { decoupled: true }
    """
    write_python_model(tmp_path, "m", config=config)
    signature = from_repository(tmp_path, "m")
    assert signature.inputs == (TensorSpec("a", "BYTES", (2,), optional=True),)
    assert signature.outputs == (TensorSpec("b", "BF16", (-1,)),) and signature.decoupled
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(ModelError, match="leaves inputs or outputs to the server"):
        from_repository(tmp_path, "m")
