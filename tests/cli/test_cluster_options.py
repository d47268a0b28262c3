"""The list of a cluster's hosts, its key, and options that make no sense together."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from agents import PATIENCE_S, key_of, run, running_agent
from command_line import proteus
from tiny import CLASSES, INPUTS, SHAPES, add_plan, add_profiles, device, make_workspace

from proteus_cli.cli.cluster import host_list
from proteus_cli.cli.profile_runs import _measured, devices_by_host
from proteus_cli.domain.device import host_of
from proteus_cli.errors import ArtefactError, DeviceUnavailable, HostLost, UsageError
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.agent.models import OfferedModels
from proteus_cli.serving.cluster.hosts_file import HostsFile
from proteus_cli.serving.devices.remote.channel.address import agents_of
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.measuring import profiles_in
from proteus_cli.serving.devices.remote.sessions import crossings
from proteus_cli.serving.workspace.deployment import deployment_of
from proteus_cli.serving.workspace.memory import memory_limits
from proteus_cli.store import read_hosts, split_address

if TYPE_CHECKING:
    from proteus_cli.domain.profile import Profile


def listed(directory: Path, text: str) -> Path:
    path = directory / "hosts.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.2:7000", ("10.0.0.2", 7000)), ("[::1]:80", ("::1", 80)), ("b:65535", ("b", 65535)), ("h:0", ("h", 0))],
)  # fmt: skip
def test_an_address_has_a_host_and_a_port(text: str, found: tuple[str, int]) -> None:
    assert split_address(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "", ":80", "host", "host:", "host:x", "host:65536", "::1:80", "h:-1", "h:²", "h\n:8", "[]:8", "10.0.0..2:80",
        f"{64 * 'h'}:80",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no address with a port"):
        split_address(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "hosts"),
        ("[hosts]", "1 to 1,000 hosts"),
        ("[hosts.a]", "address"),
        ('[hosts.a]\naddress = "x"', "no address with a port"),
        ('[hosts.a]\naddress = "127.0.0.1:0"', "has no port"),
        ('[hosts."a/b"]\naddress = "127.0.0.1:7"', "no name of a host"),
        ('[hosts.a]\naddress = "127.0.0.1:7"\n[hosts.b]\naddress = "127.0.0.1:7"', "the same address"),
        ('[hosts.a]\naddress = "127.0.0.1:7"\nport = 7', "port"),
        ("key = 7\n[hosts]", "key"),
    ],
)
def test_a_list_of_hosts_is_read_strictly(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ArtefactError, match=r"no valid list of hosts") as refusal:
        read_hosts(listed(tmp_path, text))
    assert problem in refusal.value.message


def test_other_machines_are_reached_with_a_key_only(tmp_path: Path) -> None:
    path = listed(tmp_path, '[hosts.a]\naddress = "192.0.2.1:7000"')
    with pytest.raises(UsageError, match="has no key, and host `a`"):
        agents_of(host_list(str(path)))
    (agent,) = agents_of(HostsFile(listed(tmp_path, '[hosts.a]\naddress = "127.0.0.1:7000"'))).values()
    assert (agent.name, agent.host, agent.port, agent.tls) == ("a", "127.0.0.1", 7000, None)
    assert proteus("cluster", "key", tmp_path / "cluster.pem").code == 0
    (agent,) = agents_of(
        HostsFile(listed(tmp_path, 'key = "cluster.pem"\n[hosts.a]\naddress = "192.0.2.1:7000"'))
    ).values()
    assert agent.tls is not None


def test_a_service_of_kubernetes_needs_a_key_and_has_a_port(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`kubernetes:agents` needs the key"):
        host_list("kubernetes:agents")
    key = key_of(tmp_path)
    assert str(host_list("kubernetes:agents", key)) == "kubernetes:agents:7000"
    assert str(host_list("kubernetes:agents.ns.svc:7001", key)) == "kubernetes:agents.ns.svc:7001"
    for wrong in ("kubernetes:", "kubernetes:agents:", "kubernetes:agents:0", "kubernetes:a:b:c", "kubernetes:a:99999"):
        with pytest.raises(UsageError, match="--cluster kubernetes:"):
            host_list(wrong, key)
    with pytest.raises(UsageError, match="names its key itself"):
        host_list("hosts.toml", key)


def test_the_name_of_a_host_is_one_of_a_directory(tmp_path: Path) -> None:
    said = proteus("agent", "--name", "a/b", "--state", tmp_path / "state", "-w", tmp_path).refused()
    assert "`a/b` is no name of a host" in said


def test_a_key_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "cluster.pem"
    assert proteus("cluster", "key", path).code == 0
    before = path.read_bytes()
    assert "is there already" in proteus("cluster", "key", path).refused()
    assert path.read_bytes() == before


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_an_agent_listens_to_other_machines_with_a_key_only(tmp_path: Path, address: str) -> None:
    said = proteus("agent", "--listen", address, "--state", tmp_path / "state", "-w", tmp_path)
    assert "without a key anyone there could run models here" in said.refused()
    assert "no address with a port" in proteus("agent", "--listen", "7000", "-w", tmp_path).refused()


def test_a_plan_for_a_host_needs_the_cluster_that_has_it(tmp_path: Path) -> None:
    made = make_workspace(tmp_path)
    add_profiles(made, ["b/cpu0"])
    add_plan(made, {"b/cpu0": "shapes-l"})
    hosts = listed(tmp_path, '[hosts.a]\naddress = "127.0.0.1:7000"')
    assert "`b/cpu0`, of a host `b`" in proteus("serve", "plan", "-w", tmp_path).refused(4)
    assert "of a host `b`" in proteus("serve", "plan", "--cluster", hosts, "-w", tmp_path).refused(4)
    emulating = proteus("serve", "plan", "--emulate", "--cluster", hosts, "-w", tmp_path)
    assert "of a host `b`" in emulating.refused(4)


def test_a_plan_can_survive_the_loss_of_any_host(tmp_path: Path) -> None:
    """The rule stands in the plan, so that plans of the server obey it as well."""
    made = make_workspace(tmp_path)
    add_profiles(made, ["a/cpu0", "a/cpu1", "b/cpu0", "b/cpu1"])
    said = proteus("plan", "--demand", "20qps", "--survive-host", "1", "-w", tmp_path)
    assert said.code == 0, said.stderr
    plan = made.place.plan(Path("plan"))
    assert (plan.rules.survive, plan.rules.survive_unit) == (1, "host")
    for family in plan.demand_qps:
        assert {host_of(p.device) for p in plan.placements if p.family == family} == {"a", "b"}


def test_a_plan_may_be_for_hosts_that_ray_or_kubernetes_do_not_list_yet(tmp_path: Path) -> None:
    made = make_workspace(tmp_path)
    add_profiles(made, ["b/cpu0"])
    add_plan(made, {"b/cpu0": "shapes-l"})
    hosts = host_list("kubernetes:agents", key_of(tmp_path))
    deployment = deployment_of(Path("plan"), made.place, hosts=hosts)
    assert [device.id for device in deployment.devices] == ["b/cpu0"]
    assert deployment.hosts is hosts


def test_devices_are_measured_host_by_host() -> None:
    hosts = {"a": None, "b": None}
    assert devices_by_host("all", hosts) == {"a": "all", "b": "all"}
    assert devices_by_host("b/cpu1, a/cpu0,b/cpu0", hosts) == {"b": "cpu1,cpu0", "a": "cpu0"}
    with pytest.raises(UsageError, match="is a device of this machine"):
        devices_by_host("cpu0", hosts)
    with pytest.raises(DeviceUnavailable, match="No host `c`"):
        devices_by_host("c/cpu0", hosts)


@pytest.mark.parametrize("name", ["../../cpu0", "/etc/cpu0", "b/cpu0", "..", ".hidden"])
def test_a_host_cannot_name_the_files_that_its_profiles_are_written_to(tmp_path: Path, name: str) -> None:
    made = make_workspace(tmp_path)
    add_profiles(made, ["cpu0"])
    profile = made.place.profile("cpu0")
    (same,) = profiles_in(msgspec.json.encode([profile]), "a")
    assert same == profile
    strange = msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, id=name))
    for content in (msgspec.json.encode([profile, strange]), b"[{}]", b"\xff"):
        with pytest.raises(ArtefactError, match="What host a has measured"):
            profiles_in(content, "a")


def test_profiles_of_a_host_have_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agent has measured, and the way there; measured again, the way does not count twice."""
    made = make_workspace(tmp_path, [SHAPES])
    add_profiles(made, ["cpu0"])
    there = made.place.profile("cpu0")
    options = MeasureOptions("all", 1.0, 1, 1, accepts_noise=True, as_type=None, force=False)

    async def as_measured(*_: object) -> bytes:
        return msgspec.json.encode([there])

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            for _ in range(2):
                found.extend(await asyncio.wait_for(_measured(made.place, agent.address, options), PATIENCE_S))

    found: list[Profile] = []
    monkeypatch.setattr(crossings, "MAX_ECHO_BYTES", crossings.FIRST_BYTES)
    monkeypatch.setattr(Measurer, "measure", as_measured)
    run(test)
    assert len(found) == 2
    for profile in found:
        assert profile.device.id == profile.measured_on == "a/cpu0"
        assert profile.network is not None
        assert profile.network.row_bytes == {"shapes": 4 * (INPUTS + CLASSES)}, "float32"
        for here, later in zip(there.variants, profile.variants, strict=True):
            expected = [point.mean_s + profile.network.transfer_s("shapes", point.batch) for point in here.points]
            assert [point.mean_s for point in later.points] == pytest.approx(expected)
    assert made.place.profile("a/cpu0") == found[-1]


