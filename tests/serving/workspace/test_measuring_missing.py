"""What devices lack is measured by their hosts, one of those that are alike, and told in the profile of each."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from tiny import SHAPES, Tiny, add_profiles, make_workspace, mlp

from proteus_cli.domain.catalog import Family
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import EngineError, HostLost
from proteus_cli.serving.adaptation.catalog_reading import MeasurableDevices
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.measuring import reached_over
from proteus_cli.serving.workspace import profiles as measuring_module
from proteus_cli.serving.workspace.profiles import measure_missing
from proteus_cli.store import Workspace, model_digest, write_json

NETWORK = Network(0.5, 1e9, {"shapes": 4})
NEW_S = 7.0
"""Each batch of what is measured anew, on its device."""
NEW_OVER_NETWORK_S = NEW_S + NETWORK.round_trip_s


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """Two CPUs of this machine and two of host b are alike; one of c is another. All lack the model of `shapes-m`."""
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_profiles(made, ["cpu0"])
    here = made.place.profile("cpu0")
    for name in ("cpu0", "cpu1", "b/cpu0", "b/cpu1", "c/cpu0"):
        device = replace(here.device, id=name, name="another CPU" if name == "c/cpu0" else here.device.name)
        found = replace(here, device=device)
        write_json(made.place.profile_path(name), reached_over(NETWORK, found) if device.host else found)
    mlp(made.model("shapes-m"), hidden=8, seed=17)
    return made


def measured_anew(profile: Profile, model: str) -> Profile:
    """As `proteus profile` would have it now, of `shapes-m` with a ``model`` of that digest."""

    def times(each: VariantProfile) -> VariantProfile:
        points = tuple(replace(point, mean_s=NEW_S) for point in each.points)
        return replace(each, points=points, model_digest=model if each.variant == "shapes-m" else each.model_digest)

    return replace(profile, variants=tuple(map(times, profile.variants)), network=None)


class Host:
    """A session with an agent that measures at once, or fails."""

    def __init__(self, made: Tiny, fails: Exception | None = None) -> None:
        self._made, self._fails, self.loss, self.has_ended = made, fails, None, asyncio.Event()
        self.options: list[MeasureOptions] = []

    async def sent_model(self, model: Path) -> str:
        return f"{len(model.name):064x}"

    async def measure(self, families: Sequence[Family], options: MeasureOptions, say: Any) -> bytes:
        assert [family.name for family in families] == ["shapes"]
        self.options.append(options)
        if self._fails is not None:
            raise self._fails
        say("measured")
        made = self._made
        here = measured_anew(made.place.profile("cpu0"), model_digest(made.model("shapes-m")))
        named = [replace(here, device=replace(here.device, id=name)) for name in options.devices.split(",")]
        return msgspec.json.encode(named)


def measure(made: Tiny, names: Sequence[str], **hosts: Host) -> list[str]:
    said = list[str]()
    lacking = MeasurableDevices([made.place.profile(name).device for name in names], cast("Any", hosts))
    asyncio.run(measure_missing(made.place, lacking, 60.0, said.append))
    return said


def mean_s(made: Tiny, device: str) -> dict[str, float]:
    return {each.variant: round(each.points[0].mean_s, 3) for each in made.place.profile(device).variants}


def test_of_devices_of_a_host_that_are_alike_one_is_measured_and_the_network_counts(made: Tiny) -> None:
    host, before = Host(made), mean_s(made, "b/cpu0")
    assert measure(made, ["b/cpu0", "b/cpu1"], b=host) == ["b: measured"]
    (options,) = host.options
    assert (options.devices, options.budget_s, options.beside_servers) == ("cpu0", 60.0, True)
    for device in ("b/cpu0", "b/cpu1"):
        found = made.place.profile(device)
        assert mean_s(made, device) == before | {"shapes-m": NEW_OVER_NETWORK_S}
        assert found.device.id == device
        assert found.network is not None
        assert (found.network.round_trip_s, found.network.bytes_per_s) == (NETWORK.round_trip_s, NETWORK.bytes_per_s)
        of_new = found.of("shapes", "shapes-m")
        assert of_new is not None
        assert of_new.model_digest == model_digest(made.model("shapes-m"))


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        (HostLost("host c is lost: it burns"), "host c does not measure what is new: host c is lost: it burns"),
        (RuntimeError("OSError(28)"), "a bug while host c measured what is new"),
    ],
    ids=["lost", "a bug there"],
)
def test_a_host_that_fails_is_told_and_the_others_go_on(
    made: Tiny, caplog: pytest.LogCaptureFixture, fails: Exception, told: str
) -> None:
    before = mean_s(made, "c/cpu0")
    with caplog.at_level(logging.WARNING, "proteus.catalog"):
        measure(made, ["c/cpu0", "b/cpu0"], b=Host(made), c=Host(made, fails))
    assert mean_s(made, "b/cpu0")["shapes-m"] == NEW_OVER_NETWORK_S
    assert mean_s(made, "c/cpu0") == before
    assert told in caplog.text


def test_of_devices_here_that_are_alike_one_is_measured(made: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    async def measured(root: Path, options: Sequence[str], _say: Any, *, leaves_time: bool) -> bytes:
        assert leaves_time
        asked.append(options[0])
        place = Workspace(root)
        found = measured_anew(place.profile("cpu0"), model_digest(made.model("shapes-m")))
        write_json(place.profile_path("cpu0"), found)
        return b""

    monkeypatch.setattr(measuring_module, "measured", measured)
    before = mean_s(made, "cpu1")
    measure(made, ["cpu0", "cpu1"])
    assert asked == ["--device=cpu0"]
    assert mean_s(made, "cpu1") == before | {"shapes-m": NEW_S}
    assert made.place.profile("cpu1").device.id == "cpu1"


def test_where_this_machine_cannot_measure_the_reason_is_told_once_the_hosts_have(
    made: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **_options: Any) -> bytes:
        raise EngineError("no core is left")

    monkeypatch.setattr(measuring_module, "measured", fails)
    with pytest.raises(EngineError, match="no core is left"):
        measure(made, ["cpu0", "b/cpu0"], b=Host(made))
    assert mean_s(made, "b/cpu0")["shapes-m"] == NEW_OVER_NETWORK_S
