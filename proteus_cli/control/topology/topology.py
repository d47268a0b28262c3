"""What there is to serve with: devices and engines that can be used, the plan in force, and what each device hosts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from proteus_cli.control.decision import NO_EFFECTS, Effects, Host, Launch, Load
from proteus_cli.control.dispatch.dispatch import Dispatch
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.topology.rollout import Rollout
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan


class Topology:
    """Devices and engines that come and go, and the roll-out of plans on them."""

    def __init__(
        self,
        families: Mapping[str, FamilyState],
        workers: Mapping[str, WorkerState],
        dispatch: Dispatch,
        max_unavailable_frac: float,
    ) -> None:
        self._families, self._workers, self._dispatch = families, workers, dispatch
        self._rollout = Rollout(workers, max_unavailable_frac)
        self.plan: Plan | None = None
        self.outages = Outages()

    @property
    def hosted(self) -> tuple[Host, ...]:
        return self._rollout.hosted

    def hosted_on(self, device: str) -> tuple[Host, ...]:
        """What a device has loaded; during a load in place, what it had before."""
        return self._rollout.hosted_on(device)

    def adopt(self, plan: Plan, hosted: Sequence[Host], in_place: Collection[str]) -> Effects:
        self.plan = plan
        return self._rehost(self._rollout.begin(hosted, plan.demand_qps, in_place))

    def loaded(self, load: Load, engines: Collection[VariantKey]) -> Effects:
        loads = self._rollout.loaded(load, engines)
        return NO_EFFECTS if loads is None else self._rehost(loads)

    def device_lost(self, device: str, running: Sequence[Launch]) -> Effects:
        self.outages = replace(self.outages, devices=self.outages.devices | {device})
        self._rollout.device_lost(device)
        self._dispatch.count_capacity(self._workers[device])
        for family in self._families.values():
            family.was_lost = family.was_lost or family.base.is_lost
        unhosted = [request for launch in running for request in self._dispatch.requeue(launch)]
        return Effects(ask=tuple(self._workers), dropped=tuple(unhosted))

    def device_recovered(self, device: str, hosted: tuple[Host, ...] | None) -> Effects:
        self.outages = replace(self.outages, devices=self.outages.devices - {device})
        return self._rehost(self._rollout.device_recovered(device, hosted))

    def engine_failed(self, device: str, key: VariantKey) -> None:
        self.outages = replace(self.outages, engines=self.outages.engines | {(device, *key)})

    def engine_recovered(self, device: str, key: VariantKey) -> None:
        self.outages = replace(self.outages, engines=self.outages.engines - {(device, *key)})

    def _rehost(self, loads: tuple[Load, ...]) -> Effects:
        unhosted = self._dispatch.host(self._rollout.hosted)
        for family in self._families.values():
            if family.hosts and not family.base.is_lost:
                family.was_lost = False
        return Effects(ask=tuple(self._workers), dropped=tuple(unhosted), load=loads)
