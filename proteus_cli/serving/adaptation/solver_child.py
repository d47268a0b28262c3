"""What runs in the solver's process: jobs are done one after another, until the server ends."""

import contextlib
import os
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError
from proteus_cli.serving.child_process import depend_on_parent

NICE = 5
"""Where there are too few cores, batches go first: a solve is short, and not urgent to the millisecond."""


class Replanner(Protocol):
    """Makes the next plan for a demand, coming from the plan in force, without what can't be used now."""

    def __call__(self, demand: Demand, current: Plan, without: Outages, /) -> Plan: ...


@dataclass(frozen=True, slots=True)
class Use:
    """Make plans with ``replan`` from now on; the first job."""

    replan: Replanner


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Import and compile what a solve needs, by a solve for the plan's own demand."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Solve:
    """Make a plan: the result of this job."""

    demand: Demand
    current: Plan
    without: Outages


Job = Use | WarmUp | Solve


def serve_jobs(connection: Connection) -> None:
    """Receive jobs, and answer each with its result or with the exception that it raised."""
    depend_on_parent()
    replan: Replanner | None = None
    with contextlib.suppress(EOFError, ConnectionError):  # the server has ended
        while True:
            job: Job = connection.recv()
            if isinstance(job, Use):
                replan = job.replan
            connection.send(_result(job, replan))


def _result(job: Job, replan: Replanner | None) -> Plan | Exception | None:
    assert replan is not None  # noqa: S101 - `Use` comes first
    try:
        match job:
            case Solve():
                return replan(job.demand, job.current, job.without)
            case WarmUp():
                with contextlib.suppress(ProteusError):  # a plan that can't be made is an error where it is wanted
                    replan(job.plan.demand_qps, job.plan, NONE_OUT)
                os.nice(NICE)  # not before, as starting and importing should be over soon
            case Use():
                pass
    except Exception as error:  # noqa: BLE001 - the server raises it
        error.add_note(traceback.format_exc())
        return error
    return None
