"""Plans for hosts whose networks carry less than their devices could answer."""

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis.conflict import irreducible_conflict
from proteus_cli.planning.analysis.explain import explain
from proteus_cli.planning.check import PlanCheckError, check_plan
from proteus_cli.planning.model.instance import make_instance
from proteus_cli.planning.networks import limits_of_hosts
from proteus_cli.planning.planner import Planner
from proteus_cli.serving.devices.remote.measuring import reached_over

CATALOG = make_catalog(make_family("a", {"s": 0.7, "l": 0.9}), make_family("b", {"m": 0.8}))
MEASURED = (
    make_measured("a", "s", 0.7, {1: 0.01}),
    make_measured("a", "l", 0.9, {1: 0.02}),
    make_measured("b", "m", 0.8, {1: 0.01}),
)
"""100 and 50 qps of ``a``, 100 qps of ``b``."""
NARROW = Network(0.0, 120_000.0, {"a": 1000, "b": 100})
"""Plans may use 60 kB/s: 60 qps of ``a``."""


def profiles_of(devices: str, network: Network | None = NARROW) -> dict[str, Profile]:
    """Those on a host are reached over the network, in no time."""
    return {
        device: msgspec.structs.replace(make_profile(device, *MEASURED), network=network if "/" in device else None)
        for device in devices.split()
    }


def planner(devices: str, network: Network | None = NARROW, rules: Rules | None = None) -> Planner:
    return Planner(
        CATALOG, profiles_of(devices, network), policy_named("proteus"), headroom=1.0, inputs={}, rules=rules
    )


def test_a_host_answers_what_its_network_carries() -> None:
    """Two devices could answer 200 qps; the network carries 60."""
    plan = planner("x/cpu0 x/cpu1")({"a": 200.0})
    assert plan.served_qps["a"] == pytest.approx(60.0)
    assert {p.variant for p in plan.placements} == {"l"}, "time is left to be accurate"


def test_small_queries_go_where_the_network_is_narrow() -> None:
    """The only device of this machine answers the large ones."""
    plan = planner("cpu0 x/cpu0")({"a": 100.0, "b": 100.0})
    assert {(p.device, p.family) for p in plan.placements} == {("cpu0", "a"), ("x/cpu0", "b")}
    assert plan.shortfall_qps == pytest.approx(0.0, abs=1e-6)


def test_each_host_has_a_network_of_its_own() -> None:
    assert planner("x/cpu0 y/cpu0")({"a": 200.0}).served_qps["a"] == pytest.approx(120.0)


def test_headroom_has_to_fit_the_network_too() -> None:
    roomy = planner("x/cpu0 x/cpu1").with_changes(headroom=1.5)
    assert roomy.serves_all({"a": 40.0}) is True
    assert roomy.serves_all({"a": 41.0}) is False


def test_what_survives_a_host_fits_the_networks_of_the_others() -> None:
    """Without x, y carries 60 qps, however fast its devices are."""
    rules = Rules(survive=1, survive_unit="host")
    plan = planner("x/cpu0 x/cpu1 y/cpu0 y/cpu1", rules=rules)({"a": 100.0})
    assert plan.served_qps["a"] == pytest.approx(60.0)


def test_the_way_there_makes_batches_smaller() -> None:
    """Of 100 ms with one host, half is for the batch: 4 rows take 40 ms here, and 60 ms over the network."""
    catalog = make_catalog(make_family("a", {"s": 0.7}))
    here = make_profile("x/cpu0", make_measured("a", "s", 0.7, {1: 0.01, 2: 0.02, 4: 0.04}))
    far = reached_over(Network(0.0, 1e6, {"a": 5000}), here)
    batches = [
        Planner(catalog, {"x/cpu0": profile}, policy_named("proteus"), headroom=1.0, inputs={})({"a": 10.0})
        .placements[0]
        .max_batch
        for profile in (here, far)
    ]
    assert batches == [4, 2]


@pytest.mark.parametrize(
    "rules", [Rules(prefer={"a": "energy"}), Rules(max_energy_j={"a": 0.08})], ids=["preferred", "limited"]
)
def test_the_way_there_takes_no_energy(rules: Rules) -> None:
    """A query takes 10 ms of either device: 0.1 J here, and 0.06 J there, where it is 10 ms on its way, too."""
    catalog = make_catalog(make_family("a", {"s": 0.7}))
    here = make_profile("cpu0", make_measured("a", "s", 0.7, {1: 0.01}, power_w=10.0))
    alike = make_profile("x/cpu0", make_measured("a", "s", 0.7, {1: 0.01}, power_w=6.0))
    profiles = {"cpu0": here, "x/cpu0": reached_over(Network(0.01, 1e9, {}), alike)}
    planned = Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)({"a": 30.0})
    assert planned.served_qps["a"] == pytest.approx(30.0)
    assert [p.device for p in planned.placements if p.rate_qps] == ["x/cpu0"]
    check_plan(planned, catalog, profiles)


def test_an_explanation_says_what_the_network_costs() -> None:
    of_one = planner("x/cpu0 x/cpu1")
    prices = {price.what: price for price in explain(of_one, of_one({"a": 200.0})).prices}
    price = prices["without “x: at most 58.6 KiB per second over its network”"]
    assert price.kind == "network"
    assert price.unserved_qps == pytest.approx(-140.0)


def test_a_conflict_names_the_network() -> None:
    of_one = planner("x/cpu0 x/cpu1")
    named = ("a: serve 100 qps", "x: at most 58.6 KiB per second over its network")
    assert irreducible_conflict(of_one, {"a": 100.0, "b": 1.0}) == named


def test_a_network_that_carries_all_leaves_the_model_as_it_is() -> None:
    """No row, no column and no group."""
    wide = Network(0.0, 1e9, {"a": 1000, "b": 100})
    sizes = []
    for network in (None, wide, NARROW):
        profiles = profiles_of("cpu0 cpu1 x/cpu0 x/cpu1 y/cpu0", network)
        instance = make_instance(CATALOG, profiles, "all", Rules())
        sizes.append((len(instance.groups), instance.network_choices.shape))
    assert sizes[0] == sizes[1]
    assert sizes[2][0] == 3, "this machine, x, y"
    assert limits_of_hosts(CATALOG, profiles_of("cpu0 x/cpu0", wide), Rules()) == {}


def test_a_plan_that_needs_more_than_a_network_carries_is_found() -> None:
    placement = make_placement("x/cpu0", "a", "s", rate_qps=61.0, capacity_qps=100.0, max_batch=1)
    with pytest.raises(PlanCheckError, match="x gets 61000 bytes per second over its network, and may get 60000"):
        check_plan(make_plan(placement), CATALOG, profiles_of("x/cpu0"))
