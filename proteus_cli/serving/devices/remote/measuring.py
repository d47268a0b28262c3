"""Has the agent of another machine measure its devices."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from proteus_cli.domain.catalog import Family, VariantKey, is_name
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.errors import ArtefactError, HostLost
from proteus_cli.input_files import decoded
from proteus_cli.progress import Say
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.sessions.crossings import measured_speed
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.devices.signatures import signature_of
from proteus_cli.serving.lifecycle import StoppedEarly, run_unless

STEPS_PER_DECADE = 10
"""Measurements are rounded to steps of 26 %: measured again they are mostly the same, and like hosts are alike."""


@dataclass(frozen=True, slots=True)
class Measurable:
    """The subjects of a measurement: families, a model for each of their variants, and eval splits."""

    families: Sequence[Family]
    models: Mapping[VariantKey, Path]
    splits: Mapping[str, Path]


async def measured_by_agent(
    session: AgentSession,
    host: str,
    what: Measurable,
    options: MeasureOptions,
    say: Say,
    network: Network | None = None,
) -> list[Profile]:
    """Profiles of devices of an agent, by ids like ``b/cpu0``; ``options.devices`` are ids there.

    All have the network to the host, as fast as the ``network`` that is known; None: that is measured last, and seems
    slower where devices of the host serve meanwhile. The agent gets the files that it does not have first. ``say`` is
    told each line about progress. Raises what the agent raises, `HostLost`, and `ArtefactError` where its answer is no
    list of profiles.
    """
    try:
        content = await run_unless(session.has_ended, _content(session, what, options, say))
        row_bytes = await asyncio.to_thread(_row_bytes, what)
        if network is None:
            network = rounded_network(*await measured_speed(session), row_bytes)
        else:
            network = replace(network, row_bytes=row_bytes)
    except StoppedEarly:
        raise session.loss or HostLost(f"host {host} is lost") from None
    return [reached_over(network, _of_host(profile, host)) for profile in profiles_in(content, host)]


def _row_bytes(what: Measurable) -> dict[str, int]:
    """The bytes of a row of each family, inputs and outputs together."""
    return {family.name: signature_of(family, what.models).row_bytes for family in what.families}


def profiles_in(content: bytes, host: str) -> list[Profile]:
    """The profiles that a host has sent. Raises `ArtefactError`, also where the id of a device is no name of a file."""
    what, hint = f"What host {host} has measured is no list of profiles", "install the same version on all machines"
    profiles = decoded(content, lambda content: msgspec.json.decode(content, type=list[Profile]), what, hint=hint)
    if strange := [profile.device.id for profile in profiles if not is_name(profile.device.id)]:
        raise ArtefactError(f"{what}: `{strange[0][:100]}` is no name of a device.", hint=hint)
    return profiles


async def _content(session: AgentSession, what: Measurable, options: MeasureOptions, say: Say) -> bytes:
    """The agent's profiles, as JSON. Never returns where the session ends before all models are sent."""
    families = [await _sent(family, what, session) for family in what.families]
    return await session.measure(tuple(families), options, say)


async def _sent(family: Family, what: Measurable, session: AgentSession) -> Family:
    """A family with digests of its files, once the agent has them. Raises `EngineError`."""
    variants = []
    for variant in family.variants:
        model = what.models[VariantKey(family.name, variant.name)]
        digest = await session.sent_model(model)
        variants.append(replace(variant, onnx=digest, exits=(), stop_when=None))
    split = what.splits.get(family.name)
    eval_digest = await session.sent_model(split) if split is not None else None
    return replace(family, variants=tuple(variants), eval=eval_digest)


def _of_host(profile: Profile, host: str) -> Profile:
    device = replace(profile.device, id=f"{host}/{profile.device.id}")
    return replace(profile, device=device, measured_on=f"{host}/{profile.measured_on}")


def rounded_network(round_trip_s: float, bytes_per_s: float, row_bytes: dict[str, int]) -> Network:
    """A measured network, rounded to the next step: time up and bandwidth down."""
    return Network(_step(round_trip_s, math.ceil), _step(bytes_per_s, math.floor), row_bytes)


def _step(value: float, to_whole: Callable[[float], int]) -> float:
    if value <= 0:
        return 0.0
    steps = to_whole(round(math.log10(value) * STEPS_PER_DECADE, 6))
    return float(f"{10 ** (steps / STEPS_PER_DECADE):.1e}")


def reached_over(network: Network, profile: Profile) -> Profile:
    """The profile of a host's device as the server sees it: each batch takes its transfer longer."""

    def later(family: str, points: tuple[Point, ...]) -> tuple[Point, ...]:
        found = []
        for point in points:
            by_s = network.transfer_s(family, point.batch)
            times_s = {each: getattr(point, each) + by_s for each in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")}
            found.append(replace(point, **times_s, qps=point.slots * point.batch / times_s["mean_s"]))
        return tuple(found)

    variants = tuple(
        replace(each, points=later(each.family, each.points), concurrent=later(each.family, each.concurrent))
        for each in profile.variants
    )
    return replace(profile, variants=variants, network=network)
