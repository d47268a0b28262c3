"""`proteus agent` whose devices tell the same time of each batch: `python -m benchmarks.attacks.liar SECONDS agent …`.

With a descriptor alone it is the process of such a device.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

from proteus_cli.cli.main import run
from proteus_cli.serving.child_process import start_process
from proteus_cli.serving.devices.process import child, messages, starting

if TYPE_CHECKING:
    import subprocess

_TOLD = "LIAR_TELLS_S"


def main() -> None:
    if len(sys.argv) > 2:
        os.environ[_TOLD] = sys.argv.pop(1)
        vars(starting)[start_process.__name__] = _start_liar
        sys.argv[0] = "proteus"
        run()
        return
    told_s, honest = float(os.environ[_TOLD]), messages.RanEvent

    def told(number: int, *rest: Any) -> messages.RanEvent:
        return honest(number, told_s, told_s, told_s, 0.0, *rest[-2:])

    vars(messages)[honest.__name__] = told
    child.main(int(sys.argv[1]))
    os._exit(0)


def _start_liar(_module: str, descriptor: int) -> "subprocess.Popen[bytes]":
    return start_process("benchmarks.attacks.liar", descriptor)


if __name__ == "__main__":
    main()
