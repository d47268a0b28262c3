"""Policies: how plans are made × how queries are assigned × how batches form × when to re-plan."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from proteus_cli.control.batching import (
    AimdBatcher,
    Batcher,
    GreedyBatcher,
    NexusBatcher,
    ProactiveBatcher,
    StaticBatcher,
)
from proteus_cli.control.replanning.replan_rules import ForecastRule, PeriodicRule, Rule, TimedRule
from proteus_cli.domain.rules import PAPER_RULES, Rules
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration

VariantRule = Literal["all", "most-accurate", "least-accurate"]
Assignment = Literal["late", "early", "uniform"]
PlanRule = Literal["optimal", "frozen", "infaas", "sommelier", "oracle"]

WITHOUT_QUEUES = Rules(slo_fraction=1.0)
"""A batch may take all of the SLO."""
PUBLISHED_MARGIN_FRAC = 0.02  # ``margin_frac`` of published systems, which were simulated without jitter


@dataclass(frozen=True, slots=True)
class Policy:
    """How a system plans, assigns, batches and re-plans.

    - ``variants``: the variants that plans may place.
    - ``replanning``: None if the first plan stays for good.
    - ``assignment``: ``late`` binds a query to a device that is free, ``early`` at arrival by the plan's shares.
      ``uniform`` is early with equal shares.
    - ``admits``: ``timely`` refuses queries that cannot be in time, ``all`` admits every query.
    - ``plans``: ``optimal``, or ``frozen`` devices that keep the families of the first plan, or a heuristic of another
      system. The ``oracle`` knows the future.
    - ``spares``: idle devices of a plan get spares.
    - ``standbys``: free memory keeps variants loaded for the next plan.
    - ``rules``: of its plans, if the user gives none.
    - ``headroom``: of its plans, if the policy fixes it.
    """

    name: str
    variants: VariantRule
    batching: Batcher
    replanning: Rule | None
    assignment: Assignment = "late"
    admits: Literal["timely", "all"] = "timely"
    plans: PlanRule = "optimal"
    spares: bool = False
    standbys: bool = False
    rules: Rules = field(default_factory=Rules, hash=False)
    headroom: float | None = None


PROTEUS = Policy("proteus", "all", GreedyBatcher(), ForecastRule(), spares=True, standbys=True)
_PAPER = Policy(
    "proteus-paper",
    "all",
    ProactiveBatcher(margin_frac=PUBLISHED_MARGIN_FRAC),
    PeriodicRule(),
    assignment="early",
    admits="all",
    rules=PAPER_RULES,
    headroom=1.0,
)
_STATIC = replace(_PAPER, batching=AimdBatcher(), replanning=None)

POLICIES = {
    policy.name: policy
    for policy in (
        PROTEUS,
        _PAPER,
        replace(_STATIC, name="clipper-ha", variants="most-accurate"),
        replace(_STATIC, name="clipper-ht", variants="least-accurate"),
        replace(_PAPER, name="sommelier", plans="sommelier", assignment="uniform"),
        replace(_PAPER, name="infaas-accuracy", plans="infaas", batching=GreedyBatcher(), replanning=ForecastRule()),
        replace(_PAPER, name="no-model-selection", variants="most-accurate"),
        replace(_PAPER, name="no-model-placement", plans="frozen"),
        replace(_PAPER, name="no-query-assignment", assignment="uniform"),
        replace(_PAPER, name="no-adaptive-batching", batching=StaticBatcher(rows=1)),
        replace(PROTEUS, name="most-accurate", variants="most-accurate", replanning=None),
        replace(PROTEUS, name="least-accurate", variants="least-accurate", replanning=None),
        replace(PROTEUS, name="oracle", plans="oracle", rules=WITHOUT_QUEUES, headroom=1.0),
    )
}
ALL = "all"
LIVE = ("proteus", "most-accurate", "least-accurate")
"""Policies that a server can run; the others are simulated for comparison."""


def policy_named(name: str) -> Policy:
    """The policy of that name. Raises `UsageError`."""
    try:
        return POLICIES[name]
    except KeyError:
        raise UsageError(f"No policy `{name}`.", hint=f"there are: {', '.join(POLICIES)}") from None


def live_policy_named(name: str) -> Policy:
    """The policy of that name, which a server can run. Raises `UsageError`."""
    if name not in LIVE:
        problem = f"The policy `{name}` can only be simulated." if name in POLICIES else f"No policy `{name}`."
        raise UsageError(problem, hint=f"for plans and servers there are: {', '.join(LIVE)}")
    return POLICIES[name]


def with_replanning(policy: Policy, text: str) -> Policy:
    """The policy with its re-planning ``off``, at ``period=10s``, or as it is (``auto``). Raises `UsageError`."""
    kind, is_timed, period = text.partition("=")
    if text == "auto":
        return policy
    if text == "off":
        return replace(policy, replanning=None)
    if kind != "period" or not is_timed:
        raise UsageError(f"`{text}` is no way to re-plan.", hint="there are: off, auto, and period=10s")
    period_s = parse_duration(period)
    if policy.replanning is None:
        raise UsageError(
            f"The policy `{policy.name}` keeps its first plan, so there is nothing to do every {period}.",
            hint="leave out `--replan`, or make a plan with `--policy proteus`",
        )
    if period_s < policy.replanning.every_s:
        raise UsageError(
            f"A period of {period} is too short: the demand is looked at every {policy.replanning.every_s:g} s.",
            hint="for example `--replan period=10s`",
        )
    return replace(policy, replanning=TimedRule(policy.replanning, period_s))


def policies_named(names: str) -> tuple[Policy, ...]:
    """``"proteus,clipper-ha"`` or ``"all"`` → policies. Raises `UsageError`."""
    if names.strip() == ALL:
        return tuple(POLICIES.values())
    return tuple(policy_named(name.strip()) for name in names.split(","))


_STATIC_ROWS = re.compile(r"static-([1-9][0-9]{0,5})")


def batcher_named(name: str) -> Batcher:
    """``proactive`` (the paper's rule), ``aimd``, ``nexus``, ``greedy`` or ``static-N``. Raises `UsageError`."""
    rules: dict[str, Batcher] = {
        "proactive": ProactiveBatcher(margin_frac=PUBLISHED_MARGIN_FRAC),
        "aimd": AimdBatcher(),
        "nexus": NexusBatcher(),
        "greedy": GreedyBatcher(),
    }
    if name in rules:
        return rules[name]
    static = _STATIC_ROWS.fullmatch(name)
    if static is not None:
        return StaticBatcher(rows=int(static[1]))
    raise UsageError(f"No batching `{name}`.", hint=f"there are: {', '.join(rules)}, and static-N for batches of N")
