"""How many hosts of each family the first solve for a demand counts on."""

import numpy as np
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_profile

from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.plan.plan import Placement
from proteus_cli.domain.plan.rules import Rules
from proteus_cli.planning.model.hosted_now import NOWHERE, Now
from proteus_cli.planning.model.instance import make_instance
from proteus_cli.planning.placements.host_counts import first_hosts

CATALOG = make_catalog(make_family("a", {"s": 0.7}), make_family("b", {"t": 0.8}))
MEASURED = (make_measured("a", "s", 0.7, {1: 0.01}), make_measured("b", "t", 0.8, {1: 0.01}))
PROFILES = {name: make_profile(name, *MEASURED) for name in ("x", "y", "z")}
INSTANCE = make_instance(CATALOG, PROFILES, "all", Rules())
ON_X = make_placement("x", "a", "s")
B_ON_Y = {"y": frozenset({VariantKey("b", "t")})}


@pytest.mark.parametrize(
    ("now", "start", "expected"),
    [
        (NOWHERE, None, [3, 3]),
        (NOWHERE, (ON_X,), [2, 1]),
        (NOWHERE, tuple(make_placement(device, "a", "s") for device in PROFILES), [3, 1]),
        (Now(B_ON_Y, B_ON_Y), (ON_X,), [1, 2]),
    ],
)
def test_one_more_than_now_or_than_without_cascades_is_counted_on(
    now: Now, start: tuple[Placement, ...] | None, expected: list[int]
) -> None:
    np.testing.assert_array_equal(first_hosts(INSTANCE, now, start, PROFILES, Rules()), expected)
