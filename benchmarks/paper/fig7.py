"""Figure 7: the paper's Proteus without each of its parts, and ours without each of its ideas."""

from dataclasses import replace

from benchmarks.paper.lab import Case, Lab
from benchmarks.paper.results import MEASURES, MEASURES_NOTE, Figures, Section, measures, percent, short
from benchmarks.tables import Table
from proteus_cli.control.policies import PROTEUS, batcher_named
from proteus_cli.control.replanning.replan_rules import ForecastRule, PeriodicRule

PARTS = (
    "proteus-paper",
    "no-model-selection",
    "no-model-placement",
    "no-query-assignment",
    "no-adaptive-batching",
)
IDEAS = {
    "all of it": PROTEUS,
    "without the shared queue": replace(PROTEUS, assignment="early"),
    "without spares": replace(PROTEUS, spares=False),
    "re-planned as in the paper": replace(PROTEUS, replanning=PeriodicRule()),
    "re-planned for less every 10 s": replace(PROTEUS, replanning=ForecastRule(refresh_s=10.0)),
    "without admission": replace(PROTEUS, admits="all"),
    "batches as in the paper": replace(PROTEUS, batching=batcher_named("proactive")),
    "a headroom of 1.2 besides": replace(PROTEUS, headroom=1.2),
}
TEXT = """\
The first table is the paper's ablation: `proteus-paper` with the most accurate variants only, with devices that keep
their family, with queries shared alike, and with batches of one.

**Where this differs from the published shape, and why.** The paper's claim is, in short, that each part is needed.
That holds here. Without model selection, queries are lost instead of accuracy. Without placement, mostly accuracy is
lost, as each device can still change variants, and families of the first seconds keep their devices. Without adaptive
batches the plan's capacities, which assume full batches, are not reached. Sharing queries alike costs the least.

The second table is `proteus` without one of its parts at a time. Figures on synthetic traces are means over those at
the middle load.
"""


def measure(lab: Lab) -> Section:
    """Both ablations."""
    parts = tuple(measures(name, lab.named(name, lab.shared)) for name in PARTS)
    ideas = tuple(_idea(lab, name) for name in IDEAS)
    columns = ("proteus", "loads free", "on time", "max drop", "1 s to load", "on time", "synthetic", "on time")
    note = "Violations / relative accuracy, in percent: on the paper's trace, and on synthetic ones with loads free."
    tables = (
        Table("The paper's Proteus without each of its parts", ("policy", *MEASURES), parts, MEASURES_NOTE),
        Table("Ours without each of its ideas", columns, ideas, note),
    )
    return Section("fig7", "Ablations (figure 7)", TEXT, tables)


def _idea(lab: Lab, name: str) -> tuple[str, ...]:
    policy = IDEAS[name]
    free, slow = (lab.run(Case(policy, lab.shared, load_time_s)) for load_time_s in (0.0, 1.0))
    middle = lab.size.loads[len(lab.size.loads) // 2]
    others = [lab.run(Case(policy, trace)) for trace in lab.made_up if trace.name.endswith(f" {middle:.0%}")]
    drop = "–" if free.max_accuracy_drop is None else f"{free.max_accuracy_drop:.2f}"
    return (
        name,
        short(free),
        percent(free.accuracy_on_time),
        drop,
        short(slow),
        percent(slow.accuracy_on_time),
        _mean_short(others),
        percent(sum(run.accuracy_on_time for run in others) / len(others)),
    )


def _mean_short(runs: list[Figures]) -> str:
    violations = sum(run.slo_violation_ratio for run in runs) / len(runs)
    accuracy = sum(run.relative_accuracy or 0.0 for run in runs) / len(runs)
    return f"{100 * violations:.2f} / {100 * accuracy:.1f}"
