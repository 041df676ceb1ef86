"""The command line: words and exit codes, nothing else.

Exit codes: 0 ok, 1 findings, a failed verdict or a machine that cannot do what was asked, 2 wrong usage or spec, 130
interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tritonrepo.errors import TritonrepoError, UsageError

if TYPE_CHECKING:
    from tritonrepo.spec import Spec

_SPEC = Path("models.yaml")
_REPOSITORY = Path("model_repository")


class _Guarded(TyperGroup):
    """Turns what tritonrepo raises into one message on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TritonrepoError as error:
            _complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            where = f"{error.filename}: " if error.filename else ""
            _complain(f"{where}{error.strerror or error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _complain("interrupted; what was published stays whole")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="tritonrepo",
    cls=_Guarded,
    help="ONNX models in, a proven NVIDIA Triton model repository out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of the console script."""
    app()


@app.command()
def build(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="A spec (default: models.yaml), or ONNX files to build without one.")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option("--repository", "-o", help="Where to write; by default what the spec says.")
    ] = None,
    templates: Annotated[Path | None, typer.Option(help="Folder with templates in place of the built-in ones.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Models built at once; default: cores.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for another build of the same repository.")] = True,
    keep_going: Annotated[bool, typer.Option(help="Publish what was proven although other models failed.")] = False,
    prune: Annotated[
        bool, typer.Option(help="Remove models that tritonrepo wrote and the spec no longer names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events and result as JSON lines.")] = False,
) -> None:
    """Build the model repository: prepare, prove and publish every model that changed."""
    from tritonrepo.build import BuildOptions
    from tritonrepo.build import build as run
    from tritonrepo.display import display_for

    spec = _spec(sources or [_SPEC], repository, templates)
    options = BuildOptions(jobs=jobs, wait=wait, keep_going=keep_going, prune=prune)
    display = display_for(sys.stdout, as_json=as_json, total=len(spec.models))
    with display:
        result = run(spec, options, display.step, display.say)
    display.result(result)
    for error in result.failures.values():
        _complain(str(error))
    if result.failures:
        kept = "the proven models were published" if keep_going else "nothing was published"
        _complain(f"{len(result.failures)} of {len(spec.models)} models failed; {kept}")
        raise typer.Exit(1)


@app.command()
def init(
    onnx: Annotated[list[Path], typer.Argument(help="ONNX files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The spec to write.")] = _SPEC,
    force: Annotated[bool, typer.Option(help="Replace an existing spec.")] = False,
) -> None:
    """Write a commented models.yaml from what the graphs say."""
    from tritonrepo.init import write_spec

    write_spec(onnx, output, force=force)
    print(f"wrote {output}; `tritonrepo build {output}` builds it")


@app.command()
def schema() -> None:
    """Print the JSON Schema of models.yaml, for editors."""
    from tritonrepo.spec import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def check(
    repository: Annotated[Path, typer.Argument(help="A model repository, written by anyone.")] = _REPOSITORY,
) -> None:
    """Say what is wrong with a model repository, without starting a server."""
    from tritonrepo.check import check as run

    findings = run(repository)
    for finding in findings:
        print(finding)
    if any(finding.severity != "advice" for finding in findings):
        raise typer.Exit(1)
    if not findings:
        print(f"{repository}: nothing found")


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[int | None, typer.Option(help="Which version; by default the one before the latest.")] = None,
    repository: Annotated[Path, typer.Option("--repository", "-o", help="The model repository.")] = _REPOSITORY,
) -> None:
    """Publish an earlier version of a model again, as the newest one."""
    from tritonrepo.lock import repository_lock
    from tritonrepo.publish import rollback as run

    with repository_lock(repository, wait=True, on_wait=print) as lock:
        done = run(repository, model, version, lock)
    print(f"{done.name}: version {done.version} is what was asked for")


def _spec(sources: list[Path], repository: Path | None, templates: Path | None) -> Spec:
    """The spec that the arguments of ``build`` mean."""
    from tritonrepo.spec import load_spec, spec_for

    models = [source for source in sources if source.suffix == ".onnx"]
    if models and len(models) == len(sources):
        return spec_for(models, repository=repository or _REPOSITORY, templates=templates)
    if len(sources) > 1:
        raise UsageError("give one spec, or ONNX files", hint="Several specs are several builds.")
    spec = load_spec(sources[0])
    changes = {"repository": repository and repository.absolute(), "templates": templates and templates.absolute()}
    return spec.model_copy(update={key: value for key, value in changes.items() if value})


def _complain(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
