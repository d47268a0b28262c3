"""Five tasks on two cores, each with its policy, beside the best single model per task that one could pick by hand.

The tasks are trained by `proteus task add`, on data that scikit-learn has with it and on data that it makes, and
profiled. Then it is simulated: each task has its usual demand, and in turn a burst. The picks are the most accurate
models, one for each task, with which all bursts are carried; in both cases 99.5 % of the queries must be answered
within the same SLO.

All times of the profiles are multiplied, so that a simulation has about `QUERIES`. As the SLO stays, batches take a
larger part of it then: a batch of one of the slowest models a thirtieth. With fewer queries it would be another case:
with 5,000, that batch takes more than a third of the SLO, and 8 % of a task's queries are late in its burst.

Then the same trace is sent to servers, over HTTP, with the same picks. Their devices are emulated, by the profiles with
these times: the models themselves take so little that clients and front end would be all that is measured.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.adaptation.lab import replayed, until_warm
from benchmarks.tables import Aim, Table
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.capacity import capacity, points_in_time
from proteus_cli.domain.catalog import Catalog, Variant, VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.rules import DeviceVariant, Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.from_workspace import PlannerSettings
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.local_server import local_server
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace, write_json

SLO = "500ms"
POLICIES = {"digits": "accuracy", "wine": "accuracy", "cancer": "latency", "shapes": "accuracy", "sorts": "accuracy"}
MODELS = "linear,forest-8,mlp-16,forest-32,mlp-64,forest-128,mlp-512-512"
CORES = 2
USUAL_FRAC, BURST = 0.6, 5.0
"""The usual demand takes so much of the cores with the most accurate models; in its burst, a task has BURST × it."""
BURST_S, QUIET_S = 10.0, 20.0
QUERIES = 60_000
HEADROOM, SOLVE_S = 1.2, 0.3
MAX_VIOLATIONS = 0.005
MAX_PICKS = 40
MEMORY_BYTES = 1 << 30  # of each core: for all variants


@dataclass(frozen=True)
class Found:
    """A task: the accuracy and the mean latency of its answers, and the share of its queries not answered in time."""

    accuracy: float
    mean_s: float
    violations: float


@dataclass(frozen=True)
class Comparison:
    """Tasks by name: with all of their variants, and with the ``picks`` alone.

    ``lag_p99_s``: how late the client was; None where it is simulated.
    """

    slowdown: float
    picks: Mapping[str, str]
    proteus: Mapping[str, Found]
    picked: Mapping[str, Found]
    lag_p99_s: float | None = None


def measured(root: Path) -> tuple[Comparison, Comparison]:
    """Simulated, and emulated behind servers."""
    root.mkdir()
    place = Workspace(root / "ws")
    for name, (x, y) in _data().items():
        np.savez(root / f"{name}.npz", x=x, y=y)
        _proteus(
            "task", "add", name, "--data", root / f"{name}.npz", "--slo", SLO, "--policy", POLICIES[name],
            "--models", MODELS, "--budget", "30min", place=place,
        )  # fmt: skip
    _proteus("profile", "--budget", "40s", "--max-batch", "16", "--accept-noise", place=place)
    catalog, profiles = place.catalog(), place.profiles()
    usual = _usual_qps(catalog, profiles)
    slowdown = max(1.0, sum(usual.values()) * _length_s(usual) / QUERIES)
    profiles = {device: _slower(profile, slowdown) for device, profile in profiles.items()}
    simulated = compared(catalog, profiles, slowdown)
    for device, profile in profiles.items():
        write_json(place.profile_path(device), profile)
    return simulated, _behind_servers(place, simulated)


def compared(catalog: Catalog, profiles: Mapping[str, Profile], slowdown: float) -> Comparison:
    """All variants with re-plans, and the best picks without."""
    usual = _usual_qps(catalog, profiles)
    trace = _trace(usual)
    mine = _simulated(catalog, profiles, trace, usual, "proteus")
    for picks in itertools.islice(_picks(catalog, profiles, usual), MAX_PICKS):
        picked = _simulated(_only(catalog, picks), _measured_of(profiles, picks), trace, usual, "most-accurate")
        if _violations(picked, usual) <= max(MAX_VIOLATIONS, _violations(mine, usual)):
            return Comparison(slowdown, picks, mine, picked)
    raise SystemExit(f"none of {MAX_PICKS} picks carries the bursts")


def _proteus(*arguments: str | Path, place: Workspace) -> None:
    command = (sys.executable, "-m", "proteus_cli", "-q", *map(str, arguments), "-w", str(place.root))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _data() -> dict[str, tuple[Any, Any]]:
    """Rows and labels by task."""
    from sklearn.datasets import (  # noqa: PLC0415 - the extra `train`
        load_breast_cancer,
        load_digits,
        load_wine,
        make_classification,
    )

    loaded = {"digits": load_digits, "wine": load_wine, "cancer": load_breast_cancer}
    shapes = make_classification(4_000, 20, n_informative=12, n_classes=4, n_clusters_per_class=3, random_state=1)
    sorts = make_classification(4_000, 40, n_informative=20, n_classes=8, n_clusters_per_class=2, random_state=2)
    return {name: load(return_X_y=True) for name, load in loaded.items()} | {"shapes": shapes, "sorts": sorts}


def _slower(profile: Profile, by: float) -> Profile:
    """With all times of batches multiplied."""
    variants = tuple(
        msgspec.structs.replace(
            variant,
            points=tuple(
                msgspec.structs.replace(
                    point, qps=point.qps / by, **{name: getattr(point, name) * by for name in _TIMES}
                )
                for point in variant.points
            ),
        )
        for variant in profile.variants
    )
    return msgspec.structs.replace(profile, variants=variants)


_TIMES = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")


def _capacity_qps(profiles: Mapping[str, Profile], key: VariantKey, slo_s: float) -> float:
    """Of one core, with batches of half the SLO at most."""
    found = next(iter(profiles.values())).of(*key)
    assert found is not None
    return capacity(points_in_time(found.points, slo_s / 2, of="mean"), of="mean").qps


def _best(catalog: Catalog, family: str) -> Variant:
    return max(catalog.family(family).variants, key=lambda variant: variant.accuracy)


def _usual_qps(catalog: Catalog, profiles: Mapping[str, Profile]) -> dict[str, float]:
    """The same for each task."""
    seconds_of_a_query_each = sum(
        1 / _capacity_qps(profiles, VariantKey(family.name, _best(catalog, family.name).name), family.slo_s)
        for family in catalog.families
    )
    return dict.fromkeys(catalog.names, USUAL_FRAC * CORES / seconds_of_a_query_each)


def _length_s(usual: Mapping[str, float]) -> float:
    return len(usual) * (BURST_S + QUIET_S) + QUIET_S


def _trace(usual: Mapping[str, float]) -> Trace:
    """Poisson arrivals; the tasks have their bursts one after another."""
    rng, arrivals = np.random.default_rng(11), []
    for place, qps in enumerate(usual.values()):
        start_s = QUIET_S + place * (BURST_S + QUIET_S)
        for begin_s, end_s, rate in (
            (0.0, start_s, qps), (start_s, start_s + BURST_S, BURST * qps),
            (start_s + BURST_S, _length_s(usual), qps),
        ):  # fmt: skip
            count = rng.poisson(rate * (end_s - begin_s))
            arrivals.append((rng.uniform(begin_s, end_s, count), np.full(count, place)))
    times, families = (np.concatenate(each) for each in zip(*arrivals, strict=True))
    order = np.argsort(times, kind="stable")
    return Trace("bursts in turn", tuple(usual), times[order], families[order], np.full(len(times), np.nan))


def _only(catalog: Catalog, picks: Mapping[str, str]) -> Catalog:
    families = tuple(
        msgspec.structs.replace(family, variants=(family.variant(picks[family.name]),)) for family in catalog.families
    )
    return msgspec.structs.replace(catalog, families=families)


def _measured_of(profiles: Mapping[str, Profile], picks: Mapping[str, str]) -> dict[str, Profile]:
    return {
        device: msgspec.structs.replace(
            profile,
            variants=tuple(each for each in profile.variants if picks[each.family] == each.variant),
            cascades=(),
        )
        for device, profile in profiles.items()
    }


def _picks(catalog: Catalog, profiles: Mapping[str, Profile], usual: Mapping[str, float]) -> Iterator[dict[str, str]]:
    """One variant for each task, the best first: of those that the cores carry in each burst, as they are profiled.

    The best are the most accurate in the mean over queries; for a task that prefers latency, the fastest is picked.
    """
    families = catalog.families
    choices = []
    for family in families:
        loads = {
            each.name: usual[family.name] / _capacity_qps(profiles, VariantKey(family.name, each.name), family.slo_s)
            for each in family.variants
        }
        names = list(loads) if family.policy.prefer == "accuracy" else [min(loads, key=lambda name: loads[name])]
        choices.append([(name, loads[name], family.variant(name).accuracy) for name in names])
    weights = [usual[family.name] for family in families]
    feasible = [
        each
        for each in itertools.product(*choices)
        if sum(load for _, load, _ in each) + (BURST - 1) * max(load for _, load, _ in each) <= CORES
    ]

    def accuracy(picks: Sequence[tuple[str, float, float]]) -> float:
        return sum(weight * accuracy for weight, (_, _, accuracy) in zip(weights, picks, strict=True))

    for each in sorted(feasible, key=accuracy, reverse=True):
        yield {family.name: name for family, (name, _, _) in zip(families, each, strict=True)}


def _simulated(
    catalog: Catalog, profiles: Mapping[str, Profile], trace: Trace, usual: Mapping[str, float], policy_name: str
) -> dict[str, Found]:
    policy, planner = policy_named(policy_name), _planner(catalog, profiles, policy_name)
    run = simulate(
        trace, planner(usual), catalog, profiles, policy, planner,
        conditions=Conditions(solve_s=SOLVE_S, memory_bytes=dict.fromkeys(profiles, MEMORY_BYTES)),
        rng=np.random.default_rng(11),
    )  # fmt: skip
    return {name: _of([each for each in run.ended if each.family == name]) for name in usual}


def _behind_servers(place: Workspace, simulated: Comparison) -> Comparison:
    catalog, profiles, lags_s = place.catalog(), place.profiles(), list[float]()
    usual = _usual_qps(catalog, profiles)
    trace = _trace(usual)

    def served(catalog: Catalog, profiles: Mapping[str, Profile], policy: str, replan: str) -> dict[str, Found]:
        path = place.plans_dir / f"{policy}.json"
        write_json(path, _planner(catalog, profiles, policy)(usual))
        with local_server(path, place.root, emulate=True, options=("--replan", replan)) as url:
            until_warm(url)
            load, _ = replayed(url, trace)
        lags_s.append(load.lag_p99_s)
        return {name: _of([each for each in load.records if each.family == name]) for name in usual}

    mine = served(catalog, profiles, "proteus", "auto")
    picks = simulated.picks
    picked = served(_only(catalog, picks), _measured_of(profiles, picks), "most-accurate", "off")
    return Comparison(simulated.slowdown, picks, mine, picked, max(lags_s))


def _planner(catalog: Catalog, profiles: Mapping[str, Profile], policy_name: str) -> Planner:
    policy = policy_named(policy_name)
    everywhere = tuple(
        DeviceVariant(device, family.name, variant.name)
        for device in profiles
        for family, variant in catalog.variants
        if policy.replanning is None
    )
    rules = Rules(residency="memory", pinned=everywhere)  # so that any core can answer any task, also in its burst
    settings = PlannerSettings(
        catalog, profiles, policy, headroom=HEADROOM, inputs={}, rules=rules, time_limit_s=5.0, spares=policy.spares
    )
    return settings.make()


def _of(ended: Sequence[RequestRecord]) -> Found:
    answered = [each for each in ended if each.latency_s is not None]
    accuracy = float(np.mean([each.accuracy for each in answered if each.accuracy is not None]))
    mean_s = float(np.mean([each.latency_s for each in answered]))
    return Found(accuracy, mean_s, sum(each.outcome is not Outcome.SERVED for each in ended) / len(ended))


def _violations(found: Mapping[str, Found], usual: Mapping[str, float]) -> float:
    return sum(found[name].violations * qps for name, qps in usual.items()) / sum(usual.values())


def table(found: Comparison) -> Table:
    columns = (
        "task", "prefers", "picked", "its accuracy", "accuracy", "gained, points", "its mean, ms", "mean, ms",
        "its late, %", "late, %",
    )  # fmt: skip
    rows = []
    for name, mine in found.proteus.items():
        picked = found.picked[name]
        rows.append((
            name, POLICIES[name], found.picks[name].removeprefix(f"{name}-"), f"{picked.accuracy:.4f}",
            f"{mine.accuracy:.4f}", f"{100 * (mine.accuracy - picked.accuracy):+.2f}", f"{1e3 * picked.mean_s:.1f}",
            f"{1e3 * mine.mean_s:.1f}", f"{100 * picked.violations:.2f}", f"{100 * mine.violations:.2f}",
        ))  # fmt: skip
    how = (
        "Simulated"
        if found.lag_p99_s is None
        else f"Servers with emulated devices; the client up to {1e3 * found.lag_p99_s:.1f} ms late (p99)"
    )
    note = f"{how}: on measured profiles, with all times × {found.slowdown:.0f}, and the SLO of {SLO}."
    return Table("Five tasks on two cores, beside the best model picked for each", columns, tuple(rows), note)


def aims(found: Comparison) -> list[Aim]:
    wanted = [name for name in found.proteus if POLICIES[name] == "accuracy"]
    gained = [100 * (found.proteus[name].accuracy - found.picked[name].accuracy) for name in wanted]
    late = max(100 * each.violations for each in found.proteus.values())
    how = "simulated" if found.lag_p99_s is None else "emulated"
    return [
        Aim(
            f"{how}: gained over picks, where accuracy is preferred",
            float(np.mean(gained)),
            0.0,
            "points",
            is_most=False,
        ),
        Aim(f"{how}: the worst task's queries that are late", late, 100 * MAX_VIOLATIONS, "%", is_most=True),
    ]
