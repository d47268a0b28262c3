import pytest
from synthetic_runs import answer, reported

from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.errors import GateFailed, UsageError
from proteus_cli.reporting.gate import FIELDS, Gate, parse_gate

ONE_IN_FOUR = reported([answer(0.0), answer(1.0), answer(2.0), RequestRecord("digits", 3.0, Outcome.DROPPED)])
NOTHING_ANSWERED = reported([RequestRecord("digits", 0.0, Outcome.REJECTED)])


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("slo_violation_ratio>0.01", Gate("slo_violation_ratio", ">", 0.01)),
        (" effective_accuracy  <=  .9 ", Gate("effective_accuracy", "<=", 0.9)),
        ("latency_s.p99>=5e-2", Gate("latency_s.p99", ">=", 0.05)),
        ("goodput_qps<-1", Gate("goodput_qps", "<", -1.0)),
    ],
)
def test_reads_field_operator_and_number(text: str, gate: Gate) -> None:
    assert parse_gate(text) == gate


@pytest.mark.parametrize(
    "text", ["", "slo_violation_ratio", "late=3", "late>", ">3", "late>1>2", "late > 1 2", "late!>3"]
)
def test_refuses_what_is_not_a_gate(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    assert caught.value.exit_code == 2


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown field `accuracy`") as caught:
        parse_gate("accuracy<0.9")
    assert all(field in caught.value.hint for field in FIELDS)


@pytest.mark.parametrize("bound", ["many", "nan", "inf", "1%", "50ms"])
def test_a_bound_is_a_finite_number_in_base_units(bound: str) -> None:
    with pytest.raises(UsageError):
        parse_gate(f"late>{bound}")


@pytest.mark.parametrize("text", ["slo_violation_ratio>0.25", "slo_violation_ratio<0.25", "dropped>=2", "late<0"])
def test_passes_while_the_condition_does_not_hold(text: str) -> None:
    parse_gate(text).check(ONE_IN_FOUR)


@pytest.mark.parametrize("text", ["slo_violation_ratio>=0.25", "slo_violation_ratio<=0.25", "dropped>0", "served<4"])
def test_fails_where_the_condition_holds(text: str) -> None:
    with pytest.raises(GateFailed) as caught:
        parse_gate(text).check(ONE_IN_FOUR)
    assert caught.value.exit_code == 5


def test_the_failure_names_measured_value_and_bound() -> None:
    with pytest.raises(GateFailed, match=r"slo_violation_ratio>0\.01.*`proteus` measured 0\.25"):
        parse_gate("slo_violation_ratio>0.01").check(ONE_IN_FOUR)


@pytest.mark.parametrize("text", ["effective_accuracy<0.5", "latency_s.p99>1"])
def test_a_value_that_was_never_measured_passes_no_gate(text: str) -> None:
    with pytest.raises(GateFailed, match="has no"):
        parse_gate(text).check(NOTHING_ANSWERED)
