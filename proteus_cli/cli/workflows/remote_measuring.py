"""Profiles of devices of a cluster, measured by their agents."""

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec

from proteus_cli.cli import console
from proteus_cli.cli.workflows.cluster import agents_of
from proteus_cli.cli.workflows.measuring import ALL
from proteus_cli.domain.catalog import Family, is_name
from proteus_cli.domain.device import host_of
from proteus_cli.domain.network import Network, reached_over
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, DeviceUnavailable, HostLost, UsageError
from proteus_cli.input_files import decoded
from proteus_cli.serving.devices.hardware import signature_of
from proteus_cli.serving.devices.remote.crossings import measured_speed
from proteus_cli.serving.devices.remote.link import AgentAddress, AgentSession, connect
from proteus_cli.serving.devices.remote.messages import MeasureDevices, MeasureOptions
from proteus_cli.serving.lifecycle import StoppedEarly, run_unless, running
from proteus_cli.store import Workspace, write_json
from proteus_cli.units import format_duration, format_size

MAX_SILENT = 100
"""`BEAT_S` each: measuring keeps a host busy, and nobody waits for what it serves."""


def measured_by_agents(workspace: Workspace, hosts: Path, options: MeasureOptions) -> list[Profile]:
    """Measure devices of the cluster, host by host, and write their profiles. The agents may not serve meanwhile.

    The options' ``devices`` are as in `devices_by_host`. Raises `ProteusError`.
    """
    agents = {agent.name: agent for agent in agents_of(hosts)}
    wanted = devices_by_host(options.devices, agents)
    profiles: list[Profile] = []
    for host, devices in wanted.items():
        of_host = msgspec.structs.replace(options, devices=devices)
        profiles += asyncio.run(_measured(workspace, agents[host], of_host))
    return profiles


def devices_by_host(text: str, hosts: Mapping[str, object]) -> dict[str, str]:
    """``"a/cpu0,a/cpu1,b/cpu0"`` → the devices of each host, by the ids there; ``all``: all CPUs of all hosts.

    Raises `DeviceUnavailable`, `UsageError`.
    """
    if text == ALL:
        return dict.fromkeys(hosts, ALL)
    found: dict[str, list[str]] = {}
    for name in (part.strip() for part in text.split(",")):
        host = host_of(name)
        if not host:
            raise UsageError(
                f"`{name}` is a device of this machine.", hint=f"leave out `--cluster`, or write `HOST/{name}`"
            )
        if host not in hosts:
            raise DeviceUnavailable(f"No host `{host}` in the cluster.", hint=f"there are: {', '.join(hosts)}")
        found.setdefault(host, []).append(name.removeprefix(f"{host}/"))
    return {host: ",".join(devices) for host, devices in found.items()}


async def _measured(workspace: Workspace, agent: AgentAddress, options: MeasureOptions) -> list[Profile]:
    try:
        session = await connect(agent, uuid.uuid4().hex, 1)
    except OSError as error:
        raise HostLost(f"host {agent} can't be reached: {str(error) or 'no answer'}") from error
    async with running(session.watch(MAX_SILENT)):
        try:
            content = await run_unless(session.has_ended, _content(workspace, agent, options, session))
            round_trip_s, bytes_per_s = await measured_speed(session)
        except StoppedEarly:
            raise session.loss or HostLost(f"host {agent} is lost") from None
        finally:
            session.close()
    network = Network.measured(round_trip_s, bytes_per_s, _row_bytes(workspace))
    console.say(
        f"{agent.name}: to the host and back takes {format_duration(network.round_trip_s)}, and its network carries "
        f"{format_size(network.bytes_per_s)} per second; both count in its profiles"
    )
    profiles = [reached_over(network, profile) for profile in profiles_in(content, agent.name)]
    return [_written(workspace, agent.name, profile) for profile in profiles]


def _row_bytes(workspace: Workspace) -> dict[str, int]:
    """What a row of each family takes, inputs and outputs together."""
    catalog, models = workspace.catalog(), workspace.loaded_paths()
    return {family.name: signature_of(family, models).row_bytes for family in catalog.families}


async def _content(workspace: Workspace, agent: AgentAddress, options: MeasureOptions, session: AgentSession) -> bytes:
    """What the agent measures, as JSON. Never returns where the session ends before all models are sent."""
    families = [await _sent(workspace, family, session) for family in workspace.catalog().families]
    command = MeasureDevices(tuple(families), options)
    return await session.measure(command, lambda line: console.say(f"{agent.name}: {line}"))


def profiles_in(content: bytes, host: str) -> list[Profile]:
    """The profiles that a host has sent. Ids of devices become names of files: `ArtefactError` where one is no name."""
    what, hint = f"What host {host} has measured is no list of profiles", "install the same version on all machines"
    profiles = decoded(content, lambda content: msgspec.json.decode(content, type=list[Profile]), what, hint=hint)
    if strange := [profile.device.id for profile in profiles if not is_name(profile.device.id)]:
        raise ArtefactError(f"{what}: `{strange[0][:100]}` is no name of a device.", hint=hint)
    return profiles


async def _sent(workspace: Workspace, family: Family, session: AgentSession) -> Family:
    """A family with digests of its files, once the agent has them. Raises `ArtefactError`, `EngineError`."""
    variants = []
    for variant in family.variants:
        path = workspace.loaded_model_of(family, variant, to="measure")
        variants.append(msgspec.structs.replace(variant, onnx=await session.sent_model(path)))
    split = workspace.eval_path(family)
    digest = await session.sent_model(split) if split is not None else None
    return msgspec.structs.replace(family, variants=tuple(variants), eval=digest)


def _written(workspace: Workspace, host: str, profile: Profile) -> Profile:
    device = msgspec.structs.replace(profile.device, id=f"{host}/{profile.device.id}")
    named = msgspec.structs.replace(profile, device=device, measured_on=f"{host}/{profile.measured_on}")
    write_json(workspace.profile_path(device.id), named)
    return named
