"""The worth of cascades of the sample zoo: on unseen rows and simulated, by example rates; and served live.

Simulated, the rates are those of `profiles/cpu0.json` in the repository, so the figures are the same on any machine.
Live, one core serves rows of the eval splits, and labels judge the answers. A virtual core may be slower for some
seconds than when it was profiled: each round begins with the most accurate variant alone, which gets more than it
carries. Its answers in time are its throughput, demands are multiples of that, and plans are for a core that is just so
slow. Each plan is simulated with the same arrivals, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import numpy as np
from msgspec.structs import replace as changed

from benchmarks.frame import ROOT, UNKNOWN, Aim, Found, Run, Table, proteus, spread
from benchmarks.live.lab import Lab, laboratory, replayed
from benchmarks.worlds import never, slowed
from proteus_cli.arrays import Floats, Ints
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.control.policies import PROTEUS, policy_named
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.report import FamilySummary
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.analysis.explain import max_multiple
from proteus_cli.planning.planner import Planner
from proteus_cli.profiling.cascade_options import AS_ACCURATE_FRAC, Option, frontier, options_of
from proteus_cli.profiling.cascades import StageAnswers, cascades_of
from proteus_cli.replay.synthesis import make_trace
from proteus_cli.reporting.measures import RequestColumns, family_summary
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace, read_json
from proteus_cli.store.answers import Answers, read_answers

SPEED_UPS = {"digits": 3.0, "signals": 2.2}
"""By family, the rate of a cascade in multiples of the most accurate variant's, at nearly its accuracy."""
GAINS = {"digits": 0.4, "signals": 0.7}
"""By family, the points of accuracy that cascades are to gain in simulation at `GAIN_AT` times that rate."""
GAIN_AT = 4.0
DRAWS, FRESH_FRAC, UNSEEN_AT = 100, 0.2, (4, 10, 20)
DEVICES, QUERIES, LONGEST_S = 4, 12_000, 20.0
MULTIPLES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
MAX_LOSS_POINTS, MAX_MORE_VIOLATIONS_PERCENT = 0.05, 0.1
WITHIN_POINTS, MAX_VIOLATIONS_PERCENT = 0.3, 1.0  # live
OVERLOAD, LASTS_S, QUICK_S, BUDGET = 1.5, 12.0, 4.0, "90s"
HEADROOM, SEED = 1.2, 2026
FIXED = replace(PROTEUS, replanning=None)


@dataclass(frozen=True, slots=True)
class PoissonOfCount:
    """Poisson arrivals, given that there are just as many as the rate brings in the mean."""

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        return np.sort(rng.uniform(0.0, duration_s, round(rate_qps * duration_s)))


def _poisson(name: str, rate_qps: float, lasts_s: float) -> Trace:
    rng, shares = np.random.default_rng(SEED), {name: 1.0}
    return make_trace("poisson", PoissonOfCount(), rate_qps=rate_qps, duration_s=lasts_s, shares=shares, rng=rng)


def _simulated(plan: Plan, trace: Trace, catalog: Catalog, profiles: Mapping[str, Profile]) -> FamilySummary:
    run = simulate(trace, plan, catalog, profiles, FIXED, never, rng=np.random.default_rng(SEED))
    columns = RequestColumns.of(run.ended, {}, families=trace.families)
    return family_summary(columns, trace.duration_s, DEFAULT_ATTAINMENT)


# --- on unseen rows, and simulated


