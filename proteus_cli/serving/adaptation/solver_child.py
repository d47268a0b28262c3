"""The solver's process: ``python -m proteus_cli.serving.adaptation.solver_child DESCRIPTOR`` (its connection's end)."""

import contextlib
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Literal, Protocol

from proteus_cli.backends.affinity import give_way
from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.serving.child_process import depend_on_parent

END_EARLY = signal.SIGUSR1
"""The server sends it during a solve. The result is then the best plan that was found by then."""

NICE = 5
"""If there are too few cores, batches go before a solve that gives way."""


class Replanner(Protocol):
    """Makes the next plan for a demand, coming from the plan in force, without the outages.

    ``standbys`` by device are loaded beside what the plan in force hosts.
    """

    def __call__(self, demand: Demand, current: Plan, without: Outages, standbys: VariantsByDevice, /) -> Plan: ...


SolveJob = tuple[Literal["solve", "give way", "warm up"], tuple[Demand, Plan, Outages, VariantsByDevice]]
"""How to solve, and the arguments of a `Replanner`. A warm-up imports and compiles what a solve needs."""

SolverJob = Replanner | SolveJob
"""A planner is used from then on, and has no result. It is the first job."""


def serve_jobs(connection: Connection) -> None:
    """Receive jobs until the server ends. Answer each with its result, or with the exception that it raised.

    Solves that give way have a thread of their own, as a nice value cannot be taken back. Signals come here meanwhile.
    """
    depend_on_parent()
    giving_way = ThreadPoolExecutor(1, initializer=partial(give_way, NICE))
    signal.signal(END_EARLY, lambda *_: INTERRUPTION.ask())
    with contextlib.suppress(EOFError, ConnectionError):  # the server has ended
        replan: Replanner = connection.recv()
        connection.send(None)
        while True:
            job: SolverJob = connection.recv()
            if not isinstance(job, tuple):
                replan = job
                connection.send(None)
            elif job[0] == "give way":
                connection.send(giving_way.submit(_result, replan, job).result())
            else:
                connection.send(_result(replan, job))


def _result(replan: Replanner, job: SolveJob) -> Plan | Exception | None:
    how, asked = job
    INTERRUPTION.forget()
    try:
        if how != "warm up":
            return replan(*asked)
        with contextlib.suppress(ProteusError):  # a plan that can't be made is an error where it is wanted
            replan(*asked)
        import_module("scipy.optimize")  # the first plan that changes anything needs it; it takes 0.1 s
    except Exception as error:  # noqa: BLE001 - the server raises it
        error.add_note(traceback.format_exc())
        return error
    return None


if __name__ == "__main__":
    serve_jobs(Connection(int(sys.argv[1])))
