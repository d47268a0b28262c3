"""The requests of a family while a version of one of its variants is rolled out: canaries, shadows, and what is seen.

Which arm a request is in, the key of its client decides; without one, its id, else chance. The guard of the
roll-out is told how a request has ended. A request that asks for a version is in no arm: clients choose their requests
to it. A request whose bounds the new version cannot keep is in no arm either. A part of the old version's answers is
*shadowed*: where a device of the new version is idle, it is asked about the first row, and the classes are compared.
Clients neither wait for that nor see it.
"""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from itertools import count

import msgspec

from proteus_cli.buffers import Buffer
from proteus_cli.control.controller import Controller
from proteus_cli.control.rollouts.guard import Arm, Guard
from proteus_cli.control.rollouts.version_rollout import CanaryArm
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.errors import EngineFailed
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.fleet.worker import Workers
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.requests.answers.answer_log import RolloutMark, class_of
from proteus_cli.serving.requests.answers.second_stages import is_cut
from proteus_cli.serving.requests.in_flight import (
    Answered,
    BackgroundRequest,
    InFlightRequest,
    Observer,
    Result,
    nobody,
)
from proteus_cli.serving.requests.query import Query

MAX_DUE = 100.0
"""Requests that are still to be shadowed, as another one was meanwhile: of more, the rest is left out."""


