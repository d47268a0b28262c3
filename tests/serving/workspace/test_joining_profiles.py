"""Where profiles of devices that join come from: the workspace, devices that are alike, and agents."""

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from command_line import proteus
from tiny import SHAPES, Tiny, add_plan, add_profiles, make_workspace, mlp

from proteus_cli.domain.catalog import Family, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Observation
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.plan_inputs import PlanSource
from proteus_cli.serving.adaptation.plan_journal import PlanChange, PlanJournal
from proteus_cli.serving.cluster.hosts_file import HostsFile
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog
from proteus_cli.serving.workspace.deployment import deployment_of
from proteus_cli.serving.workspace.plans import WorkspacePlans
from proteus_cli.serving.workspace.profiles import WorkspaceProfiles
from proteus_cli.store import Workspace, read_json

GPU = Device("b/gpu0", "gpu", "gpu", "a GPU", 2**30)


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """A plan for the CPU of this machine, and a cluster with a host b."""
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_profiles(made, ["cpu0"])
    add_plan(made, {"cpu0": "shapes-l"})
    (made.root / "hosts.toml").write_text('[hosts.b]\naddress = "127.0.0.1:1"\n')
    return made


def opened(made: Tiny, place: Workspace | None = None, **options: Any) -> tuple[WorkspaceProfiles, PlanSource]:
    deployment = deployment_of(
        Path("plan"), place or made.place, ServeSettings(**options), HostsFile(made.root / "hosts.toml")
    )
    assert isinstance(deployment.newcomers, WorkspaceProfiles)
    return deployment.newcomers, deployment.source


def like_cpu0(made: Tiny, name: str = "b/cpu0") -> Device:
    return msgspec.structs.replace(made.place.profile("cpu0").device, id=name)


class FakeAgent:
    """A session that measures at once: profiles like that of `cpu0`."""

    def __init__(self, made: Tiny) -> None:
        self._profile = made.place.profile("cpu0")
        self.has_ended, self.loss = asyncio.Event(), None
        self.options: list[MeasureOptions] = []

    async def sent_model(self, model: Path) -> str:
        assert model.suffix in {".onnx", ".npz"}
        return "0" * 64

    async def measure(self, families: tuple[Family, ...], options: MeasureOptions, say: Any) -> bytes:
        self.options.append(options)
        self.families = families
        say("cpu0: 1 of 1")
        devices = [msgspec.structs.replace(GPU, id=name) for name in options.devices.split(",")]
        return msgspec.json.encode(
            [msgspec.structs.replace(self._profile, device=device, measured_on=device.id) for device in devices]
        )

    async def echo(self, size: int) -> float:
        return 1e-3 + 2 * size / 1e9


def measured(known: WorkspaceProfiles, agent: FakeAgent, *devices: Device) -> None:
    asyncio.run(known.measure(cast("Any", agent), devices))


def test_a_device_has_its_own_profile_where_the_workspace_has_one(made: Tiny) -> None:
    known, source = opened(made)
    add_profiles(made, ["b/cpu0"])
    stored = made.place.profile("b/cpu0")
    assert known.profiles_of([stored.device, GPU]) == {"b/cpu0": stored}
    assert "profiles/b/cpu0.json" in source.inputs()
    made.place.require_current(source.inputs())


def test_a_device_that_is_like_a_known_one_gets_its_measurements_in_a_file_of_its_own(made: Tiny) -> None:
    known, source = opened(made)
    device = msgspec.structs.replace(like_cpu0(made), type="as it was found", memory_bytes=2**29)
    (profile,) = known.profiles_of([device]).values()
    here = made.place.profile("cpu0")
    assert profile.variants == here.variants
    assert profile.device == msgspec.structs.replace(device, type=here.device.type)
    assert profile.measured_on == "cpu0"
    assert made.place.profile("b/cpu0") == profile
    made.place.require_current(source.inputs())
    hosts = ("--cluster", made.root / "hosts.toml")
    planned = proteus("plan", "--demand", "10qps", *hosts, "-w", made.root, "--json").document()
    assert [*planned["fleet"].values()] == [["cpu0", "b/cpu0"]]


