"""What `proteus plan` says of a plan that the time limit has kept from being proven the best."""

from proteus_cli.cli.plan_tables import proven
from proteus_cli.domain.plan import Solver


def test_the_demand_that_may_be_servable_beyond_the_plan_is_named() -> None:
    said = proven(Solver("HiGHS", "time limit", 0.0123, 1.0, 0.0027))
    assert (
        said
        == "the plan is within 1.23% of the best, and at most 0.27% of the demand could be served beyond what it serves"
    )


def test_a_plan_that_serves_all_it_can_is_compared_by_its_other_objectives() -> None:
    assert proven(Solver("HiGHS", "time limit", 0.0123, 1.0, 0.0)) == "the plan is within 1.23% of the best"
