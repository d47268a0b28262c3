"""What the machine did during a study, over time; importing this loads matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from proteus_cli.domain.studies.study import Study
from proteus_cli.domain.studies.telemetry import Telemetry
from proteus_cli.reporting.plots.plot_style import INK
from proteus_cli.reporting.studies.drawing import colour, page_colour, picture
from proteus_cli.reporting.studies.section import Picture

_HEIGHT_INCHES = 2.1
_FEWEST = 3  # samples that make a line
_FAINT = 0.10


@dataclass(frozen=True, slots=True)
class _Kind:
    """Measures that share axes, with their names in the legend; values are divided by ``per``."""

    title: str
    about: str
    label: str
    measures: dict[str, str]
    per: float = 1.0


_KINDS = (
    _Kind("Cores in use", "Shaded: cells, one after another.", "cores",
          {"machine_cores": "all programs", "cpu_cores": "the study", "steal_cores": "taken by the host"}),
    _Kind("Memory", "Resident memory of the study's processes; shared pages count in each.", "MiB",
          {"memory_bytes": "the study"}, 2.0**20),
    _Kind("Page faults", "Without reading from the disk, and with.", "per second",
          {"minor_faults": "without reading", "major_faults": "with reading"}),
    _Kind("Context switches", "As a thread waited, and as a core was taken from it.", "per second",
          {"voluntary_switches": "waited", "involuntary_switches": "core taken"}),
    _Kind("Clock of the cores", "The mean of all cores.", "MHz", {"mhz": "clock"}),
    _Kind("GPU use", "Part of the time in which it computed.", "%", {"gpu_busy_frac": "busy"}, 0.01),
    _Kind("GPU power", "What it drew.", "W", {"gpu_power_w": "power"}),
    _Kind("GPU clock", "Clock of its multiprocessors.", "MHz", {"gpu_mhz": "clock"}),
)  # fmt: skip


def load_pictures(study: Study, name: str) -> list[Picture]:
    """What the system said during the last run of a study; ``name`` begins the ids of these pictures."""
    if not study.telemetry or len(study.telemetry[-1].times_unix_s) < _FEWEST:
        return []
    run = study.telemetry[-1]
    spans = [
        (cell.begun_unix_s - run.begun_unix_s, cell.begun_unix_s - run.begun_unix_s + cell.took_s)
        for cell in study.cells
        if cell.begun_unix_s >= run.begun_unix_s
    ]
    found = [(kind, _lines(kind, run)) for kind in _KINDS]
    return [
        _picture(f"{name}-load{place}", kind, run, lines, spans) for place, (kind, lines) in enumerate(found) if lines
    ]


def _lines(kind: _Kind, run: Telemetry) -> list[tuple[str, str]]:
    """The measures of a kind that the run has, and what they are called."""
    lines = []
    for measure in run.measures:
        name, _, device = measure.partition("@")
        if name in kind.measures:
            lines.append((measure, f"{kind.measures[name]} of {device}" if device else kind.measures[name]))
    return sorted(lines, key=lambda line: list(kind.measures).index(line[0].partition("@")[0]))


def _picture(
    name: str, kind: _Kind, run: Telemetry, lines: Sequence[tuple[str, str]], spans: Sequence[tuple[float, float]]
) -> Picture:
    def draw(axes: Axes) -> None:
        times_s = [at - run.begun_unix_s for at in run.times_unix_s]
        for begun_s, ended_s in spans[::2]:  # every other one, so that neighbours can be told apart
            axes.axvspan(begun_s, ended_s, color=INK, alpha=_FAINT, linewidth=0)
        for place, (measure, _) in enumerate(lines):
            values = [float("nan") if value is None else value / kind.per for value in run.measures[measure]]
            axes.plot(times_s, values, color=colour(place), linewidth=1.4)
        axes.set_xlim(0, times_s[-1])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time since start (s)")
        axes.set_ylabel(kind.label)

    keys = [(page_colour(place), label) for place, (_, label) in enumerate(lines)]
    return picture(name, kind.title, kind.about, draw, height_inches=_HEIGHT_INCHES, keys=keys)
