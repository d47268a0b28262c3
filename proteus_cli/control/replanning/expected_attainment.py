"""What the plans that were in force expected to be in time."""

from collections import defaultdict

from proteus_cli.domain.plan import Plan


class ExpectedAttainment:
    """What plans expect of each family, counted over the queries that these are for while they are in force."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._since_s = 0.0
        self._queries, self._in_time = defaultdict[str, float](float), defaultdict[str, float](float)

    def use(self, plan: Plan, now_s: float) -> None:
        """A plan comes into force."""
        self._count(now_s)
        self._plan, self._since_s = plan, now_s

    def mean(self, until_s: float) -> dict[str, float]:
        """By family, up to then; without those of which no plan expected anything."""
        self._count(until_s)
        return {family: self._in_time[family] / queries for family, queries in self._queries.items() if queries > 0}

    def counts(self, family: str, now_s: float) -> tuple[float, float]:
        """The queries of a family that plans expected anything of up to now, and how many of these in time."""
        self._count(now_s)
        return self._queries.get(family, 0.0), self._in_time.get(family, 0.0)

    def _count(self, until_s: float) -> None:
        if self._plan is not None and until_s > self._since_s:
            for family, qps in self._plan.demand_qps.items():
                share, queries = self._plan.expected_attainment_of(family), qps * (until_s - self._since_s)
                if share is not None:
                    self._queries[family] += queries
                    self._in_time[family] += share * queries
            self._since_s = until_s
