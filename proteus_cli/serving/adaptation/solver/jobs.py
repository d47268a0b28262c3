"""What the server asks of the solver's process: one job after another, each of which has one answer."""

import signal
from dataclasses import dataclass
from typing import Protocol

from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan

END_EARLY = signal.SIGUSR1
"""Sent to the process while it solves: the result is to be the best plan that it has found so far."""


class Replanner(Protocol):
    """Makes the next plan for a demand, coming from the plan in force, without what can't be used now.

    ``standbys`` by device are loaded beside what the plan in force hosts.
    """

    def __call__(self, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, /) -> Plan: ...


@dataclass(frozen=True, slots=True)
class Use:
    """Make plans with ``replan`` from now on; the first job."""

    replan: Replanner


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Import and compile what a solve needs, by a solve for a demand like those to come."""

    demand: Demand
    current: Plan


@dataclass(frozen=True, slots=True)
class Solve:
    """Make a plan: the result of this job. It ``gives_way`` to batches where no request waits for it."""

    demand: Demand
    current: Plan
    without: Outages
    standbys: VariantsByDevice
    gives_way: bool


SolverJob = Use | WarmUp | Solve
