"""What was found, for the terminal, as Markdown, and as a picture."""

import statistics
from collections.abc import Callable, Iterator, Sequence

from matplotlib.axes import Axes
from rich.console import Group, RenderableType
from rich.text import Text

from benchmarks.adaptation.results import (
    LEAST_ACCURATE,
    MAX_VIOLATIONS,
    MEAN,
    MOST_ACCURATE,
    ORACLE,
    PEAK,
    PROTEUS,
    Benchmark,
    Kind,
    Run,
    accuracy,
    batch,
    violations,
)
from benchmarks.tables import UNKNOWN, Aim, Table, aim_line, rich_table, table_lines
from proteus_cli.domain.report import Report
from proteus_cli.reporting.plots import line_plots
from proteus_cli.reporting.plots.line_plots import PlottedRun
from proteus_cli.reporting.plots.plot_style import INK, render_axes

BEGIN, END = "<!-- adaptation: written by `python -m benchmarks.adaptation --docs` -->", "<!-- adaptation: end -->"
PICTURE = "adaptation.png"
ROWS: tuple[tuple[str, Kind], ...] = (
    (PROTEUS, "measured"),
    (MOST_ACCURATE, "measured"),
    (LEAST_ACCURATE, "measured"),
    (MEAN, "measured"),
    (PEAK, "measured"),
    (PROTEUS, "emulated"),
    (PEAK, "emulated"),
    (PROTEUS, "simulated"),
    (ORACLE, "simulated"),
)
FASTEST_S = 1.0


def shown(done: Benchmark) -> RenderableType:
    """For the terminal."""
    parts: list[RenderableType] = [rich_table(table) for table in tables(done)]
    parts += [Text(aim_line(aim), style="green" if aim.is_reached else "red") for aim in aims(done)]
    return Group(*parts, Text(_made(done)))


def markdown(done: Benchmark) -> str:
    """What stands between the markers."""
    found = [f"    {done.command}", "", _made(done), "", f"![Demand, accuracy, violations over time]({PICTURE})", ""]
    for table in tables(done):
        found += table_lines(table)
    found += ["To be reached:", "", *(f"- {aim_line(aim)}" for aim in aims(done))]
    return "\n".join(found) + "\n"


def picture(reports: Sequence[Report]) -> bytes:
    """Demand, accuracy and violations over time, above each other (PNG)."""
    runs = PlottedRun.all_of(reports)

    def draw(*axes: Axes) -> None:
        for each, plot in zip(axes, (line_plots.demand, line_plots.accuracy, line_plots.violations), strict=True):
            plot(each, runs, INK)
        for each in axes[:-1]:
            each.set_xlabel("")
        handles = [*(run.line() for run in runs), *axes[0].get_legend_handles_labels()[0]]
        axes[0].legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=3, fontsize=9)

    return render_axes(draw, rows=3, size_inches=(8.0, 7.6), format="png")


# --- tables


def tables(done: Benchmark) -> Iterator[Table]:
    yield Table(
        "One day, from far less than the most accurate variants carry to three times that",
        ("", "what", "SLO violations, %", "relative accuracy, %", "mean batch, rows", "p99, ms", "changes", "loads"),
        tuple(row for row in (_row(done, name, kind) for name, kind in ROWS) if row),
        "Medians over rounds (lowest–highest). The oracle knows each second's demand beforehand and has no queues. "
        "Accuracy is that of what was answered: a plan that refuses a third of all queries may look accurate.",
    )
    yield Table(
        "Steps in demand, live",
        (
            "step",
            "variants",
            "next plan in force, s",
            "plan that carries it all, s",
            "loads",
            "lost in its first second, %",
        ),
        tuple(
            (
                str(each.step + 1),
                "stand by" if each.standbys else "loaded when needed",
                _seconds(each.first_s),
                _seconds(each.carried_s),
                str(each.swaps),
                f"{100 * each.lost_frac:.1f}",
            )
            for each in done.reactions
        ),
        f"From {done.low_qps:.0f} to {done.high_qps:.0f} queries per second at once; from the first arrival after the "
        "step. Each device hosts one variant of each family. 0: the plan in force carried it all already.",
    )


