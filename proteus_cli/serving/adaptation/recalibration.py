"""Recalibration: profiles that have drifted are corrected, planned with, and where wanted written back."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from proteus_cli.control.devices.slowness import Correction, Drift, mean_ratio, rerated
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_inputs import PlanSource, ProfileStore
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

log = logging.getLogger("proteus.profiles")

CHECKS = 20
"""The looks at drift during the time for which it must last."""

MAX_SHOWN = 20
"""The corrections that the status shows."""


@dataclass(frozen=True, slots=True)
class AppliedCorrection:
    """A correction that was made (unix time)."""

    unix_s: float
    correction: Correction


class Recalibration:
    """Corrects profiles. ``is_recording``: they are written back to the workspace."""

    def __init__(
        self,
        drift: Drift,
        profiles: ProfileStore,
        plane: DataPlane,
        control_loop: ControlLoop,
        source: PlanSource,
        *,
        is_recording: bool,
    ) -> None:
        self.drift, self.is_recording = drift, is_recording
        self._profiles, self._dispatch, self._clock = profiles, plane.controller.dispatch, plane.clock
        self._control_loop, self._source = control_loop, source
        self._unwritten: set[str] = set()
        self.made: deque[AppliedCorrection] = deque(maxlen=MAX_SHOWN)
        self.corrections = 0
        self.problem: str | None = None

    async def watch(self) -> None:
        """Correct profiles that have drifted, until cancelled."""
        self.drift.due(self._clock())
        while True:
            await asyncio.sleep(self.drift.after_s / CHECKS)
            if corrections := self.drift.due(self._clock()):
                for device in dict.fromkeys(correction.device for correction in corrections):
                    self._correct(device, [each for each in corrections if each.device == device])
                await asyncio.to_thread(self.write)  # before plans that are made from them
                reason = "; ".join(map(_description, corrections))
                await self._control_loop.changed(reason, self._profiles, partial(rerated, corrections=corrections))
            elif await asyncio.to_thread(self.write):
                reason = "the corrected profiles are written"
                await self._control_loop.changed(reason, plan=lambda plan: plan, asks=False)

    def write(self) -> bool:
        """Write the profiles that have changed; whether any was written.

        May run in any thread. A failure is logged, and tried again later.
        """
        written = False
        for device in sorted(self._unwritten):
            try:
                self._profiles.write(device, self._source)
            except ProteusError as error:
                if self.problem is None:
                    log.error("can't write the profile of %s: %s", device, error.message)  # noqa: TRY400
                self.problem = error.message
                break
            self._unwritten.discard(device)
            self.problem, written = None, True
            log.info("wrote the profile of %s, as seen while serving", device, extra=fields(device=device))
        return written

    def _correct(self, device: str, corrections: Sequence[Correction]) -> None:
        self._profiles.correct(device, corrections)
        ratio = mean_ratio([each for correction in corrections for each in correction.estimates])
        self._dispatch.recalibrated(device, ratio)  # the slowness was learned from the same batches
        if self.is_recording:
            self._unwritten.add(device)
        for correction in corrections:
            self.made.append(AppliedCorrection(time.time(), correction))
            self.corrections += 1
            log.warning(
                "%s, for %.0f s: corrected the profile", _description(correction), self.drift.after_s,
                extra=fields(
                    family=correction.family, variant=correction.variant, device=device,
                    points={each.batch: round(each.ratio, 3) for each in correction.estimates},
                ),
            )  # fmt: skip


def _description(correction: Correction) -> str:
    return f"{correction.variant} on {correction.device} takes {correction.ratio:.2f} × the profiled times"
