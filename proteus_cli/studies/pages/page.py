"""One page about one or more studies that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes

from proteus_cli.reporting.page_templates import page_templates
from proteus_cli.reporting.plots.plot_style import INK
from proteus_cli.studies.pages.section import Picture, SectionOf, StudyTable, colour, legend, picture
from proteus_cli.studies.study import Cell, Study, meaning
from proteus_cli.units import UNKNOWN, counted, format_duration, format_size

_LOADS = {
    "cpu_cores": ("cores", "{:.2f}", 1.0),
    "memory_bytes": ("memory (MiB)", "{:,.0f}", 2.0**20),
    "major_faults": ("faults with reading (/s)", "{:,.1f}", 1.0),
    "involuntary_switches": ("cores taken (/s)", "{:,.0f}", 1.0),
    "steal_cores": ("stolen cores", "{:.2f}", 1.0),
    "mhz": ("MHz", "{:,.0f}", 1.0),
    "throttles": ("slowed by heat (/s)", "{:,.2f}", 1.0),
    "gpu_busy_frac": ("use (%)", "{:.0f}", 0.01),
    "gpu_memory_bytes": ("memory (MiB)", "{:,.0f}", 2.0**20),
    "gpu_power_w": ("power (W)", "{:,.0f}", 1.0),
    "gpu_mhz": ("MHz", "{:,.0f}", 1.0),
}
"""Heading, format and unit of the measures in the table of cells. Headings of a GPU follow its id."""

_LOAD_AXES: Sequence[tuple[str, str, str, dict[str, str], float]] = (
    ("Cores in use", "Shaded: cells, one after another.", "cores",
     {"machine_cores": "all programs", "cpu_cores": "the study", "steal_cores": "taken by the host"}, 1.0),
    ("Memory", "Resident memory of the study's processes; shared pages count in each.", "MiB",
     {"memory_bytes": "the study"}, 2.0**20),
    ("Page faults", "Without reading from the disk, and with.", "per second",
     {"minor_faults": "without reading", "major_faults": "with reading"}, 1.0),
    ("Context switches", "As a thread waited, and as a core was taken from it.", "per second",
     {"voluntary_switches": "waited", "involuntary_switches": "core taken"}, 1.0),
    ("Clock of the cores", "The mean of all cores.", "MHz", {"mhz": "clock"}, 1.0),
    ("Slowed by heat", "Times that the system slowed a core as it was too hot.", "per second",
     {"throttles": "all cores"}, 1.0),
    ("GPU use", "Part of the time in which it computed.", "%", {"gpu_busy_frac": "busy"}, 0.01),
    ("GPU memory", "In use on the GPU, by all programs.", "MiB", {"gpu_memory_bytes": "in use"}, 2.0**20),
    ("GPU power", "What it drew.", "W", {"gpu_power_w": "power"}, 1.0),
    ("GPU clock", "Clock of its multiprocessors.", "MHz", {"gpu_mhz": "clock"}, 1.0),
)  # fmt: skip
"""Pictures of the load: title, explanation, label of the axis, measures with their names, and the unit of the axis."""

TERMS = {
    "family, variant": "A family is a task, as to read digits. Its variants are models for it, more or less accurate.",
    "device": "What models run on: some cores of a processor, or a GPU.",
    "cell": "One measurement of a study: measured, or by the times of a profile, emulated or simulated.",
}
"""Words that all studies use."""

BUSY_FRAC = 0.25
"""Fraction of the cores in use by other programs above which figures are too low, and intervals wide."""
LISTED = 8
"""Maximum number of missing cells that are named."""
MIN_S = 1.0
"""Minimum length of a cell for its load to mean anything: counters of cores tick a hundred times a second."""

WHERE_FROM = {
    "measured": "Measured: models computed on the devices.",
    "emulated": "Emulated: devices waited for as long as the profile says, in real time.",
    "simulated": "Simulated: the controller ran in virtual time, with the times of the profile.",
}
_LOAD_INCHES = 2.1
_FEWEST = 3  # samples that make a line
_FAINT = 0.10


def page(studies: Sequence[Study], sections: Mapping[str, SectionOf]) -> str:
    """The page about studies, at least one; ``sections`` by kind. The same for the same studies."""
    found = [sections[study.kind](study) for study in studies]
    parts = []
    for place, (study, section) in enumerate(zip(studies, found, strict=True)):
        anchor, took_s = f"study{place}", sum(cell.took_s for cell in study.cells)
        parts.append(
            {
                "anchor": anchor,
                "section": section,
                "facts": {**study.subject, "cells": str(len(study.cells)), "measuring took": format_duration(took_s)},
                "cells": _cells_table(study.cells),
                "load": load_pictures(study, anchor),
                "missing": missing_text(study),
                "notes": [*dict.fromkeys(WHERE_FROM[cell.mode] for cell in study.cells), *busy_notes(study)],
            }
        )
    first = studies[0]
    return (
        page_templates()
        .get_template("study.html.jinja")
        .render(
            title=found[0].title if len(found) == 1 else f"Studies on {first.machine.host}",
            parts=parts,
            is_single=len(parts) == 1,
            machine=machine_facts(first),
            terms=TERMS | {term: text for each in found for term, text in each.terms.items()},
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
    """Each cell with its source, its time, and the load of the machine meanwhile."""
    known = dict.fromkeys(measure for cell in cells for measure in cell.load)
    loads = [measure for name in _LOADS for measure in known if measure.partition("@")[0] == name]
    headings = {}
    for measure in loads:
        name, _, device = measure.partition("@")
        headings[measure] = f"{device} {_LOADS[name][0]}".lstrip()

    def load_text(cell: Cell, measure: str) -> str:
        _, form, per = _LOADS[measure.partition("@")[0]]
        return form.format(cell.load[measure] / per) if measure in cell.load else UNKNOWN

    failed = ["failed"] if any(cell.failed for cell in cells) else []
    rows = [
        (
            cell.key,
            cell.mode,
            format_duration(cell.took_s),
            *(load_text(cell, measure) for measure in loads),
            *(cell.failed for _ in failed),
        )
        for cell in cells
    ]
    notes = "; ".join(f"{heading}: {meaning(measure)}" for measure, heading in headings.items())
    return StudyTable(
        "Cells",
        ("cell", "from", "took", *headings.values(), *failed),
        rows,
        note=f"Means over each cell. {notes}." if notes else "",
        of_text=frozenset({"from", "failed"}),
    )


def load_pictures(study: Study, name: str) -> list[Picture]:
    """Telemetry of the runs of a study over time; ``name`` begins the ids of the pictures.

    Runs are drawn one after another, without the time between them. A cell is shaded in the last run that began before
    it, if any did.
    """
    runs = sorted(study.telemetry, key=lambda each: each.begun_unix_s)
    runs = [run for run in runs if len(run.times_unix_s) >= _FEWEST]
    *starts_s, end_s = accumulate((run.times_unix_s[-1] - run.begun_unix_s for run in runs), initial=0.0)
    spans = []
    for cell in sorted(study.cells, key=lambda each: each.begun_unix_s):
        earlier = [place for place, run in enumerate(runs) if run.begun_unix_s <= cell.begun_unix_s]
        if earlier:
            begun_s = starts_s[earlier[-1]] + cell.begun_unix_s - runs[earlier[-1]].begun_unix_s
            spans.append((begun_s, begun_s + cell.took_s))
    known = dict.fromkeys(measure for run in runs for measure in run.measures)
    pictures = []
    for place, (title, about, ylabel, names, per) in enumerate(_LOAD_AXES):
        lines = {
            measure: f"{names[base]} of {measure.partition('@')[2]}" if "@" in measure else names[base]
            for base in names
            for measure in known
            if measure.partition("@")[0] == base
        }

        def draw(axes: Axes, lines: Mapping[str, str] = lines, ylabel: str = ylabel, per: float = per) -> None:
            for begun_s, ended_s in spans[::2]:  # every other one, so that neighbours can be told apart
                axes.axvspan(begun_s, ended_s, color=INK, alpha=_FAINT, linewidth=0)
            for start_s in starts_s[1:]:
                axes.axvline(start_s, color=INK, linewidth=0.8, linestyle="--")
            for number, measure in enumerate(lines):
                for run, start_s in zip(runs, starts_s, strict=True):
                    samples = run.measures.get(measure, ())
                    times_s = [start_s + at - run.begun_unix_s for at in run.times_unix_s][: len(samples)]
                    values = [float("nan") if value is None else value / per for value in samples]
                    axes.plot(times_s, values, color=colour(number), linewidth=1.4)
            axes.set_xlim(0, end_s)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("time of measuring (s)" if len(runs) > 1 else "time since start (s)")
            axes.set_ylabel(ylabel)

        if lines:
            note = f"{about} Dashed: here the study went on in a later run." if len(runs) > 1 else about
            keys = legend(lines.values())
            pictures.append(picture(f"{name}-load{place}", title, note, draw, height_inches=_LOAD_INCHES, keys=keys))
    return pictures