@pytest.mark.parametrize("asked", ["offered", "take"])
def test_measuring_ends_when_the_host_is_lost_while_it_gets_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    made = make_workspace(tmp_path)
    options = MeasureOptions("all", 1.0, 1, 1, accepts_noise=True, as_type=None, force=False)

    async def test() -> None:
        async with running_agent(tmp_path) as agent:

            async def is_lost(*_: object) -> None:
                agent.session.end("it is lost")

            monkeypatch.setattr(OfferedModels, asked, is_lost)
            with pytest.raises(HostLost, match=r"host a .* is lost"):
                await asyncio.wait_for(_measured(made.place, agent.address, options), PATIENCE_S)

    run(test)


def test_profiles_of_named_hosts_are_planned_for_beside_those_of_this_machine(tmp_path: Path) -> None:
    made = make_workspace(tmp_path)
    add_profiles(made, ["cpu0", "b/cpu1", "b/cpu0"])
    assert list(made.place.profiles()) == ["cpu0", "b/cpu0", "b/cpu1"]
    hosts = listed(tmp_path, '[hosts.b]\naddress = "127.0.0.1:7000"')
    planned = proteus("plan", "--demand", "10qps", "--cluster", hosts, "-w", tmp_path, "--json").document()
    assert {each for ids in planned["fleet"].values() for each in ids} == {"cpu0", "b/cpu0", "b/cpu1"}
    assert "profiles/b/cpu0.json" in planned["inputs"]


def test_free_memory_here_says_nothing_of_other_machines(tmp_path: Path) -> None:
    made = make_workspace(tmp_path)
    here, there = device(made, "cpu9"), device(made, "b/cpu9")
    limits = memory_limits(None, {"cpu9": here, "b/cpu9": there}, free_bytes=2**20)
    assert limits == {"cpu9": 2**19, "b/cpu9": there.memory_bytes // 2}


@pytest.mark.parametrize(
    "arguments",
    [
        *((*command, "--cluster-key", "k.pem") for command in (("plan",), ("profile",), ("devices",))),
        ("doctor", "--cluster-key", "k.pem"),
    ],
)
def test_options_of_a_cluster_are_refused_without_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert "is for devices of a cluster" in proteus(*arguments, "-w", tmp_path).refused()


def test_the_key_of_a_cluster_may_be_in_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTEUS_CLUSTER_KEY", "k.pem")
    assert proteus("devices", "-w", tmp_path).code == 0
