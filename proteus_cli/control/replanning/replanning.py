"""When to ask for another plan: the policy's rule, devices and engines that come and go, holds, and pauses."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.devices.slowness import LIMITS
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.replanning.demand import DemandEstimator
from proteus_cli.control.replanning.replan_rules import (
    UNKNOWN_SLACK_FRAC,
    ReplanContext,
    ReplanRequest,
    Rule,
    gains_enough,
)
from proteus_cli.control.topology.topology import Topology
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT, by_host, host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.units import counted


class DeviceChanged(StrEnum):
    """A change of a device, as the reason of a re-plan says it."""

    LOST = "was lost"
    BACK = "is back"
    JOINED = "has joined"


RETURN_S = 120.0  # s in which a plan that was left is not returned to at a like demand (chosen)
GATHER_S = 0.5  # s from the return of a device to the plan with it: others of its host come back as well
_OF_SEVERAL = {
    DeviceChanged.LOST: "were lost",
    DeviceChanged.BACK: "are back",
    DeviceChanged.JOINED: "have joined",
}


class _Left(NamedTuple):
    """A plan that was left, and the demand that it was left for."""

    at_s: float
    plan: Plan
    demand_qps: Demand

    def is_like(self, demand_qps: Demand) -> bool:
        """No family has `NOTABLE_GROWTH` times the demand of then, nor had it then of now."""
        return not _has_grown(self.demand_qps, demand_qps) and not _has_grown(demand_qps, self.demand_qps)


class Replanning:
    """Decides which plan to ask for, and when. ``rule`` is None where the first plan stays for good.

    A request is handed out once, and its driver reports how it ended. After a failure, a request that knows of other
    outages than the plan in force is handed out again as soon as the back-off allows it. ``without`` are the outages
    that the plan in force was made around, or the plan that is being put in force.
    """

    def __init__(
        self,
        rule: Rule | None,
        demand: DemandEstimator,
        families: Mapping[str, FamilyState],
        topology: Topology,
    ) -> None:
        self._rule, self._demand, self._families, self._topology = rule, demand, families, topology
        self._planned_qps: Demand = {}  # that the plan in force was made for, or kept for
        self._left: list[_Left] = []
        self._slowdowns = dict.fromkeys(families, 1.0)  # by family, the mean over some `Limits.recent_s`
        self._decided_s = 0.0
        self._slack_s = slack_s((), demand.slo_s)
        self._notices = dict[tuple[str, DeviceChanged | str], None]()  # a device, or none, and what happened
        self._owed: ReplanRequest | None = None
        self._answered: ReplanRequest | None = None  # what was owed when a request was last handed out
        self._started_s: float | None = None
        self._silent_at: dict[str, int] = {}  # the rows before the last request, of families without any for long
        self._hosting_since_s = self._asked_s = self._changed_s = self._without_notice_s = 0.0
        self.backoff = Backoff()
        self.held_until_s = 0.0
        self.without = self._without_in_force = NONE_OUT

    def decide(self, now_s: float) -> ReplanRequest | None:
        """The plan to ask for now, if any. To be called every ``rule.every_s``."""
        plan = self._topology.change.plan
        if self._rule is None or plan is None:
            return None
        if not self._notices:
            self._without_notice_s = now_s
        weight = 1 - math.exp((self._decided_s - now_s) / LIMITS.recent_s)
        for name, family in self._families.items():
            self._slowdowns[name] += weight * (family.base.slowdown - self._slowdowns[name])
        self._decided_s = now_s
        wanted = self._wanted(self._rule, self._context(plan, now_s))
        if wanted is None or not self.backoff.allows(wanted, now_s):
            return None
        # No notice is lost by a hold: the plan in force was made around the very outages that the notices led to.
        self._notices.clear()
        if self.is_held(wanted, now_s):
            return None
        if wanted is self._owed:  # it may have been asked for long ago
            demand_qps = self._rule.target_demand(self._context(plan, now_s))
            wanted = self._owed = replace(wanted, demand_qps=demand_qps, without=self._topology.outages)
        self._asked_s, self._answered = now_s, self._owed
        if not wanted.is_review:
            self._changed_s = now_s
        self._silent_at = {
            name: family.counts.total for name, family in self._families.items() if self._demand.is_silent(name, now_s)
        }
        return wanted

    def ask(self, reason: str, now_s: float) -> None:
        """Ask for a plan of the present demand for a reason of the driver; nothing where the first plan stays.

        It is made after one that is being made now, and after a hold.
        """
        plan = self._topology.change.plan
        if self._rule is not None and plan is not None:
            self._owed = self._request(self._rule, self._context(plan, now_s), reason)

    def notice(self, what: DeviceChanged | str, device: str = "") -> None:
        """A device has changed, so the next decision asks for a plan; without a device, ``what`` is the reason."""
        self._notices[device, what] = None

    def hosting_changed(self, now_s: float) -> None:
        """A plan was adopted, or a step of the change to it is done."""
        plan = self._topology.change.plan
        if plan is not None:
            if self._started_s is None:
                self._started_s = now_s
            self._hosting_since_s, self._planned_qps = now_s, plan.demand_qps
            self._slack_s = slack_s(self._topology.change.hosted, self._demand.slo_s)

    def use_families(self) -> None:
        """The families are others now."""
        self._slowdowns = {name: self._slowdowns.get(name, 1.0) for name in self._families}
        self._slack_s = slack_s(self._topology.change.hosted, self._demand.slo_s)
        self._silent_at = {name: rows for name, rows in self._silent_at.items() if name in self._families}

    def is_worth(self, wanted: ReplanRequest, after: Plan, now_s: float) -> bool:
        """Whether ``after``, made for a request, is to be put in force. Else the plan in force is kept for that demand.

        A review must gain more than chance. A plan that was left within `RETURN_S` is not returned to at a like demand,
        unless it is urgent: which of the two is better would change with the noise of arrivals and times.
        """
        before = self._topology.change.plan
        if before is None:
            return True
        self._left = [each for each in self._left if each.at_s > now_s - RETURN_S]
        is_kept = wanted.is_review and not gains_enough(before, after)
        hosts_others = not after.hosts_as(before)
        if hosts_others and wanted.is_routine and not wanted.is_urgent:
            is_kept |= any(after.hosts_as(each.plan) and each.is_like(wanted.demand_qps) for each in self._left)
        if is_kept:
            self._planned_qps = wanted.demand_qps
        elif hosts_others:
            self._left.append(_Left(now_s, before, wanted.demand_qps))
        return not is_kept

    def planned(self, request: ReplanRequest) -> None:
        """There is a plan for a request, and the change to it begins."""
        self.without = request.without

    def succeeded(self) -> None:
        """The plan of the last request is in force."""
        self.backoff.succeeded()
        self._without_in_force = self.without
        self._settle(None)

    def failed(self, request: ReplanRequest, now_s: float) -> None:
        """No plan could be made for a request, or the change to it failed."""
        self.backoff.failed(request, now_s)
        self.without = self._without_in_force
        self._settle(request if request.without != self.without else None)

    def overtaken_by(self, wanted: ReplanRequest, now_s: float) -> str | None:
        """Why the plan that is being made for a request is no longer the one to wait for; None: it is.

        Devices or engines are out that it counts on, or more is asked for than the plan in force carries, which it was
        not made for. One that is urgent itself goes on while the demand rises: else it would never end.
        """
        plan = self._topology.change.plan
        if self._rule is None or plan is None:
            return None
        if wanted.without != self._topology.outages:
            return "devices or engines have failed or come back"
        return None if wanted.is_urgent else self._rule.overload(self._context(plan, now_s))

    def is_enough(self, wanted: ReplanRequest, plan: Plan, now_s: float) -> bool:
        """Whether a plan that was made for a request, and ended early, carries what is asked for now all the same."""
        if self._rule is None or wanted.without != self._topology.outages:
            return False
        return self._rule.overload(self._context(plan, now_s)) is None

    def loads_give_way(self, now_s: float) -> bool:
        """Whether loads for plans, beside what serves, must use only the time that batches leave.

        They need not while requests are lost until the next plan is in force. Then there is no plan yet, or the plan in
        force has lost devices or engines. Or a family has more demand than the plan carries, or any without hosts.
        """
        plan, out = self._topology.change.plan, self._topology.outages
        if plan is None or any(
            each.device in out.devices or (each.device, *each.key) in out.engines for each in plan.placements
        ):
            return False
        hosted = {placement.family for placement in plan.placements}
        if any(name not in hosted and not self._demand.is_silent(name, now_s) for name in self._families):
            return False
        return self._rule is None or self._rule.overload(self._context(plan, now_s)) is None

    def overtaken(self, wanted: ReplanRequest) -> None:
        """There will be no plan for a request, as something else is more urgent; what must not be forgotten is owed."""
        is_owed = wanted is self._answered or wanted.without != self._without_in_force
        self.without = self._without_in_force
        self._settle(wanted if is_owed else None)

    def _settle(self, owed: ReplanRequest | None) -> None:
        """The last request has ended; what was asked for since then is owed still."""
        if self._owed is self._answered:
            self._owed = owed

    def hold(self, until_s: float) -> None:
        """Keep the plan in force until then, unless outages change: a person chose it, or requests are drained.

        A plan that was asked for is made after it.
        """
        self.held_until_s = until_s

    def is_held(self, wanted: ReplanRequest, now_s: float) -> bool:
        """Whether the plan in force is kept instead."""
        return now_s < self.held_until_s and wanted.without == self._without_in_force

    def why_not(self, wanted: ReplanRequest, plan: Plan, now_s: float) -> str | None:
        """Why a plan that was made for a request is not put in force after all, just before the switch; None: it is.

        ``plan`` may leave out a family without requests. If requests came since, they would be dropped: another plan is
        wanted at once.
        """
        found = "the one in force is kept since it was solved" if self.is_held(wanted, now_s) else None
        hosted = {placement.family for placement in plan.placements}
        for name, rows in self._silent_at.items():
            if not found and name not in hosted and self._families[name].counts.total > rows:
                found = f"{name}: the first queries for a while"
                self.ask(found, now_s)
        if found:
            self.without = self._without_in_force
        return found

    def _wanted(self, rule: Rule, context: ReplanContext) -> ReplanRequest | None:
        wanted = rule.decide(context)
        if self._notices:
            returns = all(what in {DeviceChanged.BACK, DeviceChanged.JOINED} for _, what in self._notices)
            is_early = returns and context.now_s - self._without_notice_s < GATHER_S
            if is_early and (wanted is None or not wanted.is_urgent):
                return None
            told = told_by_host(self._notices, self._topology.devices, self._topology.outages.devices)
            return self._request(rule, context, "; ".join(text for text, _ in told))
        if wanted is None or (wanted.is_review and self._owed is not None):
            return self._owed
        return replace(wanted, without=self._topology.outages)

    def _request(self, rule: Rule, context: ReplanContext, reason: str) -> ReplanRequest:
        return ReplanRequest(rule.target_demand(context), reason, self._topology.outages)

    def _context(self, plan: Plan, now_s: float) -> ReplanContext:
        times_s = now_s, self._started_s or 0.0, self._hosting_since_s, self._asked_s, self._changed_s
        return ReplanContext(plan, self._planned_qps, self._demand, self._slowdowns, self._slack_s, *times_s)


def slack_s(hosted: Iterable[HostedVariant], slo_s: Mapping[str, float]) -> dict[str, float]:
    """How long queries of each family may wait until their batch begins, in the mean over what its hosts answer."""
    answered_qps, waited = dict.fromkeys(slo_s, 0.0), dict.fromkeys(slo_s, 0.0)
    for host in hosted:
        answered_qps[host.family] += host.weight
        waited[host.family] += host.weight * max(slo_s[host.family] - host.latency(host.max_batch), 0.0)
    return {
        family: waited[family] / qps if qps > 0 else UNKNOWN_SLACK_FRAC * slo_s[family]
        for family, qps in answered_qps.items()
    }


FIRST_PAUSE_S = 1.0  # after a change of plan has failed
LONGEST_PAUSE_S = 30.0
NOTABLE_GROWTH = 1.25  # of a family's demand, for which another plan may be possible or needed


class Backoff:
    """A pause after failures: `FIRST_PAUSE_S` after one, twice as long after each further one, to `LONGEST_PAUSE_S`.

    A request that differs from the failed one need not wait: `NOTABLE_GROWTH` times the demand of some family, or other
    outages. The same request is not tried again and again, and a new burst is answered.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until_s = 0.0
        self._next_pause_s = FIRST_PAUSE_S
        self._failed: ReplanRequest | None = None

    def allows(self, wanted: ReplanRequest, now_s: float) -> bool:
        """Whether a request may be tried now."""
        failed = self._failed
        if failed is None or now_s >= self.until_s or wanted.without != failed.without:
            return True
        return _has_grown(failed.demand_qps, wanted.demand_qps)

    def failed(self, wanted: ReplanRequest, now_s: float) -> None:
        """A request has failed."""
        self.until_s = now_s + self._next_pause_s
        self._next_pause_s = min(2 * self._next_pause_s, LONGEST_PAUSE_S)
        self.failures += 1
        self._failed = wanted

    def succeeded(self) -> None:
        """A plan was found and is in force."""
        self.failures, self.until_s, self._next_pause_s, self._failed = 0, 0.0, FIRST_PAUSE_S, None


