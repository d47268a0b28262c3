"""The engines on devices: loaded, tried with a batch, freed."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import starmap
from pathlib import Path

import numpy as np

from proteus_cli.backends.base import Signature
from proteus_cli.control.decision import FailedLoad, HostedVariant
from proteus_cli.domain.catalog import VariantKey, variant_labels
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost, EngineError, ModelOnItsWay
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor, settle
from proteus_cli.serving.fleet.model_files import ModelFiles
from proteus_cli.serving.logs import fields

# A load is given up after this long, plus `LIMIT_MULTIPLE` times what loading and building took when profiled. So is,
# before that, the wait for a model that is on its way to another machine, which says nothing of the device.
UNHURRIED_S = 60.0  # the device opens, or nothing serves yet
HURRIED_S = 5.0  # the next plan for all devices waits for the load
LIMIT_MULTIPLE = 10

LOOK_S = 0.2  # between two looks at whether a load still gives way: as often as forecasts are made

GivesWay = Callable[[], bool]
"""Whether a load is to leave the time to batches that they need; asked again and again while it does."""


class SharedLook:
    """Asks ``gives_way`` once for all loads that look at about the same time: a plan may have one on each device."""

    def __init__(self, gives_way: Callable[[float], bool], clock: Callable[[], float]) -> None:
        self._gives_way, self._clock = gives_way, clock
        self._until_s, self._found = -math.inf, False

    def __call__(self) -> bool:
        now_s = self._clock()
        if now_s >= self._until_s:
            self._until_s, self._found = now_s + LOOK_S / 2, self._gives_way(now_s)
        return self._found


log = logging.getLogger("proteus.loading")


class Loader:
    """Loads engines from the files ``models``, and knows which device has which. ``signatures`` by family.

    With ``files``, only model files that were measured are loaded. ``labels`` name variants for people
    (`variant_labels`).
    """

    def __init__(
        self,
        models: Mapping[VariantKey, Path],
        profiles: Mapping[str, Profile],
        signatures: Mapping[str, Signature],
        files: ModelFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models, self._profiles, self._signatures, self._files = dict(models), profiles, signatures, files
        self._clock = clock
        self._loaded = dict[str, dict[VariantKey, float]]()  # with its load's seconds
        self.labels = self._labels()

    def add_device(self, device: str) -> None:
        """Add a device without engines; its profile is known."""
        self._loaded[device] = {}
        if any(measured.key not in self.labels for measured in self._profiles[device].variants):
            self.labels = self._labels()

    @property
    def models(self) -> Mapping[VariantKey, Path]:
        """The files that engines are loaded from."""
        return self._models

    async def look_at(self, models: Mapping[VariantKey, Path]) -> None:
        """Look at files that are to be added. Raises `ArtefactError`."""
        if self._files is not None:
            await asyncio.to_thread(self._files.look_at, models)

    def add_models(self, models: Mapping[VariantKey, Path]) -> None:
        """Files of variants that are new, or were moved, and that were looked at; profiles know them."""
        self._models |= models
        self.labels = self._labels()

    def forget_models(self, keys: Iterable[VariantKey]) -> None:
        """Forget variants that are never loaded again."""
        for key in keys:
            self._models.pop(key, None)

    def use_signatures(self, signatures: Mapping[str, Signature]) -> None:
        """From now on these are the signatures of all families."""
        self._signatures = signatures

    def loaded(self, device: str) -> frozenset[VariantKey]:
        """All that a device has loaded."""
        return frozenset(self._loaded[device])

    def loadable(self, device: str) -> list[VariantKey]:
        """The variants that were profiled on a device and have a model."""
        return [key for measured in self._profiles[device].variants if (key := measured.key) in self._models]

    def load_times_s(self, device: str) -> dict[VariantKey, float]:
        """The engines on a device, each with the seconds that its load took."""
        return dict(self._loaded[device])

    async def load(
        self,
        device: str,
        executor: Executor,
        key: VariantKey,
        min_limit_s: float = UNHURRIED_S,
        gives_way: GivesWay = lambda: False,
    ) -> None:
        """Load an engine beside the others; does nothing where it is loaded.

        It is warmed up with the largest batch that was profiled: a request may have more rows than the plan's batches,
        and the first batch of a size is slow.

        Raises `EngineError` where that fails; `DeviceLost` where the device is lost, or exceeds ``min_limit_s`` and the
        multiple of the profiled time. Where its model takes that long to come, a device that has engines goes on with
        these (`ModelOnItsWay`), and one that has none is given up for now. A load that no longer ``gives_way``, or has
        done so for that long, begins anew.
        """
        if key in self._loaded[device]:
            return
        family, variant = key
        limit_s = min_limit_s + self._usual_limit_s(device, key)
        looked = await self._files.require_measured(key) if self._files is not None else ()
        try:
            await self._require_model(device, executor, key, limit_s)
        except ModelOnItsWay as late:
            if not self._loaded[device]:
                raise DeviceLost(late.message) from None
            raise
        rows, start_s = self._warm_up_rows(device, key), self._clock()
        signature = await self._giving_way(executor, key, rows, limit_s, gives_way) if executor.can_give_way else None
        try:
            async with asyncio.timeout(limit_s):
                signature = signature or await executor.load(key, self._models[key], rows)
        except TimeoutError:
            raise DeviceLost(f"{device} did not load {variant} within {limit_s:.0f} s") from None
        self._loaded[device][key] = load_s = self._clock() - start_s
        try:
            if self._files is not None:
                self._files.require_unchanged(key, looked)
            self._require_fitting(key, signature)
        except EngineError:
            self.unload(device, executor, key)
            raise
        log.info(
            "loaded %s on %s in %.0f ms", self.labels[key], device, load_s * 1e3,
            extra=fields(family=family, variant=variant, device=device, load_s=round(load_s, 6)),
        )  # fmt: skip

    async def late_models(self, wanted: Iterable[tuple[str, Executor, VariantKey]]) -> list[FailedLoad]:
        """Wait until the models of what is not loaded are where the devices are. Returns what does not come in time.

        ``wanted`` has devices with their executors, and variants. A device that is lost waits for nothing.
        """

        async def late(device: str, executor: Executor, key: VariantKey) -> FailedLoad | None:
            try:
                await self._require_model(device, executor, key, HURRIED_S + self._usual_limit_s(device, key))
            except DeviceLost:
                return None
            except EngineError as error:
                return FailedLoad(device, key, error)
            return None

        missing = [each for each in wanted if each[2] not in self._loaded[each[0]]]
        return [failed for failed in await asyncio.gather(*starmap(late, missing)) if failed is not None]

    async def _require_model(self, device: str, executor: Executor, key: VariantKey, limit_s: float) -> None:
        """Wait until a model is where the device is; if that takes too long, it goes on its way all the same."""
        try:
            async with asyncio.timeout(limit_s):
                await executor.send_ahead(self._models[key])
        except TimeoutError:
            raise ModelOnItsWay(
                f"the model of {key.variant} is still on its way to {device} after {limit_s:.0f} s"
            ) from None

    async def _giving_way(
        self, executor: Executor, key: VariantKey, rows: int, limit_s: float, gives_way: GivesWay
    ) -> Signature | None:
        """Load an engine with the time that batches leave; None where that takes too long, or is too slow now."""
        until_s = self._clock() + limit_s
        loading = asyncio.create_task(executor.load(key, self._models[key], rows, gives_way=True))
        try:
            while gives_way() and self._clock() < until_s:
                if (await asyncio.wait([loading], timeout=LOOK_S))[0]:
                    return loading.result()
        except asyncio.CancelledError:
            if loading.done() and loading.exception() is None:  # it has come just now, and nobody will know of it
                executor.unload(key)
            raise
        finally:
            loading.cancel()
        return None

    async def load_all(
        self,
        hosts: Iterable[HostedVariant],
        executors: Mapping[str, Executor],
        proof_s: Callable[[HostedVariant], float | None],
        min_limit_s: float,
        gives_way: GivesWay = lambda: False,
    ) -> list[FailedLoad]:
        """Load what is not loaded, concurrently; run a batch of each suspect engine. Returns what failed.

        ``proof_s``: how long that batch may take; None of engines that are not suspect. The others are as for `load`.
        """

        async def load(host: HostedVariant) -> FailedLoad | None:
            key, executor = host.key, executors[host.device]
            try:
                await self.load(host.device, executor, key, min_limit_s, gives_way)
                limit_s = proof_s(host)
                if limit_s is not None:
                    await self.prove(executor, key, host.max_batch, limit_s)
            except DeviceLost as error:
                return FailedLoad(host.device, key, error)
            except EngineError as error:
                if key in self._loaded[host.device]:
                    self.unload(host.device, executor, key)
                return FailedLoad(host.device, key, error)
            return None

        return [failed for failed in await asyncio.gather(*map(load, hosts)) if failed is not None]

    def unload(self, device: str, executor: Executor, key: VariantKey) -> None:
        """Unload an engine behind the batches that were submitted before. Raises `KeyError` where it is not loaded."""
        del self._loaded[device][key]
        executor.unload(key)

    def keep_only(self, device: str, executor: Executor, keys: Iterable[VariantKey]) -> None:
        """Free all engines but these."""
        for key in self._loaded[device].keys() - set(keys):
            self.unload(device, executor, key)

    def forget(self, device: str) -> None:
        """A device is lost with all of its engines."""
        self._loaded[device].clear()

    async def prove(self, executor: Executor, key: VariantKey, rows: int, hang_timeout_s: float) -> None:
        """Run one batch. Raises `EngineError`; `DeviceLost` where the batch does not end in time."""
        ended: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        part = self._signatures[key.family].sample_part(rows, np.random.default_rng(0))
        executor.submit(Batch(key, [part], rows), partial(settle, ended))  # it may end when nobody waits any more
        try:
            await asyncio.wait_for(ended, hang_timeout_s)
        except TimeoutError:
            raise DeviceLost(f"a batch of {key[1]} did not end within {hang_timeout_s:.1f} s") from None

    def _labels(self) -> dict[VariantKey, str]:
        return variant_labels(each.key for profile in self._profiles.values() for each in profile.variants)

    def _require_fitting(self, key: VariantKey, signature: Signature) -> None:
        family, variant = key
        if not signature.fits(self._signatures[family]):
            raise EngineError(
                f"`{variant}` takes or gives other tensors than the rest of family `{family}`.",
                hint="queries of a family must fit each of its variants",
            )

    def _warm_up_rows(self, device: str, key: VariantKey) -> int:
        measured = self._profiles[device].of(*key)
        return measured.points[-1].batch if measured is not None else 1

    def _usual_limit_s(self, device: str, key: VariantKey) -> float:
        measured = self._profiles[device].of(*key)
        return LIMIT_MULTIPLE * (measured.load_s + measured.build_s) if measured is not None else 0.0
