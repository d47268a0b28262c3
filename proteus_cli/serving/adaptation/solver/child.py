"""The solver's process: ``python -m proteus_cli.serving.adaptation.solver.child DESCRIPTOR`` (its connection's end)."""

import contextlib
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from proteus_cli.domain.device import NONE_OUT
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.errors import ProteusError
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.serving.adaptation.solver.jobs import END_EARLY, Replanner, Solve, SolverJob, Use, WarmUp
from proteus_cli.serving.child_process import depend_on_parent

NICE = 5
"""Where there are too few cores, batches go first: a solve is short, and not urgent to the millisecond."""


def serve_jobs(connection: Connection) -> None:
    """Receive jobs until the server ends, and answer each with its result or with the exception that it raised."""
    depend_on_parent()
    signal.signal(END_EARLY, lambda *_: INTERRUPTION.ask())
    replan: Replanner | None = None
    with contextlib.suppress(EOFError, ConnectionError):  # the server has ended
        while True:
            job: SolverJob = connection.recv()
            if isinstance(job, Use):
                replan = job.replan
            connection.send(_result(job, replan))


def _result(job: SolverJob, replan: Replanner | None) -> Plan | Exception | None:
    assert replan is not None  # noqa: S101 - `Use` comes first
    try:
        match job:
            case Solve():
                INTERRUPTION.forget()
                return replan(job.demand, job.current, job.without, job.standbys, job.measured)
            case WarmUp():
                with contextlib.suppress(ProteusError):  # a plan that can't be made is an error where it is wanted
                    replan(job.demand, job.current, NONE_OUT, {}, ())
                os.nice(NICE)  # not before, as starting and importing should be over soon
            case Use():
                pass
    except Exception as error:  # noqa: BLE001 - the server raises it
        error.add_note(traceback.format_exc())
        return error
    return None


if __name__ == "__main__":
    serve_jobs(Connection(int(sys.argv[1])))
