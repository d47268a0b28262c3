"""`proteus serve --set fixed-slots=true`: devices use all of their slots, and nobody watches them."""

import asyncio

import msgspec
import pytest
from command_line import proteus
from tiny import Tiny, add_plan

from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.server import server
from proteus_cli.serving.server.assembly import open_data_plane, open_hardware
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.store import write_json


def tuned_devices(deployment: Deployment) -> set[str]:
    """The devices whose slots a server would tune."""

    async def opened() -> set[str]:
        async with (
            open_hardware(deployment) as hardware,
            open_data_plane(deployment, hardware, ProfileStore(deployment.profiles), None, None, None) as plane,
        ):
            return set(plane.fleet.tuners)

    return asyncio.run(opened())


@pytest.mark.parametrize(
    ("options", "tuned"), [((), {"cpu0"}), (("--set=fixed-slots=true",), set())], ids=["as they are worth", "fixed"]
)
def test_slots_are_tuned_unless_they_are_fixed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], tuned: set[str]
) -> None:
    profile = tiny.place.profile("cpu0")
    variants = tuple(
        msgspec.structs.replace(
            each, concurrent=tuple(msgspec.structs.replace(point, slots=2) for point in each.points)
        )
        for each in profile.variants
    )
    write_json(tiny.place.profile_path("cpu0"), msgspec.structs.replace(profile, slots=2, variants=variants))
    add_plan(tiny, {"cpu0": "shapes-s"})
    deployed = list[Deployment]()
    monkeypatch.setattr(server, "serve", lambda deployment, *_others: deployed.append(deployment))
    ended = proteus("serve", "plan", "--emulate", *options, "-w", tiny.root)
    assert ended.code == 0, ended.stderr
    (deployment,) = deployed
    assert tuned_devices(deployment) == tuned
