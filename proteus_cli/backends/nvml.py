"""The power, the energy and the clocks of a GPU, by NVIDIA's management library (NVML).

The binding `nvidia-ml-py` is part of the extra ``tensorrt``, and imported when it is first used. It is optional: where
the library, or one of its counters, is missing, the values are None.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from proteus_cli.domain.base import Value
from proteus_cli.domain.device import Device

MJ_PER_J = 1e3
MW_PER_W = 1e3

_SLOWDOWNS = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
    "SwThermalSlowdown": "thermal slowdown",
    "SyncBoost": "sync boost",
}
"""Why clocks are held down, by NVML's name of the reason (``nvmlClocksEventReason…``)."""


class Readings(Value, frozen=True):
    """Watts and megahertz of one moment; ``slowed_by`` is why the clocks are held down, in words. None is unknown."""

    power_w: float | None
    power_limit_w: float | None
    sm_mhz: int | None
    memory_mhz: int | None
    slowed_by: tuple[str, ...] | None


class Busy(Value, frozen=True):
    """The part of the last moments in which a GPU computed, and the memory in use on it. None is unknown."""

    busy_frac: float | None
    memory_bytes: int | None


class NvmlDevice:
    """A whole GPU, found by the UUID that CUDA has for it, as CUDA's ordinals depend on what is visible."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def energy_j(self) -> float | None:
        """Energy since the driver was loaded; GPUs before Volta do not count it."""
        found = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if found is None else found / MJ_PER_J

    def power_w(self) -> float | None:
        """Power now, or the mean of the last second; which of them depends on the GPU."""
        found = self._ask(self._nvml.nvmlDeviceGetPowerUsage)
        return None if found is None else found / MW_PER_W

    def slowed_by(self) -> tuple[str, ...] | None:
        """Why the clocks are held down now, in words."""
        reasons = self._ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if reasons is None:
            return None
        bits = {getattr(self._nvml, f"nvmlClocksEventReason{name}"): words for name, words in _SLOWDOWNS.items()}
        return tuple(words for bit, words in bits.items() if reasons & bit)

    def busy(self) -> Busy:
        """How busy the GPU is now, with all that runs on it."""
        rates = self._ask(self._nvml.nvmlDeviceGetUtilizationRates)
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        return Busy(
            busy_frac=None if rates is None else rates.gpu / 100,
            memory_bytes=None if memory is None else memory.used,
        )

    def readings(self) -> Readings:
        """Power and clocks of the GPU now."""
        nvml = self._nvml
        limit_mw = self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        return Readings(
            power_w=self.power_w(),
            power_limit_w=None if limit_mw is None else limit_mw / MW_PER_W,
            sm_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            slowed_by=self.slowed_by(),
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The value of a counter; None where this GPU, or this driver, does not have it."""
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def nvml_device(uuid: str, *, is_slice: bool) -> NvmlDevice | str:
    """The GPU of a UUID like ``GPU-…``, or why there are no readings of it, in words."""
    nvml = _library()
    if isinstance(nvml, str):
        return nvml
    if is_slice:
        return "the power of a MIG slice is only known of the whole GPU"
    try:
        return NvmlDevice(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError as error:
        return f"NVML knows no {uuid}: {error}"


def readings_of(device: Device) -> Readings | None:
    """The readings of a GPU now; None where there are none."""
    found = nvml_device(device.gpu.uuid, is_slice=device.gpu.is_slice) if device.gpu is not None else ""
    return None if isinstance(found, str) else found.readings()


@cache
def _library() -> Any:
    """The module `pynvml`, initialised, or why it cannot be used, in words."""
    try:
        import pynvml  # noqa: PLC0415 - an extra
    except ImportError:
        return "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML can't be used: {error}"
    return pynvml
