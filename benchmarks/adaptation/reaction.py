"""How fast a live server follows a step in demand: from the step's first arrival, by the records that it keeps."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from msgspec.structs import replace

from benchmarks.adaptation.lab import RULES, Lab
from benchmarks.adaptation.results import PROTEUS, Reaction
from proteus_cli.control.policies import PROTEUS as POLICY
from proteus_cli.domain.plan_record import PlanRecord
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.serving.adaptation.plan_journal import records

LOW, HIGH = 0.5, 2.5  # of what the most accurate variants carry
LOW_S, HIGH_S = 8.0, 4.0  # long enough for the plan to follow down, and up


@dataclass(frozen=True, slots=True)
class Stairs:
    """``trace`` with steps up whose first arrivals are at ``steps_s``; ``high_qps`` is asked for after them."""

    trace: Trace
    steps_s: tuple[float, ...]
    low_qps: float
    high_qps: float


def stairs(lab: Lab, steps: int, seed: int) -> Stairs:
    """Low, high, low, high, …"""
    low_qps, high_qps = LOW * lab.most_accurate_qps, HIGH * lab.most_accurate_qps
    trace, starts_s = steps_of(lab, [(low_qps, LOW_S), (high_qps, HIGH_S)] * steps, seed)
    return Stairs(trace, tuple(starts_s[1::2]), low_qps, high_qps)


def steps_of(lab: Lab, parts: Iterable[tuple[float, float]], seed: int) -> tuple[Trace, list[float]]:
    """Poisson arrivals, all families alike, at one rate in queries per second after another, each for so many seconds.

    Beside the trace: when the first query of each part arrives.
    """
    rng = np.random.default_rng(seed)
    made, starts_s = list[Trace](), [0.0]
    for qps, lasts_s in parts:
        made.append(make_trace("steps", Poisson(), rate_qps=qps, duration_s=lasts_s, shares=lab.shares, rng=rng))
        starts_s.append(starts_s[-1] + lasts_s)
    arrivals_s = [part.arrival_s + start_s for part, start_s in zip(made, starts_s, strict=False)]
    family = np.concatenate([part.family for part in made])
    trace = Trace("steps", made[0].families, np.concatenate(arrivals_s), family, np.full(len(family), np.nan))
    return trace, [float(each_s[0]) for each_s in arrivals_s]


def reactions(lab: Lab, asked: Stairs, *, standbys: bool) -> tuple[Reaction, ...]:
    """To each step, on a server of its own, with or without ``standbys``.

    Plans have as many variants on a device as there are families. More of them would carry each step without another
    plan, as devices would host fast variants beside the accurate ones.
    """
    plan = lab.first_plan(asked.trace, replace(RULES, residency=len(lab.shares)))
    _, load = lab.live(PROTEUS, plan, asked.trace, *(() if standbys else ("--set=memory=0B",)))
    began = sorted(_began(lab, load.started_unix_s), key=lambda pair: pair[0])
    return tuple(
        Reaction(
            number, standbys, *_followed(lab, began, at_s, asked.high_qps), lost_frac(load.records, at_s, at_s + 1.0)
        )
        for number, at_s in enumerate(asked.steps_s)
    )


def lost_frac(records: Sequence[RequestRecord], start_s: float, end_s: float) -> float:
    """The part of the requests that arrived then and were not served within their SLO."""
    ended = [record.outcome for record in records if start_s <= record.arrival_s < end_s]
    return sum(outcome is not Outcome.SERVED for outcome in ended) / len(ended)


def _began(lab: Lab, start_unix_s: float) -> Iterator[tuple[float, PlanRecord]]:
    """When plans that host other variants came into force, in seconds of the trace."""
    for record in records(lab.place.history_dir):
        yield datetime.fromisoformat(record.began).timestamp() - start_unix_s, record


def _followed(
    lab: Lab, began: Sequence[tuple[float, PlanRecord]], step_s: float, high_qps: float
) -> tuple[float | None, float | None, int]:
    """Seconds to the next plan, and to one that carries it all, and the loads until then."""
    before = [record for then_s, record in began if then_s < step_s]
    if _carries(lab, before[-1], high_qps):
        return None, 0.0, 0
    mine = [(then_s - step_s, record) for then_s, record in began if step_s <= then_s < step_s + HIGH_S]
    swaps, first_s = 0, mine[0][0] if mine else None
    for after_s, record in mine:
        swaps += record.swaps
        if _carries(lab, record, high_qps):
            return first_s, after_s, swaps
    return first_s, None, swaps


def _carries(lab: Lab, record: PlanRecord, qps: float) -> bool:
    """Whether the variants that a plan hosts can serve so much, each family its share.

    Not whether the plan's rates do: what arrives later changes these without a record.
    """
    hosted = lab.place.plan(lab.place.history_dir / record.plan).hosted()
    profiles = {
        device: replace(profile, variants=tuple(each for each in profile.variants if each.key in hosted[device]))
        for device, profile in lab.profiles.items()
        if device in hosted
    }
    asked_qps = {family: share * qps for family, share in lab.shares.items()}
    return lab.planner(POLICY, 1.0, profiles=profiles).serves_all(asked_qps) is True