def _has_grown(before_qps: Demand, now_qps: Demand) -> bool:
    return any(qps > NOTABLE_GROWTH * before_qps.get(family, 0.0) for family, qps in now_qps.items())


def told_by_host(
    changes: Iterable[tuple[str, DeviceChanged | str]], devices: Collection[str], lost: Collection[str]
) -> Iterator[tuple[str, str]]:
    """The text of each change, and the device that it is about, the first of several.

    Like changes of devices of a host that follow one another are told together. The host itself changed where all of
    its devices, several, did. ``devices`` are all that there are, and some of them are ``lost`` now.
    """
    hosts = by_host(devices)
    for (host, what), noted in groupby(changes, key=lambda each: (host_of(each[0]), each[1])):
        changed = [device for device, _ in noted]
        if not host or len(changed) == 1:
            yield from ((f"{device} {what}".lstrip(), device) for device in changed)
            continue
        is_whole = all((device in lost) is (what == DeviceChanged.LOST) for device in hosts[host])
        several = f"{len(changed)} of {counted(len(hosts[host]), 'device')} of host {host}"
        whole = f"host {host} {what} ({counted(len(changed), 'device')})"
        yield whole if is_whole else f"{several} {_OF_SEVERAL[DeviceChanged(what)]}", changed[0]


class ExpectedAttainment:
    """The attainment that plans in force expect of each family, counted over the queries that they are for."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._since_s = 0.0
        self._queries, self._in_time = defaultdict[str, float](float), defaultdict[str, float](float)

    def use(self, plan: Plan, now_s: float) -> None:
        """A plan comes into force."""
        self._count(now_s)
        self._plan, self._since_s = plan, now_s

    def mean(self, until_s: float) -> dict[str, float]:
        """By family, until then; a family is left out where no plan had an expectation."""
        self._count(until_s)
        return {family: self._in_time[family] / queries for family, queries in self._queries.items() if queries > 0}

    def counts(self, family: str, now_s: float) -> tuple[float, float]:
        """The queries of a family with an expectation until now, and how many were expected in time."""
        self._count(now_s)
        return self._queries.get(family, 0.0), self._in_time.get(family, 0.0)

    def _count(self, until_s: float) -> None:
        if self._plan is not None and until_s > self._since_s:
            for family, qps in self._plan.demand_qps.items():
                share, queries = self._plan.expected_attainment.get(family), qps * (until_s - self._since_s)
                if share is not None:
                    self._queries[family] += queries
                    self._in_time[family] += share * queries
            self._since_s = until_s
