"""Log how far engines are that are built while a server starts or changes its plan."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proteus_cli.backends.base import OnBuildProgress
from proteus_cli.serving.logs import fields

EVERY_S = 10.0

log = logging.getLogger("proteus.hardware")


@contextmanager
def log_build(name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[OnBuildProgress]:
    """Log the progress of a build every `EVERY_S`. Never cancels the build."""
    due_s = clock() + EVERY_S

    def follow(now: str, done_frac: float) -> bool:
        nonlocal due_s
        if clock() >= due_s:
            due_s = clock() + EVERY_S
            log.info(
                "building %s: %.0f%%, %s", name, done_frac * 100, now,
                extra=fields(engine=name, done_frac=round(done_frac, 3)),
            )  # fmt: skip
        return True

    yield follow
