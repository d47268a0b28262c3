"""The server's link to one agent: connected, and connected again."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from proteus_cli.domain.cluster import ConnectionPauses
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceUnavailable, HostLost
from proteus_cli.serving.devices.executor import AbsentExecutor, Executor, OnLost
from proteus_cli.serving.devices.process.messages import EmulatedSpec
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.messages import Inventory
from proteus_cli.serving.devices.remote.sessions.connecting import connect
from proteus_cli.serving.devices.remote.sessions.session import AgentSession, Looks
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels
from proteus_cli.serving.logs import fields


@dataclass(frozen=True, slots=True)
class LinkState:
    """A server's link to the agent of a host. Counts are those since the start, over all sessions.

    ``since_s``: since then, by `time.monotonic`, it is connected, or not; ``why`` not. ``round_trip_s`` is the shortest
    of the last ones, None before the first. A host that ``is_listed`` no more was taken out.
    """

    address: str
    is_connected: bool
    since_s: float
    why: str
    losses: int
    round_trip_s: float | None
    bytes_sent: int
    bytes_received: int
    is_listed: bool = True


_NOT_YET = "it is not connected yet"

log = logging.getLogger("proteus.cluster")


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Who a server is to an agent, over all its connections: as ``server`` and ``epochs`` are in `Hello`."""

    server: str = field(default_factory=lambda: uuid.uuid4().hex)
    epochs: Iterator[int] = field(default_factory=lambda: count(1))


class AgentLink:
    """Keeps a session with one agent: connects, and when the session ends connects again, until `run` is cancelled.

    Each session begins to send the ``models`` that there are then and that the agent does not have. A server that
    ``emulates`` its devices needs agents that do, too, and any other needs agents that have devices. While the host
    ``is_listed`` no more, no session follows the last one. Sessions go to the ``address`` that holds when they begin.
    """

    def __init__(
        self,
        address: AgentAddress,
        models: Callable[[], Iterable[Path]] = tuple,
        known: KnownModels | None = None,
        looks: Looks | None = None,
        identity: ServerIdentity | None = None,
        *,
        emulates: bool = False,
    ) -> None:
        """``known`` is what all links of a server know of their models; ``looks`` is theirs together, too.

        A link that follows an earlier one to the same host has its ``identity``.
        """
        self.address, self._models, self._emulates = address, models, emulates
        self._known, self._looks = known or KnownModels(), looks or Looks()
        self.is_listed = True
        self.session: AgentSession | None = None
        self._identity = identity or ServerIdentity()
        self._why: HostLost | DeviceUnavailable = HostLost(f"host {address} is not connected yet", why=_NOT_YET)
        self._tried = asyncio.Event()
        self._since_s = time.monotonic()  # when the last session ended, or the present one began
        self._losses = self._bytes_sent = self._bytes_received = 0  # of sessions that have ended

    @property
    def state(self) -> LinkState:
        """The state of the connection now."""
        session, losses, since_s, why = self.session, self._losses, self._since_s, ""
        is_connected = session is not None and session.loss is None
        if session is not None and session.loss is not None:  # it has just ended
            losses, since_s, why = losses + 1, session.ended_s, session.loss.why
        elif session is None:
            why = self._loss_now().why
        return LinkState(
            f"{self.address.host}:{self.address.port}",
            is_connected,
            since_s,
            why,
            losses,
            (session.round_trip_s or None) if session is not None and is_connected else None,
            self._bytes_sent + (session.bytes_sent if session is not None else 0),
            self._bytes_received + (session.bytes_received if session is not None else 0),
            self.is_listed,
        )

    async def tried(self) -> Inventory | None:
        """Wait for the end of the first try; what the agent has, or None where it can't be reached.

        Raises `DeviceUnavailable` where the agent refuses this server.
        """
        await self._tried.wait()
        if isinstance(self._why, DeviceUnavailable):
            raise self._why
        return self.session.inventory if self.session is not None else None

    @property
    def is_connected(self) -> bool:
        """Whether a session is open."""
        return self.session is not None and self.session.is_open

    async def run(self) -> None:
        """Connect, again and again, until cancelled or the host is not listed any more."""
        pauses = ConnectionPauses()
        while self.is_listed:
            session_s = 0.0
            try:
                server, epoch = self._identity.server, next(self._identity.epochs)
                session = await connect(self.address, server, epoch, self._known)
                self._require_same_host(session)
                self._require_fit(session)
            except (OSError, DeviceUnavailable) as error:
                self._failed(error)
            else:
                began_s = time.monotonic()
                await self._keep(session)
                session_s = time.monotonic() - began_s
            await asyncio.sleep(pauses.next_s(session_s))

    def open_device(
        self, device: Device, slots: int, on_lost: OnLost, emulated: EmulatedSpec | None = None
    ) -> Executor:
        """Open a device of the host; ``device`` is the one that was measured. It is lost where it is not there now.

        A link that emulates opens what is ``emulated`` under that id.
        """
        name = device.id.removeprefix(f"{self.address.name}/")
        if self.session is None:
            return AbsentExecutor(device.id, self._loss_now())
        if emulated is not None:
            return self.session.open_device(name, slots, on_lost, emulated)
        found = next((each for each in self.session.inventory.devices if each.id == name), None)
        if found is None or not found.is_like(device):
            what = "is not there any more" if found is None else f"is another one now: {found.name}"
            return AbsentExecutor(device.id, HostLost(f"{device.id} {what}"))
        return self.session.open_device(name, slots, on_lost)

    def _loss_now(self) -> HostLost:
        """Why there is no session."""
        why = self._why
        return why if isinstance(why, HostLost) else HostLost(why.message, hint=why.hint, why=why.message)

    def _require_same_host(self, session: AgentSession) -> None:
        """Raise `ConnectionError`, after closing the session, where the agent has said its name, and says another."""
        name = session.inventory.name
        if self.address.on_other_name is not None and name != self.address.name:
            session.close()
            self.address.on_other_name()
            raise ConnectionError(f"the agent there says that it is host `{name[:100]}`")

    def _require_fit(self, session: AgentSession) -> None:
        """Raise `DeviceUnavailable`, after closing the session, unless both ends emulate devices or neither does."""
        if session.inventory.emulates == self._emulates:
            return
        session.close()
        if self._emulates:
            what = "has devices of its own, and emulates none"
            hint = "start the agent with `--emulate`, or leave out `--cluster`"
        else:
            what, hint = "emulates devices", "start the agent without `--emulate`, or the server with it"
        raise DeviceUnavailable(f"The agent of host {self.address} {what}.", hint=hint)

    async def _keep(self, session: AgentSession) -> None:
        """Until the session ends."""
        self.session = session
        log.info("connected to host %s", self.address, extra=fields(host=self.address.name))
        self._since_s = time.monotonic()
        self._tried.set()
        session.send_ahead(self._models())
        try:
            await session.watch(self._looks)
            self._why = session.loss or self._why
        finally:
            if session.loss is not None:
                self._since_s, self._losses = session.ended_s, self._losses + 1
            self._bytes_sent += session.bytes_sent
            self._bytes_received += session.bytes_received
            session.close()
            self.session = None

    def _failed(self, error: OSError | DeviceUnavailable) -> None:
        why: HostLost | DeviceUnavailable
        if isinstance(error, DeviceUnavailable):
            why = error
        else:
            what = f"can't be reached: {str(error) or 'no answer'}"
            why = HostLost(f"host {self.address} {what}", why=f"it {what}")
        if why.message != self._why.message:
            log.warning("%s", why.message, extra=fields(host=self.address.name))
        self._why = why
        self._tried.set()
