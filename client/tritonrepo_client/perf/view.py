"""What is seen while a run goes on, and the tables at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tritonrepo_client.perf.compare import Comparison
from tritonrepo_client.perf.measure import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

Json = dict[str, Any]
_BARS = "▁▂▃▄▅▆▇█"


def milliseconds(us: float | None) -> str:
    """A time with three digits that say something: 0.412, 12.3, 4,310."""
    if us is None:
        return "-"
    value = us / 1e3
    return (
        f"{value:,.0f}"
        if value >= 1000
        else f"{value:.1f}"
        if value >= 100
        else f"{value:.2f}"
        if value >= 10
        else f"{value:.3f}"
    )


def per_second(value: float | None) -> str:
    """A rate."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def interval(figure: Json) -> str:
    """Half of a figure's interval, in percent of it."""
    if figure["low"] is None or figure["high"] is None or not figure["value"]:
        return "±?"
    half = (figure["high"] - figure["low"]) / 2 / figure["value"]
    return f"±{half:.1%}" if half < 0.1 else f"±{half:.0%}"


def sparkline(values: Sequence[float]) -> str:
    """Values as small bars, from 0 on."""
    top = max(values, default=0.0)
    if not top:
        return ""
    return "".join(_BARS[min(int(value / top * len(_BARS)), len(_BARS) - 1)] for value in values)


class View:
    """Shows a run on a console: live on a terminal, a line for each point elsewhere. A context manager."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self.console = console
        self._live_wanted = live
        self._live: Live | None = None
        self._points: list[Json] = []

    def __enter__(self) -> View:
        if self._live_wanted:
            from rich.live import Live

            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether `progress` shows anything."""
        return self._live_wanted

    def progress(self, progress: Progress) -> None:
        """Show how the point under way stands."""
        if self._live is not None:
            self._live.update(self._picture(progress))

    def point(self, point: Json) -> None:
        """Show a point that is done."""
        self._points.append(point)
        if self._live is None:
            figure, latency = point["throughput"], point["latency_us"]
            state = "" if point["valid"] else "  INVALID"
            self.console.print(
                f"{point['load']['text']}: {per_second(figure['value'])}/s, "
                f"p50 {milliseconds(latency['p50']['value'])} ms, "
                f"p99 {milliseconds(latency['p99']['value'])} ms after {point['window']['seconds']:.1f} s "
                f"({point['window']['stopped_because']}){state}",
                soft_wrap=True,
            )

    def note(self, text: str) -> None:
        """Show a line."""
        self.console.print(text, soft_wrap=True)

    def _picture(self, progress: Progress) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        numbers = Table.grid(padding=(0, 3))
        width = f"±{progress.width:.1%}" if progress.width < 10 else "not yet"
        cells = [
            ("rate", f"{per_second(progress.rate)}/s"),
            ("p50", f"{progress.p50:.2f} ms"),
            ("p99", f"{progress.p99:.2f} ms"),
            ("in flight", str(progress.in_flight)),
            ("queue", str(progress.backlog)),
            ("errors", str(progress.errors)),
            ("interval", width),
        ]
        numbers.add_row(*[Text(name, style="dim") for name, _ in cells])
        numbers.add_row(*[Text(value, style="bold") for _, value in cells])
        title = f"{progress.load}  {progress.phase} {max(progress.seconds, 0):.0f} s"
        parts: list[RenderableType] = [numbers, Text(sparkline(progress.history), style="cyan")]
        panel = Panel(Group(*parts), title=title, title_align="left", border_style="dim")
        return Group(points_table(self._points), panel) if self._points else panel


