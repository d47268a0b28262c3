"""Multi-exit models in a simulation: how long their batches take, and which exit answers each query."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Host, Launch
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.walk import ProfiledChain, Walk, stage_means
from proteus_cli.simulation.conditions import Conditions, LatencySampler
from proteus_cli.simulation.confidences import Confidences

if TYPE_CHECKING:
    from proteus_cli.domain.catalog import VariantKey

ChainKey = tuple[str, str, str]
"""Device, family and variant."""


class ExitAnswer(NamedTuple):
    """What is to be expected of the answer to a query, and whether it was cut short.

    ``energy_j`` is what it took where it has a limit; else NaN.
    """

    accuracy: float
    is_cut: bool
    energy_j: float = math.nan


class SimulatedExits:
    """Takes batches through the stages of multi-exit models, and cuts queries short as a server would.

    How sure a model is of a query is in the trace, or drawn (`Confidences`).
    """

    def __init__(
        self,
        controller: Controller,
        profiles: Mapping[str, Profile],
        confidences: Confidences,
        conditions: Conditions,
        rng: np.random.Generator | None,
    ) -> None:
        self._controller, self._confidences, self._slow = controller, confidences, conditions.slow
        self._chains = _chains(profiles, conditions, rng)
        self._paces = {key: StagePace() for key in self._chains}
        self._shared: dict[tuple[ChainKey, frozenset[VariantKey]], ProfiledChain] = {}
        self._conditions, self._rng = conditions, rng

    def walk(self, launch: Launch, now_s: float) -> Walk | None:
        """How a batch that starts now goes through its stages; None where they are not known."""
        hosted, bounds = launch.hosted, self._controller.exit_bounds(launch)
        key = hosted.device, hosted.family, hosted.variant
        chain = self._chains.get(key)
        if chain is None or bounds is None:
            return None
        if hosted.others:
            chain = self._among(key, hosted)
        ranks = np.repeat([self._confidences[request.id] for request in launch.requests], bounds.rows)
        return chain.walk(chain.stops_at(ranks), bounds, self._paces[key], now_s, self._slow.factor_at(now_s))

    def _among(self, key: ChainKey, hosted: Host) -> ProfiledChain:
        """The stages of a host, slower as others are active on its device: its exits have those times."""
        if (key, hosted.others) not in self._shared:
            self._shared[key, hosted.others] = _chain(hosted.exits, self._conditions, self._rng)
        return self._shared[key, hosted.others]


def exit_answers(launch: Launch, walk: Walk) -> list[ExitAnswer]:
    """The answer to each query of a batch; queries of a trace are of one row."""
    worth = walk.accuracies(launch.hosted.exits, launch.hosted.accuracy)
    took_j = [math.nan] * len(worth) if walk.energy_j is None else walk.energy_j.tolist()
    return [ExitAnswer(*each) for each in zip(worth, walk.cut.tolist(), took_j, strict=True)]


def _chains(
    profiles: Mapping[str, Profile], conditions: Conditions, rng: np.random.Generator | None
) -> dict[ChainKey, ProfiledChain]:
    """The chains of all devices; those that share measurements share them."""
    made: dict[tuple[int, int], ProfiledChain] = {}
    found: dict[ChainKey, ProfiledChain] = {}
    for device, profile in profiles.items():
        for measured in profile.variants:
            if profile.has_stages(measured):
                same = id(measured), profile.slots
                if same not in made:
                    made[same] = _chain(profile.exits_of(measured), conditions, rng)
                found[device, measured.family, measured.variant] = made[same]
    return found


def _chain(exits: tuple[ExitProfile, ...], conditions: Conditions, rng: np.random.Generator | None) -> ProfiledChain:
    if conditions.jitter is None:
        return ProfiledChain(exits, stage_means(exits))
    drawn_by = rng or np.random.default_rng(0)
    samplers = [LatencySampler(each.points, conditions.jitter, drawn_by) for each in exits]
    return ProfiledChain(exits, samplers)
