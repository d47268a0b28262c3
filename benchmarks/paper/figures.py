"""The paper's figures 4 to 8 on its own trace, synthetic traces, and the gap to the oracle.

docs/paper.md says what is done, and why some shapes differ from the published ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.frame import UNKNOWN, Aim, Found, Table, percent
from benchmarks.paper.lab import (
    MEASURES,
    MEASURES_NOTE,
    SHORT_NOTE,
    Case,
    Figures,
    Lab,
    beside,
    measures,
    number,
    short,
)
from benchmarks.paper.traces import macro_bursts
from benchmarks.worlds import SEED
from proteus_cli.control.policies import POLICIES, batcher_named
from proteus_cli.replay.synthesis import Constant, Gamma, Poisson, Shape, make_trace

OURS = "proteus"

# --- figure 4: all policies

LOAD_TIME_S = 1.0
AIMS = {0.0: (0.3, 99.3, 1.0), LOAD_TIME_S: (1.0, 99.0, 1.5)}  # violations %, relative accuracy %, points of drop
PUBLISHED = {  # violations past 1000 ms and at the SLO (the artifact's logs), relative accuracy, max drop
    "clipper-ha": ("33.4 %", "59 %", "99.9", "0.2"),
    "clipper-ht": ("11.4 %", "35 %", "80.5", "20.1"),
    "infaas-accuracy": ("16.9 %", "63 %", "92.8", "13.7"),
    "sommelier": ("9.9 %", "22 %", "96.4 (paper: 91.8)", "7.9 (paper: 16.9)"),
    "proteus-paper": ("2.7 %", "30 %", "98.7 (paper: 97.7)", "3.2 (paper: 4.8)"),
}


def fig4(lab: Lab) -> Found:
    """All policies on the paper's trace, beside the published figures."""
    free = {name: lab.named(name, lab.shared) for name in POLICIES}
    slow = lab.named(OURS, lab.shared, load_time_s=LOAD_TIME_S)
    rows = [measures(name, run) for name, run in free.items()]
    rows.insert(1, measures(f"{OURS}, 1 s to load", slow))
    published = tuple(
        (name, *own, short(free[name]), number(free[name].max_accuracy_drop, 1)) for name, own in PUBLISHED.items()
    )
    columns = (
        "system",
        "violations past 1000 ms",
        "at the SLO",
        "relative accuracy",
        "max drop",
        "here",
        "max drop here",
    )
    tables = (
        Table("All policies on the paper's trace (figure 4)", ("policy", *MEASURES), tuple(rows), MEASURES_NOTE),
        Table("Beside the published figures", columns, published),
    )
    return Found(tables, (*_aims(free[OURS], 0.0), *_aims(slow, LOAD_TIME_S)))


def _aims(run: Figures, load_time_s: float) -> Iterator[Aim]:
    max_violations, min_accuracy, max_drop = AIMS[load_time_s]
    when = f"{load_time_s:g} s to load"
    yield Aim(f"violations, {when}", 100 * run.slo_violation_ratio, max_violations, "%", is_most=True)
    yield Aim(f"relative accuracy, {when}", 100 * (run.relative_accuracy or 0), min_accuracy, "%", is_most=False)
    yield Aim(f"maximum drop, {when}", run.max_accuracy_drop or 0, max_drop, "points", is_most=True)


# --- figure 5: macro-bursts


def fig5(lab: Lab) -> Found:
    """Bursts to 40, 60, 80 and 95 % of the fleet's capacity, with loads free and with 1 s for each."""
    shares = dict.fromkeys(lab.cluster().families, 1.0)
    trace = macro_bursts(lab.cluster(), shares, 24.0 if lab.is_quick else 96.0)
    tables = []
    for load_time_s in (0.0, LOAD_TIME_S):
        runs = {name: lab.named(name, trace, load_time_s=load_time_s) for name in lab.policies}
        rows = tuple(measures(name, run) for name, run in runs.items())
        tables.append(
            Table(f"Macro-bursts (figure 5), {load_time_s:g} s to load", ("policy", *MEASURES), rows, MEASURES_NOTE)
        )
    return Found(tuple(tables))


# --- figure 6: rules for batches

RULES = ("proactive", "aimd", "nexus", "greedy", "static-1", "static-4", "static-8")
ARRIVALS: dict[str, Shape] = {"uniform": Constant(), "Poisson": Poisson(), "Gamma (0.05)": Gamma(0.05)}
IMAGES = ("densenet", "efficientnet", "mobilenet", "resnest", "resnet")
LOAD, HEADROOM = 0.7, 1.1


