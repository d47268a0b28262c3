"""Ends a solve early, as its process is told that a more urgent plan is wanted; the best one so far is the result."""

import math
import time

GRACE_S = 0.25
"""Time for a first point, where a solve has found none yet. Only the last of the planner's rounds gets it."""


class Interruption:
    """Whether the solve that runs in this process should end now. A process solves for one plan at a time.

    It is asked for by a signal handler, and looked at where the time limit of a solve is, too: by HiGHS's callback
    while it searches, and before each solve. From then on, the first point of each is enough, until ``ends_s``, by
    `time.perf_counter`.
    """

    def __init__(self) -> None:
        self.is_asked, self.ends_s = False, math.inf

    def ask(self) -> None:
        """End the solve that runs."""
        self.ends_s = min(self.ends_s, time.perf_counter() + GRACE_S)
        self.is_asked = True

    def forget(self) -> None:
        """Another solve begins."""
        self.is_asked, self.ends_s = False, math.inf


INTERRUPTION = Interruption()
