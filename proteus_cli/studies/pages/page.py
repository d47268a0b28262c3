"""One page about one or more studies that stands alone: no network, no scripts; importing this loads matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.reporting.page_templates import page_templates
from proteus_cli.studies.pages.load_pictures import load_pictures
from proteus_cli.studies.pages.section import Picture, Section, SectionOf, StudyTable
from proteus_cli.studies.study import Cell, Study, meaning
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
