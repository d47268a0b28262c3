"""Which variants answered, over time: stacked areas, one plot for each family and run; importing this loads matplotlib.

The colours go from dark to light as accuracy falls, and areas are stacked in the order of the legend, so that a copy
without colours can be read, too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from proteus_cli.domain.report import FamilySummary, Report
from proteus_cli.reporting.plots.line_plots import PLAIN_TICKS, PlottedRun, label_time_axis
from proteus_cli.reporting.timeline import summed_answers, weighted_mean

MAX_RUNS = 3
"""The first of more runs are drawn …"""

MAX_FAMILIES = 12
"""… and of more families those with the most answers."""

_DARKEST, _LIGHTEST = 0.2, 0.95  # parts of the colour map that stand out from light and dark pages


@dataclass(frozen=True, slots=True)
class AnsweringVariant:
    """A variant that answered, its accuracy (None: unknown), colour, and share of the family's answers by run.

    ``accuracy`` is the profiled one where reports have it, as with cascades. ``of_answers`` is the accuracy of its
    answers: stages of cascades answer easy or hard queries.
    """

    name: str
    accuracy: float | None
    of_answers: float | None
    colour: str
    shares: tuple[float | None, ...]


def answering_variants(reports: Sequence[Report]) -> dict[str, list[AnsweringVariant]]:
    """The variants of each family that answered in any of ``reports``: by traffic, then by accuracy, falling."""
    counts = [summed_answers(device.answers_by_variant for device in report.devices.values()) for report in reports]
    totals = Counter[str]()
    for run in counts:
        totals.update({family: sum(of.values()) for family, of in run.items()})
    found = {}
    for family, _ in totals.most_common():
        summaries = [report.families.get(family) for report in reports]
        of_answers = _of_answers(summaries, [run.get(family, {}) for run in counts])
        profiled = {name: own for of in summaries if of for name, own in of.profiled_accuracy.items()}
        accuracies = of_answers | profiled
        names = sorted(accuracies, key=lambda name: (-(accuracies[name] or 0.0), name))
        found[family] = [
            AnsweringVariant(
                name, accuracies[name], of_answers[name], colour, tuple(_share(run.get(family), name) for run in counts)
            )
            for name, colour in zip(names, _colours(len(names)), strict=True)
        ]
    return found


def _of_answers(
    summaries: Sequence[FamilySummary | None], counts: Sequence[Mapping[str, int]]
) -> dict[str, float | None]:
    """The mean accuracy of each variant's answers over all runs that have the family; None where unknown."""
    runs = [(of.variants, count) for of, count in zip(summaries, counts, strict=True) if of]
    names = dict.fromkeys(name for variants, _ in runs for name in variants)
    return {
        name: weighted_mean(
            [variants.get(name) for variants, _ in runs], [max(1, count.get(name, 0)) for _, count in runs]
        )
        for name in names
    }


def _share(answers: Mapping[str, int] | None, variant: str) -> float | None:
    """The share of a variant in the answers of its family; None where there were none."""
    return answers.get(variant, 0) / sum(answers.values()) if answers else None


def over_time(
    panels: Sequence[Axes], runs: Sequence[PlottedRun], family: str, variants: Sequence[AnsweringVariant], ink: str
) -> None:
    """A family's answers per second by variant, for each run on axes of its own: the most accurate at the bottom."""
    for axes, run in zip(panels, runs, strict=True):
        rates = [
            [window.answers_by_variant.get(family, {}).get(variant.name, 0) / window.length_s for window in run.windows]
            for variant in variants
        ]
        colours = [variant.colour for variant in variants]
        axes.stackplot(run.middles_s, *rates, colors=colours, edgecolor=ink, linewidth=0.3)
        label_time_axis(axes, runs, "answers (qps)")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(PLAIN_TICKS)
        if len(runs) > 1:
            axes.set_title(run.heading, loc="left", fontsize="medium")
            axes.label_outer()


def _colours(count: int) -> Iterable[str]:
    steps = np.linspace(_DARKEST, _LIGHTEST, count) if count > 1 else [_DARKEST]
    return [to_hex(mpl.colormaps["viridis"](step)) for step in steps]
