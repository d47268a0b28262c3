"""Engines that failed on a device: plans do without them for a while, and then they are tried again."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Effects, FailedLoad, HostedVariant
from proteus_cli.control.devices.breaker import (
    FIRST_ENGINE_RETRY_S,
    Breaker,
    BreakerEvent,
    BreakerState,
    hang_timeout_s,
)
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import BuildCancelled, ModelOnItsWay
from proteus_cli.serving.fleet.loading import Loader
from proteus_cli.serving.fleet.worker import Clock, Worker
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.fleet")


class BrokenEngines:
    """``breakers`` has one for each engine that ever failed on a device.

    ``apply`` does what the controller asks for.
    """

    def __init__(
        self,
        controller: Controller,
        loader: Loader,
        workers: Mapping[str, Worker],
        clock: Clock,
        apply: Callable[[Effects], None],
    ) -> None:
        self.breakers: dict[tuple[str, VariantKey], Breaker] = {}
        self._controller, self._loader, self._workers, self._clock = controller, loader, workers, clock
        self._apply = apply

    def failed(self, failed: FailedLoad) -> None:
        """An engine cannot be loaded, or fails on every batch: plans do without it for a while.

        The controller says on which devices. A cancelled build does not make the engine suspect.
        """
        if isinstance(failed.error, BuildCancelled):
            return
        key, now_s = failed.key, self._clock()
        broken: tuple[str, ...] = (failed.device,)
        if not isinstance(failed.error, ModelOnItsWay):
            broken = self._controller.topology.broken_with(failed.device, key, self._loader.loaded)
        for device in broken:
            breaker = self.breakers.setdefault((device, key), Breaker(FIRST_ENGINE_RETRY_S))
            if breaker.state is not BreakerState.OPEN:
                breaker.on(BreakerEvent.BROKE, now_s, failed.error.message)
                self._apply(self._controller.engine_failed(device, key))
        log.error(
            "%s is broken%s: %s", self._loader.labels[key],
            "" if len(broken) == len(self._workers) else f" on {failed.device}", failed.error.message,
            extra=fields(family=key.family, variant=key.variant, device=failed.device),
        )  # fmt: skip

    def all_failed(self, failures: Iterable[FailedLoad]) -> None:
        """Each `failed`."""
        for failed in failures:
            self.failed(failed)

    def forget(self, keys: Collection[VariantKey]) -> None:
        """Forget variants that are never loaded again."""
        for engine in [engine for engine in self.breakers if engine[1] in keys]:
            del self.breakers[engine]

    def passed(self, hosted: Iterable[HostedVariant]) -> None:
        """Suspect engines that are hosted now are whole: they have run a batch."""
        for host in hosted:
            if self._is_suspect(host):
                self.breakers[host.device, host.key].on(BreakerEvent.PASSED, self._clock())

    def proof_s(self, host: HostedVariant) -> float | None:
        """How long a batch of a suspect engine may take before its device counts as hung; None of any other engine."""
        if not self._is_suspect(host):
            return None
        return hang_timeout_s(host.latency(host.max_batch), self._workers[host.device].servers)

    def _is_suspect(self, host: HostedVariant) -> bool:
        """The engine failed on its device, and is tried again."""
        breaker = self.breakers.get((host.device, host.key))
        return breaker is not None and breaker.state is BreakerState.HALF_OPEN
