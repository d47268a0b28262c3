"""One version roll-out, as far as it has been brought about."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from proteus_cli.control.rollouts.version_rollout import VersionRollout
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.rollouts import Ending, RolloutStage, RolloutStatus, VersionPair
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.rollouts.source import Candidate
from proteus_cli.serving.measuring_time import tells_of_waits
from proteus_cli.serving.requests.version_arms import VersionArms

log = logging.getLogger("proteus.rollouts")

QUIET_S = 30.0
"""Without a query for so long, a roll-out tells that it learns nothing: the plan has other variants answer, or no query
comes."""
LONGEST_NOTE = 200

PUTTING_BACK = "the old version is being put back"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between two tries to go back to the old version."""


@dataclass(slots=True)
class Background:
    """What runs beside the steps: ``measuring`` the new version, which ``said`` something last; ``promoting`` it."""

    measuring: "asyncio.Task[None] | None" = None
    promoting: "asyncio.Task[None] | None" = None
    said: str = ""

    async def cancelled(self) -> None:
        """End all, and wait until it has ended. A roll-out that goes on begins it anew."""
        tasks = [task for task in (self.measuring, self.promoting) if task is not None]
        self.measuring = self.promoting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stopped(self, variant: str) -> None:
        """End measuring, and wait until what names the new version has ended, as it does soon where that is not wanted.

        What they fail of meanwhile is logged; the roll-out has its reason to end already.
        """
        tasks = {"measuring": self.measuring, "naming": self.promoting}
        if self.measuring is not None:
            self.measuring.cancel()
        self.measuring = self.promoting = None
        for what, task in tasks.items():
            (error,) = await asyncio.gather(task, return_exceptions=True) if task is not None else (None,)
            if isinstance(error, ProteusError):
                log.warning("%s %s failed, after its roll-out has ended: %s", what, variant, error.message)
            elif isinstance(error, Exception):
                log.error("a bug while %s %s", what, variant, exc_info=error)


@dataclass(slots=True)
class Retries:
    """Going back to the old version: where it has failed, it is tried again at ``again_s``, ``pause_s`` later."""

    pause_s: float = 0.0
    again_s: float = 0.0

    def failed(self, now_s: float) -> None:
        """The pause doubles."""
        self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self.again_s = now_s + self.pause_s


@dataclass(slots=True)
class Absence:
    """``since_s``: since when no device, or no plan, has had the new version. ``why``: by device, what prevents it."""

    since_s: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Running:
    """A running roll-out of the version ``new`` in place of ``old``; ``digest`` is that of its model.

    ``done`` is what was brought about last, ``measured`` what devices have shown. Plans are to ``have_both``
    versions. The catalog file, as written here, has the new one if it ``is_named``; from then on the old one is kept
    loaded (``keeps_old``).
    ``problem``: the last one, which was logged. ``changed`` is set where a person has said something, or promoting has
    ended.
    """

    machine: VersionRollout
    arms: VersionArms
    candidate: Candidate
    old: VariantKey
    new: VariantKey
    digest: str
    done: tuple[RolloutStage, int] | None = None
    measured: Mapping[str, VariantProfile] = field(default_factory=dict)
    have_both: bool = False
    is_named: bool = False
    keeps_old: bool = False
    is_over: bool = False
    problem: str = ""
    background: Background = field(default_factory=Background)
    retries: Retries = field(default_factory=Retries)
    absence: Absence = field(default_factory=Absence)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def family(self) -> str:
        return self.old.family

    @property
    def pair(self) -> VersionPair:
        """Both versions, with the share of the new one now."""
        return VersionPair(self.family, self.old.variant, self.new.variant, self.machine.wanted.share)

    @property
    def is_done(self) -> bool:
        """Whether the roll-out has ended well."""
        return self.machine.wanted.ending is Ending.DONE

    @property
    def goes_back(self) -> bool:
        """Whether the old version is being put back: the catalog and the planner may still have the new one."""
        return self.machine.wanted.ending not in {None, Ending.DONE} and not self.is_over

    def said(self, line: str) -> None:
        """Measuring has told something."""
        self.background.said = line[:LONGEST_NOTE]
        level = logging.INFO if tells_of_waits(line) else logging.DEBUG
        log.log(level, "measuring %s: %s", self.new.variant, line)

    def status(self, now_s: float) -> RolloutStatus:
        """What is told of it."""
        status = self.machine.status(now_s)
        return msgspec.structs.replace(status, note=self._waits_for(now_s) or status.note)

    def _waits_for(self, now_s: float) -> str:
        """What it waits for, where nothing seems to happen."""
        machine = self.machine
        if machine.wanted.ending is not None:
            return "" if self.is_over or self.is_done else self._puts_back()
        if machine.wanted.stage is RolloutStage.MEASURING:
            return self.background.said
        if machine.wanted.stage not in {RolloutStage.SHADOW, RolloutStage.CANARY}:
            return ""
        quiet_s = now_s - max(machine.since_s, self.arms.reached_s)
        if quiet_s < QUIET_S:
            return ""
        return f"no query has reached {self.old.variant} or {self.new.variant} for {quiet_s:.0f} s"

    def _puts_back(self) -> str:
        """That the old version does not serve alone yet; and why not, where that was tried in vain."""
        return f"{PUTTING_BACK}: {self.problem}"[:LONGEST_NOTE] if self.retries.pause_s else PUTTING_BACK
