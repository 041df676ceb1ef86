"""What `tritonrepo check` prints, what it checks, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tritonrepo.check import RULES, Finding, Target
from tritonrepo.check._schema import schema
from tritonrepo.check.command import parser
from tritonrepo.check.report import FORMATS, Report, sarif, text
from tritonrepo.check.rule import Edit, Severity
from tritonrepo.check.rules import TOPICS, load_rules
from tritonrepo.check.scope import gpus_of, models_of, release_of, rules_of
from tritonrepo.errors import UsageError

load_rules()
ROOT = Path(__file__).parents[1]
PYTHON = 'backend: "python"\n'
CODE = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
HEAVY = (
    "google.protobuf", "onnx", "onnxruntime", "tritonclient", "grpc", "numpy", "tensorrt", "pydantic", "pydantic_core",
    "typer", "rich", "yaml", "jinja2",
)  # fmt: skip


def tritonrepo(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritonrepo", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for path, content in files.items():
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def finding(file: Path, line: int | None = None, column: int | None = None, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": "TR002", "severity": "reject", "model": "m", "message": "it is wrong", "hint": "Mend it.",
    } | changes  # fmt: skip
    return Finding(file=file, line=line, column=column, **values)


def report(*findings: Finding, **changes: Any) -> Report:
    rules = rules_of()
    return Report((Path("repository"),), 3, rules, Target(), findings, **changes)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A repository with a config that does not parse, beside one that does; the working directory is above it."""
    files = {
        "a/config.pbtxt": PYTHON,
        "a/1/model.py": "",
        "m/config.pbtxt": PYTHON + "max_batch: 3\n",
        "m/1/model.py": "",
    }
    return write(tmp_path / "repository", files).parent


class TestText:
    def test_as_a_whole(self, broken: Path) -> None:
        done = tritonrepo("check", "repository", "--select", "TR002", cwd=broken)
        assert done.stdout == (
            "m\n"
            "  repository/m/config.pbtxt:2:1: TR002 reject: "
            'Message type "inference.ModelConfig" has no field named "max_batch".\n'
            "      max_batch: 3\n"
            "      ^\n"
            "    Did you mean max_batch_size?\n"
            "\n"
            "repository: 1 finding in 2 models: 1 refused by the server\n"
        )
        assert (done.returncode, done.stderr) == (1, "")

    @pytest.mark.parametrize(
        ("line", "column", "shown", "caret"),
        [
            (b"max_batch: 3", 12, "max_batch: 3", 11),
            (b"\tname: 3\r", 15, "        name: 3", 14),
            (b"a\tb\tc", 17, "a       b       c", 16),
            ("# \u00e4\u00f6 x".encode(), 8, "# \u00e4\u00f6 x", 5),
            (b"# \xff x", 5, "# \\xff x", 7),
            (b"x\x1b[31m y", 8, "x\\x1b[31m y", 10),
            (b"short", 6, "short", 5),
            (b"short", 99, "short", 5),
            (b"", 1, "", 0),
            (b"a" * 500, 1, "a" * 97 + "...", 0),
            (b"a" * 300 + b"B" + b"c" * 300, 301, "..." + "a" * 57 + "B" + "c" * 36 + "...", 60),
            (b"a" * 300 + b"B", 301, "..." + "a" * 57 + "B", 60),
        ],
    )
    def test_the_caret_stands_below_the_place(
        self, line: bytes, column: int, shown: str, caret: int, tmp_path: Path
    ) -> None:
        file = tmp_path / "config.pbtxt"
        file.write_bytes(b"first\n" + line + b"\nlast")
        lines = text(report(finding(file, 2, column))).splitlines()
        assert lines[2:4] == [f"      {shown}".rstrip(), " " * (6 + caret) + "^"]

    def test_a_place_without_a_line_and_one_beyond_the_end(self, tmp_path: Path) -> None:
        file = tmp_path / "config.pbtxt"
        file.write_text("one line")
        for place in (finding(tmp_path), finding(file, 7, 1), finding(tmp_path / "gone", 1, 1)):
            assert "^" not in text(report(place))
            assert f"{place.where}: TR002 reject: it is wrong\n    Mend it.\n" in text(report(place))

    def test_findings_are_grouped_by_model(self, tmp_path: Path) -> None:
        found = [finding(tmp_path / name, model=name) for name in ("a", "a", "b")]
        lines = [line for line in text(report(*found)).splitlines() if line and line[0] != " "]
        assert lines == ["a", "b", "repository: 3 findings in 3 models: 3 refused by the server"]

    def test_the_summary_names_each_severity_and_what_can_be_mended(self, tmp_path: Path) -> None:
        severities: list[Severity] = ["advice", "breaks", "crash", "hang", "reject"]
        found = [finding(tmp_path, severity=each, edits=(Edit(0, 0, ""),)) for each in severities]
        assert text(report(*found)).splitlines()[-1] == (
            "repository: 5 findings in 3 models: 1 refused by the server, 1 hanging the load, 1 crashing the server, "
            "1 accepted, but requests go wrong, 1 advice; --fix mends 5"
        )

    def test_nothing_found(self, tmp_path: Path) -> None:
        assert text(report()) == "repository: nothing found in 3 models\n"
        done = tritonrepo("check", tmp_path, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path}: there are no models\n")

    def test_names_cannot_steer_the_terminal(self, tmp_path: Path) -> None:
        hostile = "a\x1b[2J\u202e\n::error::x\udcff"
        printed = text(report(finding(tmp_path / hostile, model=hostile, message=hostile, hint=hostile)))
        escaped = "a\\x1b[2J\\u202e\\n::error::x\\xff"
        assert printed.count(escaped) == 4
        assert all(line.isprintable() for line in printed.splitlines())


