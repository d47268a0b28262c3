"""How fast the planner is, and how good: one table, each row beside what is to be reached.

Wrong answers fail, whatever their speed: the planner checks each plan, and a sample in every row is compared with an
independent exact solve. A second table shows what the relaxation of the paper's artifact makes of demands that can't be
served.

Rows of the paper's cluster need `../shared/data/proteus-asplos24` beside the repository, and are left out without it.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the two modules beside this one, however it is started

from benchmarks.machine import machine
from benchmarks.planner_instances import (
    PAPER,
    Fleet,
    mean_mix,
    of_size,
    paper_fleet,
    paper_rates,
    scaled,
    spread,
    synthetic_fleet,
    synthetic_mix,
    with_cascades,
    with_memory,
    with_types,
    with_variants,
)
from benchmarks.planner_rivals import LESS_ACCURATE, LESS_SERVED, Choices, max_multiple_of, objection, relaxed
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.base import Value
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.planning.from_workspace import TIME_LIMIT_S
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.solver.solve import minimise

LEGEND = """\
A time is that of one whole call of a `Planner`, from demand to checked plan, once the model is compiled ("first": with
that). "its CPU": CPU time of the worst, to tell a busy machine from a hard demand. "solving": the median of what plans
say that they took, which leaves out the check. "gap": the largest that plans report. "late": plans that ran into the
time limit. 10,000 devices: 8 types, 100 families × 10 variants, a time limit of 1 s; load: of what could be served if
devices could be divided at will."""
HEADROOM = 1.2
SEED = 2024
ANY = float("inf")
DEVICES, VARIANTS, TYPES = (20, 40, 80, 120, 160), (50, 150, 250, 350, 450), (3, 7, 11, 17)  # the paper's figure 9
LOADS = (0.02, 0.1, 0.3, 0.6, 0.9, 1.1, 1.5)  # of what the synthetic fleet could serve if devices could be divided
LOADS_BEYOND = (1.05, 1.2, 1.5, 2.5)
MULTIPLES = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0)


class Aim(Value, frozen=True):
    """What is to be reached, in seconds and as a part."""

    median_s: float | None = None
    worst_s: float | None = None
    gap: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One row: a fleet and the demands to plan for, each from the plan before it where that is ``chained``.

    ``checks``: how many plans are compared with an independent solve, with ``check_limit_s`` for each of two aims.
    """

    section: str
    name: str
    fleet: Fleet
    demands: tuple[Demand, ...]
    aim: Aim
    rules: Rules = field(default_factory=Rules)
    time_limit_s: float = TIME_LIMIT_S
    chained: bool = False
    checks: int = 4
    check_limit_s: float = 3.0


