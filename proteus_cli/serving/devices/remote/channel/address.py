"""Where the agent of a host is found."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent listens, and the name of its host in ids of devices. Without ``tls`` only on this machine."""

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"
