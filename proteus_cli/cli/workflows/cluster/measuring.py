"""Profiles of devices of a cluster, measured by their agents."""

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec

from proteus_cli.cli import console
from proteus_cli.cli.cluster import agents_of
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceUnavailable, HostLost, UsageError
from proteus_cli.serving.agent.measuring import ALL
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.links.host_list import HostList
from proteus_cli.serving.devices.remote.measuring import Measurable, measured_by_agent
from proteus_cli.serving.devices.remote.sessions.connecting import connect
from proteus_cli.serving.devices.remote.sessions.looks import Looks
from proteus_cli.serving.lifecycle import running
from proteus_cli.store import Workspace, write_json
from proteus_cli.units import format_duration, format_size


def measured_by_agents(workspace: Workspace, hosts: HostList, options: MeasureOptions) -> list[Profile]:
    """Measure devices of the cluster, all hosts at the same time, and write their profiles.

    The options' ``devices`` are as in `devices_by_host`. Raises `ProteusError` of the first host that can't measure,
    when all others have.
    """
    agents = agents_of(hosts)
    wanted = devices_by_host(options.devices, agents)

    async def of_all() -> list[list[Profile] | BaseException]:
        by_host = (
            _measured(workspace, agents[host], msgspec.structs.replace(options, devices=devices))
            for host, devices in wanted.items()
        )
        return await asyncio.gather(*by_host, return_exceptions=True)

    profiles: list[Profile] = []
    for found in asyncio.run(of_all()):
        if isinstance(found, BaseException):
            raise found
        profiles += found
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
    async with running(session.watch, Looks()):
        try:
            profiles = await measured_by_agent(
                session,
                agent.name,
                measurable_in(workspace),
                options,
                lambda line: console.say(f"{agent.name}: {line}"),
            )
        finally:
            session.close()
    for network in {id(profile.network): profile.network for profile in profiles}.values():
        if network is not None:
            console.say(
                f"{agent.name}: to the host and back takes {format_duration(network.round_trip_s)}, and its network "
                f"carries {format_size(network.bytes_per_s)} per second; both count in its profiles"
            )
    return [_written(workspace, profile) for profile in profiles]


def measurable_in(workspace: Workspace) -> Measurable:
    """The families, models and eval splits of the catalog. Raises `ArtefactError` where a model is missing."""
    families = workspace.catalog().families
    models = {
        VariantKey(family.name, variant.name): workspace.loaded_model_of(family, variant, to="measure")
        for family in families
        for variant in family.variants
    }
    return Measurable(families, models, splits_of(workspace))


def splits_of(workspace: Workspace) -> dict[str, Path]:
    """The eval split of each family that has one."""
    splits = {family.name: workspace.eval_path(family) for family in workspace.catalog().families}
    return {family: path for family, path in splits.items() if path is not None}


def _written(workspace: Workspace, profile: Profile) -> Profile:
    write_json(workspace.profile_path(profile.device.id), profile)
    return profile
