"""Checks of sure answers while serving: a more accurate variant is asked about some, once they have gone out.

A check is no request of a client: it has no outcome, nobody waits for it, and nothing is lost where it is forgotten, as
when its device is lost. A family has one at a time, with a copy of one row.
"""

import asyncio
import logging
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from proteus_cli.backends.base import OutputArrays
from proteus_cli.buffers import Buffer
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute, Checker, Launch
from proteus_cli.control.dispatch.checks import EveryNth
from proteus_cli.control.replanning.disagreement import DisagreementWatch
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.fleet.workers import Workers
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.answers.classes import class_of
from proteus_cli.serving.requests.answers.exits import is_cut
from proteus_cli.serving.requests.in_flight import AsideInFlight, InFlightRequest, nobody
from proteus_cli.units import format_percent

log = logging.getLogger("proteus.dataplane")


class CheckInFlight(AsideInFlight, frozen=False, gc=True, eq=False, kw_only=True):  # type: ignore[misc]  # as its base
    """The first row of a request that was answered by ``route`` alone, which has given it the class ``answer``."""

    route: CascadeRoute
    checker: Checker
    answer: int


class Checks:
    """Has every ``nth`` sure answer checked (0: none), where a device of ``workers`` is idle.

    Answers that may not be checked do not count. Where the family has a check already, the next answer is taken.
    """

    def __init__(
        self, controller: Controller, lifecycle: Lifecycle, workers: Workers, clock: Callable[[], float], *, nth: int
    ) -> None:
        self._controller, self._lifecycle, self._workers, self._clock = controller, lifecycle, workers, clock
        self._due = EveryNth(nth)
        self.running: dict[str, CheckInFlight] = {}  # by family, also those about to start

    def saw(self, request: InFlightRequest, route: CascadeRoute, outputs: OutputArrays) -> None:
        """A first stage is sure of its answer to all rows of a request, which goes out now."""
        checker, first = route.checker, route.stage.key
        if checker is None or not self._may_check(request) or not self._due.is_due(first):
            return
        answer = class_of(outputs) if request.family not in self.running else None
        if answer is None:  # the next one will do
            return
        self._due.taken(first)
        now_s = self._clock()
        check = CheckInFlight(
            request.id, request.family, now_s, now_s + request.slo_s, done=nobody, inputs=_first_row(request),
            of=self, route=route, checker=checker, answer=answer,
        )  # fmt: skip
        self.running[request.family] = check
        asyncio.get_running_loop().call_soon(self._start, check)  # the answer goes out first

    def answered(self, launch: Launch, result: BatchResult) -> None:
        """The variant that checks has an answer; where it is cut short or is no class, it tells nothing."""
        (check,) = launch.requests
        assert isinstance(check, CheckInFlight)  # noqa: S101 - a batch of a check has nothing else
        self.forget(check)
        found = None if result.failures or is_cut(result.notes) else class_of(result.outputs)
        if found is None:
            return
        cascades, route = self._controller.cascades, check.route
        if cascades.compared(route, disagrees=found != check.answer):
            _log_drift(check, cascades.disagreements[route.stage.key, check.checker.key])

    def forget(self, check: AsideInFlight) -> None:
        """A check has ended, with an answer or without."""
        check.has_ended = True
        check.release_inputs()
        self.running.pop(check.family, None)

    def failed(self, check: AsideInFlight) -> None:
        """The variant that checks has failed, which tells nothing."""
        self.forget(check)

    def forget_variants(self, keys: AbstractSet[VariantKey]) -> None:
        """Forget variants that are gone for good."""
        self._due.forget(keys)

    def _may_check(self, request: InFlightRequest) -> bool:
        """A live condition changes what exits answer, and who limits energy pays for no more."""
        is_limited = request.bounds is not None and request.bounds.is_energy_limited
        return not is_limited and request.family not in self._controller.stop_when

    def _start(self, check: CheckInFlight) -> None:
        is_ready, now_s = self._lifecycle.is_ready, self._clock()
        launch = self._controller.dispatch.check(check, check.checker.key, now_s) if is_ready else None
        if launch is None:
            self.forget(check)
        else:
            self._workers.run(launch)


def _first_row(request: InFlightRequest) -> tuple[Buffer, ...]:
    """A copy, as the request ends before the check."""
    views = [memoryview(content).cast("B") for content in request.inputs]
    return tuple(bytes(view[: len(view) // request.rows]) for view in views)


def _log_drift(check: CheckInFlight, watch: DisagreementWatch) -> None:
    family, first, by = check.family, check.route.stage.key.variant, check.checker.key.variant
    told = fields(family=family, variant=first, by=by, checked=watch.checked, disagreed=watch.disagreed)
    if watch.drifts and check.checker.expected is not None:
        most = format_percent(check.checker.expected[1])
        text = "the confidence of %s drifts: %s gives another class in more than %s of its sure answers"
        log.warning(text, first, by, most, extra=told)
    else:
        log.info("the confidence of %s drifts no longer", first, extra=told)
