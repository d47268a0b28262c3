"""How many hosts of each family the first solve for a new demand counts on, by its relaxation."""

import numpy as np
import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import make_instance
from proteus_cli.planning.placements.host_counts import likely_hosts

FAST, SLOW, OTHER = VariantKey("a", "fast"), VariantKey("a", "slow"), VariantKey("b", "other")
CATALOG = make_catalog(make_family("a", {"fast": 0.5, "slow": 0.9}), make_family("b", {"other": 0.8}))
MEASURED = (
    make_measured(*FAST, 0.5, {1: 0.01}),
    make_measured(*SLOW, 0.9, {1: 0.06}),
    make_measured(*OTHER, 0.8, {1: 0.06}),
)
PROFILES = {device: make_profile(device, *MEASURED) for device in map("cpu{}".format, range(8))}
INSTANCE = make_instance(CATALOG, PROFILES, "all", Rules())
"""SLO 100 ms: a batch of 60 ms is in time where 6 hosts share the queue."""


@pytest.mark.parametrize(
    ("replicas", "idle", "hosts"),
    [
        ({FAST: 0.3, OTHER: 6.2}, 1, [2, 8]),
        ({FAST: 1.0, OTHER: 6.0}, 1, [2, 7]),
        ({SLOW: 1.5}, 6, [6, 1]),
        ({SLOW: 1.5}, 2, [3, 1]),
        ({SLOW: 1.5, OTHER: 4.0}, 4, [6, 6]),
        ({SLOW: 1.5, OTHER: 4.0}, 3, [3, 6]),
    ],
)
def test_one_more_than_the_relaxation_has_or_so_many_that_slow_variants_are_in_time(
    replicas: dict[VariantKey, float], idle: int, hosts: list[int]
) -> None:
    """Idle devices join first where the fewest are missing, and only where they are enough."""
    by_choice = np.array([replicas.get(choice.key, 0.0) for choice in INSTANCE.choices])
    assert likely_hosts(INSTANCE, by_choice, idle).tolist() == hosts
