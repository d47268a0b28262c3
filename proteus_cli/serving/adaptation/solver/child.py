"""The solver's process: ``python -m proteus_cli.serving.adaptation.solver.child DESCRIPTOR`` (its connection's end)."""

import contextlib
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection

from proteus_cli.backends.affinity import give_way
from proteus_cli.domain.device import NONE_OUT
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ProteusError
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.serving.adaptation.solver.jobs import END_EARLY, Replanner, Solve, SolverJob, Use, WarmUp
from proteus_cli.serving.child_process import depend_on_parent

NICE = 5
"""Where there are too few cores, batches go before a solve that nobody waits for."""


def serve_jobs(connection: Connection) -> None:
    """Receive jobs until the server ends, and answer each with its result or with the exception that it raised.

    Solves that give way have a thread of their own, as a nice value cannot be taken back. Signals come here meanwhile.
    """
    depend_on_parent()
    giving_way = ThreadPoolExecutor(1, initializer=partial(give_way, NICE))
    signal.signal(END_EARLY, lambda *_: INTERRUPTION.ask())
    replan: Replanner | None = None
    with contextlib.suppress(EOFError, ConnectionError):  # the server has ended
        while True:
            job: SolverJob = connection.recv()
            if isinstance(job, Use):
                replan = job.replan
            if isinstance(job, Solve) and job.gives_way:
                connection.send(giving_way.submit(_result, job, replan).result())
            else:
                connection.send(_result(job, replan))


def _result(job: SolverJob, replan: Replanner | None) -> Plan | Exception | None:
    assert replan is not None  # noqa: S101 - `Use` comes first
    try:
        match job:
            case Solve():
                INTERRUPTION.forget()
                return replan(job.demand, job.current, job.without, job.standbys)
            case WarmUp():
                with contextlib.suppress(ProteusError):  # a plan that can't be made is an error where it is wanted
                    replan(job.demand, job.current, NONE_OUT, {})
                import_module("scipy.optimize")  # the first plan that changes anything needs it; it takes 0.1 s
            case Use():
                pass
    except Exception as error:  # noqa: BLE001 - the server raises it
        error.add_note(traceback.format_exc())
        return error
    return None


if __name__ == "__main__":
    serve_jobs(Connection(int(sys.argv[1])))
