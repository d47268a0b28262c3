"""Which devices have processes of their own, and with how many slots they are opened."""

from pathlib import Path

import pytest

from proteus_cli.domain.device import Device
from proteus_cli.serving.devices.hardware import process_specs
from proteus_cli.serving.devices.process.spec import CpuSpec, DeviceSpec, GpuSpec

GPU = Device("gpu0", "t4", "gpu", "Tesla T4", 2**30)
CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
ON_GPU = GpuSpec(GPU, "built", slots=3)


@pytest.mark.parametrize(
    ("in_processes", "expected"), [(False, {"gpu0": ON_GPU}), (True, {"cpu0": CpuSpec(CPU), "gpu0": ON_GPU})]
)
def test_gpus_have_a_process_always_and_the_slots_that_were_profiled(
    in_processes: bool,  # noqa: FBT001 - a parameter of the test
    expected: dict[str, DeviceSpec],
) -> None:
    slots = {"cpu0": 1, "gpu0": 3}
    assert process_specs([CPU, GPU], Path("built"), slots, in_processes=in_processes) == expected
