"""``python -m proteus_cli.serving.cluster.ray_follower ADDRESS KEY``: has Ray place agents, and says where they are.

Ray starts, restarts and lists: an actor for each node, detached from this process, which keeps an agent there. Batches
never go over Ray, nor does it say whether an agent is alive.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from proteus_cli.errors import ProteusError
from proteus_cli.input_files import SETTINGS, read_bytes
from proteus_cli.serving.child_process import depend_on_parent
from proteus_cli.serving.cluster.ray_actors import connected
from proteus_cli.serving.cluster.ray_placing import Placing, Problem, RayReport

LOOK_S = 1.0
"""Between two looks at the nodes and agents."""

_STDOUT, _STDERR = 1, 2

ALL_S = 60.0
"""Seconds to wait for the agents of all nodes at first; after that the agents that are there are listed."""


def follow(address: str, key: bytes, report: Callable[[RayReport], None]) -> None:
    """Follow the nodes of a cluster as long as it is there. Raises `DeviceUnavailable`."""
    with connected(address) as actors:
        placing, began_s = Placing(actors, key, report), time.monotonic()
        while True:
            placing.look(is_patient=time.monotonic() - began_s < ALL_S)
            time.sleep(LOOK_S)


def main() -> None:
    """Follow the Ray cluster of the first argument, with the key in the file of the second. Reports go to stdout."""
    depend_on_parent()
    reports = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)  # Ray writes there whatever happens to its nodes

    def write(report: RayReport) -> None:
        os.write(reports, msgspec.json.encode(report) + b"\n")

    try:
        follow(sys.argv[1], read_bytes(Path(sys.argv[2]), SETTINGS, hint=""), write)
    except ProteusError as error:
        write(Problem(error.message, error.hint))
        sys.exit(1)


if __name__ == "__main__":
    main()
