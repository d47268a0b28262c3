"""What a version roll-out may be started with."""

import math
from typing import Any

import msgspec
import pytest
from short_forms import parse_guard

from proteus_cli.domain.rollouts import GuardMetric, RolloutSpecification, Term


def test_the_defaults_are_a_specification_that_survives_json() -> None:
    specification = RolloutSpecification("digits", "digits-l", "digits-l@2")
    assert msgspec.json.decode(msgspec.json.encode(specification), type=RolloutSpecification) == specification
    assert specification.guard == (Term(GuardMetric.ACCURACY, "old", -0.005), Term(GuardMetric.P99, "slo"))


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
        ({"guard": ()}, "one or more terms"),
        ({"guard": parse_guard("p99 <= slo and p99 <= 30ms")}, "at most one of each metric"),
    ],
)
def test_what_makes_no_sense_is_an_error(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RolloutSpecification(**{"family": "digits", "old": "digits-l", "new": "digits-l@2"} | fields)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"metric": "accuracy", "reference": "old", "value": -0.005}, "accuracy >= old - 0.005"),
        ({"metric": "errors", "reference": "old"}, "errors <= old"),
        ({"metric": "p99", "reference": "slo"}, "p99 <= slo"),
        ({"metric": "p95", "value": 0.25}, "p95 <= 250ms"),
        ({"metric": "agreement", "value": 0.97}, "agreement >= 0.97"),
    ],
)
def test_a_term_is_data_with_a_form_for_people(data: dict[str, Any], text: str) -> None:
    assert str(msgspec.convert(data, Term)) == text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"metric": "acuracy"}, "Invalid enum value 'acuracy'"),
        ({"metric": "accuracy", "reference": "slo"}, "`accuracy` has no SLO"),
        ({"metric": "p99", "reference": "slo", "value": 0.005}, "an SLO has no value"),
        ({"metric": "p99", "reference": "old"}, "`p99` can't be compared with the old version"),
        ({"metric": "agreement", "reference": "old"}, "`agreement` can't be compared"),
        ({"metric": "accuracy", "reference": "old", "value": -1.0}, "must be between -1 and 1"),
        ({"metric": "accuracy", "value": math.nan}, "must be more than 0 and at most 1"),
        ({"metric": "accuracy"}, "must be more than 0 and at most 1"),
        ({"metric": "p99"}, "must be more than 0"),
        ({"metric": "errors", "value": 1.0}, "at least 0 and less than 1"),
    ],
)
def test_what_has_no_sound_test_is_no_term(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(data, Term)
