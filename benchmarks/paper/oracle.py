"""How much of the way to the upper bound is left."""

from benchmarks.paper.lab import Lab
from benchmarks.paper.results import Figures, Section, percent
from benchmarks.tables import UNKNOWN, Table
from proteus_cli.domain.trace import Trace

TEXT = """\
`oracle` knows the demand of each second beforehand, swaps for free, has no queues, and may use all of the SLO for one
batch: no policy can serve as much more accurately. The gap is the difference in accuracy on time between `oracle`
and `proteus`, in points, and also as a fraction of the difference between `oracle` and `least-accurate`, which serves
everything as fast as it can. Lost queries can raise the accuracy of `proteus`, so the table also has violations.
"""


def measure(lab: Lab) -> Section:
    """On the paper's trace, where it is there, and on the synthetic ones."""
    traces = [*([lab.shared] if lab.has_paper else []), *lab.made_up]
    gaps, rows = [], []
    for trace in traces:
        row, gap = _row(lab, trace)
        rows.append(row)
        gaps.append(gap)
    columns = (
        "trace",
        "least accurate",
        "proteus",
        "oracle",
        "gap",
        "of the way",
        "with 1 s loads",
        "violations: proteus",
        "oracle",
    )
    known = [gap for gap in gaps if gap is not None]
    remark = f"Of the way from least accurate to the oracle, on average {percent(sum(known) / len(known), 1)} is left."
    table = Table("The gap to the oracle, in accuracy on time", columns, tuple(rows))
    return Section("oracle", "The gap to the oracle", TEXT, (table,), remarks=(remark,) if known else ())


def _row(lab: Lab, trace: Trace) -> tuple[tuple[str, ...], float | None]:
    ours, slow = (lab.named("proteus", trace, load_time_s=load_time_s) for load_time_s in (0.0, 1.0))
    least, most = lab.named("least-accurate", trace), lab.named("oracle", trace)
    left, slow_left = (_left(run, least, most) for run in (ours, slow))
    cells = (
        trace.name,
        *(percent(run.accuracy_on_time) for run in (least, ours, most)),
        f"{100 * (most.accuracy_on_time - ours.accuracy_on_time):.2f}",
        UNKNOWN if left is None else percent(left, 1),
        UNKNOWN if slow_left is None else percent(slow_left, 1),
        percent(ours.slo_violation_ratio),
        percent(most.slo_violation_ratio),
    )
    return cells, left


def _left(run: Figures, least: Figures, most: Figures) -> float | None:
    """The part of the way from ``least`` to ``most`` that is left; None where there is no way."""
    low, high, here = (figures.accuracy_on_time for figures in (least, most, run))
    return (high - here) / (high - low) if high > low else None
