"""What each rule of control is worth: `proteus` without it, on the rows of `benchmarks.arrivals`.

Simulated, on tuning seeds. Prints the points on time that are lost without each rule, and a line per aim: a rule that
is worth less than 0.1 points on each row is to go. Exits with 1 where there is one. All rules on all rows take some
three hours on one core; `--rules` and `--only` choose some. Not judged here, as simulation does not show them:
estimates of slowness, pauses after failures, loads that give way, and slot tuning. `benchmarks.live` has cascades and
bounds of multi-exit models.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from benchmarks.arrivals import OURS, ROWS, TUNING, Site, add_options, named
from benchmarks.frame import UNKNOWN, Aim, Found, Run, Table, benchmark
from benchmarks.worlds import PAPER
from proteus_cli.cli.console import loudness
from proteus_cli.control.batching import GreedyBatcher, ProactiveBatcher
from proteus_cli.control.dispatch import request_queue
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.request_queue import Due
from proteus_cli.control.dispatch.selection import Selector
from proteus_cli.control.policies import POLICIES, PROTEUS, Policy
from proteus_cli.control.replanning import demand, loss_curves, replan_rules
from proteus_cli.control.replanning.replan_rules import ForecastRule

MIN_WORTH = 0.1
"""Points on time, on the row on which a rule is worth most."""

Replaced = tuple[Any, str, Any]
"""An attribute of a module or class, and what it is replaced by."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of control, and what `proteus` does without it: another policy, or other attributes."""

    what: str
    policy: Callable[[Policy], Policy] = lambda policy: policy
    replaced: Sequence[Replaced] = ()


def _replanning(**changes: Any) -> Callable[[Policy], Policy]:
    return lambda policy: replace(policy, replanning=replace(ForecastRule(), **changes))


def _first_requests(_: Selector, worker: Any, hosted: Any, queue: DeadlineQueue, max_rows: int, now_s: float) -> Any:
    return GreedyBatcher().decide(queue.head(), max_rows, hosted, now_s, worker.slowdown_at(hosted))


def _poisson(arrivals: Sequence[Sequence[int]], *others: Any) -> Any:
    return loss_curves.loss_curves([() for _ in arrivals], *others)


RULES: Mapping[str, Rule] = {
    "admission": Rule("admits what can be in time", lambda policy: replace(policy, admits="all")),
    "greedy": Rule("a free worker starts at once", lambda policy: replace(policy, batching=ProactiveBatcher())),
    "largest-batch": Rule("the largest batch in time", replaced=[(Selector, "_largest", _first_requests)]),
    "hopeless": Rule("drops what nobody can make", replaced=[(Selector, "_hopeless", lambda *_: 0)]),
    "accuracy-first": Rule(
        "rows wait for the more accurate",
        replaced=[(request_queue.Lane, "due_for", lambda lane, own, *_: Due(-(-lane.rows // max(len(own.free), 1))))],
    ),
    "made": Rule("counts on a part of rates", replaced=[(request_queue, "MADE_FRAC", 1.0)]),
    "excess": Rule("takes what others cannot make", replaced=[(request_queue, "_excess", lambda *_: 0)]),
    "spares": Rule("idle devices host spares", lambda policy: replace(policy, spares=False)),
    "standbys": Rule("variants for the next plan stay loaded", lambda policy: replace(policy, standbys=False)),
    "rises": Rule("plans at once for a rise", _replanning(up_sigmas=math.inf)),
    "changes": Rule("plans for changes beyond chance", _replanning(changed_sigmas=math.inf)),
    "reviews": Rule("reviews plans", replaced=[(replan_rules, "MIN_GAIN", math.inf)]),
    "min-gain": Rule("keeps a plan for small gains", replaced=[(replan_rules, "MIN_GAIN", 0.0)]),
    "windows": Rule("the longest window that agrees", replaced=[(demand, "AGREEMENT_SIGMAS", math.inf)]),
    "scatter": Rule("recent arrivals show the scatter", replaced=[(replan_rules, "loss_curves", _poisson)]),
    "reached": Rule("counts on a part of capacity", replaced=[(loss_curves, "REACHED_FRAC", 1.0)]),
}


def ablation(run: Run) -> Found:
    """The rows with all rules and without each."""
    loudness.quiet = True
    known = [name for name, row in ROWS.items() if PAPER.is_dir() or not row.needs_paper]
    rows = named("row", run.options.only, known)
    rules = named("rule", run.options.rules, list(RULES))

    def on_time(name: str, rule: Rule) -> dict[str, float]:
        """By row, in percent."""
        (place := run.directory / f"without-{name}").mkdir()
        with ExitStack() as stack:
            stack.enter_context(patch.dict(POLICIES, {OURS: rule.policy(PROTEUS)}))
            for target, attribute, value in rule.replaced:
                stack.enter_context(patch.object(target, attribute, value))
            site = Site(place, TUNING[:1] if run.is_quick else TUNING, (OURS,), run.is_quick)
            run.say(f"without {name}")
            return {row: 100 * ROWS[row].measure(site, row).policies[0].accuracy_on_time for row in rows}

    whole = on_time("none", Rule("all rules"))
    lost = {name: {row: whole[row] - value for row, value in on_time(name, RULES[name]).items()} for name in rules}
    lines = (
        ("all rules, %", *(f"{value:.2f}" for value in whole.values()), UNKNOWN),
        *(
            (RULES[name].what, *(f"{points:+.2f}" for points in of.values()), f"{max(of.values()):+.2f}")
            for name, of in lost.items()
        ),
    )
    table = Table("Points on time that are lost without a rule", ("rule", *whole, "most"), lines)
    return Found(
        (table,), tuple(Aim(name, max(of.values()), MIN_WORTH, "points", is_most=False) for name, of in lost.items())
    )


def add_rules(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of rows, and of rules."""
    parser.add_argument("--rules", metavar="RULE,…", help=", ".join(RULES))
    return add_options(parser)


if __name__ == "__main__":
    options = add_rules(argparse.ArgumentParser(prog="python -m benchmarks.ablation"))
    sys.exit(benchmark(__doc__, {"ablation": ablation}, rounds=1, parser=options))