def test_a_profile_of_other_hardware_or_of_another_model_is_none(made: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    known, _ = opened(made)
    add_profiles(made, ["b/cpu0"])
    other = msgspec.structs.replace(like_cpu0(made), name="another CPU")
    assert known.profiles_of([other, GPU]) == {}
    fresh, _ = opened(made)
    mlp(made.model("shapes-s"), hidden=5)
    add_profiles(made, ["b/cpu0"])  # of that model
    mlp(made.model("shapes-s"), hidden=6)
    fresh.at_start, fresh._current = {}, []
    with caplog.at_level(logging.WARNING, "proteus.joining"):
        assert fresh.profiles_of([made.place.profile("b/cpu0").device]) == {}
    assert "the profile of b/cpu0 is of no use" in caplog.text


def test_of_devices_that_are_alike_the_first_is_measured_and_all_are_known(made: Tiny) -> None:
    known, source = opened(made, join_budget_s=7.0)
    agent, second = FakeAgent(made), msgspec.structs.replace(GPU, id="b/gpu1")
    assert known.measures
    measured(known, agent, GPU, second)
    (options,) = agent.options
    assert (options.devices, options.budget_s) == ("gpu0", 7.0)
    assert agent.families[0].variants[0].onnx == agent.families[0].eval == "0" * 64
    found = known.profiles_of([GPU, second])
    assert {device: profile.measured_on for device, profile in found.items()} == {
        "b/gpu0": "b/gpu0", "b/gpu1": "b/gpu0",
    }  # fmt: skip
    for device in found:
        assert read_json(made.place.profile_path(device), Profile, hint="") == found[device]
    made.place.require_current(source.inputs())


def test_once_the_catalog_was_read_anew_a_device_joins_by_its_names(made: Tiny) -> None:
    """What was measured of the models before is of no use, and what is written has the names of the catalog file."""
    known, source = opened(made)
    assert isinstance(source, WorkspacePlans)
    assert set(known.profiles_of([like_cpu0(made)])) == {"b/cpu0"}
    mlp(made.model("shapes-s"), hidden=5, seed=17)
    read = WorkspaceCatalog(source, 0.0).read()
    served = {VariantKey("shapes", name): f"{name}@2" for name in ("shapes-s", "shapes-m", "shapes-l")}
    source.use_catalog(read.content.catalog, served, {}, {})
    assert known.profiles_of([like_cpu0(made, "b/cpu1")]) == {}
    add_profiles(made, ["cpu0"])
    (joined,) = known.profiles_of([like_cpu0(made, "b/cpu1")]).values()
    assert [each.variant for each in joined.variants] == ["shapes-s@2", "shapes-m@2", "shapes-l@2"]
    written = made.place.profile("b/cpu1")
    assert [each.variant for each in written.variants] == ["shapes-s", "shapes-m", "shapes-l"]
    assert written.variants[0].model_digest == read.content.digest(VariantKey("shapes", "shapes-s"))


def test_profiles_are_of_use_also_where_they_cannot_be_written(made: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    known, source = opened(made)
    (made.place.profiles_dir / "b").write_text("no directory")
    with caplog.at_level(logging.ERROR, "proteus.joining"):
        measured(known, FakeAgent(made), GPU)
    assert "can't write the profile of b/gpu0" in caplog.text
    assert set(known.profiles_of([GPU])) == {"b/gpu0"}
    made.place.require_current(source.inputs())


def test_the_workspace_stays_as_it_is_where_the_state_is_elsewhere(made: Tiny, tmp_path: Path) -> None:
    known, source = opened(made, Workspace(made.root, tmp_path / "state"))
    measured(known, FakeAgent(made), GPU)
    assert set(known.profiles_of([GPU, like_cpu0(made)])) == {"b/gpu0", "b/cpu0"}
    assert not (made.place.profiles_dir / "b").exists()
    made.place.require_current(source.inputs())


def test_cpus_of_a_host_share_what_is_free_there_and_what_is_given_holds_as_far_as_they_have_it(made: Tiny) -> None:
    free, given = opened(made)[0], opened(made, memory={"cpu0": 2**20})[0]
    given.memory = {"cpu0": 2**20, "gpu": 2**40}
    both = [like_cpu0(made), like_cpu0(made, "b/cpu1")]
    assert free.memory_bytes([*both, GPU], 2**20) == {"b/cpu0": 2**18, "b/cpu1": 2**18, "b/gpu0": 2**29}
    half = both[0].memory_bytes // 2
    assert given.memory_bytes([*both, GPU], 0) == {"b/cpu0": half, "b/cpu1": half, "b/gpu0": 2**30}


def test_no_device_joins_where_that_is_not_wanted(made: Tiny) -> None:
    hosts = HostsFile(made.root / "hosts.toml")
    deployment = deployment_of(Path("plan"), made.place, ServeSettings(join=False), hosts)
    assert deployment.newcomers is None
    assert not opened(made, join_budget_s=0.0)[0].measures


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_plan_with_a_device_that_has_joined_is_resumed(made: Tiny, *, is_lost: bool) -> None:
    """Also one that was made while the first device was lost: it is a device of the next server all the same."""
    deployment = deployment_of(Path("plan"), made.place, hosts=HostsFile(made.root / "hosts.toml"))
    add_profiles(made, ["cpu0", "b/cpu0"])
    hosted = {"b/cpu0": "shapes-s"} if is_lost else {"b/cpu0": "shapes-s", "cpu0": "shapes-l"}
    last = read_json(add_plan(made, hosted, name="last"), Plan, hint="")
    assert deployment.journal is not None
    journal = PlanJournal(deployment.journal, RequestCounts([]))
    journal.began(last, PlanChange(0.0, "b/cpu0 has joined", 0.0, 0.0, 0), Observation({}, {}, ()))
    journal._writer.shutdown(wait=True)  # as if it had been killed
    journal._release()
    hosts = HostsFile(made.root / "hosts.toml")
    again = deployment_of(Path("plan"), made.place, hosts=hosts)
    assert again.origin == "resumed"
    assert {device.id for device in again.devices} == set(again.profiles) == {"cpu0", "b/cpu0"}
    alone = deployment_of(Path("plan"), made.place)
    assert alone.origin == "start", "this cluster has no host b"
