"""Whether the confidence of a first stage drifts: whether its sure answers are checked and found wrong too often.

Profiles tell by an upper bound, p, how often both variants give different classes. Each check is a bet against that:
where they disagree, the *evidence* is multiplied by q / p, else by (1 - q) / (1 - p), with q = `TIMES` · p. Before each
check it is raised to 1 where it is lower, so that a change shows whenever it comes. The confidence *drifts* once the
evidence reaches `ALARM_AT`, until it is back at 1. It is capped at `ALARM_AT`, so that an alarm ends once there is as
much evidence against it as there was for it.

**False alarms.** As long as a check disagrees with a probability of p at most, whatever came before, its factor is 1 in
the mean at most. So the evidence is an e-detector (J. Shin, A. Ramdas, A. Rinaldo, E-detectors: a nonparametric
framework for sequential change detection, 2022): its mean after n checks is n at most, and a false alarm takes
`ALARM_AT` checks in the mean at least. No number of rows has to be set beforehand, and p may differ from check to
check, as thresholds do. **Delay.** Where they disagree with a probability of q, an alarm takes (ln `ALARM_AT` +
ln (q / p)) / (q · ln (q / p) + (1 - q) · ln ((1 - q) / (1 - p))) checks in the mean at most, by Wald's identity.
"""

ALARM_AT = 1e6
"""A million checks are a hundred million sure answers, at one of a hundred: a day of 1,000 a second. That is if both
disagree as often as the profile allows at most, by the upper end of its interval."""
TIMES = 2.0
"""Twice as many as expected is what the test is best at; larger changes it finds sooner, in fewer checks."""


def raised(expected: float, times: float = TIMES) -> float:
    """The probability that is tested against an expected one: ``times`` that, and no nearer to 1 than half way."""
    return min(times * expected, (1 + expected) / 2)


def factor(expected: float, *, disagrees: bool) -> float:
    """What one check multiplies the evidence by; in the mean 1 where the ``expected`` part disagrees."""
    tested = raised(expected)
    return tested / expected if disagrees else (1 - tested) / (1 - expected)


class DisagreementWatch:
    """How many sure answers of a first stage were ``checked`` by one variant, and ``disagreed``; whether it ``drifts``.

    The evidence is forgotten, and the counts stay, when the models change.
    """

    __slots__ = ("_alarm_at", "checked", "disagreed", "drifts", "evidence")

    def __init__(self, alarm_at: float = ALARM_AT) -> None:
        self.checked = self.disagreed = 0
        self._alarm_at = alarm_at
        self.forget_evidence()

    def forget_evidence(self) -> None:
        """Begin anew, without drift."""
        self.evidence, self.drifts = 1.0, False

    def saw(self, disagrees: bool, expected: tuple[float, float] | None) -> bool:  # noqa: FBT001 - an observation
        """Count a check, in O(1); True where the confidence drifts from now on, or no longer.

        ``expected`` as in `Checker`; without it, nothing is evidence.
        """
        self.checked += 1
        self.disagreed += disagrees
        if expected is None or not 0 < expected[1] < 1:
            return False
        grown = max(self.evidence, 1.0) * factor(expected[1], disagrees=disagrees)
        self.evidence = min(grown, self._alarm_at)
        before, self.drifts = self.drifts, self.evidence > 1 if self.drifts else self.evidence >= self._alarm_at
        return self.drifts != before
