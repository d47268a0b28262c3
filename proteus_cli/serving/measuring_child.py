"""``proteus profile`` in a process that ends with its parent: ``python -m …measuring_child PID PRIORITY profile …``.

The priority is `NORMAL`, or `LAST`: it runs only on cores that are idle.
"""

import os
import runpy
import sys

from proteus_cli.serving.child_process import depend_on_parent

NORMAL, LAST = "normal", "last"


def leave_time() -> None:
    """This thread, and all threads and processes that it starts from now on, give way to everyone else."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


if __name__ == "__main__":
    depend_on_parent()
    parent, priority = int(sys.argv.pop(1)), sys.argv.pop(1)
    if priority == LAST:
        leave_time()
    if os.getppid() == parent:  # else the parent has ended before
        runpy.run_module("proteus_cli", run_name="__main__", alter_sys=True)
