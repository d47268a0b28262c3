"""Where the agent of a host is found."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent listens, and the name of its host in ids of devices. Without ``tls`` only on this machine.

    Where the agent there has said the name itself, ``on_other_name`` is called once it says another one.
    """

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    on_other_name: Callable[[], object] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"
