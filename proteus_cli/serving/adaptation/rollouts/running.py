"""One version roll-out, as far as it has been brought about."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from proteus_cli.control.rollouts.version_rollout import Step, VersionRollout
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.profile import VariantProfile
from proteus_cli.domain.rollouts.status import Ending
from proteus_cli.serving.adaptation.rollouts.source import Candidate
from proteus_cli.serving.requests.version_arms import VersionArms

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between two tries to go back to the old version."""


@dataclass(slots=True, eq=False)
class Running:
    """Of the version ``new`` in place of ``old``; ``digest`` is that of its model.

    ``done`` is what was brought about last. The version ``is_held`` by the live catalog, ``is_twinned`` in plans, and
    ``is_named`` by the catalog file, as we wrote it; the old one is kept loaded from then on (``keeps_old``).
    ``nowhere_since_s``: since when no device has had it. ``without``: why devices are without it. ``problem``: the last
    one, which was logged. Where going back has failed, it is tried again at ``again_s``. ``changed`` is set where a
    person has said something.
    """

    machine: VersionRollout
    arms: VersionArms
    candidate: Candidate
    old: VariantKey
    new: VariantKey
    digest: str
    done: tuple[Step, Ending | None] | None = None
    measuring: "asyncio.Task[None] | None" = None
    measured: Mapping[str, VariantProfile] = field(default_factory=dict)
    is_held: bool = False
    is_twinned: bool = False
    is_named: bool = False
    keeps_old: bool = False
    is_over: bool = False
    nowhere_since_s: float | None = None
    without: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    pause_s: float = 0.0
    again_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def family(self) -> str:
        return self.old.family

    @property
    def is_done(self) -> bool:
        """It has ended well."""
        return self.machine.wanted.ending is Ending.DONE

    def could_not_go_back(self, now_s: float) -> None:
        """It is tried again after a pause that doubles."""
        self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self.again_s = now_s + self.pause_s

    def give_up(self) -> None:
        """End what runs in the background."""
        if self.measuring is not None:
            self.measuring.cancel()

    async def given_up(self) -> None:
        """End what runs in the background, and wait until it has ended."""
        self.give_up()
        if self.measuring is not None:
            await asyncio.gather(self.measuring, return_exceptions=True)
