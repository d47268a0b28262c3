"""Plots of reports of one trace, as inline SVG or PNG; importing this loads matplotlib."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from proteus_cli.domain.report import Report
from proteus_cli.reporting.plots import heatmaps, line_plots, variant_plots
from proteus_cli.reporting.plots.line_plots import PlottedRun
from proteus_cli.reporting.plots.plot_style import COLOURS, INK, PNG_DPI, plot_settings, render
from proteus_cli.reporting.plots.variant_plots import AnsweringVariant
from proteus_cli.store import write_bytes

_WIDTH_INCHES = 5.6
_LINES_INCHES = 2.95
_LEGEND_ROW_INCHES = 0.24
_CELLS_INCHES = 1.35
_CELL_INCHES = 0.25
_PANEL_INCHES = 1.5
_BELOW_PANELS_INCHES = 0.5
_LEGEND_CHARACTERS = 66
_SMALL_LEGEND_CHARACTERS = 84
_SMALL_LEGEND_FROM = 5
_SMALL_POINTS = 9
_KEY_INCHES = (0.48, 0.16)
_PNG: dict[str, Any] = {"format": "png", "dpi": PNG_DPI, "facecolor": "white"}
SVG: dict[str, Any] = {"format": "svg", "transparent": True, "metadata": {"Date": None}}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: its name, what it shows, how it is drawn, and whether with a line for each run."""

    name: str
    title: str
    about: str
    draw: Callable[[Axes, Sequence[PlottedRun], str], None]
    has_lines: bool = True


OVER_TIME = (
    Plot(
        "demand",
        "Demand and throughput",
        "Queries that arrived (area) and those answered, by arrival.",
        line_plots.demand,
    ),
    Plot(
        "accuracy",
        "Relative accuracy",
        "Ticks at the bottom, where there are few runs: the plan of the run of that colour changed. Where much is "
        "lost, the scale is wider near 100 %.",
        line_plots.accuracy,
    ),
    Plot(
        "violations",
        "SLO violations",
        "Share of requests that were late, dropped, rejected or failed, by arrival. Where it is large, the scale is "
        "wider near 0. Shaded: lost devices or hosts are away, in the first run.",
        line_plots.violations,
    ),
)
LATENCY = (
    Plot(
        "latency",
        "Latency",
        "Part of all requests that was answered within a latency; unanswered ones keep a line below 100 %. Dotted: "
        "lowest and highest latency target.",
        line_plots.latency_cdf,
    ),
)
FAMILIES = (
    Plot("family-accuracy", "Relative accuracy by family", "Over the whole run.", heatmaps.family_accuracy, False),
    Plot("family-violations", "SLO violations by family", "Over the whole run.", heatmaps.family_violations, False),
)
DEVICES = (Plot("devices", "Answers by device", "Over the whole run.", heatmaps.device_rates, False),)
PLOTS = (*OVER_TIME, *LATENCY, *FAMILIES, *DEVICES)


def plots_of(reports: Sequence[Report]) -> tuple[Plot, ...]:
    """The `PLOTS` that compare anything: no heat maps of a single family, or of a single device."""
    families = {family for report in reports for family in report.families}
    devices = {device for report in reports for device in report.devices}
    return (
        *OVER_TIME, *LATENCY, *(FAMILIES if len(families) > 1 else ()), *(DEVICES if len(devices) > 1 else ()),
    )  # fmt: skip


def inline_svgs(reports: Sequence[Report]) -> dict[str, str]:
    """Each of `PLOTS` by name as an SVG element for HTML: no fixed size, no legend, font and ink of the page."""
    runs = PlottedRun.all_of(reports)
    return {
        plot.name: inline(_drawn(plot, runs, SVG_INK, has_legend=False, **SVG), name=plot.name, title=plot.title)
        for plot in plots_of(reports)
    }


def variant_svgs(reports: Sequence[Report]) -> dict[str, str]:
    """Plots of the answering variants over time, by family, as `inline_svgs`; within the bounds of `variant_plots`."""
    runs = PlottedRun.all_of(reports)[: variant_plots.MAX_RUNS]
    families = list(variant_plots.answering_variants(reports).items())[: variant_plots.MAX_FAMILIES]
    return {
        family: inline(
            _drawn_variants({family: variants}, runs, SVG_INK, has_legend=False, **SVG),
            name=f"variants{place}",
            title=f"Which variants of {family} answered",
        )
        for place, (family, variants) in enumerate(families)
    }


def legend_symbols(reports: Sequence[Report]) -> str:
    """An SVG element that shows nothing: symbols ``key0``, ``key1``, … of how each run is drawn, for a legend."""
    return symbols({f"key{place}": _key(run) for place, run in enumerate(PlottedRun.all_of(reports))})


def write_png(directory: Path, reports: Sequence[Report]) -> tuple[Path, ...]:
    """Write each of `plots_of` the reports as ``NAME.png``; returns the paths. Raises `ArtefactError`."""
    runs = PlottedRun.all_of(reports)
    pictures = {plot.name: _drawn(plot, runs, INK, has_legend=plot.has_lines, **_PNG) for plot in plots_of(reports)}
    families = list(variant_plots.answering_variants(reports).items())[: variant_plots.MAX_FAMILIES]
    if families:
        pictures["variants"] = _drawn_variants(
            dict(families), runs[: variant_plots.MAX_RUNS], INK, has_legend=True, **_PNG
        )
    paths = {name: directory / f"{name}.png" for name in pictures}
    for name, picture in pictures.items():
        write_bytes(paths[name], picture)
    return tuple(paths.values())


