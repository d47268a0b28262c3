"""Which hosts come first where a family prefers something else than accuracy, and what dispatch makes of it."""

from dataclasses import replace

import pytest
from builders import controller_hosting, hosted, make_request

from proteus_cli.control.decision import Admitted, HostedVariant
from proteus_cli.control.policies import policy_named
from proteus_cli.control.topology.hosting import ranked
from proteus_cli.domain.catalog import Preference
from proteus_cli.domain.cluster import Network

FAST = hosted("cpu0", variant="a-s", accuracy=0.8, latency_s={1: 0.010, 4: 0.020}, capacity_qps=200.0, power_w=9.0)
SLOW = hosted("cpu1", variant="a-l", accuracy=0.9, latency_s={1: 0.040, 4: 0.060}, capacity_qps=66.0, power_w=1.0)


def ranks(*hosts: HostedVariant, preferred: Preference) -> list[float]:
    return [host.rank for host in ranked(hosts, {"a": preferred})]


@pytest.mark.parametrize(
    ("preferred", "expected"), [("latency", [0.0, 0.0]), ("energy", [-1.0, 0.0]), ("cost", [0.0, 0.0])]
)
def test_hosts_that_take_less_come_first(preferred: Preference, expected: list[float]) -> None:
    """A query of a full batch takes 45 mJ of the fast one, and 15 mJ of the slow one."""
    assert ranks(FAST, SLOW, preferred=preferred) == expected


def test_without_a_preference_of_the_family_accuracy_counts() -> None:
    assert [host.rank for host in ranked([FAST, SLOW], {"b": "latency"})] == [0.8, 0.9]


def test_of_energy_only_what_measurements_may_be_off_by_is_alike() -> None:
    hosts = [hosted(latency_s={1: 0.010, 4: 0.020}, power_w=watts) for watts in (10.0, 10.9, 11.1)]
    assert ranks(*hosts, preferred="energy") == [0.0, 0.0, -1.0]


def test_the_way_to_a_host_takes_no_energy_of_it() -> None:
    """Of 20 ms, 12 are the way: the device takes 80 mJ of a full batch, and the one that is here 150."""
    there = replace(hosted(latency_s={1: 0.015, 4: 0.020}, power_w=10.0), network=Network(0.012, 1e9, {}))
    here = hosted(latency_s={1: 0.010, 4: 0.015}, power_w=10.0)
    assert ranks(here, there, preferred="energy") == [-1.0, 0.0]


def test_hosts_of_unknown_power_come_last() -> None:
    unknown = hosted(latency_s={1: 0.010, 4: 0.020})
    assert ranks(unknown, FAST, unknown, preferred="energy") == [-1.0, 0.0, -1.0]


def test_the_free_host_that_comes_first_in_the_preferred_order_is_asked() -> None:
    accurate = hosted("cpu1", variant="a-l", accuracy=0.9, latency_s={1: 0.040, 4: 0.060})
    fast = hosted("cpu0", variant="a-s", accuracy=0.8, latency_s={1: 0.010, 4: 0.020})
    for hosts, first in (((fast, accurate), "cpu1"), (ranked((fast, accurate), {"a": "latency"}), "cpu0")):
        controller = controller_hosting(*hosts, policy=policy_named("proteus"))
        assert controller.offer(make_request(0), 0.0) == Admitted((first,))