@dataclass(frozen=True)
class Answered:
    """A family on one device: its variants' answers by row, and the profile that has their rates."""

    family: Family
    profile: Profile
    answers: Mapping[str, Answers]

    @property
    def rows(self) -> Ints:
        return np.arange(len(next(iter(self.answers.values())).correct))

    @property
    def rates_qps(self) -> dict[str, float]:
        own = [each for each in self.profile.variants if each.family == self.family.name]
        slo_s = self.family.slo_s
        return {each.variant: Rules().capacity_within(slo_s, self.profile.points_of(each)).qps for each in own}

    def profiled_on(self, rows: Ints) -> Profile:
        """The profile as it would be if the eval split had no other rows."""
        rates, name = self.rates_qps, self.family.name
        right = {variant: each.correct[rows] for variant, each in self.answers.items()}
        accuracy = {variant: float(each.mean()) for variant, each in right.items()}
        stages = [
            StageAnswers(variant, accuracy[variant], rates[variant], each.confidences[rows], right[variant])
            for variant, each in self.answers.items()
        ]
        own = [each for each in self.profile.variants if each.family == name]
        variants = tuple(changed(each, accuracy=accuracy[each.variant]) for each in own)
        return changed(self.profile, variants=variants, cascades=cascades_of(name, "", stages).cascades)

    def judged(self, option: Option, rows: Ints) -> tuple[float, float]:
        """Accuracy and rate of an option on rows, which need not be those that it was found on."""
        first, rate_qps = self.answers[option.first], self.rates_qps[option.first]
        if option.second is None or option.point is None:
            return float(first.correct[rows].mean()), rate_qps
        deferred = first.confidences[rows] < option.point.threshold
        accuracy = np.where(deferred, self.answers[option.second].correct[rows], first.correct[rows]).mean()
        return float(accuracy), 1 / (1 / rate_qps + float(deferred.mean()) / self.rates_qps[option.second])


