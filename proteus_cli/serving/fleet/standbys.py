"""Loads the standbys of a server, as the controller says."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import ChangeState, Effects, StandbyEnd, StandbyLoad
from proteus_cli.control.topology.standbys import ASK_S
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.serving.fleet.loading import GivesWay, Loader
from proteus_cli.serving.fleet.worker import Clock, Worker
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.standbys")


class StandbyLoader:
    """Does what the controller decides on standbys. No load of one that fails changes what is active.

    While a host has too little memory (``memory_of``, by its name), devices that use it (CPUs) give their standbys up,
    and get none. ``apply`` does what the controller asks for.
    """

    def __init__(
        self,
        controller: Controller,
        loader: Loader,
        workers: Mapping[str, Worker],
        profiles: Mapping[str, Profile],
        clock: Clock,
        memory_of: Callable[[str], HostMemory],
        apply: Callable[[Effects], None],
    ) -> None:
        self._topology, self._change = controller.topology, controller.change
        self._loader, self._workers, self._clock = loader, workers, clock
        self._profiles, self._memory_of, self._apply = profiles, memory_of, apply
        self._loading = dict[str, asyncio.Task[None]]()  # by device
        self._awaited_for = dict[str, GivesWay]()

    async def run(self) -> None:
        """Keep standbys loaded until cancelled."""
        try:
            while True:
                await asyncio.sleep(ASK_S)
                self.check()
        finally:
            loading = list(self._loading.values())
            for each in loading:
                each.cancel()
            await asyncio.gather(*loading, return_exceptions=True)

    def check(self) -> None:
        """Start to load the next standbys, if there are any; hosts without memory give theirs up."""
        if self._change.state is not ChangeState.LOADING_BESIDE:
            self._relieve()
        while (load := (effects := self._topology.next_standby(self._clock())).standby) is not None:
            self._apply(effects)
            if self._is_short(load.device):
                self._apply(self._topology.standby_ended(load, StandbyEnd.NO_MEMORY, self._clock()))
            else:
                loading = self._loading[load.device] = asyncio.create_task(self._run(load))
                loading.add_done_callback(partial(self._ended, load))

    def cancel(self, loads: Iterable[StandbyLoad]) -> None:
        """Cancel these loads, which are in the way of a plan."""
        for load in loads:
            self.cancel_on(load.device)

    def cancel_on(self, device: str) -> None:
        """Cancel the load of a standby on a device, if any: the device is lost, or gives its standbys up."""
        if device in self._loading:
            self._loading[device].cancel()

    async def ended_on(self, device: str, gives_way: GivesWay) -> None:
        """Wait until no standby loads on a device; one that does gives way as loads for a plan do, from now on."""
        if device in self._loading:
            self._awaited_for[device] = gives_way
            await asyncio.wait([self._loading[device]])

    def _gives_way(self, device: str) -> bool:
        return device not in self._awaited_for or self._awaited_for[device]()

    async def _run(self, load: StandbyLoad) -> None:
        how = StandbyEnd.GIVEN_UP
        self._topology.loads_began([load.device])
        executor = self._workers[load.device].executor
        try:
            gives_way = partial(self._gives_way, load.device)
            await self._loader.load(load.device, executor, load.key, gives_way=gives_way)
            how = StandbyEnd.LOADED
        except EngineError as error:
            how = StandbyEnd.NO_MEMORY if isinstance(error, OutOfDeviceMemory) else StandbyEnd.FAILED
            log.warning(
                "%s cannot stand by on %s: %s", self._loader.labels[load.key], load.device, error.message,
                extra=fields(family=load.key.family, variant=load.key.variant, device=load.device),
            )  # fmt: skip
        finally:
            self._topology.loads_ended([load.device])
            self._apply(self._topology.standby_ended(load, how, self._clock(), gave_way=executor.can_give_way))

    def _ended(self, load: StandbyLoad, loading: "asyncio.Task[None]") -> None:
        if self._loading.get(load.device) is loading:
            del self._loading[load.device]
            self._awaited_for.pop(load.device, None)
        if loading.cancelled():  # perhaps before it began
            self._apply(self._topology.standby_ended(load, StandbyEnd.GIVEN_UP, self._clock()))
        elif (error := loading.exception()) is not None:
            count_bug("StandbyLoader.run", error)

    def _relieve(self) -> None:
        spare = [device for device in self._change.standbys if self._change.spare_on(device)]
        for device in dict.fromkeys([*spare, *self._loading]):
            if self._is_short(device):
                log.warning("%s gives its standbys up: its machine has too little memory", device)
                self.cancel_on(device)
                self._apply(self._topology.memory_short(device, self._clock()))

    def _is_short(self, device: str) -> bool:
        return self._profiles[device].device.kind == "cpu" and self._memory_of(host_of(device)).is_short
