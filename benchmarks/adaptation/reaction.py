"""How fast a live server follows a step in demand: from the step's first arrival, by the records that it keeps."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from msgspec.structs import replace

from benchmarks.adaptation.lab import RULES, Lab
from benchmarks.adaptation.results import PROTEUS, Reaction
from proteus_cli.control.policies import PROTEUS as POLICY
from proteus_cli.domain.plan.rules import DeviceVariant
from proteus_cli.domain.plan_changes.record import PlanRecord
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
    """Poisson arrivals, all families alike: low, high, low, high, …"""
    rng = np.random.default_rng(seed)
    rates = LOW * lab.most_accurate_qps, HIGH * lab.most_accurate_qps
    parts, starts_s, now_s = list[Trace](), list[float](), 0.0
    for _ in range(steps):
        for qps, lasts_s in zip(rates, (LOW_S, HIGH_S), strict=True):
            parts.append(make_trace("steps", Poisson(), rate_qps=qps, duration_s=lasts_s, shares=lab.shares, rng=rng))
            starts_s.append(now_s)
            now_s += lasts_s
    arrival_s = np.concatenate([part.arrival_s + start_s for part, start_s in zip(parts, starts_s, strict=True)])
    family = np.concatenate([part.family for part in parts])
    trace = Trace("steps", parts[0].families, arrival_s, family, np.full(len(family), np.nan))
    steps_s = (float(part.arrival_s[0]) + start_s for part, start_s in zip(parts[1::2], starts_s[1::2], strict=True))
    return Stairs(trace, tuple(steps_s), *rates)


def reactions(lab: Lab, asked: Stairs, *, resident: bool) -> tuple[Reaction, ...]:
    """To each step, on a server of its own, where all variants are ``resident`` or those of the plan in force only."""
    rules = replace(RULES, pinned=_all_pairs(lab)) if resident else RULES
    _, load = lab.live(PROTEUS, lab.first_plan(asked.trace, rules), asked.trace)
    began = sorted(_began(lab, load.started_unix_s), key=lambda pair: pair[0])
    return tuple(
        _reaction(lab, number, began, at_s, asked.high_qps, resident=resident)
        for number, at_s in enumerate(asked.steps_s)
    )


def _all_pairs(lab: Lab) -> tuple[DeviceVariant, ...]:
    """Each device hosts each variant."""
    return tuple(
        DeviceVariant(device, measured.family, measured.variant)
        for device, profile in lab.profiles.items()
        for measured in profile.variants
    )


def _began(lab: Lab, start_unix_s: float) -> Iterator[tuple[float, PlanRecord]]:
    """When plans that host other variants came into force, in seconds of the trace."""
    for record in records(lab.place.history_dir):
        yield datetime.fromisoformat(record.began).timestamp() - start_unix_s, record


def _reaction(
    lab: Lab, number: int, began: list[tuple[float, PlanRecord]], step_s: float, high_qps: float, *, resident: bool
) -> Reaction:
    before = [record for then_s, record in began if then_s < step_s]
    if _carries(lab, before[-1], high_qps):
        return Reaction(number, resident, None, 0.0, 0)
    mine = [(then_s - step_s, record) for then_s, record in began if step_s <= then_s < step_s + HIGH_S]
    swaps, first_s = 0, mine[0][0] if mine else None
    for after_s, record in mine:
        swaps += record.swaps
        if _carries(lab, record, high_qps):
            return Reaction(number, resident, first_s, after_s, swaps)
    return Reaction(number, resident, first_s, None, swaps)


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
    return lab.planner(POLICY, 1.0, profiles=profiles).can_serve_all(asked_qps)
