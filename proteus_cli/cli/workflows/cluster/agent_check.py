"""Whether the agent of this machine works."""

import asyncio
from pathlib import Path

from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.agent.claim import agent_in
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.messages import Inventory
from proteus_cli.serving.devices.remote.sessions.connecting import probe
from proteus_cli.serving.transport.tls import cluster_tls


def check_agent(state: Path, key: Path | None) -> tuple[AgentAddress, Inventory, float]:
    """Ask the agent that keeps its models in ``state`` what it has, as a server would; and the seconds that it took.

    That takes its event loop; at the port of a process that hangs the system still answers. Raises `DeviceUnavailable`
    where there is no agent, or none that answers within `CONNECT_S` and has this key; `ArtefactError` where the key
    cannot be used.
    """
    record = agent_in(state)
    if record is None:
        raise DeviceUnavailable(
            f"No agent keeps its models in `{state}`.", hint="name the directory of the agent with `--state`"
        )
    tls = cluster_tls(key, listens=False) if key is not None else None
    address = AgentAddress("here", record.host, record.port, tls)
    try:
        inventory, took_s = asyncio.run(probe(address))
    except OSError as error:
        raise DeviceUnavailable(
            f"The agent at {record.host}:{record.port}, process {record.pid}, does not answer: "
            f"{str(error) or 'it took too long'}.",
            hint="it hangs, or has another key: `--key` must be the one that it was started with",
        ) from error
    return address, inventory, took_s
