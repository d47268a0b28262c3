"""Figure 5: macro-bursts, in numbers and over time."""

from typing import Any

from benchmarks.paper.lab import Case, Lab
from benchmarks.paper.results import MEASURES, MEASURES_NOTE, Section, measures
from benchmarks.paper.traces import macro_bursts
from benchmarks.tables import Table
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.trace import Trace
from proteus_cli.reporting.plots.line_plots import PlottedRun, accuracy, demand, violations
from proteus_cli.reporting.plots.plot_style import INK, render_axes

PICTURE = "paper-bursts.png"
DRAWN = ("proteus", "proteus-paper", "infaas-accuracy", "clipper-ha")
TEXT = """\
The synthetic trace has a load of 20 % of the largest demand that the fleet can carry of this mix, and four sudden
bursts to 40, 60, 80 and 95 %. All families have the same demand.

**Where this differs from the published shape, and why.** The paper's claim is, in short, that Proteus gives up
accuracy in a burst and regains it afterwards, while systems that don't scale accuracy lose queries. That holds here
for the policies that re-plan. `proteus-paper` loses queries throughout a burst: without headroom, its burst trigger
fires nearly each second, each time for the demand of the last second. It regains its accuracy late, at the end of its
period. `clipper-ha` and `clipper-ht` start from a plan for the mix of the largest burst and lose the queries that
their variants can't carry. With 1 s to load a variant, a change of plan in a burst costs capacity when it is needed
most. Then the policies that change least lose least.
"""


def measure(lab: Lab) -> Section:
    """The main policies on macro-bursts, with loads free and with 1 s for each."""
    trace = bursts(lab)
    tables = []
    for load_time_s, title in ((0.0, "Macro-bursts, loads free"), (1.0, "Macro-bursts, 1 s to load a variant")):
        runs = {name: lab.named(name, trace, load_time_s=load_time_s) for name in lab.size.policies}
        rows = tuple(measures(name, run) for name, run in runs.items())
        tables.append(Table(title, ("policy", *MEASURES), rows, MEASURES_NOTE))
    return Section("fig5", "Macro-bursts (figure 5)", TEXT, tuple(tables), picture=PICTURE)


def bursts(lab: Lab) -> Trace:
    """The trace; made once."""
    if "bursts" not in lab.traces:
        shares = dict.fromkeys(lab.cluster().families, 1.0)
        lab.traces["bursts"] = macro_bursts(lab.cluster(), shares, lab.size.bursts_s)
    return lab.traces["bursts"]


def picture(lab: Lab) -> bytes:
    """Demand, accuracy and violations over time as PNG, loads free."""
    runs = PlottedRun.all_of([lab.report(Case(policy_named(name), bursts(lab))) for name in DRAWN])

    def draw(*axes: Any) -> None:
        for each, plot in zip(axes, (demand, accuracy, violations), strict=True):
            plot(each, runs, INK)
        for each in axes[:-1]:
            each.set_xlabel("")
        axes[0].figure.legend(handles=[run.line() for run in runs], loc="outside upper left", ncols=4)

    return render_axes(draw, rows=3, size_inches=(8.0, 7.2), format="png")