def points_table(points: Sequence[Json]) -> Table:
    """The points of a run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("load", no_wrap=True)
    for name in ("req/s", "", "p50 ms", "p90", "p95", "p99", "", "p99.9", "max", "failed", "batch", "client us"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    table.add_column("")
    for point in points:
        latency, figure = point["latency_us"], point["throughput"]
        failed = point["requests"]["total"] - point["requests"]["ok"]
        server: Json = next(iter(((point["server"] or {}).get("models") or {}).values()), {})
        bounds = set(latency["lower_bounds"])
        cells = {
            name: ("≥" if name in bounds else "") + milliseconds(latency[name]["value"])
            for name in ("p50", "p90", "p95", "p99", "p99.9", "max")
        }
        batch, cpu = server.get("mean_batch"), point["client"]["cpu_us_per_request"]
        table.add_row(
            point["load"]["text"],
            per_second(figure["value"]),
            Text(interval(figure), style="dim"),
            cells["p50"], cells["p90"], cells["p95"], cells["p99"],
            Text(interval(latency["p99"]), style="dim"),
            cells["p99.9"], cells["max"],
            f"{failed:,}" if failed else "0",
            f"{batch:.2f}" if batch else "-",
            f"{cpu:.0f}" if cpu else "-",
            Text("" if point["valid"] else "invalid", style="red"),
        )  # fmt: skip
    return table


def show_result(console: Console, result: Json) -> None:
    """The table of a run, what the server says, and what one should know."""
    from rich.text import Text

    points = result["points"]
    if not points:
        console.print("nothing was measured", markup=False)
        return
    console.print(points_table(points))
    for point in points:
        for line in _server_lines(point):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for point in points:
        for kind, error in point["requests"]["errors"].items():
            words = f": {error['sample']}" if error["sample"] else ""
            console.print(f"{point['load']['text']}: {error['count']:,} x {kind}{words}", markup=False, soft_wrap=True)
        if point["goodput"]:
            good = point["goodput"]
            console.print(
                f"{point['load']['text']}: {per_second(good['per_second'])}/s within "
                f"{milliseconds(good['deadline_us'])} ms ({good['share'] or 0:.1%} of all)",
                markup=False,
            )
        for text in point["problems"]:
            console.print(Text(f"{point['load']['text']}: invalid: {text}", style="red"), soft_wrap=True)
        for text in point["notes"]:
            console.print(Text(f"{point['load']['text']}: {text}", style="yellow"), soft_wrap=True)
    if result["slo"]:
        _show_slo(console, result["slo"])


def _server_lines(point: Json) -> list[str]:
    lines = []
    for name, server in ((point["server"] or {}).get("models") or {}).items():
        execution = server["execution_us"]
        busy = f", instances busy {server['busy']:.0%}" if server["busy"] is not None else ""
        lines.append(
            f"{point['load']['text']}: server {name}: queue {milliseconds(server['queue_us'])} ms a request; input "
            f"{milliseconds(execution['input'])}, infer {milliseconds(execution['infer'])}, output "
            f"{milliseconds(execution['output'])} ms an execution{busy}"
        )
    return lines


def _show_slo(console: Console, slo: Json) -> None:
    for step in slo["steps"]:
        words = {True: "kept", False: "broken", None: "says nothing"}[step["kept"]]
        console.print(
            f"  {per_second(step['rate'])}/s: {slo['figure']} {milliseconds(step['value_us'])} ms, {words}",
            markup=False,
        )
    limit = f"{slo['figure']} <= {milliseconds(slo['limit_us'])} ms"
    rate = f"{per_second(slo['rate'])}/s keeps {limit}" if slo["rate"] else f"no rate keeps {limit}"
    console.print(f"{rate} ({slo['ended']})", markup=False, soft_wrap=True)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Ratios of two runs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("load", "figure"):
        table.add_column(name)
    for name in ("old", "new", "new/old", "interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    styles = {"worse": "red", "better": "green", "same": "dim", "unknown": "yellow"}
    for each in comparison.differences:
        shown = per_second if each.figure == "throughput" else milliseconds
        between = f"{each.low:.3f} to {each.high:.3f}" if each.low is not None and each.high is not None else "-"
        table.add_row(
            each.load, each.figure, shown(each.old), shown(each.new), f"{each.ratio:.3f}", between,
            Text(each.verdict, style=styles[each.verdict]),
        )  # fmt: skip
    console.print(table)
    for text in comparison.changed:
        console.print(f"the settings differ: {text}", markup=False, soft_wrap=True)
    for load in comparison.missing:
        console.print(f"{load}: only in the old run", markup=False)
