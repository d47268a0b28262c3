"""The machine that a study runs on."""

import os
import platform
from collections.abc import Sequence

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.discovery import cpu_name
from proteus_cli.domain.device import Device
from proteus_cli.studies.study import Machine


def this_machine(devices: Sequence[Device] = ()) -> Machine:
    """This machine, with the GPUs among ``devices``."""
    return Machine(
        host=platform.node(),
        processor=cpu_name(),
        cores=len(usable_cores()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=tuple(f"{device.id}: {device.name}" for device in devices if device.kind == "gpu"),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )
