"""What the machine did during a study, over time; importing this loads matplotlib."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from proteus_cli.reporting.plots.plot_style import INK
from proteus_cli.studies.pages.drawing import colour, page_colour, picture
from proteus_cli.studies.pages.section import Picture
from proteus_cli.studies.study import Cell, Study, Telemetry

_HEIGHT_INCHES = 2.1
_FEWEST = 3  # samples that make a line
_FAINT = 0.10
_LATER_RUN = "Dashed: here the study went on in a later run."


@dataclass(frozen=True, slots=True)
class _SharedAxes:
    """Measures that share axes, with their names in the legend; values are divided by ``per``."""

    title: str
    about: str
    label: str
    measures: dict[str, str]
    per: float = 1.0


_KINDS = (
    _SharedAxes("Cores in use", "Shaded: cells, one after another.", "cores",
          {"machine_cores": "all programs", "cpu_cores": "the study", "steal_cores": "taken by the host"}),
    _SharedAxes("Memory", "Resident memory of the study's processes; shared pages count in each.", "MiB",
          {"memory_bytes": "the study"}, 2.0**20),
    _SharedAxes("Page faults", "Without reading from the disk, and with.", "per second",
          {"minor_faults": "without reading", "major_faults": "with reading"}),
    _SharedAxes("Context switches", "As a thread waited, and as a core was taken from it.", "per second",
          {"voluntary_switches": "waited", "involuntary_switches": "core taken"}),
    _SharedAxes("Clock of the cores", "The mean of all cores.", "MHz", {"mhz": "clock"}),
    _SharedAxes("Slowed by heat", "Times that the system slowed a core as it was too hot.", "per second",
          {"throttles": "all cores"}),
    _SharedAxes("GPU use", "Part of the time in which it computed.", "%", {"gpu_busy_frac": "busy"}, 0.01),
    _SharedAxes("GPU memory", "In use on the GPU, by all programs.", "MiB", {"gpu_memory_bytes": "in use"}, 2.0**20),
    _SharedAxes("GPU power", "What it drew.", "W", {"gpu_power_w": "power"}),
    _SharedAxes("GPU clock", "Clock of its multiprocessors.", "MHz", {"gpu_mhz": "clock"}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _TelemetryRun:
    """One run of the study. Runs are drawn one after another, each from ``start_s``: no time lies between them."""

    telemetry: Telemetry
    start_s: float

    @property
    def end_s(self) -> float:
        return self.at_s(self.telemetry.times_unix_s[-1])

    def at_s(self, unix_s: float) -> float:
        """Where that time is drawn."""
        return self.start_s + unix_s - self.telemetry.begun_unix_s


def load_pictures(study: Study, name: str) -> list[Picture]:
    """What the system said during the runs of a study; ``name`` begins the ids of these pictures."""
    runs = _runs(study.telemetry)
    spans = list(_spans(runs, study.cells))
    found = [(kind, _lines(kind, runs)) for kind in _KINDS]
    return [
        _picture(f"{name}-load{place}", kind, runs, lines, spans) for place, (kind, lines) in enumerate(found) if lines
    ]


def _runs(kept: Sequence[Telemetry]) -> list[_TelemetryRun]:
    """Those with enough samples for a line, the earliest first."""
    runs = list[_TelemetryRun]()
    for telemetry in sorted(kept, key=lambda each: each.begun_unix_s):
        if len(telemetry.times_unix_s) >= _FEWEST:
            runs.append(_TelemetryRun(telemetry, runs[-1].end_s if runs else 0.0))
    return runs


def _spans(runs: Sequence[_TelemetryRun], cells: Sequence[Cell]) -> Iterator[tuple[float, float]]:
    """From when to when each cell is drawn, in the last run that began before it; earlier cells have no place."""
    for cell in sorted(cells, key=lambda each: each.begun_unix_s):
        run = next((run for run in reversed(runs) if run.telemetry.begun_unix_s <= cell.begun_unix_s), None)
        if run is not None:
            begun_s = run.at_s(cell.begun_unix_s)
            yield begun_s, begun_s + cell.took_s


def _lines(kind: _SharedAxes, runs: Sequence[_TelemetryRun]) -> list[tuple[str, str]]:
    """The measures of a kind that any run has, and what they are called."""
    lines = []
    for measure in dict.fromkeys(measure for run in runs for measure in run.telemetry.measures):
        name, _, device = measure.partition("@")
        if name in kind.measures:
            lines.append((measure, f"{kind.measures[name]} of {device}" if device else kind.measures[name]))
    return sorted(lines, key=lambda line: list(kind.measures).index(line[0].partition("@")[0]))


def _picture(
    name: str,
    kind: _SharedAxes,
    runs: Sequence[_TelemetryRun],
    lines: Sequence[tuple[str, str]],
    spans: Sequence[tuple[float, float]],
) -> Picture:
    def draw(axes: Axes) -> None:
        for begun_s, ended_s in spans[::2]:  # every other one, so that neighbours can be told apart
            axes.axvspan(begun_s, ended_s, color=INK, alpha=_FAINT, linewidth=0)
        for run in runs[1:]:
            axes.axvline(run.start_s, color=INK, linewidth=0.8, linestyle="--")
        for place, (measure, _) in enumerate(lines):
            for run in runs:
                _draw_line(axes, run, measure, kind.per, colour(place))
        axes.set_xlim(0, runs[-1].end_s)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time of measuring (s)" if len(runs) > 1 else "time since start (s)")
        axes.set_ylabel(kind.label)

    keys = [(page_colour(place), label) for place, (_, label) in enumerate(lines)]
    about = f"{kind.about} {_LATER_RUN}" if len(runs) > 1 else kind.about
    return picture(name, kind.title, about, draw, height_inches=_HEIGHT_INCHES, keys=keys)


def _draw_line(axes: Axes, run: _TelemetryRun, measure: str, per: float, ink: str) -> None:
    """One measure in one run, with gaps where the system did not say it."""
    samples = run.telemetry.measures.get(measure, ())
    times_s = [run.at_s(at) for at in run.telemetry.times_unix_s][: len(samples)]
    axes.plot(times_s, [float("nan") if value is None else value / per for value in samples], color=ink, linewidth=1.4)
