"""The devices that a server runs batches on: of this machine, of a cluster, or emulated."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from proteus_cli.backends import emulated
from proteus_cli.backends.base import Signature
from proteus_cli.backends.free_memory import HostMemory, host_memory
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost, DeviceUnavailable, HostLost
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import AbsentExecutor, Executor, OnLost
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.messages import CpuSpec, DeviceSpec, EmulatedSpec, GpuSpec
from proteus_cli.serving.devices.remote.channel.address import HostList
from proteus_cli.serving.devices.remote.links.link import AgentLink, LinkState
from proteus_cli.serving.devices.remote.links.links import AgentLinks
from proteus_cli.serving.devices.remote.sessions.session import AgentSession, Looks
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels
from proteus_cli.serving.devices.signatures import ModelPaths, open_reader, signature_of, signature_or_stub
from proteus_cli.serving.lifecycle import running

REAL = {"onnxruntime", "tensorrt"}
"""The backends that run models. Doubles have other names, and their times count as emulated."""

NO_MODEL = Path()
"""The model file of an emulated engine."""


@dataclass(frozen=True, kw_only=True)
class Hardware(ABC):
    """All devices of a server.

    ``platform`` is the name of the backend for the models' metadata. ``models`` are the files that executors load,
    ``signatures`` the inputs and outputs by family; families in ``stubs`` have made-up ones.
    """

    platform: str
    models: dict[VariantKey, Path]
    signatures: dict[str, Signature]
    is_emulated: bool
    stubs: set[str] = field(default_factory=set)

    @abstractmethod
    def open_device(self, device: str, on_lost: OnLost) -> Executor:
        """Open the device of an id, also again once it was lost. Raises `DeviceUnavailable`."""

    def memory_of(self, host: str) -> HostMemory:  # noqa: ARG002
        """The memory of a host of the cluster now, or of this machine (an empty name)."""
        return HostMemory()

    def links(self) -> dict[str, LinkState]:
        """How the hosts of a cluster are reached now, by name."""
        return {}

    def sessions(self) -> list[tuple[str, AgentSession]]:
        """The hosts of a cluster that are connected."""
        return []

    def is_reachable(self, device: str) -> bool:  # noqa: ARG002
        """Whether it makes sense to open a device that was lost; not while its host is not connected."""
        return True

    def shared(self) -> dict[str, Mapping[str, int]]:
        """How many servers have a device open, by connected host and device, where that is more than this one."""
        return {}

    @property
    def takes_variants(self) -> bool:
        """Whether devices can load variants that were not there at the start."""
        return True

    def use_signatures(self, signatures: Mapping[str, Signature], stubs: Iterable[str]) -> None:
        """From now on these are all families; the signatures of ``stubs`` are made up."""
        self.signatures.clear()
        self.signatures.update(signatures)
        self.stubs.clear()
        self.stubs.update(stubs)

    @property
    def files(self) -> list[Path]:
        """The files that engines are loaded from; none where they are emulated."""
        return [path for path in dict.fromkeys(self.models.values()) if path != NO_MODEL]

    def use_models(self, models: ModelPaths) -> None:
        """From now on engines are loaded from these files alone."""
        self.models.clear()
        self.models.update(models)

    def learn(self, profiles: Iterable[Profile]) -> None:  # noqa: B027 - real devices have their own times
        """Take the profiles of devices as they are now; emulated devices take the times that they have."""


@dataclass(frozen=True, kw_only=True)
class LocalHardware(Hardware):
    """The devices of this machine. Those in ``specs`` run in processes; ``started`` are processes without a user."""

    devices: Mapping[str, Device]
    specs: Mapping[str, DeviceSpec]
    started: dict[str, "_StartedProcess"]

    def open_device(self, device: str, on_lost: OnLost) -> Executor:
        if device not in self.specs:
            found = self.devices[device]
            return CpuExecutor(found, open_backend(found), on_lost)
        if device in self.started and not self.started[device].executor.is_lost:
            return self.started.pop(device).hand_over(on_lost)
        return ProcessExecutor(self.specs[device], on_lost)

    def memory_of(self, host: str) -> HostMemory:  # noqa: ARG002
        return host_memory()


@dataclass(frozen=True, kw_only=True)
class ClusterHardware(Hardware):
    """The devices of a cluster: of hosts, by the links to their ``agents``, and ``local`` ones.

    ``emulated``: what agents emulate, by device; nothing where devices are real.
    """

    local: Hardware
    agents: AgentLinks
    devices: dict[str, Device]
    slots: dict[str, int]
    emulated: Mapping[str, EmulatedSpec]

    @property
    def takes_variants(self) -> bool:
        return not self.emulated

    def open_device(self, device: str, on_lost: OnLost) -> Executor:
        host = host_of(device)
        if not host:
            return self.local.open_device(device, on_lost)
        link = self.agents.get(host)
        if link is None:
            why = "it is not listed any more"
            return AbsentExecutor(device, HostLost(f"host {host} is lost: {why}", why=why))
        emulated_as = self.emulated.get(device)
        return link.open_device(self.devices[device], self.slots[device], on_lost, emulated_as)

    def use_models(self, models: ModelPaths) -> None:
        """Besides, hosts that are connected are sent what is new, and told what is needed no more."""
        if models == self.models:
            return
        before = self.files
        super().use_models(models)
        for _, session in self.sessions():
            session.send_ahead(self.files)
            session.forget_models(set(before).difference(self.files))

    def links(self) -> dict[str, LinkState]:
        return {name: link.state for name, link in self.agents.items()}

    def is_reachable(self, device: str) -> bool:
        host = host_of(device)
        return not host or (host in self.agents and self.agents[host].is_connected)

    def memory_of(self, host: str) -> HostMemory:
        if not host:
            return self.local.memory_of(host)
        session = self.agents[host].session if host in self.agents else None
        return session.memory if session is not None else HostMemory()

    def sessions(self) -> list[tuple[str, AgentSession]]:
        """The hosts that are connected."""
        links = self.agents.items()
        return [(host, session) for host, link in links if (session := link.session) is not None and session.is_open]

    def add_device(self, device: Device, slots: int) -> None:
        """A device of a host that was not there at the start."""
        self.devices[device.id], self.slots[device.id] = device, slots

    def shared(self) -> dict[str, Mapping[str, int]]:
        return {host: session.shared for host, session in self.sessions()}


@dataclass(frozen=True, kw_only=True)
class EmulatedHardware(Hardware):
    """Emulated devices, by the id in their profile; each has a process of its own if ``in_processes``."""

    profiles: dict[str, Profile]
    timer: TimerThread
    in_processes: bool
    opened: dict[str, EmulatedExecutor] = field(default_factory=dict)

    def open_device(self, device: str, on_lost: OnLost) -> Executor:
        profile = self.profiles[device]
        if self.in_processes:
            return ProcessExecutor(EmulatedSpec(profile, self.signatures), on_lost)
        executor = EmulatedExecutor(profile, self.signatures, time.monotonic, self.timer.at, on_lost)
        self.opened[device] = executor
        return executor

    @property
    def takes_variants(self) -> bool:
        return not self.in_processes

    def learn(self, profiles: Iterable[Profile]) -> None:
        for profile in profiles:
            self.profiles[profile.device.id] = profile
            if profile.device.id in self.opened:
                self.opened[profile.device.id].learn(profile)


@asynccontextmanager
async def local_devices(
    devices: Mapping[str, Device],
    catalog: Catalog,
    models: ModelPaths,
    built: Path,
    slots: Mapping[str, int],
    *,
    in_processes: bool = False,
) -> AsyncIterator[Hardware]:
    """The devices of this machine, by id, until left.

    GPUs run in processes of their own, as a lost CUDA context takes its process along; CPUs do if ``in_processes``.
    GPUs run the engines in ``built``, which are built where they are missing; ``slots`` is how many batches run on each
    device at once.

    Raises `BackendUnavailable`, `DeviceUnavailable`, and `EngineError` where a model can't be read.
    """
    specs = process_specs(devices.values(), built, slots, in_processes=in_processes)
    with _started_processes(specs) as started:
        reader = open_reader()
        signatures = {f.name: signature_of(f, models, reader) for f in catalog.families}
        platforms = [
            await started[device].executor.opened() if device in started else open_backend(found).versions.name
            for device, found in devices.items()
        ]
        yield LocalHardware(
            platform=next(iter(platforms), reader.versions.name),
            is_emulated=not REAL.issuperset(platforms),
            models=dict(models),
            signatures=signatures,
            devices=devices,
            specs=specs,
            started=started,
        )


@asynccontextmanager
async def cluster_devices(
    local: Hardware,
    hosts: HostList,
    devices: Mapping[str, Device],
    slots: Mapping[str, int],
    profiles: Mapping[str, Profile] | None = None,
) -> AsyncIterator[Hardware]:
    """The devices of a cluster, by id, until left: of ``hosts``, which may change, and ``local`` ones.

    With ``profiles``, by device, the agents emulate devices. A host that cannot be reached now is tried again and
    again; its devices are lost until then.
    Raises `DeviceUnavailable` where an agent refuses this server at the start, or no device at all is there.
    """
    async with AsyncExitStack() as stack:
        emulates, known, looks = profiles is not None, KnownModels(), Looks()
        links = AgentLinks(
            lambda address, identity: AgentLink(address, lambda: local.files, known, looks, identity, emulates=emulates)
        )
        stack.push_async_callback(links.close)
        changes = await stack.enter_async_context(aclosing(hosts.changes()))
        links.use(await anext(changes))
        found = {name: await link.tried() for name, link in list(links.items())}
        if not any(not host_of(device) or found.get(host_of(device)) for device in devices):
            raise DeviceUnavailable(
                f"None of the hosts {', '.join(links)} can be reached." if links else "The cluster has no hosts now.",
                hint="is `proteus agent` running there, and do the addresses that are listed lead there?",
            )
        await stack.enter_async_context(running(links.follow, chain([changes], iter(hosts.changes, None))))
        yield ClusterHardware(
            platform=local.platform,
            models=local.models,
            signatures=local.signatures,
            is_emulated=local.is_emulated,
            local=local,
            agents=links,
            devices=dict(devices),
            slots=dict(slots),
            emulated={name: EmulatedSpec(each, local.signatures) for name, each in (profiles or {}).items()},
        )


@contextmanager
def emulated_devices(
    profiles: Mapping[str, Profile], catalog: Catalog, models: ModelPaths, *, in_processes: bool = False
) -> Iterator[Hardware]:
    """Emulated devices for ``profiles``, by id, until left; each in a process of its own if ``in_processes``.

    A family with a model has that model's signature. Raises `EngineError` where that model can't be read.
    """
    reader = open_reader() if any(key in models for key in catalog.keys) else None
    found = {family.name: signature_or_stub(family, models, reader) for family in catalog.families}
    with TimerThread() as timer:
        yield EmulatedHardware(
            platform=emulated.NAME,
            models={VariantKey(f.name, v.name): NO_MODEL for f in catalog.families for v in f.variants},
            signatures={name: signature for name, (signature, _) in found.items()},
            is_emulated=True,
            stubs={name for name, (_, is_stub) in found.items() if is_stub},
            profiles=dict(profiles),
            timer=timer,
            in_processes=in_processes,
        )


def process_specs(
    devices: Iterable[Device], built: Path, slots: Mapping[str, int], *, in_processes: bool
) -> dict[str, DeviceSpec]:
    """The devices with a process of their own: GPUs always, CPUs if ``in_processes``."""
    return {
        device.id: GpuSpec(device, str(built), slots[device.id]) if device.kind == "gpu" else CpuSpec(device)
        for device in devices
        if in_processes or device.kind == "gpu"
    }


class _StartedProcess:
    """A device's process that is started before the fleet exists. A loss until then is seen when it is handed over."""

    def __init__(self, spec: DeviceSpec) -> None:
        self._owner: OnLost | None = None
        self.executor = ProcessExecutor(spec, self._on_lost)

    def hand_over(self, on_lost: OnLost) -> ProcessExecutor:
        self._owner = on_lost
        return self.executor

    def _on_lost(self, loss: DeviceLost) -> None:
        if self._owner is not None:
            self._owner(loss)


@contextmanager
def _started_processes(specs: Mapping[str, DeviceSpec]) -> Iterator[dict[str, _StartedProcess]]:
    """Start the processes of all devices at once; leaving closes the ones that were not handed over."""
    started: dict[str, _StartedProcess] = {}
    try:
        for device, spec in specs.items():
            started[device] = _StartedProcess(spec)
        yield started
    finally:
        for process in started.values():
            process.executor.close()
