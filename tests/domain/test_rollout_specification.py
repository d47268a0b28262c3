"""What a version roll-out may be started with."""

from typing import Any

import msgspec
import pytest

from proteus_cli.domain.rollouts import DEFAULT_GUARD, GuardMetric, RolloutSpecification, Term, parse_guard
from proteus_cli.errors import UsageError


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
    ("text", "terms"),
    [
        ("accuracy>=old-0.5% and p99 <= slo", DEFAULT_GUARD),
        ("accuracy >= old + .01", (Term(GuardMetric.ACCURACY, "old", 0.01),)),
        ("errors <= old", (Term(GuardMetric.ERRORS, "old"),)),
        ("p95 <= 0.25s and errors <= 0", (Term(GuardMetric.P95, value=0.25), Term(GuardMetric.ERRORS))),
        ("agreement >= 97%", (Term(GuardMetric.AGREEMENT, value=0.97),)),
    ],
)
def test_a_command_line_has_a_short_form_of_guards(text: str, terms: tuple[Term, ...]) -> None:
    assert parse_guard(text) == terms
    assert parse_guard(" and ".join(map(str, terms))) == terms


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Invalid enum value ''"),
        ("acuracy >= old", "Invalid enum value 'acuracy'"),
        ("accuracy > old", "`accuracy > old` is no term"),
        ("p99 >= slo", "`p99` takes `<=`"),
        ("accuracy >= slo", "`accuracy` has no SLO"),
        ("p99 <= slo + 5ms", "`p99 <= slo [+] 5ms` is no term"),
        ("p99 <= old", "`p99` can't be compared with the old version"),
        ("agreement >= old", "`agreement` can't be compared"),
        ("accuracy >= old - 5ms", "could not convert string to float"),
        ("accuracy >= old - 1", "must be between -1 and 1"),
        ("accuracy >= nan", "must be more than 0 and at most 1"),
        ("accuracy >= 0", "must be more than 0 and at most 1"),
        ("p99 <= 30", "The duration `30` has no unit"),
        ("p99 <= 0ms", "must be more than 0"),
        ("errors <= 100%", "at least 0 and less than 1"),
        ("p99 <= slo or errors <= 1%", "is no term"),
    ],
)
def test_what_has_no_sound_test_is_no_term(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_guard(text)