def _row(done: Benchmark, name: str, kind: Kind) -> tuple[str, ...]:
    runs = done.of(name, kind)
    if not runs:
        return ()
    figures: tuple[tuple[Callable[[Run], float], float, str], ...] = (
        (violations, 100, ".2f"),
        (accuracy, 100, ".3f"),
        (batch, 1, ".2f"),
        (lambda run: run.latency_p99_s, 1000, ".0f"),
        (lambda run: run.replans, 1, ".0f"),
        (lambda run: run.swaps, 1, ".0f"),
    )
    cells = [_spread([scale * read(run) for run in runs], form) for read, scale, form in figures]
    if name == ORACLE:
        cells[2:] = [UNKNOWN] * len(cells[2:])
    return (name, kind, *cells)


def _spread(values: Sequence[float], form: str) -> str:
    middle, low, high = (f"{value:{form}}" for value in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


# --- what was to be reached


def aims(done: Benchmark) -> Iterator[Aim]:
    yield Aim(
        "proteus, SLO violations", 100 * done.median(PROTEUS, "measured", violations), 100 * MAX_VIOLATIONS, "%", True
    )
    best = done.best_static
    if best is not None:
        what = f"proteus, accuracy on the way from the best static plan that keeps to its SLO ({best}) to the oracle"
        yield Aim(what, 100 * done.way_to_oracle(best, "measured"), 50.0, "%", False)
    what = f"emulated proteus, accuracy on the way from the emulated plan ({PEAK}) to the oracle"
    yield Aim(what, 100 * done.way_to_oracle(PEAK, "emulated"), 50.0, "%", False)
    yield from _reaction_aims(done)
    yield from _apart(done, "measured", "live")
    yield from _apart(done, "emulated", "emulated")


def _apart(done: Benchmark, kind: Kind, of: str) -> Iterator[Aim]:
    """Between proteus in a server and in simulation."""
    for what, read, limit, unit in (
        ("relative accuracy", accuracy, 0.5, "points"),
        ("SLO violations", violations, 1.0, "points"),
        ("mean batch", batch, 10.0, "%"),
    ):
        served, simulated = (done.median(PROTEUS, each, read) for each in (kind, "simulated"))
        gap = abs(served - simulated) * 100 / (served if unit == "%" else 1.0)
        yield Aim(f"{of} and simulated proteus, {what} apart", gap, limit, unit, True)


def _reaction_aims(done: Benchmark) -> Iterator[Aim]:
    """Of steps with standbys. One that wasn't followed can't have a time."""
    warm = [each for each in done.reactions if each.standbys]
    followed = sum(each.carried_s is not None for each in warm)
    yield Aim(f"steps with standbys that were followed, of {len(warm)}", followed, len(warm), "", False)
    for what, took_s in (
        ("next plan in force", [each.first_s for each in warm if each.first_s is not None]),
        ("plan that carries it all", [each.carried_s for each in warm if each.carried_s is not None]),
    ):
        if took_s:
            yield Aim(f"{what}, with standbys, median", statistics.median(took_s), FASTEST_S, "s", True)
            yield Aim(f"{what}, with standbys, longest", max(took_s), FASTEST_S, "s", True)
    lost = [100 * each.lost_frac for each in warm]
    if lost:
        yield Aim("lost in the first second of a step, with standbys, median", statistics.median(lost), 5.0, "%", True)


def _made(done: Benchmark) -> str:
    lags_ms = [1000 * run.lag_p99_s for run in done.runs if run.lag_p99_s is not None]
    return (
        f"{done.rounds} rounds of {done.lasts_s:.0f} s, {statistics.median(run.requests for run in done.runs):,.0f} "
        f"queries each, from {done.lowest_qps:.0f} to {done.peak_qps:.0f} per second; the most accurate variants carry "
        f"{done.most_accurate_qps:.0f}. The client was late by {max(lags_ms, default=0.0):.1f} ms at most (p99). "
        f"{done.seconds:.0f} s on {done.machine}; {done.made_by.time[:10]}."
    )
