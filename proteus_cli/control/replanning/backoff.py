"""When to try again after a change of plan has failed."""

from collections.abc import Mapping

from proteus_cli.control.replanning.replan_rules import ReplanRequest

FIRST_S = 1.0
LONGEST_S = 30.0
NOTABLE_GROWTH = 1.25  # of a family's demand, for which another plan may be possible or needed


class Backoff:
    """A pause after failures: `FIRST_S` after one, twice as long after each further one in a row, up to `LONGEST_S`.

    A request that differs from the failed one need not wait: `NOTABLE_GROWTH` times the demand of some family, or other
    outages. So the same request is not tried over and over, and a new burst is answered.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until_s = 0.0
        self._failed: ReplanRequest | None = None

    def allows(self, wanted: ReplanRequest, now_s: float) -> bool:
        """Whether a request may be tried now."""
        return self._failed is None or now_s >= self.until_s or _differs(wanted, self._failed)

    def failed(self, wanted: ReplanRequest, now_s: float) -> None:
        """A request has failed."""
        self.until_s = now_s + min(FIRST_S * 2.0**self.failures, LONGEST_S)
        self.failures += 1
        self._failed = wanted

    def succeeded(self) -> None:
        """A plan was found and is in force."""
        self.failures, self.until_s, self._failed = 0, 0.0, None


def _differs(wanted: ReplanRequest, failed: ReplanRequest) -> bool:
    return wanted.without != failed.without or _exceeds(wanted.demand_qps, failed.demand_qps)


def _exceeds(demand_qps: Mapping[str, float], before_qps: Mapping[str, float]) -> bool:
    return any(qps > NOTABLE_GROWTH * before_qps.get(family, 0.0) for family, qps in demand_qps.items())
