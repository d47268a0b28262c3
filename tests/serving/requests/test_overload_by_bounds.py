"""Who asks for an accuracy that only busy hosts keep is told what else may have time."""

import contextlib

import pytest
from builders import make_placement
from two_stages import PLAN, TwoStages, plan_of, run

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.request import Bounds
from proteus_cli.errors import Overloaded
from proteus_cli.serving.requests.query import RequestOptions

ALONE = plan_of(make_placement("cpu1", "f", "l", max_batch=8, rate_qps=10.0, capacity_qps=400.0), cascades=())
"""`s` (0.8) and `l` (0.95), and no cascade."""
OVERLOADED = "more queries for `f` than the plan can carry"
S_MAY = "less accurate variants may have time: s (0.8)"


def refusal(options: RequestOptions, plan: Plan = ALONE) -> str:
    """What is said to the first request that is one too many."""
    found: list[str] = []

    async def fill(world: TwoStages) -> None:
        admitted = []
        try:
            while True:
                admitted.append(world.submit((1.0, 2.0), options=options))
        except Overloaded as error:
            found.append(error.message)
        for each in admitted:
            world.plane.admission.cancel(each)

    run(fill, plan)
    return found[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RequestOptions(min_accuracy=0.9), f"{OVERLOADED} with an accuracy of 0.9 or more; {S_MAY}"),
        (
            RequestOptions(bounds=Bounds(min_expected_accuracy=0.9)),
            f"{OVERLOADED} with an expected accuracy of 0.9 or more; {S_MAY}",
        ),
    ],
    ids=["of variants", "of the answer"],
)
def test_the_error_names_less_accurate_variants(options: RequestOptions, said: str) -> None:
    assert refusal(options) == said


@pytest.mark.parametrize(
    "options",
    [
        RequestOptions(),
        RequestOptions(min_accuracy=0.8),
        RequestOptions(priority=1),
        RequestOptions(min_accuracy=0.9, bounds=Bounds(max_energy_j=100.0)),
    ],
    ids=["nothing is asked for", "all are accurate enough", "no accuracy is asked for", "energy is limited, too"],
)
def test_nothing_is_named_where_nothing_else_could_be_had(options: RequestOptions) -> None:
    assert refusal(options) == OVERLOADED


def test_a_first_stage_that_reaches_the_expected_accuracy_is_not_named() -> None:
    """The composition has 0.925, so that requests for it begin at either variant."""
    assert refusal(RequestOptions(bounds=Bounds(min_expected_accuracy=0.92)), PLAN) == OVERLOADED


def test_who_lowers_the_bound_is_answered() -> None:
    async def lowered(world: TwoStages) -> None:
        asks, admitted = RequestOptions(min_accuracy=0.9), []
        with contextlib.suppress(Overloaded):
            while True:
                admitted.append(world.submit((1.0, 2.0), options=asks))
        lower = world.submit((1.0, 2.0), options=RequestOptions(min_accuracy=0.8))
        assert (lower.min_accuracy, lower.has_ended) == (0.8, False)
        for each in (*admitted, lower):
            world.plane.admission.cancel(each)

    run(lowered, ALONE)
