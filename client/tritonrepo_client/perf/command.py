"""The command ``tritonrepo perf``, also ``python -m tritonrepo_client.perf``: words and exit codes.

Exit codes: 0 ok; 1 a point is invalid, nothing succeeded, replies were wrong, the server went away, no rate keeps the
limit, or a significant regression; 2 wrong usage; 130 interrupted (what was measured until then is shown and written).
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonrepo_client.perf.errors import PerfError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from tritonrepo_client.perf.settings import Load, Settings

Json = dict[str, Any]

_DESCRIPTION = """\
Measure how fast a Triton server answers, and say how sure that is.

  tritonrepo perf mlp --concurrency 1:64:x2                    so many requests in flight
  tritonrepo perf mlp --rate 500 --url grpc://127.0.0.1:8001   requests at set times, whatever the server does
  tritonrepo perf mlp --slo p99=20ms --html report.html        the highest rate that keeps a limit
  tritonrepo perf mlp --rate 500 --compare old.json            exit code 1 when it got slower

Times are measured from when a request was due: a server that stalls does not look good because the client waited.
"""


def run(arguments: Sequence[str], prog: str = "tritonrepo perf") -> int:
    """Run the command. Returns the exit code."""
    try:
        return _run(parser(prog).parse_args(arguments))
    except PerfError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except ImportError as error:
        sys.stderr.write(f"error: {error.name} is missing\n  pip install 'tritonrepo-client[perf]'\n")
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted before anything was measured\n")
        return 130


def parser(prog: str) -> ArgumentParser:
    """The options."""
    top = ArgumentParser(prog=prog, description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    top.add_argument("model", nargs="+", metavar="MODEL", help="NAME, NAME:VERSION; several are mixed: NAME=WEIGHT")
    top.add_argument("--url", "-u", action="append", help="http://HOST:PORT or grpc://HOST:PORT; several: in turn "
                     "(default: http://127.0.0.1:8000)")  # fmt: skip
    _add_load(top)
    _add_requests(top)
    _add_measuring(top)
    _add_results(top)
    return top


def _add_load(top: ArgumentParser) -> None:
    group = top.add_argument_group("load", "One of them; a list or range gives a point each.")
    group.add_argument("--concurrency", "-c", metavar="N", help="requests in flight: 1,4,16, 1:64:x2 or 8:64:8")
    group.add_argument("--rate", "-r", metavar="R", help="requests a second: 500, 100:1000:100 or 100:1600:x2")
    group.add_argument("--ramp", metavar="FROM:TO", help="a rate that grows over --duration")
    group.add_argument("--replay", metavar="FILE", type=Path, help="arrivals as recorded: seconds, one a line")
    group.add_argument("--slo", metavar="p99=20ms", help="find the highest rate that keeps this")
    group.add_argument("--arrival", choices=["poisson", "constant", "burst"], default="poisson", help="of --rate and "
                       "--slo (default: poisson)")  # fmt: skip
    group.add_argument("--burst", metavar="N", type=int, default=10, help="requests in a burst (default: 10)")
    group.add_argument("--max-in-flight", metavar="N", type=int, default=1024,
                       help="open loop: most requests at the server; more wait here, and their time runs "
                       "(default: 1024)")  # fmt: skip


def _add_requests(top: ArgumentParser) -> None:
    group = top.add_argument_group("requests")
    group.add_argument("--batch", "-b", type=int, default=1, help="rows in a request (default: 1)")
    group.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="[MODEL/]INPUT=DIMS",
        help="shape of a random input: x=3,224,224, or drawn from ranges: x=3,32:320:32,48:640",
    )
    group.add_argument(
        "--spec", metavar="FILE", help="models.yaml: shapes are drawn from its ranges (`tritonrepo perf` only)"
    )
    group.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[MODEL=]PATH",
        help=".npz, directory, or JSON as perf_analyzer reads it; random values by default",
    )
    group.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="[MODEL=]PATH",
        help=".npz of the outputs that the replies to --data must have; every reply is checked",
    )
    group.add_argument("--rtol", type=float, default=0.0, help="relative tolerance of --expect (default: 0)")
    group.add_argument("--atol", type=float, default=0.0, help="absolute tolerance of --expect (default: 0)")
    group.add_argument("--distinct", type=int, default=16, help="different random requests (default: 16)")
    group.add_argument("--low", type=float, help="lower end of random values (default: 0)")
    group.add_argument("--high", type=float, help="upper end, not reached (default: 1 for floats, 2 for integers)")
    group.add_argument("--text-length", type=int, default=16, help="of random texts (default: 16)")
    group.add_argument("--seed", type=int, default=0, help="of random values and arrivals (default: 0)")
    group.add_argument("--output", action="append", default=[], metavar="NAME", help="ask for this output only")
    group.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help="goes with each request")
    group.add_argument("--streaming", action="store_true", help="gRPC streams: needed by decoupled models")
    group.add_argument("--sequence-length", type=int, default=0, metavar="N", help="send sequences of N requests")
    group.add_argument(
        "--sequence-variation",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="by which their length varies (default: 0.2)",
    )
    group.add_argument("--sequence-first-id", type=int, default=1, metavar="ID", help="(default: 1)")
    group.add_argument(
        "--shared-memory",
        choices=["none", "system", "cuda"],
        default="none",
        help="tensors go through shared memory of this host",
    )
    group.add_argument("--output-shared-memory", type=int, default=102_400, metavar="BYTES",
                       help="for an output whose size is not known (default: 102400)")  # fmt: skip


def _add_measuring(top: ArgumentParser) -> None:
    group = top.add_argument_group("measuring", "Times are seconds, or 20ms, 1.5s, 2m.")
    group.add_argument("--duration", "-d", default="20", metavar="T", help="most time for a point (default: 20)")
    group.add_argument("--min-duration", metavar="T", help="least time for a point (default: 4, or --duration)")
    group.add_argument(
        "--precision",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="stop when rate, p50 and p99 are known this well; 0: use all of --duration (default: 0.05)",
    )
    group.add_argument("--warmup", default="auto", metavar="T", help="auto finds out when figures are steady")
    group.add_argument("--max-warmup", default="10", metavar="T", help="of auto (default: 10)")
    group.add_argument("--timeout", default="60", metavar="T", help="a request is given up after this (default: 60)")
    group.add_argument("--deadline", metavar="T", help="report how many replies came within this (goodput)")
    group.add_argument("--workers", type=int, default=0, help="processes (default: 1, more when it was not enough)")
    group.add_argument("--connections", type=int, default=0, help="gRPC: connections of a worker (default: up to 4)")
    group.add_argument("--metrics-url", metavar="URL",
                       help="(default: port 8002 of the first host, if there is one; '': none)")  # fmt: skip


def _add_results(top: ArgumentParser) -> None:
    group = top.add_argument_group("results")
    group.add_argument("--json", metavar="FILE", help="everything; - is standard output")
    group.add_argument("--csv", metavar="FILE", type=Path, help="a line for each point")
    group.add_argument("--perf-analyzer-csv", metavar="FILE", type=Path, help="the same with perf_analyzer's columns")
    group.add_argument("--html", metavar="FILE", type=Path, help="a report to look at, in one file")
    group.add_argument("--compare", metavar="OLD.json", type=Path, help="exit code 1 when something got worse")
    group.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="differences up to this are no regression (default: 0.05)",
    )
    group.add_argument("--quiet", "-q", action="store_true", help="no live view")


def _run(options: Namespace) -> int:
    from rich.console import Console

    from tritonrepo_client.perf import session
    from tritonrepo_client.perf.compare import load_result
    from tritonrepo_client.perf.view import View, show_result

    settings = settings_of(options)
    old = load_result(options.compare) if options.compare else None
    _writable(options)
    to_stdout = options.json == "-"
    console = Console(stderr=to_stdout, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=to_stdout, highlight=False, width=200)
    view = View(console, live=console.is_terminal and not options.quiet)
    with view:
        result = session.run(
            settings, on_progress=view.progress if view.is_live else None, on_point=view.point, on_note=view.note
        )
    show_result(console, result)
    _write(options, result)
    code = _verdict(result)
    if old is not None:
        code = max(code, _compare(console, old, result, options.tolerance))
    if result["interrupted"]:
        sys.stderr.write("error: interrupted; what was measured until then is above\n")
        return 130
    if result["server_gone"]:
        sys.stderr.write("error: the server went away; what was measured until then is above\n")
    return code


def _compare(console: Console, old: Json, new: Json, tolerance: float) -> int:
    from tritonrepo_client.perf.compare import compare
    from tritonrepo_client.perf.view import show_comparison

    comparison = compare(old, new, tolerance)
    show_comparison(console, comparison)
    if not comparison.differences:
        raise UsageError("--compare: the two runs have no load in common", hint="Measure the same loads.")
    return 1 if comparison.worse else 0


def _verdict(result: Json) -> int:
    good = bool(result["points"]) and all(point["valid"] for point in result["points"])
    if result["slo"] is not None:  # a search goes where the client or the server can no more
        good = result["slo"]["rate"] is not None
    return 0 if good and not result["server_gone"] else 1


def _writable(options: Namespace) -> None:
    """Say before the run, not after it, that a result has no place."""
    files = [options.csv, options.perf_analyzer_csv, options.html]
    if options.json and options.json != "-":
        files.append(Path(options.json))
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise UsageError(f"{file}: there is no directory {file.absolute().parent}")


def _write(options: Namespace, result: Json) -> None:
    from tritonrepo_client.perf import export

    if options.json == "-":
        sys.stdout.write(export.as_json(result))
    elif options.json:
        export.write(Path(options.json), export.as_json(result))
    if options.csv:
        export.write(options.csv, export.as_csv(result))
    if options.perf_analyzer_csv:
        export.write(options.perf_analyzer_csv, export.as_perf_analyzer_csv(result))
    if options.html:
        from tritonrepo_client.perf.html import as_html

        export.write(options.html, as_html(result))


def settings_of(options: Namespace) -> Settings:
    """The settings that the options mean.

    Raises:
        UsageError: they cannot be read.
    """
    from tritonrepo_client.perf.data import parse_shape
    from tritonrepo_client.perf.settings import ModelShare, Settings, parse_seconds, parse_slo

    if options.spec:
        raise UsageError("--spec is read by `tritonrepo perf`", hint="pip install tritonrepo, or give --shape.")
    models = tuple(ModelShare.parse(text) for text in options.model)
    names = [model.name for model in models]
    duration = parse_seconds(options.duration, "--duration")
    least = parse_seconds(options.min_duration, "--min-duration") if options.min_duration else min(4.0, duration)
    return Settings(
        models=models,
        loads=_loads(options),
        urls=tuple(options.url or ["http://127.0.0.1:8000"]),
        batch=options.batch,
        data=_by_model(options.data, names, "--data"),
        expect=_by_model(options.expect, names, "--expect"),
        rtol=options.rtol,
        atol=options.atol,
        shapes=dict(parse_shape(text) for text in options.shape),
        distinct=_positive(options.distinct, "--distinct"),
        low=options.low,
        high=options.high,
        text_length=options.text_length,
        seed=options.seed,
        outputs=tuple(options.output),
        parameters=dict(_parameter(text) for text in options.parameter),
        streaming=options.streaming,
        sequence_length=options.sequence_length,
        sequence_variation=options.sequence_variation,
        sequence_first_id=options.sequence_first_id,
        shared_memory=options.shared_memory,
        output_shared_memory=_positive(options.output_shared_memory, "--output-shared-memory"),
        duration=duration,
        min_duration=least,
        precision=options.precision,
        warmup=None if options.warmup == "auto" else parse_seconds(options.warmup, "--warmup"),
        max_warmup=parse_seconds(options.max_warmup, "--max-warmup"),
        timeout=parse_seconds(options.timeout, "--timeout"),
        deadline=parse_seconds(options.deadline, "--deadline") if options.deadline else None,
        max_in_flight=options.max_in_flight,
        workers=options.workers,
        connections=options.connections,
        metrics_url=options.metrics_url,
        slo=parse_slo(options.slo) if options.slo else None,
    )


def _loads(options: Namespace) -> tuple[Load, ...]:
    from tritonrepo_client.perf.settings import Load, parse_range, read_trace

    given = [name for name in ("concurrency", "rate", "ramp", "replay") if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} do not go together", hint="Measure one after the other.")
    if options.concurrency is not None:
        values = parse_range(options.concurrency, "--concurrency", whole=True)
        return tuple(Load("concurrency", value) for value in values)
    if options.rate is not None:
        values = parse_range(options.rate, "--rate", whole=False)
        return tuple(_rate(options, value) for value in values)
    if options.ramp is not None:
        first, last = _ramp(options.ramp)
        return (Load("ramp", last, start=first),)
    if options.replay is not None:
        trace = read_trace(options.replay)
        rate = len(trace) / max(trace[-1] / 1e9, 1e-9)
        return (Load("trace", rate, trace=trace),)
    return (Load("concurrency", 1, options.arrival),)


def _rate(options: Namespace, value: float) -> Load:
    from tritonrepo_client.perf.settings import Load

    burst = _positive(options.burst, "--burst") if options.arrival == "burst" else 1
    return Load("rate", value, options.arrival, burst=burst)


def _ramp(text: str) -> tuple[float, float]:
    from tritonrepo_client.perf.settings import parse_range

    parts = text.split(":")
    if len(parts) != 2:
        raise UsageError(f"cannot read --ramp {text}", hint="Give FROM:TO, requests a second.")
    first, last = (parse_range(part, "--ramp", whole=False)[0] for part in parts)
    return first, last


def _by_model(texts: Sequence[str], names: Sequence[str], option: str) -> dict[str, Path]:
    result = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or name not in names:
            if len(names) > 1:
                raise UsageError(f"{option} {text}: for which model?", hint=f"Give {option} MODEL=PATH.")
            name, path = names[0], text
        result[name] = Path(path)
    return result


def _parameter(text: str) -> tuple[str, str | bool | int | float]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"cannot read --parameter {text}", hint="Give NAME=VALUE.")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _positive(value: int, option: str) -> int:
    if value < 1:
        raise UsageError(f"{option} {value}: it must be at least 1")
    return value
