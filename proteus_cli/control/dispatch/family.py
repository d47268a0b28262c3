"""One family: its queues by the hosts that may answer their requests."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from proteus_cli.control.decision import HostedVariant, Unfit
from proteus_cli.control.dispatch.canaries import standing_for_both
from proteus_cli.control.dispatch.eligibility import Eligibility, Routes
from proteus_cli.control.dispatch.request_queue import RequestQueue
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.policies import Assignment
from proteus_cli.control.replanning.demand import Counts
from proteus_cli.domain.request import Request

if TYPE_CHECKING:
    from proteus_cli.domain.rollouts import VersionPair

MAX_FREE_QUEUES = 16
"""With that many queues, only the sets of `Eligibility.lasting_within` get new ones: clients choose their bounds."""
GIVEN_UP = 0.5
"""The part of the rows that the attainment allows to fail which may be given up. The rest is for the unpredicted."""
MAX_SAVED, MAX_OWED = 1.0, 8.0
"""Rows: what was long ago does not count."""


class GiveUpBudget:
    """How many more rows may be given up: the attainment allows a part of all to fail.

    If rows of a batch of a multi-exit model go on after others have left it, the batch takes longer, and later requests
    with a short bound are given up. That is worth it only as long as the attainment is reached.
    """

    def __init__(self) -> None:
        self._left_rows = 0.0

    @property
    def is_left(self) -> bool:
        """Whether more rows may be given up."""
        return self._left_rows >= 0

    def answered(self, rows: int, attainment: float) -> None:
        """Count answered rows: their share of the rows that may fail is added."""
        self._left_rows = min(self._left_rows + GIVEN_UP * (1 - attainment) * rows, MAX_SAVED)

    def gave_up(self, rows: int) -> None:
        """Count rows that get no answer at all, though an idle device would have had the time for one."""
        self._left_rows = max(self._left_rows - rows, -MAX_OWED)


class FamilyState:
    """The queues of a family, and its counts of rows.

    Requests without bounds wait in the ``base`` queue, for all hosts. A queue for some of the hosts is opened when a
    request first needs it, and stays until the next plan: `Eligibility` says which may answer. Beyond
    `MAX_FREE_QUEUES`, a request may wait for fewer hosts than may answer it, so that no client can have queues made
    again and again. Deferred requests have queues of their own. With a ``version_pair``, so have canaries, and the
    base is without the new version. Hosts include standbys, on devices that host the family.

    ``rows`` wait or run, ``running`` of them by host, also of plans before: `Dispatch` counts both. ``was_lost``: all
    devices that hosted the family were lost, and no device has hosted it since. ``budget`` is for multi-exit models.
    ``placeable`` gives the variants that plans could place.
    """

    def __init__(
        self,
        counts: Counts,
        assignment: Assignment,
        answer_frac: float,
        placeable: Callable[[], Eligibility | None],
        workers: Mapping[str, WorkerState],
    ) -> None:
        self.counts, self._workers = counts, workers
        self.rows = 0
        self.running: defaultdict[HostedVariant, int] = defaultdict(int)
        self.was_lost = False
        self.budget = GiveUpBudget()
        self.version_pair: VersionPair | None = None
        self.hosts: tuple[HostedVariant, ...] = ()
        """The active hosts that usual requests are queued for, without the new version of a pair."""
        self.all_hosts: tuple[HostedVariant, ...] = ()
        """All active hosts, with both versions of a pair."""
        self._assignment, self._answer_frac, self._placeable = assignment, answer_frac, placeable
        self._eligibility = Eligibility()
        self._queues = dict[tuple[int, bool], RequestQueue]()  # by the set of hosts, and whether of deferred requests
        self.base = self._open(self._eligibility.everyone)

    @property
    def queues(self) -> Iterable[RequestQueue]:
        """The queues that are open, the base first."""
        return self._queues.values()

    @property
    def is_lost(self) -> bool:
        """No device that hosts the family is left, or the plan does without the family for that reason."""
        return self.base.is_lost or self.was_lost

    def unfit(self, request: Request) -> Unfit:
        """The accuracies and energies that are on offer to a request that no host fits."""
        known = self._eligibility
        if request.bounds is None:
            return Unfit(known.available)
        available = known.available if request.bounds.version is None else known.available_of_all
        return Unfit(available, known.expected, known.energy_j(request))

    @property
    def waiting(self) -> int:
        """Requests in all queues."""
        return sum(map(len, self.queues))

    @property
    def waiting_rows(self) -> int:
        """Rows of all admitted requests that are in no batch."""
        return self.rows - sum(self.running.values())

    # --- requests

    def queue_for(self, request: Request) -> RequestQueue | None:
        """The queue in which a request waits or would wait; None if it is not open, or no host may answer."""
        return self._queues.get((self._waits_for(request), request.is_deferred))

    def open(self, request: Request) -> RequestQueue | None:
        """Open the queue that a request needs; None if it is open already, or no host may answer."""
        hosts = self._waits_for(request)
        if not hosts or (hosts, request.is_deferred) in self._queues:
            return None
        return self._open(hosts, is_deferred=request.is_deferred)

    def remove(self, request: Request) -> bool:
        """Remove a request that waits; False if it does not wait."""
        queue = self.queue_for(request)
        return queue is not None and queue.remove(request)

    def drain(self) -> list[Request]:
        """Remove and return all requests that wait."""
        return [request for queue in self.queues for request in queue.drain()]

    def drain_lost(self) -> list[Request]:
        """Remove and return the deferred requests that only lost devices could answer."""
        return [each for queue in self.queues if queue.is_deferred and queue.is_lost for each in queue.drain()]

    def rows_before(self, request: Request, queue: RequestQueue) -> int:
        """Rows that run on the hosts of a queue, or that these take before a request there.

        A part of the rows in other queues counts: the part of a queue's capacity that these hosts have. Both arms share
        their devices, so for canaries all rows count.
        """
        level = request.level
        if queue is self.base or queue.is_of_canaries:
            return self.rows - sum([each.rows_up_to(math.inf) - each.rows_up_to(level) for each in self.queues])
        mine = {(host.device, host.variant) for host in queue.hosts}
        rows = float(sum([n for host, n in self.running.items() if (host.device, host.variant) in mine]))
        for each in self.queues:
            if waiting := each.rows_up_to(level):
                taking = [of for of in each.classes if not of.is_reserved]
                shared = [of for of in taking if (of.host.device, of.host.variant) in mine]
                capacity_qps = sum([of.capacity_qps for of in taking])
                part = sum([of.capacity_qps for of in shared]) / capacity_qps if capacity_qps > 0 else 1.0
                rows += waiting * (1.0 if each is queue else part)
        return math.ceil(rows)

    # --- hosts

    def rehost(
        self, hosts: Sequence[HostedVariant], standbys: Sequence[HostedVariant], routes: Routes
    ) -> list[Request]:
        """From now on ``hosts`` share what waits, with cascades; returns the requests that none of them may answer."""
        waiting, pair = self.drain(), self.version_pair
        if pair is not None and any(host.variant == pair.old for host in hosts):
            hosts = standing_for_both(hosts, pair)
        else:
            pair = None
        if not hosts or any(host.preference_rank is not None for host in hosts):  # it does not prefer accuracy
            standbys = ()
        has_new = self._has_new(hosts)
        self._eligibility = known = Eligibility([*hosts, *standbys], routes, pair, has_new=has_new)
        self.all_hosts = tuple(hosts)
        for host in [host for host, rows in self.running.items() if not rows]:
            del self.running[host]
        self._queues = {}
        self.base = self._open(known.everyone)
        self.hosts = tuple(host for host in self.base.hosts if not host.is_standby)
        if known.canary:  # also while no request is a canary: shadows run there
            self._open(known.canary)
        return [request for request in waiting if not self.wait_again(request)]

    def wait_again(self, request: Request) -> bool:
        """Queue a request where it belongs now; False if no host may answer it."""
        self.open(request)
        queue = self.queue_for(request)
        if queue is None or not queue.classes:
            return False
        queue.push(request)
        return True

    def serves(self, variant: str) -> bool:
        """Whether a serving device hosts the variant, for some requests at least."""
        return self._has(self.all_hosts, variant)

    def keeps_bounds(self, request: Request, variant: str) -> bool:
        """Whether a variant may answer a request by its bounds, and an idle host of it within its time."""
        within_s = request.deadline_s - request.arrival_s
        hosts = self._eligibility.hosts(self._eligibility.of_variant(request, variant))
        return any(host.least_latency(request.rows) <= within_s for host in hosts)

    def placeable_s(self, request: Request) -> tuple[float, float] | None:
        """`Eligibility.least_s` of all that plans could place; None if that is not known."""
        placeable = self._placeable()
        return None if placeable is None else placeable.least_s(request)

    def loses_new(self) -> bool:
        """Whether canaries have a queue, and the new version does not serve any more."""
        return bool(self._eligibility.canary) and not self._has_new(self.all_hosts)

    def _open(self, hosts: int, *, is_deferred: bool = False) -> RequestQueue:
        weight_of: Callable[[HostedVariant], float] | None = None
        if self._assignment == "early":
            weight_of = (lambda host: host.deferred_qps) if is_deferred else (lambda host: host.weight)
        elif self._assignment == "uniform":
            weight_of = lambda _: 0.0  # noqa: E731
        queue = self._queues[hosts, is_deferred] = RequestQueue(
            self._eligibility.hosts(hosts),
            self._workers,
            answer_frac=self._answer_frac,
            is_deferred=is_deferred,
            is_of_canaries=self._eligibility.has_new(hosts),
            weight_of=weight_of,
        )
        return queue

    def _has_new(self, hosts: Sequence[HostedVariant]) -> bool:
        """Whether the new version of the pair serves somewhere."""
        return self.version_pair is not None and self._has(hosts, self.version_pair.new)

    def _waits_for(self, request: Request) -> int:
        """The set of hosts that a request waits for: all eligible ones, or some of them if there are many queues."""
        found = self._eligibility.of(request)
        if (found, request.is_deferred) in self._queues or len(self._queues) < MAX_FREE_QUEUES:
            return found
        return self._eligibility.lasting_within(found)

    def _has(self, hosts: Sequence[HostedVariant], variant: str) -> bool:
        return any(host.variant == variant and self._workers[host.device].is_serving for host in hosts)
