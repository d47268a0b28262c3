"""Measures what devices lack in the profiles of a workspace, in the time that a server leaves them.

CPUs of this machine are measured by `proteus profile`, those of other hosts by their agents. All hosts measure at the
same time; of devices of a host that are alike, one is measured for all.
"""

import asyncio
import logging
from collections.abc import Sequence

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import with_missing
from proteus_cli.errors import ProteusError
from proteus_cli.progress import Say
from proteus_cli.serving.adaptation.catalog_reading import MeasurableDevices
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.measuring import Measurable, measured_by_agent
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.lifecycle import in_thread
from proteus_cli.serving.measuring_process import measured
from proteus_cli.store import Workspace, write_json

MAX_BATCH, MAX_SLOTS = 64, 4
"""As `proteus profile` without options."""

log = logging.getLogger("proteus.catalog")


async def measure_missing(workspace: Workspace, lacking: MeasurableDevices, budget_s: float, say: Say) -> None:
    """Measure, and write, for ``budget_s`` on each host.

    A host that can't measure is logged, and the others go on. Raises `ProteusError` where this machine can't.
    """
    by_host = _by_host(lacking.devices)
    here = by_host.pop("", [])
    work = [_on_host(workspace, lacking.sessions[host], devices, budget_s, say) for host, devices in by_host.items()]
    if here:
        work.append(_here(workspace, here, budget_s, say))
    for problem in await asyncio.gather(*work, return_exceptions=True):
        if problem is not None:
            raise problem


def firsts_of_alike(devices: Sequence[Device]) -> list[Device]:
    """The devices that are measured for all that are like them."""
    return [device for at, device in enumerate(devices) if not any(device.is_like(each) for each in devices[:at])]


def options_of_agent(devices: Sequence[Device], budget_s: float, *, beside_servers: bool) -> MeasureOptions:
    """The options with which an agent measures these devices of its host."""
    return MeasureOptions(
        ",".join(device.id.removeprefix(f"{device.host}/") for device in devices),
        budget_s, MAX_BATCH, MAX_SLOTS, accepts_noise=True, as_type=None, force=False, beside_servers=beside_servers,
    )  # fmt: skip


async def _here(workspace: Workspace, devices: Sequence[Device], budget_s: float, say: Say) -> None:
    """What is off beside a server is recalibrated while it serves."""
    names = ",".join(device.id for device in firsts_of_alike(devices))
    options = [f"--device={names}", f"--budget={budget_s}s", "--accept-noise"]
    await measured(workspace.root.absolute(), options, say, leaves_time=True)
    await in_thread(_share_here, workspace, devices)


def _share_here(workspace: Workspace, devices: Sequence[Device]) -> None:
    firsts = firsts_of_alike(devices)
    _share(workspace, [workspace.profile(device.id) for device in firsts], [d for d in devices if d not in firsts])


async def _on_host(
    workspace: Workspace, session: AgentSession, devices: Sequence[Device], budget_s: float, say: Say
) -> None:
    host = devices[0].host
    try:
        known = await asyncio.to_thread(_known, workspace, devices)
        what = await asyncio.to_thread(measurable_in, workspace)
        options = options_of_agent(firsts_of_alike(devices), budget_s, beside_servers=True)
        network = known[devices[0].id].network
        found = await measured_by_agent(session, host, what, options, lambda line: say(f"{host}: {line}"), network)
        await in_thread(_share, workspace, found, devices)
    except ProteusError as error:
        log.warning("host %s does not measure what is new: %s", host, error.message)
    except Exception:  # whatever is wrong there, the others go on
        log.exception("a bug while host %s measured what is new", host)


def _known(workspace: Workspace, devices: Sequence[Device]) -> dict[str, Profile]:
    return workspace.profiles_for({device.id: device.type for device in devices})


def _share(workspace: Workspace, found: Sequence[Profile], devices: Sequence[Device]) -> None:
    """Write what was found on devices for those that are like them, each in a file of its own."""
    known = _known(workspace, devices)
    for device in devices:
        for profile in found:
            own = known[device.id]
            if profile.device.is_like(device) and (news := with_missing(own, profile)) != own:
                write_json(workspace.profile_path(device.id), news)


def _by_host(devices: Sequence[Device]) -> dict[str, list[Device]]:
    found: dict[str, list[Device]] = {}
    for device in devices:
        found.setdefault(device.host, []).append(device)
    return found


def measurable_in(workspace: Workspace) -> Measurable:
    """The families, models and eval splits of the catalog. Raises `ArtefactError` where a model is missing."""
    families = workspace.catalog().families
    models = {
        VariantKey(family.name, variant.name): workspace.loaded_model_of(family, variant, to="measure")
        for family in families
        for variant in family.variants
    }
    splits = {family.name: path for family in families if (path := workspace.eval_path(family)) is not None}
    return Measurable(families, models, splits)
