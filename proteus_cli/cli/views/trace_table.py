"""A table of what a trace asks for, with its demand over time."""

import numpy as np
from rich.console import Group, RenderableType

from proteus_cli.domain.trace import Trace
from proteus_cli.replay.trace import TraceSummary
from proteus_cli.reporting.tables import name, number, table, text
from proteus_cli.units import UNKNOWN, format_duration, format_percent, format_rate

_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 50


def trace_table(trace: Trace, summary: TraceSummary) -> RenderableType:
    """A row for each fact, then one for each family."""
    facts = {
        "arrivals": f"{summary.arrivals:,}",
        "duration": format_duration(summary.duration_s),
        "mean": format_rate(summary.mean_qps),
        "peak, 10 s": format_rate(summary.peak_qps),
        "peak second / mean": f"{summary.peak_to_mean:.2f}",
        "CV of gaps": UNKNOWN if summary.gap_cv is None else f"{summary.gap_cv:.2f}",
        "demand": _sparkline(trace),
    }
    rows = table(name("trace"), text(summary.trace))
    for fact in facts.items():
        rows.add_row(*fact)
    families = table(name("family"), number("arrivals"), number("share"))
    for family, of in summary.families.items():
        families.add_row(family, f"{of.count:,}", format_percent(of.share))
    return Group(rows, "", families)


def _sparkline(trace: Trace) -> str:
    """Demand over time, one bar per second, or fewer in a long trace."""
    width = min(_SPARKLINE_WIDTH, int(trace.duration_s) + 1)
    counts, _ = np.histogram(trace.arrival_s, bins=width, range=(0.0, max(trace.duration_s, 1.0)))
    levels = np.rint(counts / np.max(counts) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[level] for level in levels)