class ArmRequest(Observer):
    """A request in an arm. If it is to be shadowed, it keeps a copy of its first row: it ends before its shadow."""

    __slots__ = ("_arm", "_arms", "_arrived_s", "_first_row", "_is_shadowed", "mark")

    def __init__(
        self, arms: "VersionArms", arm: Arm, arrived_s: float, mark: RolloutMark | None, *, is_shadowed: bool
    ) -> None:
        self._arms, self._arm, self._arrived_s, self.mark = arms, arm, arrived_s, mark
        self._is_shadowed, self._first_row = is_shadowed, tuple[Buffer, ...]()

    def admitted(self, request: InFlightRequest) -> None:
        if self._is_shadowed:
            views = [memoryview(content).cast("B") for content in request.inputs]
            self._first_row = tuple(bytes(view[: len(view) // request.rows]) for view in views)

    def ended(self, result: Result | Exception) -> None:
        if not isinstance(result, Answered):
            self._arms.unanswered(self._arm, result)
            return
        self._arms.answered(result, self._arrived_s)
        if self._is_shadowed:
            self._arms.shadow(result, self._first_row, self.mark)


class VersionArms:
    """The arms of the versions ``old`` and ``new`` of a variant. ``workers`` run shadows.

    One of them has answered a query at ``reached_s``, the last time.
    """

    def __init__(
        self,
        old: VariantKey,
        new: VariantKey,
        guard: Guard,
        controller: Controller,
        lifecycle: Lifecycle,
        workers: Workers,
        clock: Callable[[], float],
    ) -> None:
        self._old, self._new, self._guard = old, new, guard
        self._controller, self._lifecycle, self._workers, self._clock = controller, lifecycle, workers, clock
        self._canaries = CanaryArm(new.variant, 0.0)
        self._shadow_share = self._shadow_due = 0.0
        self._others_by = Arm.OLD  # who answers all but the canaries
        self._shadow: BackgroundRequest | None = None
        self._rollout = object()
        self._numbers = count()
        self.reached_s = clock()

    def use(self, share: float, shadow_share: float) -> None:
        """From now on the new version is asked about that share of requests, and of the old one's answers."""
        self._canaries = CanaryArm(self._new.variant, share)
        self._shadow_share, self._others_by = shadow_share, Arm.OLD

    def use_fully(self) -> None:
        """From now on the new version answers all in place of the old one."""
        self.use(0.0, 0.0)
        self._others_by = Arm.NEW

    # --- requests

    def enter(
        self, query: Query, arrival_s: float | None, *, is_probe: bool
    ) -> tuple[Bounds | None, ArmRequest | None]:
        """The bounds of a request in its arm, and what observes it; None: it is in no arm."""
        bounds = query.options.bounds
        if bounds is not None and bounds.version is not None:
            return bounds, None
        arrived_s = self._clock() if arrival_s is None else arrival_s
        family = self._controller.families[query.family]
        if _has_bounds(query) and not family.keeps_bounds(_asking(query, arrived_s), self._new.variant):
            return bounds, None
        mark = RolloutMark(self._rollout) if query.id is not None else None
        if self._canaries.share and self._canaries.has(self._key(query)):
            bounds = Bounds(is_canary=True) if bounds is None else msgspec.structs.replace(bounds, is_canary=True)
            return bounds, ArmRequest(self, Arm.NEW, arrived_s, mark, is_shadowed=False)
        is_shadowed = not is_probe and self._is_shadow_due()
        return bounds, ArmRequest(self, self._others_by, arrived_s, mark, is_shadowed=is_shadowed)

    def labelled(self, key: VariantKey, mark: RolloutMark | None, label: int | None, score: float) -> None:
        """There is feedback of an answer of a variant; ``label`` of its first row, where it is of one.

        For requests in no arm of this roll-out the guard is told only that labels come.
        """
        self._guard.label_came()
        if mark is None or mark.rollout is not self._rollout:
            return
        if key == self._new:
            self._guard.labelled(Arm.NEW, score)
        elif key == self._old and label is not None and mark.shadow_class is not None:
            self._guard.labelled_shadow(score, float(mark.shadow_class == label))
        elif key == self._old:
            self._guard.labelled(Arm.OLD, score)

    def _key(self, query: Query) -> str:
        if query.options.client is not None:
            return f"client {query.options.client}"
        return f"request {query.id}" if query.id is not None else f"number {next(self._numbers)}"

    def answered(self, result: Answered, arrived_s: float) -> None:
        """A request that came at ``arrived_s`` has its answer."""
        key = result.batch.hosted.key
        if key in {self._old, self._new}:
            self.reached_s = self._clock()
            self._guard.answered(Arm.NEW if key == self._new else Arm.OLD, self.reached_s - arrived_s)

    def unanswered(self, arm: Arm, result: Result | Exception) -> None:
        """An arm's request has ended without an answer.

        The guard is not told where its version serves nowhere, or another one has failed.
        """
        version = self._new if arm is Arm.NEW else self._old
        is_failed = isinstance(result, EngineFailed)
        if isinstance(result, EngineFailed) and result.variant not in {"", version.variant}:
            return
        if self._controller.families[version.family].serves(version.variant):
            self._guard.answered(arm, None, is_failed=is_failed)

    # --- shadows

    def _is_shadow_due(self) -> bool:
        """Whether a request is to be shadowed. Where another one is, it is due later, so that the share holds."""
        if not self._shadow_share:
            return False
        self._shadow_due = min(self._shadow_due + self._shadow_share, MAX_DUE)
        if self._shadow is not None or self._shadow_due < 1:
            return False
        self._shadow_due -= 1
        return True

    def shadow(self, result: Answered, first_row: tuple[Buffer, ...], mark: RolloutMark | None) -> None:
        """Ask the new version about the first row of a request that the old one alone has answered."""
        answer, batch = class_of(result.outputs), result.batch
        if answer is None or batch.hosted.key != self._old or batch.staged is not None or self._shadow is not None:
            return
        now_s = self._clock()
        self._shadow = BackgroundRequest(
            0,
            self._new.family,
            now_s,
            now_s,
            done=nobody,
            inputs=first_row,
            ran=partial(self._shadow_ran, answer, mark),
        )
        asyncio.get_running_loop().call_soon(self._start, self._shadow)  # the answer goes out first

    def _start(self, shadow: BackgroundRequest) -> None:
        is_ready, now_s = self._lifecycle.is_ready, self._clock()
        launch = self._controller.dispatch.launch_if_idle(shadow, self._new, now_s) if is_ready else None
        if launch is None:
            self._forget_shadow()
        else:
            self._workers.run(launch)

    def _shadow_ran(self, answer: int, mark: RolloutMark | None, result: BatchResult | Exception | None) -> None:
        """The new version has answered a shadow, or failed on it; or the shadow is forgotten."""
        self._forget_shadow()
        if result is None:
            return
        found = None
        if isinstance(result, BatchResult) and not result.failures and not is_cut(result.notes):
            found = class_of(result.outputs)
        self._guard.shadowed(None if found is None else float(found == answer))
        if found is not None and mark is not None:
            mark.shadow_class = found

    def _forget_shadow(self) -> None:
        if self._shadow is not None:
            self._shadow.has_ended = True
            self._shadow.release_inputs()
            self._shadow = None


def _has_bounds(query: Query) -> bool:
    options = query.options
    return options.bounds is not None or options.min_accuracy > 0 or options.timeout_s is not None


def _asking(query: Query, arrived_s: float) -> Request:
    """The request of a query, with all the time that there is if it has no timeout."""
    options = query.options
    deadline_s = math.inf if options.timeout_s is None else arrived_s + options.timeout_s
    return Request(
        0, query.family, arrived_s, deadline_s, query.rows, min_accuracy=options.min_accuracy, bounds=options.bounds
    )
