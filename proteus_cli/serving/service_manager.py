"""Tells a service manager, such as systemd, when a server or an agent is ready, still works, and stops.

Source: sd_notify(3) and sd_watchdog_enabled(3): datagrams of lines ``NAME=value`` to the socket `$NOTIFY_SOCKET`.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger("proteus.server")

US_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """The manager that listens at ``address``: a path, or a name after ``@``; None: there is none.

    Unless it hears of this process every ``watchdog_s`` seconds, it ends it as one that hangs; None: it never does.
    """

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "ServiceManager":
        """The manager that started this process."""
        limit_us = environment.get("WATCHDOG_USEC", "")
        is_meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(limit_us) / US_PER_S if is_meant and limit_us.isdecimal() and int(limit_us) else None
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s)

    def ready(self, status: str) -> None:
        """Requests, or servers, are taken; ``status`` is a line for people."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """No more are taken."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    async def watch(self) -> None:
        """Say twice in ``watchdog_s`` that the event loop turns, until cancelled."""
        while self.watchdog_s is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _send(self, message: str) -> None:
        if self.address is None:
            return
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as notify:
                notify.connect("\0" + self.address[1:] if self.address.startswith("@") else self.address)
                notify.send(message.encode())
        except OSError as error:  # the process works all the same
            log.warning("can't tell the service manager `%s`: %s", message.partition("\n")[0], error)
