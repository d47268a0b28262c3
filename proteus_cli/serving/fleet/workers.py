"""The workers of a server: who has work for one of them asks here, whoever opens its device."""

import asyncio
from collections.abc import Iterable

from proteus_cli.control.decision import Launch
from proteus_cli.serving.fleet.worker import Worker


class Workers:
    """The workers by device, which `Fleet` adds.

    ``last_devices`` are those that were told of last in this turn of the event loop; None where none were.
    """

    def __init__(self) -> None:
        self.by_device = dict[str, Worker]()
        self.last_devices: Iterable[str] | None = None
        self._to_ask: dict[str, None] = {}

    def ask_soon(self, devices: Iterable[str]) -> None:
        """Have workers ask for work once all requests that have arrived by now are admitted, to share a batch."""
        self.last_devices = devices
        for device in devices:
            if not self._to_ask:
                asyncio.get_running_loop().call_soon(self._ask)
            self._to_ask[device] = None

    def run(self, check: Launch) -> None:
        """Run a background request on its device, which is idle (`Dispatch.launch_if_idle`)."""
        self.by_device[check.hosted.device].run(check)

    def _ask(self) -> None:
        asked, self._to_ask, self.last_devices = self._to_ask, {}, None
        for device in asked:
            self.by_device[device].ask()