class TestJson:
    def test_it_is_as_its_schema_says(self, broken: Path) -> None:
        document = json.loads((ROOT / "docs" / "check.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(document)
        validator = jsonschema.Draft202012Validator(document)
        done = tritonrepo("check", "repository", "--format", "json", "--triton", "24.10", cwd=broken)
        printed = json.loads(done.stdout)
        validator.validate(printed)
        assert (printed["version"], printed["triton"], printed["models"]) == (1, "24.10", 2)
        assert printed["failed"] is True
        assert printed["summary"]["reject"] == len([one for one in printed["findings"] if one["severity"] == "reject"])
        found = next(one for one in printed["findings"] if one["rule"] == "TR002")
        place = {"model": "m", "file": "repository/m/config.pbtxt", "line": 2, "column": 1}
        assert {key: found[key] for key in place} == place
        both = report(finding(broken, edits=(Edit(1, 2, "x"),)), mended=(finding(broken),))
        printed = json.loads(FORMATS["json"](both))
        validator.validate(printed)
        assert printed["findings"][0]["edits"] == [{"start": 1, "end": 2, "text": "x"}]
        assert len(printed["mended"]) == 1

    def test_bytes_that_are_no_text_make_valid_json(self, tmp_path: Path) -> None:
        printed = FORMATS["json"](report(finding(tmp_path / "\udcff", message="\udc80")))
        assert json.loads(printed)["findings"][0]["message"] == "\\x80"
        printed.encode()


class TestGitHub:
    def test_an_annotation_for_each_finding(self, broken: Path) -> None:
        done = tritonrepo("check", "repository", "--select", "TR002", "--format", "github", cwd=broken)
        assert done.stdout == (
            "::error file=repository/m/config.pbtxt,title=TR002 (reject),line=2,col=1::"
            'Message type "inference.ModelConfig" has no field named "max_batch". Did you mean max_batch_size?\n'
            "repository: 1 finding in 2 models: 1 refused by the server\n"
        )

    def test_values_are_escaped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        file = Path("a,b:c%d") / "config.pbtxt"
        printed = FORMATS["github"](report(finding(file, message="50% of a, b: c\n::error::d")))
        assert printed.splitlines()[0] == (
            "::error file=a%2Cb%3Ac%25d/config.pbtxt,title=TR002 (reject)::50%25 of a, b: c\\n::error::d. Mend it."
        )

    def test_advice_is_a_notice_until_it_counts(self, tmp_path: Path) -> None:
        advice = finding(tmp_path, severity="advice")
        assert FORMATS["github"](report(advice)).startswith("::notice ")
        assert FORMATS["github"](report(advice, strict=True)).startswith("::error ")

    def test_columns_count_characters(self, tmp_path: Path) -> None:
        file = tmp_path / "config.pbtxt"
        file.write_bytes("\t# \u00e4\u00f6 x".encode())
        # A tab is eight columns for the server, each umlaut two.
        assert ",line=1,col=7::" in FORMATS["github"](report(finding(file, 1, 16)))


class TestSarif:
    def test_what_the_standard_requires(self, broken: Path) -> None:
        done = tritonrepo("check", "repository", "--format", "sarif", cwd=broken)
        document = json.loads(done.stdout)
        assert document["version"] == "2.1.0"
        assert "sarif" in document["$schema"]
        (run,) = document["runs"]
        driver = run["tool"]["driver"]
        assert driver["name"] == "tritonrepo"
        assert [each["id"] for each in driver["rules"]] == list(RULES)
        for each in driver["rules"]:
            assert each["shortDescription"]["text"]
            assert each["fullDescription"]["text"]
            assert each["help"]["text"]
            assert each["defaultConfiguration"]["level"] in {"error", "note"}
            assert each["helpUri"].endswith(f"#{each['id'].lower()}")
        assert run["results"]
        for result in run["results"]:
            assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
            assert result["message"]["text"]
            assert result["level"] in {"error", "note"}
            (location,) = result["locations"]
            physical = location["physicalLocation"]
            assert physical["artifactLocation"]["uri"].startswith("repository/")
            assert physical["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
            assert physical["region"]["startLine"] >= 1
            assert location["logicalLocations"][0]["name"] in {"a", "m"}
        result = next(one for one in run["results"] if one["ruleId"] == "TR002")
        assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 2, "startColumn": 1}

    def test_addresses_of_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        wanted = {
            Path("m/config.pbtxt"): "m/config.pbtxt",
            Path("../here/m"): "m",
            tmp_path / "here" / "m": "m",
            Path("a b:c#d%e/\u00e4"): "a%20b%3Ac%23d%25e/%C3%A4",
            Path("\udcff"): "%FF",
            Path("../there"): f"file://{tmp_path}/there",
        }
        for file, uri in wanted.items():
            assert self.result(finding(file))["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri

    def test_mends(self, tmp_path: Path) -> None:
        (fix,) = self.result(finding(tmp_path / "x", edits=(Edit(4, 6, "y"),)))["fixes"]
        (change,) = fix["artifactChanges"]
        assert change["artifactLocation"]["uri"].endswith("/x")
        wanted = {"deletedRegion": {"byteOffset": 4, "byteLength": 2}, "insertedContent": {"text": "y"}}
        assert change["replacements"] == [wanted]

    @staticmethod
    def result(found: Finding) -> Any:
        return json.loads(sarif(report(found)))["runs"][0]["results"][0]


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    names = ["b", "a", "c", "ab"]
    bad = "max_batch: 1"
    one = write(tmp_path / "one" / "r", {f"{name}/config.pbtxt": bad for name in names})
    other = write(tmp_path / "other" / "r", {f"{name}/config.pbtxt": bad for name in reversed(names)})
    for format_ in FORMATS:
        printed = [tritonrepo("check", "r", "--format", format_, cwd=folder.parent).stdout for folder in (one, other)]
        assert printed[0] == printed[1]
        places = [printed[0].find(f"r/{name}/config.pbtxt") for name in sorted(names)]
        assert -1 not in places
        assert places == sorted(places)


class TestPaths:
    """Which models are meant."""

    FILES: Mapping[str, str] = {
        "a/config.pbtxt": PYTHON,
        "a/1/model.py": "",
        "a/labels.txt": "",
        "bare/1/model.onnx": "",
        "bare/1/weights/w": "",
        "inner/config.pbtxt": 'platform: "ensemble" ensemble_scheduling { step { model_name: "a" } }',
        "outer/config.pbtxt": 'platform: "ensemble" ensemble_scheduling { step { model_name: "inner" } }',
        "readme": "",
    }

    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "r", self.FILES)
        return Path("r")

    @staticmethod
    def paths(*paths: str | Path) -> list[str]:
        return [str(model.path) for model in models_of(map(Path, paths), schema("24.10"))]

    def test_repositories(self, repository: Path) -> None:
        write(Path("s"), {"a/config.pbtxt": PYTHON})
        assert self.paths("s", "r") == ["s/a", "r/a", "r/bare", "r/inner", "r/outer"]
        assert self.paths("r", "r/.", Path("r").resolve()) == self.paths("r")

    def test_a_model_and_the_ensembles_that_use_it(self, repository: Path) -> None:
        assert self.paths("r/a") == ["r/a", "r/inner", "r/outer"]
        assert self.paths("r/inner") == ["r/inner", "r/outer"]
        assert self.paths("r/outer") == ["r/outer"]

    def test_a_model_from_within(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(repository / "outer")
        assert self.paths(".") == [f"{Path.cwd()}"]

    def test_files(self, repository: Path) -> None:
        for file in ("r/outer/config.pbtxt",):
            assert self.paths(file) == ["r/outer"]
        for file in ("r/a/config.pbtxt", "r/a/1/model.py", "r/a/labels.txt"):
            assert self.paths(file) == ["r/a", "r/inner", "r/outer"]
        for file in ("r/bare/1/model.onnx", "r/bare/1/weights/w"):
            assert self.paths(file) == ["r/bare"]
        assert self.paths("r/bare/1/model.onnx", "r/outer/config.pbtxt", "r/bare/1/weights/w") == ["r/bare", "r/outer"]

    def test_a_config_beside_models_makes_no_model(self, repository: Path) -> None:
        (repository / "config.pbtxt").write_text(PYTHON)
        assert len(self.paths("r")) == 4

    def test_what_is_no_model(self, repository: Path) -> None:
        with pytest.raises(UsageError, match="no such folder or file"):
            self.paths("nowhere")
        with pytest.raises(UsageError, match="belongs to no model"):
            self.paths("r/readme")

    def test_an_ensemble_with_a_fault_still_counts(self, repository: Path) -> None:
        config = repository / "inner" / "config.pbtxt"
        config.write_text(config.read_text() + " nonsense: 1")
        assert self.paths("r/a") == ["r/a", "r/inner", "r/outer"]


class TestOptions:
    def test_the_longer_prefix_decides(self) -> None:
        def chosen(select: str, ignore: str) -> set[str]:
            return {rule.id for rule in rules_of(select.split(), ignore.split())}

        every = set(RULES)
        layout = {id_ for id_ in every if id_.startswith("TR0")}
        assert chosen("", "") == every
        assert chosen("TR0", "") == layout
        assert chosen("tr0", "") == layout
        assert chosen("", "TR0") == every - layout
        assert chosen("TR0", "TR002") == layout - {"TR002"}
        assert chosen("TR002", "TR0") == {"TR002"}
        assert chosen("TR", "TR0") == every - layout
        assert chosen("TR002", "TR002") == set()

    def test_what_is_wrong_is_told(self, broken: Path) -> None:
        wrong = {
            ("--select", "TR0x"): "no rule begins with TR0X",
            ("--ignore", "TX002"): "Did you mean TR",
            ("--triton", "26.9"): "The nearest is 26.09",
            ("--triton", "27.04"): "The nearest is 26.09",
            ("--triton", "20.01"): "The nearest is 21.05",
            ("--triton", "26.13"): "no server release",
            ("--gpus", "hopper"): "no compute capability",
            ("--format", "xml"): "invalid choice: 'xml'",
            ("--frmat",): "unrecognized arguments: --frmat",
            ("--dry-run",): "Add --fix",
            ("nowhere",): "no such folder",
        }
        for arguments, words in wrong.items():
            done = tritonrepo("check", "repository", *arguments, cwd=broken)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith("error: ")
            assert words in done.stderr
        done = tritonrepo("rule", "TR0x", cwd=broken)
        assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: no rule begins with TR0X")

    def test_releases(self) -> None:
        assert [release_of(tag) for tag in ("21.05", "24.10", "26.09")] == ["21.05", "24.10", "26.09"]

    def test_gpus(self) -> None:
        for word in ("9.0", "90", "sm90", "sm_90", "SM_90a"):
            assert gpus_of([word]) == (("9.0",), None)
        assert gpus_of(["sm_100", "12.0", "7.5", "100"]) == (("10.0", "12.0", "7.5"), None)
        assert gpus_of(["4xsm90", "2x8.9"]) == (("9.0", "8.9"), 6)
        assert gpus_of(["4xsm90", "8.9"]) == (("9.0", "8.9"), None)
        assert gpus_of(["none"]) == ((), 0)
        for words in (["9"], ["9."], ["sm"], ["900.0"], ["-9.0"], ["none", "9.0"], ["0x9.0"], ["\u0669\u0660"]):
            with pytest.raises(UsageError):
                gpus_of(words)

    def test_the_schema_is_that_of_the_release(self, tmp_path: Path) -> None:
        config = PYTHON + "model_metrics { }\n"
        write(tmp_path, {"r/m/config.pbtxt": config, "r/m/1/model.py": ""})
        codes = {
            tag: tritonrepo("check", "r", "--select", "TR002", "--triton", tag, cwd=tmp_path).returncode
            for tag in ("24.10", "26.09")
        }
        assert codes == {"24.10": 1, "26.09": 0}

    def test_advice_fails_only_when_strict(self, tmp_path: Path) -> None:
        advice = finding(tmp_path, severity="advice")
        assert not report(advice).failed
        assert report(advice, strict=True).failed
        assert report(advice, finding(tmp_path, severity="breaks")).failed
        assert not report(strict=True).failed


def test_the_same_through_both_doors(broken: Path) -> None:
    """The command is found by typer, too, for whoever calls that."""
    arguments = ["check", "--format", "json", "repository", "--ignore=TR1", "--strict"]
    code = "import sys; from tritonrepo.cli import main; main()"
    other = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=broken, capture_output=True, text=True, check=False
    )
    done = tritonrepo(*arguments, cwd=broken)
    assert (other.returncode, other.stdout) == (done.returncode, done.stdout)
    assert tritonrepo("rule", "--help", cwd=broken).stdout.startswith("usage: tritonrepo rule")


def test_nothing_heavy_is_imported(broken: Path) -> None:
    code = (
        "import sys; from tritonrepo.__main__ import main\n"
        "try: main()\n"
        f"finally: print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )
    for arguments in (["check", "repository"], ["check", "repository", "--fix"], ["rule"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=broken, capture_output=True, text=True, check=False
        )
        assert done.stdout.rstrip().endswith("LOADED []"), done.stdout + done.stderr


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    write(tmp_path, {f"r/m{number}/config.pbtxt": "nonsense" for number in range(2000)})
    command = [sys.executable, "-m", "tritonrepo", "check", "r"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_terminal_that_has_no_such_character(tmp_path: Path) -> None:
    write(tmp_path, {"r/\u00e4/config.pbtxt": "nonsense"})
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "tritonrepo", "check", "r"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment, check=False)
    assert done.returncode == 1
    assert b"r/\\xe4/config.pbtxt" in done.stdout


class TestDocs:
    def test_the_example_is_what_the_command_prints(self, tmp_path: Path) -> None:
        tensors = "{kind} {{ name: {name!r} data_type: {type} dims: {dims} }}\n".format
        ids = tensors(kind="output", name="ids", type="TYPE_INT64", dims=-1)
        write(
            tmp_path / "model_repository",
            {
                "detector/config.pbtxt": 'name: "detector"\nplatform: "onnxruntime_onnx"\nmax_batchsize: 8\n',
                "detector/1/model.onnx": "",
                "tokenizer/config.pbtxt": 'name: "tokenizer"\nbackend: "python"\n'
                + tensors(kind="input", name="text", type="TYPE_STRING", dims=1)
                + ids,
                "tokenizer/1/model.py": CODE,
                "search/1/": "",
                "search/config.pbtxt": 'name: "serach"\nplatform: "ensemble"\n'
                + tensors(kind="input", name="query", type="TYPE_STRING", dims=1)
                + ids.replace("64", "32")
                + 'ensemble_scheduling {\n  step {\n    model_name: "tokenizer"\n'
                '    input_map { key: "text" value: "query" }\n    output_map { key: "ids" value: "ids" }\n  }\n}\n',
            },
        )
        done = tritonrepo("check", "model_repository", cwd=tmp_path)
        assert f"$ tritonrepo check model_repository\n{done.stdout}```\n" in (ROOT / "docs" / "checking.md").read_text()

    def test_the_topics(self) -> None:
        page = (ROOT / "docs" / "checking.md").read_text()
        assert re.findall(r"^\| (TR\d) \|", page, re.MULTILINE) == [f"TR{number}" for number in range(len(TOPICS))]

    def test_the_workflow_calls_the_command_as_it_is(self) -> None:
        workflow = yaml.safe_load((ROOT / "docs" / "examples" / "check-workflow.yaml").read_text())
        steps = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
        commands = [step for step in steps if step.startswith("tritonrepo check ")]
        assert len(commands) == 2
        for command in commands:
            options = parser().parse_args(command.partition(" >")[0].split()[2:])
            release_of(options.triton)
            assert gpus_of(options.gpus) == (("9.0",), None)

    def test_the_hooks_take_files_of_models(self) -> None:
        for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()):
            command = hook["entry"].split()
            assert command[:2] == ["tritonrepo", "check"]
            parser().parse_args(command[2:])
            taken = re.compile(hook["files"])
            for file in ("config.pbtxt", "r/m/config.pbtxt", "r/m/1/model.onnx", "m/12/model.py", "r/m/3/model.plan"):
                assert taken.search(file)
            for file in (
                "r/m/labels.txt",
                "src/model.py",
                "my_config.pbtxt",
                "r/m/1/model.onnx.data",
                "r/m/v1/model.py",
            ):
                assert not taken.search(file)
