"""The requests of a family while a version of one of its variants is rolled out: canaries, shadows, and what is seen.

Which arm a request is in, the key of its client decides; without one, its id, else chance. What becomes of a request is
told to the guard of the roll-out, once it has ended. A request that asks for a version is in no arm, and nothing is
told of it, as clients choose what they ask of which version. Nor is one whose bounds the new version cannot keep: it
is answered as ever. A part of what the old version has answered is *shadowed*:
the new version is asked, too, about the first row, where a device of it is idle, and the classes are compared; nobody
waits for that, and nobody sees it.
"""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from itertools import count

import msgspec

from proteus_cli.buffers import Buffer
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Launch
from proteus_cli.control.rollouts.guard import Arm, Guard
from proteus_cli.control.rollouts.version_rollout import CanaryArm
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.errors import EngineFailed
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.fleet.workers import Workers
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.requests.answers.answer_log import RolloutMark
from proteus_cli.serving.requests.answers.classes import class_of
from proteus_cli.serving.requests.answers.exits import is_cut
from proteus_cli.serving.requests.in_flight import Answered, AsideInFlight, Result, ResultCallback, nobody
from proteus_cli.serving.requests.query import Inputs, Query, ReadInputs

MAX_DUE = 100.0
"""Requests that are still to be shadowed, as another one was meanwhile: of more, the rest is left out."""


class ShadowInFlight(AsideInFlight, frozen=False, gc=True, eq=False, kw_only=True):  # type: ignore[misc]  # as its base
    """The first row of a request to which the old version has given the class ``answer``."""

    answer: int
    mark: RolloutMark | None


