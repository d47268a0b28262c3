"""`proteus agent` that tells the same time of each batch: `python -m benchmarks.attacks.liar SECONDS agent …`."""

import sys
from typing import Any

from proteus_cli.cli.main import run
from proteus_cli.serving.agent import opened_device
from proteus_cli.serving.devices.remote.channel.messages import BatchRan


def main() -> None:
    told_s = float(sys.argv.pop(1))

    def told(opening: int, number: int, *rest: Any) -> BatchRan:
        return BatchRan(opening, number, told_s, told_s, told_s, 0.0, *rest[-2:])

    vars(opened_device)[BatchRan.__name__] = told
    sys.argv[0] = "proteus"
    run()


if __name__ == "__main__":
    main()
