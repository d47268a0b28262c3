"""One family: its queues by accuracy."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from proteus_cli.control.decision import Host, Unfit
from proteus_cli.control.dispatch.fitness import Fitness, Routes
from proteus_cli.control.dispatch.patience import Patience
from proteus_cli.control.dispatch.queues.family_queue import FamilyQueue
from proteus_cli.control.dispatch.queues.host_class import HostClass, classes_of
from proteus_cli.control.dispatch.twins import Twins, standing_for_both, without_overflow_by
from proteus_cli.control.dispatch.workers import AccuracyTier, WorkerState
from proteus_cli.control.replanning.demand import Counts
from proteus_cli.domain.request import Request

MAX_FREE_TIERS = 16
"""With that many tiers, only the sets of `Fitness.lasting_within` get new ones, as clients choose their bounds."""


class FamilyState:
    """The accuracy tiers of a family, and its counts of rows.

    The ``base`` tier holds what any host may answer. A tier for a part of the hosts is opened when a request first
    needs it, and stays until the next plan: `Fitness` says which may answer. Beyond `MAX_FREE_TIERS`, a request may
    wait in the tier of a smaller part, so that no client can have tiers made again and again.
    Standbys answer the overflow of the base, and of canaries that ask for nothing.
    Deferred requests have tiers of their own: the plan's shares of these are others. ``new_queue`` makes a queue, by
    whether it is for deferred ones. With ``twins``, canaries have tiers, too, and the base is without the new version.
    ``rows`` wait or run, ``running`` of them by host, also of plans before: `Dispatch` alone counts both.
    ``was_lost``: all devices that hosted the family were lost, and no device has hosted it since. ``patience`` is for
    multi-exit models. ``placeable`` gives the variants that plans could place.
    """

    def __init__(
        self,
        counts: Counts,
        new_queue: Callable[[bool], FamilyQueue],
        placeable: Callable[[], Fitness | None],
    ) -> None:
        self.counts = counts
        self.rows = 0
        self.running: defaultdict[Host, int] = defaultdict(int)
        self.was_lost = False
        self.patience = Patience()
        self.base = AccuracyTier(new_queue(False), has_overflow=True)
        self._new_queue, self._placeable = new_queue, placeable
        self._fitness = Fitness()
        self.twins: Twins | None = None
        self.warm: Sequence[HostClass] = ()
        self._tiers: dict[int, AccuracyTier] = {self._fitness.everyone: self.base}  # by the set of their hosts
        self._deferred_tiers: dict[int, AccuracyTier] = {}
        self.tiers: tuple[AccuracyTier, ...] = (self.base,)  # those that are open, the base first

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts that usual requests are queued for; of twins, without the new version."""
        return self.base.queue.hosts

    @property
    def all_hosts(self) -> Sequence[Host]:
        """All hosts that any request may be queued for: of twins, those of both versions."""
        return self._fitness.all_hosts

    @property
    def is_lost(self) -> bool:
        """No device that hosts the family is left, or the plan does without the family for that reason."""
        return self.base.is_lost or self.was_lost

    def unfit(self, request: Request) -> Unfit:
        """What can be had in place of what a request asks for."""
        fitness = self._fitness
        if request.bounds is None:
            return Unfit(fitness.available)
        available = fitness.available if request.bounds.version is None else fitness.available_of_all
        return Unfit(available, fitness.expected, fitness.energy_j(request))

    @property
    def canary_tiers(self) -> list[AccuracyTier]:
        """The tiers that the new version of twins takes from."""
        return [tier for tier in self.tiers if tier.is_of_canaries]

    @property
    def waiting(self) -> int:
        """Requests in the queues of all open tiers."""
        return sum(len(tier.queue) for tier in self.tiers)

    @property
    def waiting_rows(self) -> int:
        """Rows of all admitted requests that are in no batch."""
        return self.rows - sum(self.running.values())

    def ran(self, host: Host, rows: int) -> None:
        """A batch of so many rows runs on a host, or does not any more where negative."""
        self.running[host] += rows
        if len(self.tiers) > 1:
            for tier in self.tiers[1:]:
                if (host.device, host.variant) in tier.placements:
                    tier.running += rows

    # --- requests

    def wait_again(self, request: Request, workers: Mapping[str, WorkerState]) -> bool:
        """Queue a request where it belongs now; False where no host may answer it."""
        self.open(request, workers)
        tier = self.tier_of(request)
        if tier is None or not tier.classes:
            return False
        tier.queue.push(request)
        return True

    def remove(self, request: Request) -> bool:
        """Remove a request that waits; False where it does not wait."""
        tier = self.tier_of(request)
        if tier is None or not tier.queue.remove(request):
            return False
        tier.changed()
        return True

    def drain(self) -> list[Request]:
        """Remove and return all requests that wait."""
        return [request for tier in self.tiers for request in tier.queue.drain()]

    def drain_lost(self) -> list[Request]:
        """Remove and return the deferred requests that only lost devices could answer."""
        return [each for tier in self.tiers if tier.is_of_deferred and tier.is_lost for each in tier.queue.drain()]

    def rows_before(self, request: Request, tier: AccuracyTier) -> int:
        """Rows that run on the workers of a tier, or that they take before a request there.

        Of the rows that wait in other tiers, no more count than the quota of these workers. Those of twins share their
        devices, so that for canaries all rows count.
        """
        if tier is self.base or tier.is_of_canaries:
            return self.rows - sum([each.queue.rows_below(request.level) for each in self.tiers])
        rows, placements = tier.running, tier.placements
        for each in self.tiers:
            quota = sum([c.quota for c in each.classes if (c.host.device, c.host.variant) in placements])
            rows += min(quota, each.queue.rows_up_to(request.level))
        return rows

    def longest_free(self) -> tuple[str, ...]:
        """The worker of each host class that has been free for the longest."""
        found = [next(iter(each.free), "") for tier in self.tiers for each in tier.classes]
        return tuple(dict.fromkeys(filter(None, found)))

    # --- hosts and tiers

    def rehost(
        self, hosts: Sequence[Host], standbys: Sequence[Host], routes: Routes, workers: Mapping[str, WorkerState]
    ) -> list[Request]:
        """From now on ``hosts`` share what waits, with cascades; returns the requests that none of them may answer.

        ``standbys`` are on devices that host the family.
        """
        moved = [request for tier in self.tiers if tier is not self.base for request in tier.queue.drain()]
        twins = self.twins
        if twins is not None and any(host.variant == twins.old for host in hosts):
            hosts = standing_for_both(hosts, twins)
        else:
            twins = None
        self._fitness = Fitness(hosts, routes, twins, has_new=self._has_new(hosts, workers))
        if twins is not None:
            hosts = self._fitness.hosts(self._fitness.everyone)
        for request in [each for each in self.base.queue if not self._fitness.is_for_everyone(each)]:
            self.base.queue.remove(request)
            moved.append(request)
        prefers_accuracy = all(host.preference_rank is None for host in hosts)
        standbys = standbys if hosts and prefers_accuracy else ()
        self.warm = _counted(standbys, workers)
        unhosted = self.base.queue.rehost(hosts)
        self._tiers, self._deferred_tiers, self.tiers = {self._fitness.everyone: self.base}, {}, (self.base,)
        for host in [host for host, rows in self.running.items() if not rows]:
            del self.running[host]
        other = twins.new if twins is not None else ""
        self.base.use(workers, self.running, self._warm_but(other))
        if self._fitness.canary:  # also while no request is a canary: shadows run there
            self._open(self._fitness.canary, workers, is_of_canaries=True)
        for request in moved:
            if not self.wait_again(request, workers):
                unhosted.append(request)
        return unhosted

    def open(self, request: Request, workers: Mapping[str, WorkerState]) -> AccuracyTier | None:
        """Open the tier and the level of priority that a request needs; returns the tier if workers get new sources."""
        fit = self._waits_for(request)
        if not fit:
            return None
        tier = self._tiers_of(request).get(fit)
        is_new = tier is None
        if tier is None:
            tier = self._open(
                fit, workers, is_of_deferred=request.is_deferred, is_of_canaries=self._fitness.has_new(fit)
            )
        return tier if tier.queue.open(request.level) or is_new else None

    def serves(self, variant: str, workers: Mapping[str, WorkerState]) -> bool:
        """A variant serves somewhere, to be asked by some requests at least."""
        return any(_has(tier.queue.hosts, variant, workers) for tier in self.tiers)

    def keeps_bounds(self, request: Request, variant: str) -> bool:
        """A variant may answer a request by its bounds, and within its time where nothing else waits."""
        within_s = request.deadline_s - request.arrival_s
        hosts = self._fitness.hosts(self._fitness.of_variant(request, variant))
        return any(host.least_latency(request.rows) <= within_s for host in hosts)

    def placeable_s(self, request: Request) -> tuple[float, float] | None:
        """`Fitness.least_s` of all that plans could place; None where that is not known."""
        placeable = self._placeable()
        return None if placeable is None else placeable.least_s(request)

    def loses_new(self, workers: Mapping[str, WorkerState]) -> bool:
        """Canaries have tiers, and the new version does not serve any more."""
        return bool(self._fitness.canary) and not self._has_new(self._fitness.hosts(self._fitness.canary), workers)

    def _open(
        self,
        fit: int,
        workers: Mapping[str, WorkerState],
        *,
        is_of_deferred: bool = False,
        is_of_canaries: bool = False,
    ) -> AccuracyTier:
        tier = AccuracyTier(
            self._new_queue(is_of_deferred),
            is_of_deferred=is_of_deferred,
            is_of_canaries=is_of_canaries,
            has_overflow=is_of_canaries and fit == self._fitness.canary and not is_of_deferred,
        )
        hosts = self._fitness.hosts(fit)
        if self.twins is not None and tier.has_overflow:
            hosts = without_overflow_by(hosts, self.twins.old)
        other = "" if self.twins is None else self.twins.old if is_of_canaries else self.twins.new
        tier.queue.rehost(hosts)
        tier.use(workers, self.running, () if is_of_deferred else self._warm_but(other))
        (self._deferred_tiers if is_of_deferred else self._tiers)[fit] = tier
        self.tiers += (tier,)
        return tier

    def _warm_but(self, variant: str) -> list[HostClass]:
        return [each for each in self.warm if each.host.variant != variant]

    def _has_new(self, hosts: Sequence[Host], workers: Mapping[str, WorkerState]) -> bool:
        """The new version of twins serves somewhere."""
        return self.twins is not None and _has(hosts, self.twins.new, workers)

    def tier_of(self, request: Request) -> AccuracyTier | None:
        """The tier where a request waits or would wait; None where no host is fit."""
        return self._tiers_of(request).get(self._waits_for(request))

    def _waits_for(self, request: Request) -> int:
        """The set of hosts that a request waits for: all that are fit, or a part of them where there are many tiers."""
        fit = self._fitness.of(request)
        if fit in self._tiers_of(request) or len(self.tiers) < MAX_FREE_TIERS:
            return fit
        return self._fitness.lasting_within(fit)

    def _tiers_of(self, request: Request) -> dict[int, AccuracyTier]:
        return self._deferred_tiers if request.is_deferred else self._tiers


def _has(hosts: Sequence[Host], variant: str, workers: Mapping[str, WorkerState]) -> bool:
    return any(host.variant == variant and workers[host.device].is_serving for host in hosts)


def _counted(standbys: Sequence[Host], workers: Mapping[str, WorkerState]) -> tuple[HostClass, ...]:
    """Their classes, which count the workers of their devices."""
    classes = classes_of(standbys)
    for each in classes:
        for host in each.hosts:
            worker = workers[host.device]
            each.count(host, *worker.slowdowns)
            if worker.free > 0:
                each.free[host.device] = worker.ask_self
    return classes
