"""What one of several servers can count on of a device that they share."""

from builders import make_measured, make_placement, make_plan, make_profile, near

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Host
from proteus_cli.control.devices.sharing import counted_s, shared_profile, with_shares
from proteus_cli.control.policies import policy_named
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog import VariantKey

PROFILE = make_profile("a/cpu0", make_measured("f", "v", 0.9, {1: 0.01, 4: 0.02}), memory_bytes=3000)


def test_a_shared_device_is_so_many_times_slower_and_has_so_much_less_memory() -> None:
    shared = shared_profile(PROFILE, 3)
    (points,) = (measured.points for measured in shared.variants)
    assert [(point.mean_s, point.p95_s, point.qps) for point in points] == [
        (near(0.03), near(0.03), near(100 / 3)), (near(0.06), near(0.06), near(200 / 3)),
    ]  # fmt: skip
    assert shared.device.memory_bytes == 1000
    assert shared.variants[0].load_s == PROFILE.variants[0].load_s
    assert shared_profile(PROFILE, 1) == PROFILE


def test_the_hosts_of_a_shared_device_are_slower() -> None:
    plan = make_plan(make_placement("a/cpu0", "f", "v", capacity_qps=100.0, max_batch=4), devices=("a/cpu0",))
    (host,) = hosted_by(plan, {"a/cpu0": shared_profile(PROFILE, 2)})
    assert isinstance(host, Host)
    assert host.latency(4) == near(0.04)


def test_the_capacities_of_a_plan_follow_the_number_of_servers() -> None:
    plan = make_plan(
        make_placement("a/cpu0", "f", "v", capacity_qps=100.0),
        make_placement("b/cpu0", "f", "v", capacity_qps=100.0),
        devices=("a/cpu0", "b/cpu0"),
    )
    shared = with_shares(plan, {"a/cpu0": 1}, {"a/cpu0": 4})
    assert [placement.capacity_qps for placement in shared.placements] == [25.0, 100.0]
    assert with_shares(shared, {"a/cpu0": 4}, {"a/cpu0": 1}) == plan


def test_a_wait_that_the_share_accounts_for_is_no_slowdown() -> None:
    assert counted_s(0.01, 0.0, 2) == near(0.02), "the other server had nothing to run"
    assert counted_s(0.01, 0.01, 2) == near(0.02)
    assert counted_s(0.01, 0.05, 2) == near(0.06), "the batches of the other server are longer"
    assert counted_s(0.01, 0.0, 1) == near(0.01)


def test_standbys_take_this_servers_part_of_the_memory() -> None:
    keys = [VariantKey("f", name) for name in ("v", "w", "x")]
    memory = DeviceMemory(2500, {key: Loadable(1000, 1.0, 4, 10.0) for key in keys})
    controller = Controller({"f": 1.0}, {"a/cpu0": 1, "cpu0": 1}, policy_named("proteus"), memory={"a/cpu0": memory})
    topology = controller.topology

    def kept() -> int:
        return len(topology.change.memory["a/cpu0"].kept(frozenset(keys), frozenset(keys[:1])))

    assert kept() == 1
    topology.share("a/cpu0", 2)
    assert kept() == 0
    topology.share("a/cpu0", 1)
    assert kept() == 1
    topology.share("cpu0", 2)  # it has no standbys
