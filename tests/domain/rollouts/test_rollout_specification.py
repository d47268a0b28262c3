"""What a version roll-out may be started with."""

from typing import Any

import msgspec
import pytest

from proteus_cli.domain.rollouts.guard_terms import GuardMetric, Term
from proteus_cli.domain.rollouts.specification import RolloutSpecification


def test_the_defaults_are_a_specification_that_survives_json() -> None:
    specification = RolloutSpecification("digits", "digits-l", "digits-l@2")
    assert msgspec.json.decode(msgspec.json.encode(specification), type=RolloutSpecification) == specification
    assert specification.terms == (Term(GuardMetric.ACCURACY, "old", -0.005), Term(GuardMetric.P99, "slo"))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"new": "digits-l"}, "`digits-l` serves already"),
        ({"shadow_frac": 1.5}, "shadow_frac"),
        ({"canary_fracs": ()}, "1 to 10 canary steps"),
        ({"canary_fracs": (0.5, 1.0)}, "less than all"),
        ({"canary_fracs": (0.1, 0.1)}, "larger than the last"),
        ({"confidence": 1.0}, "confidence"),
        ({"rollback_window_s": -1.0}, "rollback_window_s"),
        ({"rollback_window_s": 1e308}, "from 0 to 2592000"),
        ({"most_queries": 0}, "most_queries"),
        ({"guard": "p99 <= old"}, "`p99` of the old version, at column 8"),
    ],
)
def test_what_makes_no_sense_is_an_error(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RolloutSpecification(**{"family": "digits", "old": "digits-l", "new": "digits-l@2"} | fields)
