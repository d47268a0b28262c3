"""What GPUs do, by NVIDIA's management library; nothing of those that it does not know."""

from collections.abc import Sequence

from proteus_cli.backends.nvml import NvmlDevice, nvml_device
from proteus_cli.domain.device import Device


def watched_gpus(devices: Sequence[Device]) -> dict[str, NvmlDevice]:
    """The GPUs among devices that there are readings of, by id."""
    found = {
        device.id: nvml_device(device.gpu.uuid, is_slice=device.gpu.is_slice)
        for device in devices
        if device.gpu is not None and not device.host
    }
    return {name: gpu for name, gpu in found.items() if isinstance(gpu, NvmlDevice)}


def levels(gpus: dict[str, NvmlDevice]) -> dict[str, float]:
    """Use, memory, power and clock of each now; only what it says."""
    found: dict[str, float | None] = {}
    for name, gpu in gpus.items():
        busy, readings = gpu.busy(), gpu.readings()
        found |= {
            f"gpu_busy_frac@{name}": busy.busy_frac,
            f"gpu_memory_bytes@{name}": busy.memory_bytes,
            f"gpu_power_w@{name}": readings.power_w,
            f"gpu_mhz@{name}": readings.sm_mhz,
        }
    return {measure: float(value) for measure, value in found.items() if value is not None}
