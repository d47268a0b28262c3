"""The profile stays true: what has drifted is re-estimated, planned with, and where asked for written back."""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from proteus_cli import store
from proteus_cli.control.controller import Controller
from proteus_cli.control.drift import Correction, Drift, corrected_profile, rerated
from proteus_cli.domain.profile import Profile, Recorded
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.manual_plans import PlanSource
from proteus_cli.serving.adaptation.solver_process import SolverProcess
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.profiles")

CHECKS = 20  # times that drift is looked for while it must last
SHOWN = 20

Record = Callable[[Profile], None]
"""Writes a profile to the workspace. Raises `ArtefactError`."""


@dataclass(frozen=True, slots=True)
class AppliedCorrection:
    """A correction that was made (unix time)."""

    unix_s: float
    correction: Correction


class Recalibration:
    """Puts corrections in force: in ``profiles``, which all who plan and serve look into, in the lanes, in the solver.

    ``record`` is None where profiles aren't written back.
    """

    def __init__(
        self,
        drift: Drift,
        profiles: dict[str, Profile],
        controller: Controller,
        adaptation: ControlLoop,
        solver: SolverProcess | None,
        source: PlanSource,
        clock: Clock,
        *,
        record: Record | None,
    ) -> None:
        self.drift, self._profiles, self._controller, self._adaptation = drift, profiles, controller, adaptation
        self._solver, self._source, self._clock, self._record = solver, source, clock, record
        self._unwritten: set[str] = set()
        self.made: deque[AppliedCorrection] = deque(maxlen=SHOWN)
        self.corrections = 0
        self.problem: str | None = None

    @property
    def is_recording(self) -> bool:
        return self._record is not None

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.drift.after_s / CHECKS)
            corrections = self.drift.due(self._clock())
            if corrections:
                await self._correct(corrections)
            if self._unwritten:
                await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write back what has changed and isn't written, in any thread. What fails is said, and tried again later."""
        if self._record is None:
            return
        for device in sorted(self._unwritten):
            try:
                self._record(self._profiles[device])
            except ProteusError as error:
                if self.problem is None:
                    log.error("can't write the profile of %s: %s", device, error.message)  # noqa: TRY400
                self.problem = error.message
                return
            self._unwritten.discard(device)
            self.problem = None
            log.info("wrote the profile of %s, as seen while serving", device, extra=fields(device=device))

    async def _correct(self, corrections: Iterable[Correction]) -> None:
        by_device: dict[str, list[Correction]] = {}
        for correction in corrections:
            by_device.setdefault(correction.device, []).append(correction)
        for device, its in by_device.items():
            self._correct_device(device, its)
        every = [correction for its in by_device.values() for correction in its]
        reason = "; ".join(map(_told, every))
        plan = rerated(self._controller.plan, every)
        plan = msgspec.structs.replace(plan, inputs={**plan.inputs, **self._source.inputs(self._profiles)})
        if self._solver is not None:
            self._solver.use(self._source.replanner(plan, self._profiles))
        await self._adaptation.rerate(plan, reason)
        self._controller.replanning.ask(reason, self._clock())

    def _correct_device(self, device: str, corrections: list[Correction]) -> None:
        now = datetime.now(UTC)
        before = self._profiles[device]
        replaces = hashlib.sha256(store.to_json(before)).hexdigest()
        recorded = Recorded(now.isoformat(timespec="seconds"), replaces)
        after = msgspec.structs.replace(corrected_profile(before, corrections, recorded), made_by=store.made_by())
        self._profiles[device] = after
        self._controller.recalibrated(device, _mean_ratio(corrections))
        if self._record is not None:
            self._unwritten.add(device)
        for correction in corrections:
            self.drift.corrected(correction, after)
            self.made.append(AppliedCorrection(now.timestamp(), correction))
            self.corrections += 1
            log.warning(
                "%s, for %.0f s; counted with that from now on", _told(correction), self.drift.after_s,
                extra=fields(
                    family=correction.family, variant=correction.variant, device=device,
                    points={each.batch: round(each.ratio, 3) for each in correction.estimates},
                ),
            )  # fmt: skip


def _told(correction: Correction) -> str:
    return f"{correction.variant} on {correction.device} takes {correction.ratio:.2f} × the profiled times"


def _mean_ratio(corrections: list[Correction]) -> float:
    """Over the batches that were seen, which are those that the pace was learned from."""
    seen = [each for correction in corrections for each in correction.estimates if each.batches]
    return sum(each.ratio * each.batches for each in seen) / sum(each.batches for each in seen)
