"""``python -m proteus_cli.serving.cluster.ray_follower ADDRESS KEY``: has Ray place agents, and says where they are.

Ray starts, restarts and lists: an actor for each node, detached from this process, which keeps an agent there. Batches
never go over Ray, nor does it say whether an agent is alive.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from proteus_cli.errors import ProteusError
from proteus_cli.input_files import SETTINGS, read_bytes
from proteus_cli.serving.child_process import depend_on_parent
from proteus_cli.serving.cluster.ray_actors import connected
from proteus_cli.serving.cluster.ray_placing import Placing
from proteus_cli.serving.cluster.ray_reports import Problem, Report

LOOK_S = 1.0
"""Between two looks at the nodes and agents."""

ALL_S = 30.0
"""For the agents of all nodes to be there at first; then those that there are are listed."""


def follow(address: str, key: bytes, report: Callable[[Report], None]) -> None:
    """Follow the nodes of a cluster as long as it is there. Raises `DeviceUnavailable`."""
    with connected(address) as actors:
        placing, began_s = Placing(actors, key, report), time.monotonic()
        while True:
            placing.look(is_patient=time.monotonic() - began_s < ALL_S)
            time.sleep(LOOK_S)


def _write(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    depend_on_parent()
    try:
        follow(sys.argv[1], read_bytes(Path(sys.argv[2]), SETTINGS, hint=""), _write)
    except ProteusError as error:
        _write(Problem(error.message, error.hint))
        sys.exit(1)


if __name__ == "__main__":
    main()
