"""Synthetic traces: where `proteus` wins, by how much, and where it does worst."""

from benchmarks.paper.lab import Lab
from benchmarks.paper.results import SHORT_NOTE, Figures, Section, beside, number, percent
from benchmarks.tables import Table

OURS = "proteus"
LOAD_TIMES_S = (0.0, 1.0)
Compared = dict[str, dict[str, Figures]]
"""Figures by trace and policy."""

TEXT = """\
Synthetic traces of three quarters of a minute are: Poisson arrivals at a constant rate; a day as a sinusoid; sudden
bursts, from 35 % of their height; and Gamma-distributed times between arrivals (shape 0.05). Each has three loads,
and a mix of families of its own. The load is the highest rate of a trace, as a fraction of the largest demand of that
mix that the fleet could carry at any accuracy if devices could be divided at will; the paper's trace reaches 50 % in
its busiest second. Everything is seeded. Rules for re-planning were compared on these traces while they were chosen,
so the figures don't show how `proteus` does on unseen traces.

Policies trade accuracy for violations, so they are compared by their relative accuracy on time: per query, with 0 for
one that missed its SLO. A policy is *better in both* where it has no more violations and no less accuracy, and is
ahead in one.
"""


def measure(lab: Lab) -> Section:
    """Each main policy on each trace, with loads free and with 1 s for each."""
    tables, remarks = [], []
    for load_time_s in LOAD_TIMES_S:
        when = "loads free" if not load_time_s else f"{load_time_s:g} s to load a variant"
        found = runs(lab, load_time_s)
        rows = tuple(beside((name,), tuple(of.values())) for name, of in found.items())
        tables.append(Table(f"Synthetic traces, {when}", ("trace", *lab.size.policies), rows, SHORT_NOTE))
        tables.append(_against_each(found, when))
        remarks.append(remark(found, when))
    return Section("generality", "Synthetic traces", TEXT, tuple(tables), tuple(remarks))


def runs(lab: Lab, load_time_s: float) -> Compared:
    """Each main policy on each synthetic trace."""
    return {
        trace.name: {name: lab.named(name, trace, load_time_s=load_time_s) for name in lab.size.policies}
        for trace in lab.made_up
    }


def others(found: Compared) -> list[str]:
    """All policies but ours."""
    return [name for name in next(iter(found.values())) if name != OURS]


def ahead(found: Compared, *others: str) -> int:
    """On how many traces ours is ahead of all these policies."""
    return sum(all(_margin(of, other) > 0 for other in others) for of in found.values())


def _against_each(found: Compared, when: str) -> Table:
    rows = []
    for other in others(found):
        margins = {trace: _margin(of, other) for trace, of in found.items()}
        worst = min(margins, key=margins.__getitem__)
        rows.append(
            (
                other,
                f"{ahead(found, other)} of {len(margins)}",
                number(100 * sum(margins.values()) / len(margins)),
                f"{100 * margins[worst]:+.2f} ({worst})",
                str(sum(_is_better_in_both(of[other], of[OURS]) for of in found.values())),
            )
        )
    columns = ("against", "proteus ahead", "points ahead, mean", "worst case", "better in both than proteus")
    note = "Points of relative accuracy on time."
    return Table(f"`proteus` against each, {when}", columns, tuple(rows), note)


def _margin(of: dict[str, Figures], other: str) -> float:
    return of[OURS].accuracy_on_time - of[other].accuracy_on_time


def _is_better_in_both(one: Figures, other: Figures) -> bool:
    ones, others = ((-run.slo_violation_ratio, run.relative_accuracy or 0.0) for run in (one, other))
    return ones != others and all(a >= b for a, b in zip(ones, others, strict=True))


def remark(found: Compared, when: str) -> str:
    """The worst case, by margin and by violations."""
    margins = {(trace, other): _margin(of, other) for trace, of in found.items() for other in others(found)}
    trace, other = min(margins, key=margins.__getitem__)
    most = max(found, key=lambda name: found[name][OURS].slo_violation_ratio)
    ours = found[most][OURS]
    verdict = "ahead of" if margins[trace, other] > 0 else "behind"
    return (
        f"Worst case, {when}: on “{trace}” `{OURS}` is {abs(100 * margins[trace, other]):.2f} points {verdict} "
        f"`{other}`. Its most violations: {percent(ours.slo_violation_ratio)} on “{most}”, at a relative accuracy of "
        f"{percent(ours.relative_accuracy, 1)}."
    )
