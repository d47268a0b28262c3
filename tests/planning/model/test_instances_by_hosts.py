"""Instances that count on fewer hosts: other capacities, and all else as it was."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import scipy.sparse as sp
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.domain.capacity import capacity_at
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import Instance, make_instance

CATALOG = make_catalog(make_family("a", {"s": 0.7, "l": 0.9}), make_family("b", {"t": 0.8}))
SLOW_S, FAST_S = {1: 0.02, 4: 0.06, 8: 0.08}, {1: 0.01, 4: 0.03, 8: 0.05}
PROFILES = {
    f"{kind}{n}": make_profile(
        f"{kind}{n}",
        *(make_measured(f, v, a, s) for f, v, a in (("a", "s", 0.7), ("a", "l", 0.9), ("b", "t", 0.8))),
        device_type=kind,
    )
    for kind, s in (("cpu", SLOW_S), ("gpu", FAST_S))
    for n in range(4)
}
EVERY = make_instance(CATALOG, PROFILES, "all", Rules())


@pytest.mark.parametrize("hosts", [(1, 1), (2, 1), (3, 8), (8, 8), (5, 0)])
def test_capacities_are_those_of_so_many_hosts_of_the_family(hosts: tuple[int, int]) -> None:
    few = EVERY.with_hosts(np.array([3, 3])).with_hosts(np.array(hosts))
    expected = [capacity_at(choice.capacity_steps, hosts[choice.family]) for choice in EVERY.choices]
    assert [*few.capacities] == expected
    assert few.capacity_qps.tolist() == [capacity.qps for capacity in expected]
    assert few.hosts == hosts


@pytest.mark.parametrize(
    "name", [n for n, each in vars(Instance).items() if isinstance(each, cached_property) and n != "last_step_ways"]
)
def test_what_is_computed_once_does_not_depend_on_hosts(name: str) -> None:
    few = EVERY.with_hosts(np.array([1, 2]))
    once, anew = getattr(few, name), getattr(replace(few, whole=None), name)
    both = [each.toarray() if sp.issparse(each) else each for each in (once, anew)]
    np.testing.assert_array_equal(*both)
    assert getattr(few, name) is once