def cascades_simulated(run: Run) -> Found:
    """Found on most rows and judged on the others; then planned and simulated on four cores."""
    root = run.directory / "answers"
    proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    proteus("profile", "--workspace", str(root), "--max-batch", "1", "--accept-noise")
    rates = read_json(ROOT / "profiles" / "cpu0.json", Profile, hint="it lies in the repository")
    place, tables, aims = Workspace(root), list[Table](), list[Aim]()
    answers = read_answers(place.answers_path("cpu0"))
    for name in SPEED_UPS:
        family = place.catalog().family(name)
        own = {each.name: answers[VariantKey(name, each.name)] for each in family.variants}
        of = Answered(family, rates, own)
        for found in (_unseen(of, DRAWS // 4 if run.is_quick else DRAWS), _planned(of, run.is_quick)):
            tables += found.tables
            aims += found.aims
    return Found(tuple(tables), tuple(aims))


def _mixed(options: Sequence[Option], seconds: float) -> list[tuple[float, Option]]:
    """The shares of the options that are the most accurate within so many seconds per query."""
    best = frontier(list(options))
    if 1 / best[-1].qps <= seconds:
        return [(1.0, best[-1])]
    for fast, slow in pairwise(best):
        if 1 / fast.qps <= seconds < 1 / slow.qps:
            share = (seconds - 1 / fast.qps) / (1 / slow.qps - 1 / fast.qps)
            return [(1 - share, fast), (share, slow)]
    return [(1.0, best[0])]


def _unseen(of: Answered, draws: int) -> Found:
    """For so many ways to draw the fresh rows: rate and accuracy of a cascade, and gains by demand, in points."""
    name, found = of.family.name, dict[str, list[float]]()
    for seed in range(draws):
        fresh, known = np.split(np.random.default_rng(seed).permutation(of.rows), [int(len(of.rows) * FRESH_FRAC)])
        options = options_of(of.family, of.profiled_on(known))
        alone = [each for each in options if each.second is None]
        best = max(alone, key=lambda option: option.accuracy)
        fast = [each for each in options if each.second is not None and each.qps >= SPEED_UPS[name] * best.qps]
        if fast:
            (accuracy, rate_qps), (best_accuracy, best_qps) = (
                of.judged(each, fresh) for each in (max(fast, key=lambda option: option.accuracy), best)
            )
            found.setdefault("rate", []).append(rate_qps / best_qps)
            found.setdefault("loss", []).append(100 * (best_accuracy - accuracy))
        for multiple in UNSEEN_AT:
            mixes = [_mixed(some, 1 / (multiple * best.qps)) for some in (options, alone)]
            more, less = (sum(share * of.judged(option, fresh)[0] for share, option in mix) for mix in mixes)
            found.setdefault(f"gain at {multiple} ×", []).append(100 * (more - less))
    rows = tuple((what, f"{np.mean(each):+.2f} ± {np.std(each):.2f}") for what, each in found.items())
    note = f"{draws} draws of {FRESH_FRAC:.0%} of the rows. Rates in multiples of the most accurate variant's; points."
    aims = [
        Aim(f"{name}: rate of a cascade over the best variant's", _mean(found["rate"]), SPEED_UPS[name], "×", False),
        Aim(f"{name}: its loss of accuracy, unseen", _mean(found["loss"]), 100 * AS_ACCURATE_FRAC, "points", True),
    ]
    gains = (f"gain at {multiple} ×" for multiple in UNSEEN_AT)
    aims += [Aim(f"{name}: {what} the demand, unseen", _mean(found[what]), 0.0, "points", False) for what in gains]
    title = f"{name}: rows that had no part in finding the cascades"
    return Found((Table(title, ("measure", "mean ± deviation"), rows, note),), tuple(aims))


def _planned(of: Answered, is_quick: bool) -> Found:  # noqa: FBT001 - a trial
    """Accuracy against demand with and without cascades; plans do not change during a run."""
    name, profile, catalog = of.family.name, of.profiled_on(of.rows), Catalog(FORMAT, (of.family,))
    profiles = {f"cpu{n}": changed(profile, device=changed(profile.device, id=f"cpu{n}")) for n in range(DEVICES)}
    best_qps = (
        DEVICES * of.rates_qps[max(profile.variants, key=lambda each: (each.family == name, each.accuracy)).variant]
    )
    rows, gains, more = list[tuple[str, ...]](), dict[float, float](), list[float]()
    for multiple in (GAIN_AT,) if is_quick else MULTIPLES:
        rate_qps, answered = multiple * best_qps, list[FamilySummary]()
        for rules in (Rules(), Rules(cascades=True)):
            planner = Planner(catalog, profiles, FIXED, headroom=HEADROOM, inputs={}, rules=rules, spares=True)
            trace = _poisson(name, rate_qps, min(LONGEST_S, QUERIES / rate_qps))
            answered.append(_simulated(planner({name: rate_qps}), trace, catalog, profiles))
        accuracies = [100 * (each.effective_accuracy or 0.0) for each in answered]
        violations = [100 * each.slo_violation_ratio for each in answered]
        gains[multiple] = accuracies[1] - accuracies[0]
        more.append(violations[1] - violations[0])
        cells = (f"{value:.2f}" for value in (*accuracies, gains[multiple], *violations))
        rows.append((f"{multiple:g} ×", f"{rate_qps:,.0f}", *cells, _part(answered[1].deferred, answered[1].requests)))
    columns = (
        "demand",
        "qps",
        "accuracy %, alone",
        "with cascades",
        "gain",
        "violations %, alone",
        "with cascades",
        "deferred %",
    )
    return Found(
        (Table(f"{name} on {DEVICES} cores, simulated", columns, tuple(rows)),),
        (
            Aim(
                f"{name}, simulated: the most accuracy that cascades cost",
                -min(gains.values()),
                MAX_LOSS_POINTS,
                "points",
                True,
            ),
            Aim(
                f"{name}, simulated: SLO violations more than without",
                max(more),
                MAX_MORE_VIOLATIONS_PERCENT,
                "%",
                True,
            ),
            Aim(f"{name}, simulated: gain at {GAIN_AT:g} ×", gains[GAIN_AT], GAINS[name], "points", False),
        ),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _part(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else UNKNOWN


# --- live


@dataclass(frozen=True)
class Served:
    """A round: the most accurate variant above its capacity, then variants alone and cascades, live and simulated."""

    best: FamilySummary
    slowdown: float
    live: tuple[FamilySummary, FamilySummary]
    simulated: FamilySummary


def cascades(run: Run) -> Found:
    """Each family by itself, at the demand that its cascades are to carry."""
    lab, rows, aims = laboratory(run.directory / "ws", BUDGET), list[tuple[str, ...]](), list[Aim]()
    for name, multiple in SPEED_UPS.items():
        rounds = [_round(lab, name, multiple, QUICK_S if run.is_quick else LASTS_S) for _ in range(run.rounds)]
        alone, own = ([each.live[place] for each in rounds] for place in (0, 1))
        best = best_accuracy(lab.profiles.values())[name]
        deferred = sum(each.deferred for each in own)
        rows.append(
            (
                f"{name} at {multiple:g} ×",
                spread([multiple * each.best.goodput_qps for each in rounds], ",.0f"),
                spread([each.slowdown for each in rounds]),
                f"{100 * best:.2f}",
                *(f"{_accuracy_percent(each):.2f}" for each in (alone, own)),
                f"{100 * _mean([each.simulated.effective_accuracy or 0.0 for each in rounds]):.2f}",
                *(spread([100 * each.slo_violation_ratio for each in both]) for both in (alone, own)),
                _part(deferred, sum(each.judged for each in own)),
                _part(sum(each.fallbacks for each in own), deferred),
            )
        )
        aims += _live_aims(name, multiple, rounds, 100 * best - _accuracy_percent(own))
    columns = (
        "family and demand", "qps", "slowdown", "most accurate %", "accuracy %, alone", "with cascades", "simulated",
        "violations %, alone", "with cascades", "deferred %", "fallbacks %",
    )  # fmt: skip
    note = "Slowdown: how many times less the most accurate variant answered right before than profiled."
    return Found((Table("Cascades on one core, live", columns, tuple(rows), note),), tuple(aims))


def _round(lab: Lab, name: str, multiple: float, lasts_s: float) -> Served:
    planner = lab.planner(policy_named("most-accurate"), 1.0)
    carried_qps = max_multiple(planner, {name: 1.0})
    best = _live(lab, planner({name: carried_qps}), _poisson(name, OVERLOAD * carried_qps, lasts_s / 3))
    slowdown = max(carried_qps / best.goodput_qps, 1.0)
    profiles = {device: slowed(profile, slowdown) for device, profile in lab.profiles.items()}
    rate_qps = multiple * best.goodput_qps
    trace = _poisson(name, rate_qps, lasts_s)
    rules = Rules(residency="memory", cascades=True)
    alone, plan = (
        lab.planner(FIXED, HEADROOM, each, profiles)({name: rate_qps})
        for each in (changed(rules, cascades=False), rules)
    )
    answered = _live(lab, alone, trace), _live(lab, plan, trace)
    return Served(best, slowdown, answered, _simulated(plan, trace, lab.place.catalog(), profiles))


def _live(lab: Lab, plan: Plan, trace: Trace) -> FamilySummary:
    (name,) = trace.families
    split = lab.place.eval_path(lab.place.catalog().family(name))
    assert split is not None
    with lab.served(plan, "--replan=off") as url:
        load, status = replayed(url, trace, {name: split})
    columns = RequestColumns.of(load.records, status.best_accuracy, families=(name,))
    return family_summary(columns, trace.duration_s, status.attainment_target[name])


def _accuracy_percent(of: Sequence[FamilySummary]) -> float:
    """The percentage of all judged answers that were right."""
    right = sum((each.measured_accuracy or 0.0) * each.judged for each in of)
    return 100 * right / max(sum(each.judged for each in of), 1)


def _live_aims(name: str, multiple: float, rounds: Sequence[Served], lost_points: float) -> Iterator[Aim]:
    carried = median(each.live[1].goodput_qps / each.best.goodput_qps for each in rounds)
    violations = median(100 * each.live[1].slo_violation_ratio for each in rounds)
    yield Aim(f"{name}, live: answers in time", carried, 0.99 * multiple, "× the most accurate variant's", False)
    yield Aim(f"{name}, live: accuracy that cascades lose there", lost_points, WITHIN_POINTS, "points", True)
    yield Aim(f"{name}, live: SLO violations there", violations, MAX_VIOLATIONS_PERCENT, "%", True)
