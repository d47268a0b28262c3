"""One page about one or more studies that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from proteus_cli.reporting.page_templates import page_templates
from proteus_cli.reporting.plots.plot_style import INK
from proteus_cli.studies.pages.section import Picture, Section, SectionOf, StudyTable, colour, page_colour, picture
from proteus_cli.studies.study import Cell, Study, Telemetry, meaning
from proteus_cli.units import UNKNOWN, counted, format_duration, format_size

_LOADS = {
    "cpu_cores": ("cores", "{:.2f}"),
    "memory_bytes": ("memory (MiB)", "{:,.0f}"),
    "major_faults": ("faults with reading (/s)", "{:,.1f}"),
    "involuntary_switches": ("cores taken (/s)", "{:,.0f}"),
    "steal_cores": ("stolen cores", "{:.2f}"),
    "mhz": ("MHz", "{:,.0f}"),
    "throttles": ("slowed by heat (/s)", "{:,.2f}"),
    "gpu_busy_frac": ("use (%)", "{:.0f}"),
    "gpu_memory_bytes": ("memory (MiB)", "{:,.0f}"),
    "gpu_power_w": ("power (W)", "{:,.0f}"),
    "gpu_mhz": ("MHz", "{:,.0f}"),
}
"""Measures that the table of cells has, with their headings; those of a GPU follow its id."""
_PER = {"memory_bytes": 2.0**20, "gpu_memory_bytes": 2.0**20, "gpu_busy_frac": 0.01}

TERMS = {
    "family, variant": "A family is a task, as to read digits. Its variants are models for it, more or less accurate.",
    "device": "What models run on: some cores of a processor, or a GPU.",
    "cell": "One measurement of a study: measured, or by the times of a profile, emulated or simulated.",
}
"""Words that all studies use."""

BUSY_FRAC = 0.25
"""Of the cores, in use by other programs: more than that and figures are too low, and intervals wide."""

LISTED = 8
"""So many cells that are missing are named."""
MIN_S = 1.0
"""In less time than that, counters of cores, which tick a hundred times a second, say nothing of a cell."""

WHERE_FROM = {
    "measured": "Measured: models computed on the devices.",
    "emulated": "Emulated: devices waited for as long as the profile says, in real time.",
    "simulated": "Simulated: the controller ran in virtual time, with the times of the profile.",
}


@dataclass(frozen=True, slots=True)
class StudyPart:
    """A study as the page has it."""

    anchor: str
    section: Section
    facts: Mapping[str, str]
    cells: StudyTable
    load: Sequence[Picture]
    missing: str
    notes: Sequence[str]


def page(studies: Sequence[Study], sections: Mapping[str, SectionOf]) -> str:
    """The page about studies, at least one; ``sections`` by kind. The same for the same studies."""
    parts = [_part(study, sections[study.kind](study), f"study{place}") for place, study in enumerate(studies)]
    terms = TERMS | {term: text for part in parts for term, text in part.section.terms.items()}
    first = studies[0]
    return (
        page_templates()
        .get_template("study.html.jinja")
        .render(
            title=parts[0].section.title if len(parts) == 1 else f"Studies on {first.machine.host}",
            parts=parts,
            is_single=len(parts) == 1,
            machine=machine_facts(first),
            terms=terms,
            footer=f"Made by proteus {first.made_by.version} on {first.made_by.host}, "
            f"{max(study.made_by.time for study in studies)}.",
        )
    )


def machine_facts(study: Study) -> dict[str, str]:
    """The machine of a study, in words."""
    machine = study.machine
    return {
        "machine": machine.host,
        "processor": f"{machine.processor}, {counted(machine.cores, 'core')}",
        "memory": format_size(machine.memory_bytes),
        **({"GPUs": ", ".join(machine.gpus)} if machine.gpus else {}),
        "system": f"{machine.os}, Python {machine.python}",
        "date": study.made_by.time[:10],
    }


def _part(study: Study, section: Section, anchor: str) -> StudyPart:
    took_s = sum(cell.took_s for cell in study.cells)
    facts = {**study.subject, "cells": str(len(study.cells)), "measuring took": format_duration(took_s)}
    notes = [*dict.fromkeys(WHERE_FROM[cell.mode] for cell in study.cells), *busy_notes(study)]
    load = load_pictures(study, anchor)
    return StudyPart(anchor, section, facts, _cells_table(study.cells), load, missing_text(study), notes)


def busy_notes(study: Study) -> list[str]:
    """A sentence where other programs used the machine while something was measured."""
    others = [
        min(cell.load["machine_cores"], study.machine.cores) - cell.load["cpu_cores"]
        for cell in study.good
        if cell.mode != "simulated" and cell.took_s >= MIN_S and {"machine_cores", "cpu_cores"} <= cell.load.keys()
    ]
    if not others or max(others) <= BUSY_FRAC * study.machine.cores:
        return []
    used = f"{max(others):.1f} of the {counted(study.machine.cores, 'core')}"
    return [f"Other programs used up to {used} meanwhile. Measure again, with --force, when the machine is quiet."]


def missing_text(study: Study) -> str:
    """The cells that are missing, some by name; empty where none is."""
    named, more = study.missing[:LISTED], len(study.missing) - LISTED
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")


def _cells_table(cells: Sequence[Cell]) -> StudyTable:
    """Each cell: where it is from, how long it took, and what the machine did meanwhile."""
    known = dict.fromkeys(measure for cell in cells for measure in cell.load)
    loads = [measure for name in _LOADS for measure in known if measure.partition("@")[0] == name]
    headings = [_load_heading(measure) for measure in loads]
    failed = ["failed"] if any(cell.failed for cell in cells) else []
    rows = [
        (
            cell.key,
            cell.mode,
            format_duration(cell.took_s),
            *(_load_text(cell, measure) for measure in loads),
            *(cell.failed for _ in failed),
        )
        for cell in cells
    ]
    notes = "; ".join(f"{_load_heading(measure)}: {meaning(measure)}" for measure in loads)
    return StudyTable(
        "Cells",
        ("cell", "from", "took", *headings, *failed),
        rows,
        note=f"Means over each cell. {notes}." if notes else "",
        of_text=frozenset({"from", "failed"}),
    )


def _load_heading(measure: str) -> str:
    name, _, device = measure.partition("@")
    return f"{device} {_LOADS[name][0]}" if device else _LOADS[name][0]


def _load_text(cell: Cell, measure: str) -> str:
    name, value = measure.partition("@")[0], cell.load.get(measure)
    return UNKNOWN if value is None else _LOADS[name][1].format(value / _PER.get(name, 1.0))


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
