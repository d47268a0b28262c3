"""``proteus profile`` in a process that ends with its agent: ``python -m …measuring_child PID profile OPTIONS``."""

import os
import runpy
import sys

from proteus_cli.serving.child_process import depend_on_parent

if __name__ == "__main__":
    depend_on_parent()
    if os.getppid() == int(sys.argv.pop(1)):  # else the agent has ended before
        runpy.run_module("proteus_cli", run_name="__main__", alter_sys=True)
