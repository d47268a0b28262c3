"""What `--emulate` makes of a plan, and when it can't."""

from pathlib import Path

import msgspec
import pytest
from clusters import make_cluster
from command_line import proteus
from tiny import Tiny, add_plan

from proteus_cli import store
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import NONE_OUT
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.workspace.deployment import deployment_of
from proteus_cli.store import Workspace

SERVE = ("serve", "plan", "--port", "0")


@pytest.fixture
def cluster(tmp_path: Path) -> Workspace:
    return make_cluster(tmp_path / "ws")


def test_the_devices_of_the_plan_are_emulated_without_any_model(cluster: Workspace) -> None:
    deployment = deployment_of(Path("plan"), cluster, ServeSettings(emulate=True))
    assert deployment.settings.emulate
    assert [device.id for device in deployment.devices] == [
        "a-0", "a-1", "a-2", "a-3", "b-0", "b-1", "c-0", "c-1",
    ]  # fmt: skip
    assert {device.id: device.type for device in deployment.devices}["c-1"] == "c"
    assert deployment.models == {}


def test_a_fleet_adds_devices_that_the_plan_does_not_know(cluster: Workspace) -> None:
    deployment = deployment_of(Path("plan"), cluster, ServeSettings(emulate=True, fleet="a:4,b:2,c:5"))
    assert len(deployment.devices) == len(deployment.profiles) == len(deployment.plan.devices) == 11
    assert deployment.plan.fleet["c"] == ("c-0", "c-1", "c-2", "c-3", "c-4")
    assert deployment.plan.placements == cluster.plan(Path("plan")).placements
    most = dict.fromkeys(deployment.plan.demand_qps, 1000.0)
    replanned = deployment.source.replanner(deployment.plan, deployment.profiles)(most, deployment.plan, NONE_OUT, {})
    assert {"c-2", "c-3", "c-4"} <= {placement.device for placement in replanned.placements}


def test_a_fleet_may_be_on_hosts_and_its_plan_is_emulated_there(cluster: Workspace) -> None:
    fleet, path = "x=a:2,b:1;y=a:2", cluster.plans_dir / "hosts.json"
    planned = proteus("plan", "--demand", "30qps", "--fleet", fleet, "-o", path, "-w", cluster.root)
    assert planned.code == 0, planned
    plan = cluster.plan(Path("hosts"))
    assert plan.fleet == {"a": ("x/a-0", "x/a-1", "y/a-0", "y/a-1"), "b": ("x/b-0",)}
    for named in (None, fleet):
        deployment = deployment_of(Path("hosts"), cluster, ServeSettings(emulate=True, fleet=named))
        assert {device.id: device.host for device in deployment.devices} == {
            "x/a-0": "x", "x/a-1": "x", "y/a-0": "y", "y/a-1": "y", "x/b-0": "x",
        }  # fmt: skip
        assert deployment.plan == plan


def test_a_server_has_the_attainment_of_its_option_and_so_have_its_later_plans(cluster: Workspace) -> None:
    plain, strict = (
        deployment_of(Path("plan"), cluster, ServeSettings(emulate=True, attainment=attainment))
        for attainment in (None, 0.999)
    )
    assert (plain.plan.rules.attainment, strict.plan.rules.attainment) == (None, 0.999)
    assert strict.source.read_plan()[0].rules.attainment == 0.999
    replanned = strict.source.replanner(strict.plan, strict.profiles)(strict.plan.demand_qps, strict.plan, NONE_OUT, {})
    assert replanned.rules.attainment == 0.999


def test_a_measured_plan_can_be_emulated_with_the_signatures_of_its_models(tiny: Tiny) -> None:
    catalog = tiny.place.catalog_path
    catalog.write_text(catalog.read_text().replace('onnx = "models/tones/tones-s.onnx"\n', ""))
    add_plan(tiny, {"cpu0": "shapes-l", "cpu1": "tones-l"})
    deployment = deployment_of(Path("plan"), tiny.place, ServeSettings(emulate=True, replan="off"))
    assert deployment.policy.replanning is None
    assert deployment.models[VariantKey("tones", "tones-l")] == tiny.model("tones-l")
    assert ("tones", "tones-s") not in deployment.models


def test_a_fleet_without_what_the_plan_uses_is_refused(cluster: Workspace) -> None:
    ended = proteus(*SERVE, "--emulate", "--fleet", "a:1", "-w", cluster.root)
    assert "which the fleet `a:1` doesn't have" in ended.refused()
    assert "proteus plan --fleet" in ended.stderr


def test_a_fleet_of_a_type_without_profile_is_refused(cluster: Workspace) -> None:
    ended = proteus(*SERVE, "--emulate", "--fleet", "tpu:1", "-w", cluster.root)
    assert ended.refused() == "No profile of any `tpu`."
    assert "a, b, c" in ended.stderr


def test_a_variant_that_was_never_profiled_on_its_device_can_not_be_emulated(cluster: Workspace) -> None:
    plan = cluster.plan(Path("plan"))
    first = plan.placements[0]
    path = cluster.profile_path(cluster.profiles_of(plan)[first.device].device.type)
    profile = cluster.profile(path.stem)
    others = tuple(v for v in profile.variants if v.variant != first.variant)
    store.write_json(path, msgspec.structs.replace(profile, variants=others))
    store.write_json(cluster.plans_dir / "plan.json", msgspec.structs.replace(plan, inputs={}))
    ended = proteus(*SERVE, "--emulate", "-w", cluster.root)
    message = ended.refused()
    assert f"`{first.variant}` on `{first.device}`" in message
    assert f"how long it takes on a `{path.stem}`" in message
    assert "--from-csv" in ended.stderr


def test_a_fleet_is_for_emulated_devices(cluster: Workspace) -> None:
    ended = proteus(*SERVE, "--fleet", "a:4", "-w", cluster.root)
    assert ended.refused() == "`--fleet` is for devices that are emulated."
    assert "--emulate" in ended.stderr


def test_who_would_serve_devices_that_are_not_here_is_told_of_emulation(cluster: Workspace) -> None:
    ended = proteus(*SERVE, "-w", cluster.root)
    assert "is not on this machine" in ended.refused(4)
    assert "--emulate" in ended.stderr


@pytest.mark.parametrize("target", [(), ("--plan=plan",), ("--url=http://127.0.0.1:1",)])
def test_a_replay_emulates_only_what_it_starts(cluster: Workspace, target: tuple[str, ...]) -> None:
    ended = proteus("replay", "t.csv", "--emulate", *target, "-w", cluster.root)
    assert ended.refused() == "`--emulate` is for a server that is started for the replay."