def fig6(lab: Lab) -> Found:
    """Each rule under each kind of arrivals, bound early and late, by one plan that stays."""
    present = lab.cluster().families
    families = IMAGES if set(IMAGES) <= set(present) else present[: len(IMAGES)]
    shares = dict.fromkeys(families, 1.0)
    rate_qps = LOAD * lab.cluster().max_qps(shares)
    demand = tuple((family, rate_qps / len(families)) for family in families)
    tables = []
    for title, name in (("bound early", "proteus-paper"), ("bound late", OURS)):
        policy, rows = replace(POLICIES[name], replanning=None, headroom=HEADROOM), []
        for kind, shape in ARRIVALS.items():
            rng, lasts_s = np.random.default_rng([SEED, 6]), 3.0 if lab.is_quick else 20.0
            trace = make_trace(kind, shape, rate_qps=rate_qps, duration_s=lasts_s, shares=shares, rng=rng)
            cases = (Case(replace(policy, batching=batcher_named(rule)), trace, planned_for=demand) for rule in RULES)
            rows.append(beside((kind,), [lab.run(case) for case in cases]))
        what = f"Batching (figure 6), {title}, {rate_qps:,.0f} qps: violations / relative accuracy"
        tables.append(Table(what, ("arrivals", *RULES), tuple(rows), SHORT_NOTE))
    return Found(tuple(tables))


# --- figure 7: ablations

PARTS = ("proteus-paper", "no-model-selection", "no-model-placement", "no-query-assignment", "no-adaptive-batching")


def fig7(lab: Lab) -> Found:
    """The paper's Proteus without each of its parts; `benchmarks.ablation` has ours without each rule."""
    parts = tuple(measures(name, lab.named(name, lab.shared)) for name in PARTS)
    return Found(
        (Table("The paper's Proteus without each part (figure 7)", ("policy", *MEASURES), parts, MEASURES_NOTE),)
    )


# --- figure 8: tighter and looser SLOs

BASE_MS, OWN_MS = 150, 300  # of the paper's configuration: 2 × the base


def fig8(lab: Lab) -> Found:
    """The main policies at each SLO."""
    rows = []
    for multiple in (1.0, 2.0) if lab.is_quick else (1.0, 1.5, 2.0, 2.5, 3.5):
        slo_ms = multiple * BASE_MS
        slo = None if slo_ms == OWN_MS else f"{slo_ms:g}ms"
        runs = [lab.named(name, lab.shared, slo=slo) for name in lab.policies]
        rows.append(beside((f"{multiple:g} × ({slo_ms:g} ms)",), runs))
    columns = ("SLO", *lab.policies)
    return Found((Table("SLOs from tight to loose (figure 8)", columns, tuple(rows), SHORT_NOTE),))


# --- synthetic traces

Compared = Mapping[str, Mapping[str, Figures]]
"""Figures by trace and policy."""


def generality(lab: Lab) -> Found:
    """Each main policy on each synthetic trace, with loads free and with 1 s for each."""
    tables, remarks = [], []
    for load_time_s in (0.0, LOAD_TIME_S):
        found, when = compared(lab, load_time_s), f"{load_time_s:g} s to load"
        rows = tuple(beside((name,), tuple(of.values())) for name, of in found.items())
        tables.append(Table(f"Synthetic traces, {when}", ("trace", *lab.policies), rows, SHORT_NOTE))
        counts = ", ".join(f"{other} on {ahead(found, other)}" for other in others(found))
        remarks.append(f"Of {len(found)} traces, {when}, proteus is ahead of {counts}.")
        most = max(found, key=lambda name: found[name][OURS].slo_violation_ratio)
        remarks.append(f"Most violations, {when}: {percent(found[most][OURS].slo_violation_ratio)} on “{most}”.")
    return Found(tuple(tables), (), tuple(remarks))


def compared(lab: Lab, load_time_s: float) -> Compared:
    """Each main policy on each synthetic trace."""
    return {
        trace.name: {name: lab.named(name, trace, load_time_s=load_time_s) for name in lab.policies}
        for trace in lab.made_up
    }


def others(found: Compared) -> list[str]:
    """All policies but ours."""
    return [name for name in next(iter(found.values())) if name != OURS]


def ahead(found: Compared, *others: str) -> int:
    """On how many traces ours is ahead of all these policies."""
    return sum(all(_margin(of, other) > 0 for other in others) for of in found.values())


def _margin(of: Mapping[str, Figures], other: str) -> float:
    return of[OURS].accuracy_on_time - of[other].accuracy_on_time


# --- the gap to the oracle


def oracle(lab: Lab) -> Found:
    """The part of the way from the least accurate plan to the oracle that is left, on all traces."""
    rows, gaps = [], list[float]()
    for trace in [*([lab.shared] if "paper" in lab.cluster().name else []), *lab.made_up]:
        least, ours, most = (lab.named(name, trace).accuracy_on_time for name in ("least-accurate", OURS, "oracle"))
        gaps += [(most - ours) / (most - least)] if most > least else []
        rows.append((trace.name, *map(percent, (least, ours, most))))
    mean = percent(float(np.mean(gaps)), 1) if gaps else UNKNOWN
    remark = f"Of the way from least accurate to the oracle, on average {mean} is left."
    columns = ("trace", "least accurate", OURS, "oracle")
    return Found((Table("The gap to the oracle, in accuracy on time", columns, tuple(rows)),), (), (remark,))


EXPERIMENTS = {
    "fig4": fig4,
    "fig7": fig7,
    "fig6": fig6,
    "fig8": fig8,
    "fig5": fig5,
    "generality": generality,
    "oracle": oracle,
}
NEED_PAPER: Sequence[str] = ("fig4", "fig7", "fig8")
