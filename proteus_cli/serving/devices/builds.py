"""Engines that are built while a server starts or changes its plan: told in the log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proteus_cli.backends.build_context import OnBuildProgress
from proteus_cli.serving.logs import fields

EVERY_S = 10.0

log = logging.getLogger("proteus.hardware")


class BuildLog:
    """Says every 10 s how far a build is. It isn't ended, but goes with the process of its device."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    @contextmanager
    def watch(self, name: str) -> Iterator[OnBuildProgress]:
        """Follow the build of an engine."""
        due_s = self._clock() + EVERY_S

        def follow(now: str, done_frac: float) -> bool:
            nonlocal due_s
            if self._clock() >= due_s:
                due_s = self._clock() + EVERY_S
                log.info(
                    "building %s: %.0f%%, %s", name, done_frac * 100, now,
                    extra=fields(engine=name, done_frac=round(done_frac, 3)),
                )  # fmt: skip
            return True

        yield follow
