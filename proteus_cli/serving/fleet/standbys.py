"""Loads the standbys of a server: one at a time, while no plan changes, and out of the way of those that do."""

import asyncio
import logging
from collections.abc import Callable, Container, Mapping
from functools import partial

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.decision import Effects, StandbyEnd, StandbyLoad
from proteus_cli.control.topology.topology import Topology
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.serving.fleet.loading import GivesWay, Loader
from proteus_cli.serving.fleet.worker import Clock, Worker
from proteus_cli.serving.logs import fields

EVERY_S = 0.1  # s between two looks for what to load

log = logging.getLogger("proteus.standbys")


class StandbyLoader:
    """Does what the controller decides on standbys. No load of one that fails changes what is active.

    Nothing is loaded while ``is_changing`` says that a plan is being deployed. While a host has too little memory
    (``memory_of``, by its name), devices that use it (CPUs) give their standbys up, and get none. ``apply`` does what
    the controller asks for.
    """

    def __init__(
        self,
        topology: Topology,
        loader: Loader,
        workers: Mapping[str, Worker],
        profiles: Mapping[str, Profile],
        clock: Clock,
        is_changing: Callable[[], bool],
        memory_of: Callable[[str], HostMemory],
        apply: Callable[[Effects], None],
    ) -> None:
        self._topology, self._loader, self._workers, self._clock = topology, loader, workers, clock
        self._profiles, self._is_changing, self._memory_of, self._apply = profiles, is_changing, memory_of, apply
        self._load: StandbyLoad | None = None
        self._awaited_for: GivesWay | None = None
        self._loading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Keep standbys loaded until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                if not self._is_changing():
                    self.check()
        finally:
            await self.make_way(())

    def check(self) -> None:
        """Start to load the next standby, if there is one and none is loading; hosts without memory give theirs up."""
        self._relieve()
        if self._loading is None:
            effects = self._topology.next_standby(self._clock())
            self._load = effects.standby
            self._apply(effects)
            if self._load is not None and self._is_short(self._load.device):
                self._apply(self._topology.standby_ended(self._load, StandbyEnd.NO_MEMORY, self._clock()))
                self._load = None
            elif self._load is not None:
                self._loading = asyncio.create_task(self._run(self._load))
                self._loading.add_done_callback(partial(self._ended, self._load))

    async def make_way(self, wanted: Container[tuple[str, VariantKey]], gives_way: GivesWay = lambda: True) -> None:
        """Cancel the load that goes on, or wait for its end where it is of what a plan has ``wanted`` on a device.

        It gives way from then on as loads for the plan do.
        """
        if self._loading is None or self._load is None:
            return
        if (self._load.device, self._load.key) in wanted:
            self._awaited_for = gives_way
        else:
            self._loading.cancel()
        await asyncio.wait([self._loading])

    def _gives_way(self) -> bool:
        return self._awaited_for is None or self._awaited_for()

    async def _run(self, load: StandbyLoad) -> None:
        how = StandbyEnd.GIVEN_UP
        self._topology.loads_began([load.device])
        executor = self._workers[load.device].executor
        try:
            await self._loader.load(load.device, executor, load.key, load.max_batch, gives_way=self._gives_way)
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
        self._load = self._loading = self._awaited_for = None
        if loading.cancelled():  # perhaps before it began
            self._apply(self._topology.standby_ended(load, StandbyEnd.GIVEN_UP, self._clock()))
        elif loading.exception() is not None:
            log.critical("a bug while loading a standby", exc_info=loading.exception())

    def _relieve(self) -> None:
        for device in self._topology.standbys:
            if self._is_short(device):
                log.warning("%s gives its standbys up: its machine has too little memory", device)
                self._apply(self._topology.memory_short(device, self._clock()))

    def _is_short(self, device: str) -> bool:
        return self._profiles[device].device.kind == "cpu" and self._memory_of(host_of(device)).is_short
