"""The command line: words and exit codes, nothing else.

Exit codes: 0 ok, 1 findings, a failed verdict or a machine that cannot do what was asked, 2 wrong usage or spec, 130
interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

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
    max_memory: Annotated[
        float | None, typer.Option(min=0.1, help="GiB for all models that are built at once; default: 9/10 of what is.")
    ] = None,
    max_time: Annotated[float | None, typer.Option(min=1, help="Seconds for one model; default: 7200.")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="Compute capabilities of the GPUs that will serve: sm80,sm90. Each needs a host.")
    ] = None,
    where: Annotated[
        Literal["here", "docker"], typer.Option("--in", help="docker: in the image that will serve, for its TensorRT.")
    ] = "here",
    image: Annotated[str | None, typer.Option("--builder-image", help="docker: another image to build in.")] = None,
    devices: Annotated[str, typer.Option("--container-gpus", help="docker: all, none, or ids such as 0,1.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="docker: print the command and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events and result as JSON lines.")] = False,
) -> None:
    """Build the model repository: prepare, prove and publish every model that changed."""
    from tritonrepo.build import BuildOptions
    from tritonrepo.build import build as run
    from tritonrepo.display import display_for
    from tritonrepo.limits import Limits, usual_limits

    spec = _spec(sources or [_SPEC], repository, templates)
    if gpus:
        spec = spec.model_copy(update={"gpus": _capabilities(gpus)})
    if where == "docker":
        arguments = _arguments(
            {
                "--repository": repository and repository.absolute(),
                "--templates": templates and templates.absolute(),
                "--jobs": jobs,
                "--max-memory": max_memory,
                "--max-time": max_time,
                "--gpus": gpus,
                "--no-wait": not wait,
                "--keep-going": keep_going,
                "--prune": prune,
                "--json": as_json,
            }
        )
        _build_in_docker(spec, sources or [_SPEC], arguments, image, devices, dry_run=dry_run, quiet=as_json)
        return
    if dry_run:
        raise UsageError("--dry-run prints the docker command", hint="Add `--in docker`.")
    usual = usual_limits()
    limits = Limits(usual.memory if max_memory is None else int(max_memory * 2**30), max_time or usual.seconds)
    options = BuildOptions(jobs=jobs, wait=wait, keep_going=keep_going, prune=prune, limits=limits)
    display = display_for(sys.stdout, as_json=as_json, total=len(spec.models))
    with display:
        result = run(spec, options, display.step, display.say)
    display.result(result)
    for name, error in result.failures.items():
        _complain(str(_placed(error, name, sources or [_SPEC])))
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


# argparse reads the arguments of these three, as check/command.py says why.
_ARGUMENTS_AS_THEY_ARE = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_ARGUMENTS_AS_THEY_ARE)
def check(ctx: typer.Context) -> None:
    """Say what is wrong with model repositories, without starting a server."""
    from tritonrepo.check.command import run

    raise typer.Exit(run("check", ctx.args))


@app.command(context_settings=_ARGUMENTS_AS_THEY_ARE)
def inspect(ctx: typer.Context) -> None:
    """Say what ONNX files are, what they cost, and what a build would change or refuse."""
    from tritonrepo.check.command import run

    raise typer.Exit(run("inspect", ctx.args))


@app.command(context_settings=_ARGUMENTS_AS_THEY_ARE)
def rule(ctx: typer.Context) -> None:
    """Explain a rule of check; without an id, list all rules."""
    from tritonrepo.check.command import run

    raise typer.Exit(run("rule", ctx.args))


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


@app.command()
def status(
    source: Annotated[Path | None, typer.Argument(help="The spec; by default models.yaml, if there is one.")] = None,
    repository: Annotated[
        Path | None, typer.Option("--repository", "-o", help="The model repository; by default the spec's.")
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="Compute capabilities that should be there: sm80,sm90.")] = None,
    release: Annotated[str | None, typer.Option(help="The Triton release that serves; by default the spec's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """Say which plans a repository has, for which GPU and TensorRT, and what is missing. Exit code 1: not complete."""
    from tritonrepo.spec import load_spec
    from tritonrepo.status import status as run

    spec = load_spec(source or _SPEC) if source or (_SPEC.is_file() and repository is None) else None
    if spec and gpus:
        spec = spec.model_copy(update={"gpus": _capabilities(gpus)})
    where = repository or (spec.repository if spec else _REPOSITORY)
    parts = run(where, spec=spec, release=release)
    if as_json:
        print(json.dumps([part.as_json() for part in parts], indent=2))
    else:
        from tritonrepo.display import print_status

        print_status(parts, where)
    if not all(part.ok for part in parts):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def serve(
    ctx: typer.Context,
    repository: Annotated[Path, typer.Argument(help="The model repository.")] = _REPOSITORY,
    how: Annotated[Literal["embedded", "docker"], typer.Option("--with", help="The server to run.")] = "embedded",
    host: Annotated[str, typer.Option(help="Address to bind or publish.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535)] = 8002,
    control: Annotated[Literal["none", "poll", "explicit"], typer.Option(help="Model control mode.")] = "none",
    poll_seconds: Annotated[int, typer.Option(min=1, help="How often poll looks for changes.")] = 1,
    load_model: Annotated[list[str] | None, typer.Option(help="What explicit loads at the start; * is all.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for the server's log.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds within which all models must answer.")] = 300,
    install: Annotated[bool, typer.Option("--install", help="Install the embedded server first, if missing.")] = False,
    install_only: Annotated[bool, typer.Option("--install-only", help="Install it and do not serve.")] = False,
    release: Annotated[str | None, typer.Option(help="docker: release; by default that of models.yaml.")] = None,
    image: Annotated[str | None, typer.Option(help="docker: another image.")] = None,
    gpus: Annotated[str, typer.Option(help="docker: all, none, or ids such as 0,1.")] = "all",
    shm_size: Annotated[str, typer.Option(help="docker: size of /dev/shm.")] = "1g",
    user: Annotated[str | None, typer.Option(help="docker: UID:GID; by default yours.")] = None,
    name: Annotated[str, typer.Option(help="docker: the container's name.")] = "tritonrepo",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="docker: print the command and do nothing.")] = False,
) -> None:
    """Serve a repository: ready when every model has answered. Ctrl-C stops it. Arguments after -- go to tritonserver.

    Loading a Python model or a TensorRT plan runs the code in it: serve only repositories that you trust.
    """
    from tritonrepo.serve import ServeOptions, run_embedded

    options = ServeOptions(
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        control=control,
        poll_seconds=poll_seconds,
        models=tuple(load_model) if load_model else None,
        log=log,
        extra_args=tuple(ctx.args),
        timeout=timeout,
    )
    if how == "embedded":
        if dry_run:
            raise UsageError("--dry-run prints the docker command", hint="Add `--with docker`.")
        if install or install_only:
            _install_runtime()
        if not install_only:
            run_embedded(repository, options, _say)
        return
    from tritonrepo.docker import ContainerOptions, docker_command, run_docker, shell

    container = ContainerOptions(
        release=release or _release(), image=image, gpus=_gpus(gpus), shm_size=shm_size, user=_user(user), name=name
    )
    if dry_run:
        print(shell(docker_command(repository, options, container)))
    else:
        run_docker(repository, options, container, _say)


@app.command()
def infer(
    model: Annotated[str, typer.Argument(help="The served model's name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=VALUE: a .npy, .npz, .json, .bin or image file, JSON, or text."),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Random values for inputs that are not given.")] = False,
    shape: Annotated[list[str] | None, typer.Option(help="NAME=1,3,224,224: shape of a random input.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random values.")] = 0,
    url: Annotated[str, typer.Option(help="http://HOST:PORT or grpc://HOST:PORT.")] = "http://127.0.0.1:8000",
    version: Annotated[str, typer.Option(help="The model's version; by default the server chooses.")] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")] = 60,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save outputs: FILE.npz or a folder.")] = None,
) -> None:
    """Send one request to a served model and show what it answers."""
    from tritonrepo.infer import infer as run
    from tritonrepo.infer import parse_shape, save, summarise

    result = run(
        url,
        model,
        inputs or (),
        random=random,
        shapes=dict(parse_shape(each) for each in shape or ()),
        seed=seed,
        version=version,
        timeout=timeout,
    )
    for note in result.notes:
        print(note)
    for summary in summarise(result.outputs):
        print(summary)
    print(f"answered in {result.milliseconds:.1f} ms")
    if output:
        for path in save(result, output):
            print(f"wrote {path}")


@app.command(name="client-code")
def client_code(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    repository: Annotated[Path, typer.Option(help="The repository whose config says what it takes.")] = _REPOSITORY,
    url: Annotated[str, typer.Option(help="Ask this server instead: http://HOST:PORT or grpc://HOST:PORT.")] = "",
    version: Annotated[str, typer.Option(help="With --url: the model's version.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else standard output.")
    ] = None,
) -> None:
    """Write a typed Python module that calls a model through tritonrepo-client."""
    from tritonrepo import client_code as code

    signature = code.from_server(url, model, version) if url else code.from_repository(repository, model)
    text = code.render(model, signature)
    if output is None:
        print(text, end="")
        return
    code.write(text, output)
    print(f"wrote {output}")


@app.command(context_settings=_ARGUMENTS_AS_THEY_ARE)
def perf(ctx: typer.Context) -> None:
    """Measure how fast a server answers: rates, latencies, and how sure they are."""
    from tritonrepo.perf import arguments_with_spec
    from tritonrepo_client.perf.command import run

    raise typer.Exit(run(arguments_with_spec(ctx.args)))


@app.command()
def doctor(
    repository: Annotated[Path, typer.Option("--repository", "-o", help="Where models are published.")] = _REPOSITORY,
) -> None:
    """Say what this machine can build and serve, and how to get what is missing."""
    from tritonrepo.doctor import examine

    for finding in examine(repository=repository, release=_release()):
        print(f"{finding.status:8} {finding.topic}: {finding.detail}")
        if finding.remedy:
            print(f"{'':8}   {finding.remedy}")


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


def _placed(error: TritonrepoError, model: str, sources: list[Path]) -> TritonrepoError:
    """The error; one that is mended by a line in the spec says where that line goes."""
    from tritonrepo.errors import MissingRangeError

    if isinstance(error, MissingRangeError) and len(sources) == 1 and sources[0].suffix != ".onnx":
        import os

        from tritonrepo._assemble import where_of

        error.where = where_of(sources[0], model, "shapes", os.environ) or error.where
    return error


def _build_in_docker(
    spec: Spec,
    sources: list[Path],
    arguments: list[str],
    image: str | None,
    devices: str,
    *,
    dry_run: bool,
    quiet: bool,
) -> None:
    from tritonrepo.docker import ContainerOptions, shell
    from tritonrepo.docker_build import BuilderOptions, build_command, run_build

    options = BuilderOptions(image, ContainerOptions(gpus=_gpus(devices)))
    if dry_run:
        print(shell(build_command(spec, sources, arguments, options)))
        return
    status = run_build(spec, sources, arguments, options, (lambda _: None) if quiet else _say)
    if status:
        raise typer.Exit(status)


def _arguments(given: dict[str, object]) -> list[str]:
    """Options for another run of the same command: those that are set; a flag where the value is True."""
    return [
        part
        for name, value in given.items()
        if value is not None and value is not False
        for part in ([name] if value is True else [f"{name}={value}"])
    ]


def _release() -> str:
    """The Triton release that models.yaml names, or else the one that a spec without it would."""
    from tritonrepo.spec import Spec, load_spec

    return load_spec(_SPEC).triton if _SPEC.is_file() else str(Spec.model_fields["triton"].default)


def _capabilities(text: str) -> tuple[str, ...]:
    """``sm80,9.0`` as compute capabilities."""
    from pydantic import TypeAdapter, ValidationError

    from tritonrepo.spec import Capability

    try:
        found: list[str] = TypeAdapter(list[Capability]).validate_python([each.strip() for each in text.split(",")])
    except ValidationError:
        raise UsageError(f"--gpus {text}", hint="Give compute capabilities such as sm80,sm90.") from None
    return tuple(dict.fromkeys(found))


def _gpus(text: str) -> Literal["all", "none"] | tuple[int, ...]:
    if text in ("all", "none"):
        return cast("Literal['all', 'none']", text)
    return _numbers(text, ",", "--gpus", "all, none, or ids such as 0,1")


def _user(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    user, group = (*_numbers(text, ":", "--user", "UID:GID"), -1, -1)[:2]
    if group < 0:
        raise UsageError(f"--user {text}", hint="Give UID:GID.")
    return user, group


def _numbers(text: str, separator: str, option: str, form: str) -> tuple[int, ...]:
    parts = text.split(separator)
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"{option} {text}", hint=f"Give {form}.")
    return tuple(map(int, parts))


def _install_runtime() -> None:
    from tritonrepo.runtime import find_runtime, install_runtime

    runtime = find_runtime()
    if runtime is None:
        with _bytes_shown() as progress:
            runtime = install_runtime(progress=progress)
    print(f"Triton {runtime.version} is installed in {runtime.root}")


@contextmanager
def _bytes_shown() -> Iterator[Callable[[str, int, int], None]]:
    """Progress in bytes: a bar on a terminal, a line for each phase elsewhere."""
    if not sys.stdout.isatty():
        phases: set[str] = set()

        def told(phase: str, done: int, total: int) -> None:
            if phase not in phases:
                phases.add(phase)
                _say(f"{phase} ({total >> 20} MB)" if total else phase)

        yield told
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def shown(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase)
            bars.update(tasks[phase], completed=done, total=total or None)

        yield shown


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
