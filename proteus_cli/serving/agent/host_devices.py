"""The devices of an agent's host, as sessions open them: real ones in processes of their own, or emulated ones."""

import time
from collections.abc import Mapping
from typing import Protocol

from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Executor, OnLost
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.spec import DeviceSpec, EmulatedSpec, GpuSpec
from proteus_cli.serving.devices.remote.channel.messages import OpenDevice


class OpenedExecutor(Executor, Protocol):
    """The executor of a device that is being opened, or is open."""

    @property
    def is_lost(self) -> bool: ...

    async def opened(self) -> str:
        """Wait until the device is open; returns the name of its backend. Raises `DeviceUnavailable`, `DeviceLost`."""
        ...


class HostDevices(Protocol):
    """Opens the devices of a host for servers."""

    def open(self, command: OpenDevice, emulated: EmulatedSpec | None, on_lost: OnLost) -> OpenedExecutor:
        """Open a device of the host, or an ``emulated`` one. Raises `DeviceUnavailable`."""
        ...


class ProcessDevices:
    """The devices of ``specs``, by id."""

    def __init__(self, specs: Mapping[str, DeviceSpec]) -> None:
        self._specs = specs

    def open(self, command: OpenDevice, emulated: EmulatedSpec | None, on_lost: OnLost) -> OpenedExecutor:
        spec = self._specs.get(command.device)
        if spec is None or emulated is not None:
            raise DeviceUnavailable(f"This host has no device `{command.device}`.")
        if isinstance(spec, GpuSpec):
            spec = GpuSpec(spec.device, spec.built, command.slots)
        return ProcessExecutor(spec, on_lost)


class EmulatedHostDevices:
    """Any devices, as servers describe them; they run on the agent's own loop, and cost it next to nothing."""

    def __init__(self, timer: TimerThread) -> None:
        self._timer = timer

    def open(self, command: OpenDevice, emulated: EmulatedSpec | None, on_lost: OnLost) -> OpenedExecutor:
        if emulated is None:
            raise DeviceUnavailable(f"This agent emulates devices, and `{command.device}` is to be a real one.")
        return EmulatedExecutor(emulated.profile, emulated.signatures, time.monotonic, self._timer.at, on_lost)
