"""Figure 6: rules for batches, everything else alike."""

from dataclasses import replace

import numpy as np

from benchmarks.paper.cluster import SEED
from benchmarks.paper.lab import Case, Lab
from benchmarks.paper.results import SHORT_NOTE, Figures, Section, beside
from benchmarks.tables import Table
from proteus_cli.control.policies import POLICIES, Policy, batcher_named
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Constant, Gamma, Poisson, Shape, make_trace

RULES = ("proactive", "aimd", "nexus", "greedy", "static-1", "static-4", "static-8")
ARRIVALS: dict[str, Shape] = {"uniform": Constant(), "Poisson": Poisson(), "Gamma (0.05)": Gamma(0.05)}
IMAGES = ("densenet", "efficientnet", "mobilenet", "resnest", "resnet")
LOAD, HEADROOM = 0.7, 1.1
TEXT = f"""\
Five families of image classifiers have equal demand, together {LOAD:.0%} of the largest that the fleet can carry. One
plan for that demand, with a headroom of {HEADROOM:g}, stays in force. Only the batching rule differs. The first table
has queues per device, to which queries are assigned on arrival, as in the paper; the second a shared queue, as in
`proteus`.

**Where this differs from the published shape, and why.** The paper's claim is, in short, that the paper's rule beats
AIMD and Nexus under all three arrivals. Here that holds for AIMD under Gamma arrivals only: AIMD drops only queries
that are late already, so one late batch makes the next ones late. Under even arrivals AIMD and Nexus lose less than
the paper's rule, because here they start waiting queries when a worker is free, where the artifact's wait for full
batches. The paper's rule delays a batch to the last moment although the worker is idle; near the fleet's limit that
idle time is missing afterwards. Under even arrivals and with shared queues the differences nearly vanish, as any free
worker takes the most urgent queries, and queries that can't be in time are refused at once. Batches of one, or of
four, can't carry this load.
"""


def measure(lab: Lab) -> Section:
    """Each rule under each kind of arrivals, bound early and late."""
    present = lab.cluster().families
    families = IMAGES if set(IMAGES) <= set(present) else present[: len(IMAGES)]
    rate_qps = LOAD * lab.cluster().max_qps(dict.fromkeys(families, 1.0))
    traces = {name: _trace(name, shape, families, rate_qps, lab) for name, shape in ARRIVALS.items()}
    demand = tuple((family, rate_qps / len(families)) for family in families)
    early = replace(POLICIES["proteus-paper"], replanning=None, headroom=HEADROOM)
    late = replace(POLICIES["proteus"], replanning=None, headroom=HEADROOM)
    tables = tuple(
        Table(
            f"{title}: violations / relative accuracy", ("arrivals", *RULES), _rows(lab, policy, traces, demand), note
        )
        for title, policy, note in (
            ("Bound early", early, SHORT_NOTE),
            ("Bound late, refused where it can't be in time", late, ""),
        )
    )
    remark = f"The rate is {rate_qps:,.0f} queries per second."
    return Section("fig6", "Batching (figure 6)", TEXT, tables, remarks=(remark,))


def _trace(name: str, shape: Shape, families: tuple[str, ...], rate_qps: float, lab: Lab) -> Trace:
    rng = np.random.default_rng([SEED, 6])
    shares = dict.fromkeys(families, 1.0)
    return make_trace(name, shape, rate_qps=rate_qps, duration_s=lab.size.batching_s, shares=shares, rng=rng)


def _rows(
    lab: Lab, policy: Policy, traces: dict[str, Trace], demand: tuple[tuple[str, float], ...]
) -> tuple[tuple[str, ...], ...]:
    return tuple(beside((name,), _runs(lab, policy, trace, demand)) for name, trace in traces.items())


def _runs(lab: Lab, policy: Policy, trace: Trace, demand: tuple[tuple[str, float], ...]) -> tuple[Figures, ...]:
    policies = (replace(policy, batching=batcher_named(rule)) for rule in RULES)
    return tuple(lab.run(Case(each, trace, planned_for=demand)) for each in policies)
