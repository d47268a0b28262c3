"""No request waits longer than the server lets it, whatever its client asks for."""

import pytest
from one_device import AT_ONCE_S, SLO_S, World, run

from proteus_cli.serving.requests.query import RequestOptions


@pytest.mark.parametrize(
    ("asked_s", "max_timeout_s", "granted_s"),
    [
        (3600.0, 60.0, 60.0),
        (1e12, 60.0, 60.0),
        (60.0, 60.0, 60.0),
        (5.0, 60.0, 5.0),
        (None, 60.0, SLO_S),
        (None, SLO_S / 2, SLO_S),
        (SLO_S * 3, SLO_S / 2, SLO_S),
    ],
    ids=["an hour", "for ever", "the maximum", "less", "none", "an SLO above the maximum", "more than such an SLO"],
)
def test_a_timeout_is_cut_to_the_maximum_or_the_slo(
    asked_s: float | None, max_timeout_s: float, granted_s: float
) -> None:
    async def asked(world: World) -> None:
        request = world.submit(1, 2, options=RequestOptions(timeout_s=asked_s))
        assert request.deadline_s - request.arrival_s == pytest.approx(granted_s)
        world.plane.admission.cancel(request)

    run(asked, AT_ONCE_S, max_timeout_s=max_timeout_s)
