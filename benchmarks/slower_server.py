"""`python -m benchmarks.slower_server 1.15 serve …`: a server whose emulated devices are slower than profiled.

Batches take that many times as long as the profiles say, which the server is not told.
"""

import sys
from typing import Any
from unittest import mock

from benchmarks.paper.cluster import slowed
from proteus_cli.cli.main import app
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.devices import hardware
from proteus_cli.serving.devices.emulated import EmulatedExecutor


def main() -> None:
    """Run the command after the first argument, with emulated devices that are slower by that."""
    by = float(sys.argv.pop(1))

    def slower(profile: Profile, *others: Any) -> EmulatedExecutor:
        return EmulatedExecutor(slowed(profile, by), *others)

    with mock.patch.object(hardware, "EmulatedExecutor", slower):
        app()


if __name__ == "__main__":
    main()
