"""What the load generator writes: the schema, the tables, and the report in a real browser."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from tritonrepo_client.perf import export
from tritonrepo_client.perf.errors import PerfError
from tritonrepo_client.perf.html import as_html
from tritonrepo_client.perf.measure import Progress
from tritonrepo_client.perf.settings import Load
from tritonrepo_client.perf.view import View, milliseconds, show_result, sparkline

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def result() -> dict[str, Any]:
    """A result of a real run: three points, one of them invalid, streams not among them."""
    content: dict[str, Any] = json.loads((ROOT / "tests/data/perf_result.json").read_text(encoding="utf-8"))
    return content


def test_the_schema_describes_a_result(result: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "docs/perf.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(result, schema)
    broken = copy.deepcopy(result)
    del broken["points"][0]["latency_us"]["p99"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_csv(result: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(export.as_csv(result))))
    assert len(rows) == len(result["points"])
    for row, point in zip(rows, result["points"], strict=True):
        assert float(row["p99_us"]) == point["latency_us"]["p99"]["value"]
        assert row["valid"] == str(point["valid"])
    columns = next(csv.reader(io.StringIO(export.as_perf_analyzer_csv(result))))
    assert "Request Rate" in columns
    assert "Server Compute Infer" in columns


def test_files_are_complete_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    export.write(file, "1")
    export.write(file, "2")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert file.read_text() == "2"
    with pytest.raises(PerfError, match="cannot be written"):
        export.write(tmp_path / "no" / "r.json", "3")


def test_the_tables(result: dict[str, Any]) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    result["points"][1]["latency_us"]["lower_bounds"] = ["p99"]
    result["points"][0]["requests"]["errors"] = {"queue full": {"count": 3, "sample": "[bold]no room[/]"}}
    show_result(console, result)
    text = console.export_text()
    for point in result["points"]:
        assert point["load"]["text"] in text
    assert "≥" in text
    assert "[bold]no room[/]" in text  # a server's words are no markup
    assert [milliseconds(us) for us in (None, 412.4, 12_345, 4_310_000)] == ["-", "0.412", "12.35", "4,310"]
    assert sparkline([0, 1, 2]) == "▁▅█"


def test_the_live_view() -> None:
    console = Console(force_terminal=True, width=100, file=io.StringIO())
    with View(console, live=True) as view:
        view.progress(Progress(Load("rate", 5), 1.0, "measuring", rate=4.9, history=[1, 2, 3]))
        view.note("a note")
    output = console.file
    assert isinstance(output, io.StringIO)
    assert "measuring" in output.getvalue()


def test_the_report_needs_no_network_and_escapes_what_comes_from_outside(result: dict[str, Any]) -> None:
    result["models"][0]["name"] = "</script><script>alert(1)</script>"
    page = as_html(result)
    assert page.count("</script>") == 2
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(""", page.partition("/*RESULT*/")[0].replace("img-src", ""))
    embedded = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1]) == result


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_in_a_browser(result: dict[str, Any], tmp_path: Path, scheme: str) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    file = tmp_path / "report.html"
    file.write_text(as_html(result), encoding="utf-8")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert said == []
    page = done.stdout
    assert f'data-theme="{scheme}"' in page
    assert page.count("<svg") == 6
    assert "NaN" not in page.partition('<script type="application/json"')[0]
    for point in result["points"]:
        assert point["load"]["text"] in page.partition('<script type="application/json"')[0]
    titles = ("Throughput against latency", "Latency by percentile", "Where the time goes", "Latency over time")
    assert all(title in page for title in titles)