class Figures(Value, frozen=True):
    """What was measured of a task. ``limited``: how many plans ran into the time limit; ``wrong``: what must not be."""

    section: str
    name: str
    devices: int
    variants: int
    demands: int
    aim: Aim
    first_s: float
    median_s: float
    p95_s: float
    worst_s: float
    worst_cpu_s: float
    solving_median_s: float
    gap: float
    limited: int
    checked: int
    proven: int
    wrong: tuple[str, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """The parts of the aim that weren't reached."""
        pairs = {
            "median": (self.median_s, self.aim.median_s),
            "worst": (self.worst_s, self.aim.worst_s),
            "gap": (self.gap, self.aim.gap),
        }
        return tuple(name for name, (measured, limit) in pairs.items() if limit is not None and measured > limit)


class OverDemand(Value, frozen=True):
    """What one way of planning makes of more than can be served. ``beta`` is None where there is none.

    ``wrong`` is what an independent solve has against it.
    """

    multiple: float
    model: str
    beta: float | None
    served_frac: float
    accuracy: float
    solves: int
    seconds: float
    wrong: str = ""


class Benchmark(Value, frozen=True):
    """All that was measured, and where (``--json``)."""

    machine: str
    versions: dict[str, str]
    rows: tuple[Figures, ...]
    over_demand: tuple[OverDemand, ...]


def main() -> None:
    """Run the benchmark, print its tables, and exit with 1 where a plan is wrong, or an aim is missed."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{LEGEND}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows and demands: under a minute")
    parser.add_argument("--rounds", type=int, default=1, help="a demand's time is the best of so many; busy machines")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 144)
    has_paper = PAPER.is_dir()
    done = Benchmark(
        machine=machine(),
        versions={name: version(name) for name in ("highspy", "cvxpy", "scipy", "numpy")},
        rows=tuple(_all_rows(_tasks(has_paper=has_paper, quick=options.quick), options.rounds)),
        over_demand=tuple(_over_demand(MULTIPLES[3::2] if options.quick else MULTIPLES)) if has_paper else (),
    )
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(done)))
    _show(console, done, has_paper=has_paper)
    wrong = any(row.wrong for row in done.rows) or any(row.wrong for row in done.over_demand)
    missed = any(figures.missed for figures in done.rows)
    raise SystemExit(1 if wrong or missed else 0)


# --- what is planned for


def _tasks(*, has_paper: bool, quick: bool) -> Iterator[Task]:
    of_paper = [_paper_tasks, _cascade_tasks, _synthetic_tasks, _residency_tasks, _axes_tasks]
    tasks = of_paper if has_paper else [_synthetic_tasks]
    for task in (task for some in tasks for task in some(quick=quick)):
        yield replace(task, checks=min(task.checks, 2), check_limit_s=2.0) if quick else task


def _paper_tasks(*, quick: bool) -> Iterator[Task]:
    fleet, rates = paper_fleet(), paper_rates()
    peaks = tuple(scaled(rates[30 * k], 2.5) for k in range(8))
    demands = (*rates[:: 6 if quick else 1], *peaks[:: 4 if quick else 1])
    warm, chained = Aim(median_s=0.015, worst_s=0.1, gap=1e-4), Aim(median_s=0.06, worst_s=0.5)
    section = "the paper's cluster"
    yield Task(section, "a new demand", fleet, demands, warm, checks=12)
    yield Task(section, "from the plan before", fleet, demands, chained, chained=True, checks=12)
    choices, mixes = Choices.of(fleet), spread(rates, len(LOADS_BEYOND) if quick else 10 * len(LOADS_BEYOND))
    beyond = (
        scaled(mix, load / HEADROOM * max_multiple_of(choices, mix))
        for mix, load in zip(mixes, cycle(LOADS_BEYOND), strict=False)
    )
    yield Task(section, "more than can be served", fleet, tuple(beyond), Aim(), checks=8)


def _cascade_tasks(*, quick: bool) -> Iterator[Task]:
    fleet, rates, rules = with_cascades(paper_fleet()), paper_rates(), Rules(cascades=True)
    demands = rates[:: 30 if quick else 5]
    peaks = tuple(scaled(demand, 2.0) for demand in spread(rates, 4 if quick else 20))
    section, aim = "the same with cascades", Aim(median_s=0.03)
    yield Task(section, "a new demand", fleet, demands, aim, rules)
    yield Task(section, "from the plan before", fleet, demands, Aim(median_s=0.06), rules, chained=True)
    yield Task(section, "twice the demand", fleet, peaks, Aim(), rules)


def _synthetic_tasks(*, quick: bool) -> Iterator[Task]:
    rng = np.random.default_rng(SEED)
    fleet = synthetic_fleet(families=100, variants=10, types=8, devices=10_000, rng=rng)
    choices = Choices.of(fleet)
    mixes = [synthetic_mix(fleet, rng) for _ in range(1 if quick else 3)]
    for load in LOADS[1::3] if quick else LOADS:
        demands = tuple(scaled(mix, load / HEADROOM * max_multiple_of(choices, mix)) for mix in mixes)
        yield Task(
            f"{sum(fleet.counts.values()):,} devices",
            f"load {load:g}",
            fleet,
            demands,
            Aim(worst_s=1.0),
            time_limit_s=1.0,
            checks=1,
        )


def _residency_tasks(*, quick: bool) -> Iterator[Task]:
    demands = spread(paper_rates(), 8 if quick else 40)
    section, aim = "several variants per device", Aim(median_s=0.15)
    fleet, scarce = with_memory(paper_fleet()), with_memory(paper_fleet(), of_it=0.25)
    yield Task(section, "as fit in memory", fleet, demands, aim, Rules(residency="memory"))
    yield Task(section, "as fit in a quarter of it", scarce, demands, aim, Rules(residency="memory"))
    for most in (2, 3):
        yield Task(section, f"at most {most}", fleet, demands, aim, Rules(residency=most))


def _axes_tasks(*, quick: bool) -> Iterator[Task]:
    fleet, rates, aim = paper_fleet(), paper_rates(), Aim(worst_s=0.1)
    demands = spread(rates, 8 if quick else 20)
    ends: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda axis: axis[:: len(axis) - 1] if quick else axis  # noqa: E731
    for count in ends(DEVICES):
        in_proportion = tuple(scaled(demand, count / sum(fleet.counts.values())) for demand in demands)
        yield Task("the paper's axes: devices", f"{count} devices", of_size(fleet, count), in_proportion, aim)
    for count in ends(VARIANTS):
        made = with_variants(fleet, count, np.random.default_rng(SEED))
        yield Task("the paper's axes: variants", f"{count} variants", made, demands, aim)
    for count in ends(TYPES):
        made = with_types(fleet, count, np.random.default_rng(SEED))
        yield Task("the paper's axes: types", f"{count} types", made, demands, aim)


# --- measuring


@dataclass(frozen=True, slots=True)
class _Call:
    seconds: float
    cpu_s: float
    plan: Plan | None


def _all_rows(tasks: Iterator[Task], rounds: int) -> Iterator[Figures]:
    with Console(stderr=True).status("") as status:
        for task in tasks:
            status.update(f"{task.section}: {task.name}")
            yield _measured(task, rounds)


def _measured(task: Task, rounds: int) -> Figures:
    planner = _planner(task.fleet, HEADROOM, task.rules, task.time_limit_s)
    gc.collect()
    first = _call(planner, task.demands[0], None)
    runs = [_run(planner, task) for _ in range(rounds)]
    calls = [min(same, key=lambda call: call.seconds) for same in zip(*runs, strict=True)]
    plans = [call.plan for call in calls]
    made = [plan for plan in plans if plan is not None]
    seconds, worst = [call.seconds for call in calls], max(calls, key=lambda call: call.seconds)
    wrong, proven, checked = _compared(planner, task, plans)
    if first.plan is None:
        wrong = ("the first call found no plan within its time limit", *wrong)
    if len(made) < len(plans):
        wrong = (f"{len(plans) - len(made)} calls found no plan within their time limit", *wrong)
    return Figures(
        section=task.section,
        name=task.name,
        devices=sum(task.fleet.counts.values()),
        variants=sum(len(family.variants) for family in task.fleet.catalog.families),
        demands=len(task.demands),
        aim=task.aim,
        first_s=first.seconds,
        median_s=float(np.median(seconds)),
        p95_s=float(np.percentile(seconds, 95)),
        worst_s=worst.seconds,
        worst_cpu_s=worst.cpu_s,
        solving_median_s=float(np.median([plan.solver.solve_s for plan in made])) if made else ANY,
        gap=max((plan.solver.gap for plan in made), default=ANY),
        limited=sum(plan.solver.status != "optimal" for plan in made),
        checked=checked,
        proven=proven,
        wrong=wrong,
    )


def _planner(fleet: Fleet, headroom: float, rules: Rules | None = None, time_limit_s: float = TIME_LIMIT_S) -> Planner:
    return Planner(
        fleet.catalog,
        fleet.profiles(),
        policy_named("proteus"),
        headroom=headroom,
        inputs={},
        rules=rules,
        time_limit_s=time_limit_s,
    )


def _run(planner: Planner, task: Task) -> list[_Call]:
    calls: list[_Call] = []
    for demand in task.demands:
        calls.append(_call(planner, demand, calls[-1].plan if calls and task.chained else None))
    return calls


def _call(planner: Planner, demand: Demand, current: Plan | None) -> _Call:
    """A call that finds no plan in time counts, too; other errors are ours, and end the benchmark."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    try:
        plan = planner(demand, current)
    except NoFeasiblePlan:
        plan = None
    return _Call(time.perf_counter() - start_s, time.process_time() - start_cpu_s, plan)


def _compared(planner: Planner, task: Task, plans: list[Plan | None]) -> tuple[tuple[str, ...], int, int]:
    """Objections of an independent solve to a sample of the plans, how many were proven, and how many looked at.

    Of plans with cascades, that solve knows nothing. They must be no worse than those without; tests compare them with
    brute force. What a plan serves with headroom isn't written in it; so plans are made again for the larger demand,
    without.
    """
    bare = planner.with_changes(headroom=1.0)
    wrong, proven, checked = [], 0, 0
    for i in np.unique(np.linspace(0, len(plans) - 1, task.checks).astype(int)).tolist():
        current = plans[i - 1] if task.chained and i > 0 else None
        plan = _call(bare, scaled(task.demands[i], HEADROOM), current).plan
        if plan is not None and task.rules.cascades:
            plain = bare.with_changes(rules=msgspec.structs.replace(task.rules, cascades=False))
            found = _is_worse(plan, plain(plan.demand_qps))
            checked += 1
            wrong += [f"demand {i} of {len(plans)} {found}"] if found else []
        elif plan is not None:
            found, is_proven = objection(
                task.fleet, plan, shares_devices=task.rules.is_resident_set, time_limit_s=task.check_limit_s
            )
            proven, checked = proven + is_proven, checked + 1
            wrong += [f"demand {i} of {len(plans)} {found}"] if found else []
    return tuple(wrong), proven, checked


def _is_worse(plan: Plan, plain: Plan) -> str:
    """What a plan with cascades is worse in than one without; "" where it is not."""
    served, without = (sum(each.served_qps.values()) for each in (plan, plain))
    if served < without * (1 - LESS_SERVED):
        return f"serves {served:.3f} qps, and without cascades {without:.3f}"
    if (
        served <= without * (1 + LESS_SERVED)
        and (plan.effective_accuracy or 0) < (plain.effective_accuracy or 0) - LESS_ACCURATE
    ):
        return f"reaches {plan.effective_accuracy} of accuracy, and without cascades {plain.effective_accuracy}"
    return ""


# --- more than can be served


def _over_demand(multiples: tuple[float, ...]) -> Iterator[OverDemand]:
    fleet, mix = paper_fleet(), mean_mix(paper_rates())
    planner, choices = _planner(fleet, headroom=1.0), Choices.of(fleet)
    most = max_multiple(planner, mix)
    for multiple in multiples:
        demand = scaled(mix, most * multiple)
        with patch("proteus_cli.planning.solver.lexicographic.minimise", wraps=minimise) as solver:
            call = _call(planner, demand, None)
        plan = call.plan
        assert plan is not None, "the planner must have an answer"
        assert plan.effective_accuracy is not None, "something can be served"
        wrong, _ = objection(fleet, plan, shares_devices=False, time_limit_s=5.0)
        served_frac = sum(plan.served_qps.values()) / sum(plan.demand_qps.values())
        yield OverDemand(
            multiple=multiple,
            model="this planner",
            beta=None,
            served_frac=served_frac,
            accuracy=plan.effective_accuracy,
            solves=solver.call_count,
            seconds=call.seconds,
            wrong=wrong,
        )
        for model, is_as_coded in (("β-relaxation", False), ("β-relaxation as coded", True)):
            found = relaxed(choices, demand, is_as_coded=is_as_coded)
            yield OverDemand(
                multiple, model, found.beta, found.served_frac, found.accuracy, found.solves, found.seconds
            )


# --- showing


def _show(console: Console, done: Benchmark, *, has_paper: bool) -> None:
    console.print(_speed_table(done.rows))
    console.print(LEGEND)
    if not has_paper:
        console.print(f"[yellow]Skipped all rows of the paper's cluster: there is no {PAPER}.[/]")
    checked, proven = (sum(getattr(figures, name) for figures in done.rows) for name in ("checked", "proven"))
    console.print(
        f"{checked} plans compared with an independent solve: {proven} are as accurate as any with as many hosts "
        "of each family, the others between that and the best plan that counts on one host."
    )
    for figures in done.rows:
        for text in figures.wrong:
            console.print(f"[red]WRONG[/] {figures.section}, {figures.name}: {text}", soft_wrap=True)
    for row in (row for row in done.over_demand if row.wrong):
        console.print(f"[red]WRONG[/] {row.multiple:g} × the most: {row.wrong}", soft_wrap=True)
    if done.over_demand:
        console.print(_over_demand_table(done.over_demand))
    console.print(f"{done.machine}; " + ", ".join(f"{name} {number}" for name, number in done.versions.items()))


def _speed_table(rows: tuple[Figures, ...]) -> Table:
    table = Table(title=f"The planner: milliseconds per call, headroom {HEADROOM:g}", box=box.SIMPLE_HEAD)
    for column in ("instance", "demands", "first", "median", "p95", "worst", "its CPU", "solving", "gap", "reached"):
        is_text = column in {"instance", "reached"}
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    section = ""
    for figures in rows:
        if figures.section != section:
            section = figures.section
            table.add_section()
            table.add_row(f"[bold]{section}[/]")
        table.add_row(
            f"  {figures.name}",
            str(figures.demands),
            _ms(figures.first_s),
            _beside(_ms, figures.median_s, figures.aim.median_s),
            _ms(figures.p95_s),
            _beside(_ms, figures.worst_s, figures.aim.worst_s),
            _ms(figures.worst_cpu_s),
            _ms(figures.solving_median_s),
            _beside(_gap, figures.gap, figures.aim.gap),
            _mark(figures),
        )
    return table


def _beside(shown: Callable[[float], str], measured: float, limit: float | None) -> str:
    """What was measured and what is to be reached."""
    if limit is None:
        return shown(measured)
    text = f"{shown(measured)} ≤ {shown(limit)}"
    return text if measured <= limit else f"[red]{text.replace('≤', '>')}[/]"


def _mark(figures: Figures) -> str:
    limited = f" ({figures.limited} late)" if figures.limited else ""
    if figures.wrong:
        return f"[red]✗ wrong[/]{limited}"
    if figures.missed:
        return f"[red]✗ {', '.join(figures.missed)}[/]{limited}"
    return ("no aim" if figures.aim == Aim() else "[green]✓[/]") + limited


def _over_demand_table(rows: tuple[OverDemand, ...]) -> Table:
    table = Table(title="More than can be served: the mean mix of the paper's trace, headroom 1")
    for column in ("demand", "model", "β", "served", "accuracy of what is served", "of all", "solves", "ms"):
        table.add_column(column, justify="left" if column == "model" else "right")
    multiple = 0.0
    for row in rows:
        if row.multiple != multiple:
            table.add_section()
        table.add_row(
            f"{row.multiple:g} × the most" if row.multiple != multiple else "",
            row.model,
            f"{row.beta:.2f}" if row.beta is not None else "",
            f"{100 * row.served_frac:.2f} %",
            f"{100 * row.accuracy:.2f} %",
            f"{100 * row.accuracy * row.served_frac:.2f} %",
            str(row.solves),
            _ms(row.seconds),
        )
        multiple = row.multiple
    return table


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}" if seconds < 0.01 else f"{1000 * seconds:,.0f}"


def _gap(gap: float) -> str:
    return f"{gap:.0e}" if gap >= 1e-9 else "0"


if __name__ == "__main__":
    main()