def _key(run: PlottedRun) -> bytes:
    with mpl.rc_context(plot_settings("key", SVG_INK)):
        figure = Figure(figsize=_KEY_INCHES)
        line = run.line()
        line.set_data([0.06, 0.5, 0.94], [0.5, 0.5, 0.5])
        line.set_markevery([1])
        figure.add_artist(line)
        return render(figure, **SVG)


def _drawn(plot: Plot, runs: Sequence[PlottedRun], ink: str, *, has_legend: bool, **options: object) -> bytes:
    columns = _legend_columns(runs)
    legend_rows = math.ceil((len(runs) + 1) / columns) if has_legend else 0
    height = _LINES_INCHES if plot.has_lines else _CELLS_INCHES + _CELL_INCHES * len(runs)
    with mpl.rc_context(plot_settings(plot.name, ink)):
        figure = Figure(figsize=(_WIDTH_INCHES, height + _LEGEND_ROW_INCHES * legend_rows), layout="constrained")
        axes = figure.add_subplot()
        plot.draw(axes, runs, ink)
        if has_legend:
            _legend(figure, axes, runs, columns)
        return render(figure, **options)


def _drawn_variants(
    families: Mapping[str, Sequence[AnsweringVariant]],
    runs: Sequence[PlottedRun],
    ink: str,
    *,
    has_legend: bool,
    **options: object,
) -> bytes:
    """A row of axes for each family and run; of several families, each has its name and a legend."""
    rows = len(families) * len(runs)
    with mpl.rc_context(plot_settings("-".join(families), ink)):
        size = (_WIDTH_INCHES, _PANEL_INCHES * rows + _BELOW_PANELS_INCHES)
        figure = Figure(figsize=size, layout="constrained")
        parts = figure.subfigures(len(families), squeeze=False)[:, 0]
        for part, (family, variants) in zip(parts, families.items(), strict=True):
            panels = part.subplots(len(runs), sharex=True, squeeze=False)[:, 0]
            variant_plots.over_time(panels, runs, family, variants, ink)
            if has_legend:
                keys = [Patch(color=variant.colour, label=variant.name) for variant in variants]
                part.legend(handles=keys, title=family, loc="outside right upper", fontsize=_SMALL_POINTS)
        return render(figure, **options)


def _legend(figure: Figure, axes: Axes, runs: Sequence[PlottedRun], columns: int) -> None:
    handles = [*(run.line() for run in runs), *axes.get_legend_handles_labels()[0]]
    size = _SMALL_POINTS if len(runs) >= _SMALL_LEGEND_FROM else None
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=size)


def _legend_columns(runs: Sequence[PlottedRun]) -> int:
    longest = max(len(run.heading) for run in runs)
    characters = _SMALL_LEGEND_CHARACTERS if len(runs) >= _SMALL_LEGEND_FROM else _LEGEND_CHARACTERS
    return max(1, min(3, characters // (longest + 7)))


SVG_INK = "#010203"  # drawn instead of the page's own text colour, and replaced by it

_LEFT_OUT = {"metadata", "style"}
_PAGE_COLOURS = {SVG_INK: "currentColor", **{c.lower(): f"var(--run{place}, {c})" for place, c in enumerate(COLOURS)}}
_COLOUR = re.compile("|".join(_PAGE_COLOURS))


def inline(document: bytes, *, name: str, title: str) -> str:
    """The document as an image with a title; its ids start with ``name``."""
    svg = _without_frame(document, name, role="img", **{"aria-label": title})
    heading = ET.Element("title")
    heading.text = title
    svg.insert(0, heading)
    return ET.tostring(svg, encoding="unicode")


def symbols(documents: dict[str, bytes]) -> str:
    """An element that shows nothing: the documents as symbols, for `use`, by their ids."""
    svg = ET.Element("svg", {"class": "keys", "aria-hidden": "true"})
    for name, document in documents.items():
        symbol = _without_frame(document, name, id=name)
        symbol.tag = "symbol"
        svg.append(symbol)
    return ET.tostring(svg, encoding="unicode")


def _without_frame(document: bytes, name: str, **attributes: str) -> ET.Element:
    """The root element, with its view box and these attributes only, and all that is drawn in it."""
    root = ET.fromstring(document)  # noqa: S314 - matplotlib's
    for element in list(root.iter()):
        for child in [each for each in element if _local(each.tag) in _LEFT_OUT]:
            element.remove(child)
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _adapted(_local(key), value, name) for key, value in element.attrib.items()}
        element.text, element.tail = (element.text or "").strip(), None
    root.attrib = {"viewBox": root.attrib["viewBox"], **attributes}
    return root


def _local(name: str) -> str:
    """A name without its namespace: HTML has none."""
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, name: str) -> str:
    """An attribute as it should be in the page, where references and ids start with ``name``."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "style":
        value = "; ".join(rule for rule in value.split("; ") if not rule.startswith("font-family"))
    coloured = _COLOUR.sub(lambda colour: _PAGE_COLOURS[colour[0]], value)
    return coloured.replace("url(#", f"url(#{name}-")
