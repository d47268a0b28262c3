"""Emulated devices that fail in virtual time, alone or with their host, and the server's links to such hosts."""

import asyncio
import math
from collections.abc import Callable, Sequence

from virtual_loop import VirtualLoop

from proteus_cli.arrays import Floats
from proteus_cli.backends.base import Signature
from proteus_cli.domain.cluster import ConnectionPauses
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost, DeviceUnavailable
from proteus_cli.serving.devices.emulated import EmulatedExecutor
from proteus_cli.serving.devices.executor import OnLost
from proteus_cli.simulation.conditions import Failure

Ranks = Callable[[int], Floats]


class FailingExecutor(EmulatedExecutor):
    def die(self) -> None:
        self._lose(DeviceLost(f"{self._device_id} was killed"))


class FailingHardware:
    """Opens devices, and does ``failures`` to them. One failure of a host at a time.

    ``ranks`` says how sure a model is of the rows of the batch that is submitted.
    """

    def __init__(
        self, profiles: dict[str, Profile], signatures: dict[str, Signature], failures: Sequence[Failure], ranks: Ranks
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop, self._profiles, self._signatures, self._failures = loop, profiles, signatures, failures
        self._ranks = ranks
        self._executors: dict[str, FailingExecutor] = {}
        self._shut_until_s: dict[str, float] = {}
        self._away: set[str] = set()
        self._pauses = {failure.host: ConnectionPauses() for failure in failures if failure.host}
        self._since_s = dict.fromkeys(self._pauses, 0.0)

    def open_device(self, device: str, on_lost: OnLost) -> FailingExecutor:
        if self._loop.time() < self._shut_until_s.get(device, -math.inf):
            raise DeviceUnavailable(f"{device} is not there.")
        self._executors[device] = FailingExecutor(
            self._profiles[device], self._signatures, self._loop.time, self._loop.call_at, on_lost, self._ranks
        )
        return self._executors[device]

    def is_reachable(self, device: str) -> bool:
        return host_of(device) not in self._away

    async def play(self) -> None:
        await asyncio.gather(*map(self._play, self._failures))

    async def _play(self, failure: Failure) -> None:
        await self._until(failure.from_s)
        for device in failure.devices:
            self._shut_until_s[device] = -math.inf if failure.host else failure.until_s
        if failure.host:
            self._away.add(failure.host)
        for device in failure.devices:
            self._executors[device].die()
        if failure.host:
            await self._reconnect(failure)

    async def _reconnect(self, failure: Failure) -> None:
        """As `AgentLink` does it."""
        pauses, session_s = self._pauses[failure.host], self._loop.time() - self._since_s[failure.host]
        while True:
            await asyncio.sleep(pauses.next_s(session_s))
            session_s = 0.0
            if self._loop.time() >= failure.until_s:
                break
        self._since_s[failure.host] = self._loop.time()
        self._away.remove(failure.host)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._loop.time()))