class _Shadowed(msgspec.Struct, gc=False):
    """A request that is to be shadowed; its first row, once its tensors are read."""

    mark: RolloutMark | None
    inputs: tuple[Buffer, ...] = ()


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
        self._others_by = Arm.OLD  # who answers those that are no canaries
        self._shadow: ShadowInFlight | None = None
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
        self, query: Query, read_inputs: ReadInputs | None, done: ResultCallback, arrival_s: float | None
    ) -> tuple[Bounds | None, ReadInputs | None, ResultCallback, RolloutMark | None]:
        """The bounds of a request in its arm, what is to be called for it, and its mark where labels may tell of it."""
        bounds = query.options.bounds
        if bounds is not None and bounds.version is not None:
            return bounds, read_inputs, done, None
        arrived_s = self._clock() if arrival_s is None else arrival_s
        family = self._controller.families[query.family]
        if _has_bounds(query) and not family.keeps_bounds(_asking(query, arrived_s), self._new.variant):
            return bounds, read_inputs, done, None
        mark = RolloutMark(self._rollout) if query.id is not None else None
        if self._canaries.share and self._canaries.has(self._key(query)):
            bounds = Bounds(is_canary=True) if bounds is None else msgspec.structs.replace(bounds, is_canary=True)
            return bounds, read_inputs, partial(self._canary_ended, done, arrived_s), mark
        shadowed = self._to_shadow(mark) if read_inputs is not None else None
        if shadowed is not None and read_inputs is not None:
            read_inputs = partial(_read, shadowed, read_inputs, query.rows)
        return bounds, read_inputs, partial(self._other_ended, done, arrived_s, shadowed), mark

    def labelled(self, key: VariantKey, mark: RolloutMark | None, label: int | None, score: float) -> None:
        """There is feedback of an answer of a variant; ``label`` of its first row, where it is of one.

        Of requests that were in no arm of this roll-out, the guard is told that labels come, and nothing else: of those
        that came before it began, or in another one of the same versions; that asked for a version, or for what the new
        one cannot keep.
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

    def _canary_ended(self, done: ResultCallback, arrived_s: float, result: Result) -> None:
        done(result)
        if isinstance(result, Answered):
            self._answered(result, arrived_s)
        else:
            self._unanswered(Arm.NEW, result)

    def _other_ended(self, done: ResultCallback, arrived_s: float, shadowed: _Shadowed | None, result: Result) -> None:
        done(result)
        if not isinstance(result, Answered):
            self._unanswered(self._others_by, result)
            return
        self._answered(result, arrived_s)
        is_whole = result.batch.hosted.key == self._old and result.batch.staged is None
        if shadowed is not None and is_whole and shadowed.inputs:
            self._begin_shadow(result, shadowed)

    def _answered(self, result: Answered, arrived_s: float) -> None:
        key = result.batch.hosted.key
        if key in {self._old, self._new}:
            self.reached_s = self._clock()
            self._guard.answered(Arm.NEW if key == self._new else Arm.OLD, self.reached_s - arrived_s)

    def _unanswered(self, arm: Arm, result: Result) -> None:
        """An arm's request has ended without an answer.

        Where its version serves nowhere, others were to answer, and nothing is told; nor is it where another failed.
        """
        version = self._new if arm is Arm.NEW else self._old
        is_failed = isinstance(result, EngineFailed)
        if isinstance(result, EngineFailed) and result.variant not in {"", version.variant}:
            return
        if self._controller.families[version.family].serves(version.variant):
            self._guard.answered(arm, None, is_failed=is_failed)

    # --- shadows

    def _to_shadow(self, mark: RolloutMark | None) -> _Shadowed | None:
        """Whether a request is to be shadowed. Where another one is, it is due later, so that the share holds."""
        if not self._shadow_share:
            return None
        self._shadow_due = min(self._shadow_due + self._shadow_share, MAX_DUE)
        if self._shadow is not None or self._shadow_due < 1:
            return None
        self._shadow_due -= 1
        return _Shadowed(mark)

    def _begin_shadow(self, result: Answered, shadowed: _Shadowed) -> None:
        answer = class_of(result.outputs)
        if answer is None or self._shadow is not None:
            return
        now_s = self._clock()
        self._shadow = ShadowInFlight(
            0, self._new.family, now_s, now_s, done=nobody, inputs=shadowed.inputs,
            of=self, answer=answer, mark=shadowed.mark,
        )  # fmt: skip
        asyncio.get_running_loop().call_soon(self._start, self._shadow)  # the answer goes out first

    def _start(self, shadow: ShadowInFlight) -> None:
        is_ready, now_s = self._lifecycle.is_ready, self._clock()
        launch = self._controller.dispatch.launch_if_idle(shadow, self._new, now_s) if is_ready else None
        if launch is None:
            self.forget(shadow)
        else:
            self._workers.run(launch)

    def answered(self, launch: Launch, result: BatchResult) -> None:
        """The new version has an answer to a shadow."""
        (shadow,) = launch.requests
        assert isinstance(shadow, ShadowInFlight)  # noqa: S101 - a batch of a shadow has nothing else
        found = None if result.failures or is_cut(result.notes) else class_of(result.outputs)
        self.forget(shadow)
        if found is None:
            self._guard.shadowed(None)
            return
        self._guard.shadowed(float(found == shadow.answer))
        if shadow.mark is not None:
            shadow.mark.shadow_class = found

    def failed(self, shadow: AsideInFlight) -> None:
        """The new version has failed on a shadow."""
        self._guard.shadowed(None)
        self.forget(shadow)

    def forget(self, shadow: AsideInFlight) -> None:
        """A shadow has ended without an answer, as its device is lost or not idle."""
        shadow.has_ended = True
        shadow.release_inputs()
        self._shadow = None


def _has_bounds(query: Query) -> bool:
    options = query.options
    return options.bounds is not None or options.min_accuracy > 0 or options.timeout_s is not None


def _asking(query: Query, arrived_s: float) -> Request:
    """What a query asks of its answer; without a timeout, it has all the time that there is."""
    options = query.options
    deadline_s = math.inf if options.timeout_s is None else arrived_s + options.timeout_s
    return Request(
        0, query.family, arrived_s, deadline_s, query.rows, min_accuracy=options.min_accuracy, bounds=options.bounds
    )


def _read(shadowed: _Shadowed, read_inputs: ReadInputs, rows: int) -> Inputs:
    """Read the tensors, and keep a copy of the first row, as the request ends before its shadow begins."""
    inputs = read_inputs()
    views = [memoryview(content).cast("B") for content in inputs]
    shadowed.inputs = tuple(bytes(view[: len(view) // rows]) for view in views)
    return inputs
