"""When to try again to change the plan, after that failed."""

from collections.abc import Mapping

from proteus_cli.control.replan_rules import ReplanRequest

FIRST_S = 1.0
LONGEST_S = 30.0
MORE = 1.25


class Backoff:
    """Each failure in a row doubles the pause, from `FIRST_S` up to `LONGEST_S`.

    What asks for something else than what failed need not wait: `MORE` times the demand of a family, or other devices
    or engines to be planned around. So the same question isn't asked over and over, and a new burst is answered.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until_s = 0.0
        self._failed: ReplanRequest | None = None

    def allows(self, wanted: ReplanRequest, now_s: float) -> bool:
        """Whether that may be tried now."""
        return self._failed is None or now_s >= self.until_s or _is_other(wanted, self._failed)

    def failed(self, wanted: ReplanRequest, now_s: float) -> None:
        """That was tried, in vain."""
        self.until_s = now_s + min(FIRST_S * 2.0**self.failures, LONGEST_S)
        self.failures += 1
        self._failed = wanted

    def succeeded(self) -> None:
        """A plan was found and is in force."""
        self.failures, self.until_s, self._failed = 0, 0.0, None


def _is_other(wanted: ReplanRequest, failed: ReplanRequest) -> bool:
    return wanted.without != failed.without or _is_more(wanted.demand_qps, failed.demand_qps)


def _is_more(demand_qps: Mapping[str, float], before_qps: Mapping[str, float]) -> bool:
    return any(qps > MORE * before_qps.get(family, 0.0) for family, qps in demand_qps.items())
