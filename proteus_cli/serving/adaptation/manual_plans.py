"""Plans that people put in force: `SIGHUP` and ``POST /v2/proteus/plan``."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.control.topology.hosting import measured_for
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.plan_record import Base, Origin
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import Conflict, ProteusError, Unprocessable
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.plan_inputs import PlanSource
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.json_bodies import decoded, refusing
from proteus_cli.serving.lifecycle import Lifecycle, count_bug
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.plans")


@dataclass(frozen=True, slots=True)
class PlanRequirements:
    """The conditions that a plan must fit to be put in force."""

    policy: str
    served: ServedCatalog
    profiles: Mapping[str, Profile]
    models: Mapping[VariantKey, Path]


class ManualPlans:
    """Checks a person's plan, has it put in force, and has the solver go on from it."""

    def __init__(
        self,
        control_loop: ControlLoop,
        lifecycle: Lifecycle,
        source: PlanSource,
        requirements: PlanRequirements,
        live_catalog: LiveCatalog | None = None,
    ) -> None:
        self._control_loop, self._lifecycle, self._source = control_loop, lifecycle, source
        self._requirements, self._live_catalog = requirements, live_catalog
        self._tasks: set[asyncio.Task[None]] = set()

    def reload(self) -> None:
        """Read the catalog anew, and put the plan file in force that the server was started with; log the result.

        A plan file that was made before the catalog changed stays out of it.
        """
        task = asyncio.get_running_loop().create_task(self._from_file())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def from_client(self, body: bytes | bytearray) -> PlanChange:
        """Put the plan in a request in force. Raises `RequestError`, without any change."""
        self._lifecycle.require_ready()
        return await self._apply(decoded(body, Plan, what="a plan"), "request", "applied by a client")

    async def _from_file(self) -> None:
        is_new = False
        try:
            self._lifecycle.require_ready()
            if self._live_catalog is not None:
                try:
                    is_new = await self._live_catalog.read() and await self._live_catalog.outcome() is None
                except ProteusError as error:
                    log.error("SIGHUP: kept the catalog: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400
            plan, base = await asyncio.to_thread(self._source.read_plan)
            if is_new and not await self._is_current(plan):
                log.info("SIGHUP: the plan file was made before the catalog changed: plans are made for the demand")
                return
            await self._apply(plan, "file", "applied by SIGHUP", base)
        except ProteusError as error:
            log.error("SIGHUP: kept the plan: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400
        except Exception as error:  # noqa: BLE001
            log.error("SIGHUP: kept the plan: %s", count_bug("ManualPlans.reload", error))  # noqa: TRY400

    async def _is_current(self, plan: Plan) -> bool:
        try:
            await asyncio.to_thread(self._source.require_current, plan)
        except ProteusError:
            return False
        return True

    async def _apply(self, plan: Plan, origin: Origin, reason: str, base: Base | None = None) -> PlanChange:
        _require_once(plan)  # by the names that it was made with: two of them may have one here
        plan = self._live_catalog.as_served(plan) if self._live_catalog is not None else plan
        require_fitting(plan, self._requirements)
        try:
            await asyncio.to_thread(self._source.require_current, plan)
        except ProteusError as error:
            raise Conflict(error.message, hint=error.hint) from error
        with refusing("the plan can't be loaded: "):
            return await self._control_loop.apply(plan, origin, reason, base)


def require_fitting(plan: Plan, required: PlanRequirements) -> None:
    """Raise `Unprocessable` where a plan can't be put in force here, or not be followed."""
    if plan.policy != required.policy:
        raise Unprocessable(f"the plan is of the policy `{plan.policy}`; this server runs `{required.policy}`")
    unknown = [device for device in plan.devices if device not in required.profiles]
    if unknown:
        raise Unprocessable(
            f"the plan is for `{unknown[0]}`, which this server doesn't have: {', '.join(required.profiles)}"
        )
    strange = [family for family in plan.demand_qps if family not in required.served.catalog.names]
    if strange:
        raise Unprocessable(f"the plan has a demand of `{strange[0]}`, which is no family of the catalog")
    for placement in plan.placements:
        _require_placeable(placement, required)
    _require_once(plan)
    for device in plan.devices:
        _require_room(device, [p for p in plan.placements if p.device == device], required.profiles)


def _require_placeable(placement: Placement, required: PlanRequirements) -> None:
    where = f"`{placement.variant}` on `{placement.device}`"
    with refusing():
        required.served.catalog.family(placement.family).variant(placement.variant)
        measured = measured_for(placement, required.profiles)
    if placement.max_batch > measured.points[-1].batch:
        most = measured.points[-1].batch
        raise Unprocessable(f"{where} was measured with batches of up to {most}; the plan has {placement.max_batch}")
    if (placement.family, placement.variant) not in required.models:
        raise Unprocessable(f"there is no model of {where}")


def _require_once(plan: Plan) -> None:
    for (device, _, variant), times in Counter((p.device, p.family, p.variant) for p in plan.placements).items():
        if times > 1:
            raise Unprocessable(f"the plan puts `{variant}` on `{device}` twice")


def _require_room(device: str, residents: list[Placement], profiles: Mapping[str, Profile]) -> None:
    memory_bytes = profiles[device].device.memory_bytes
    needed_bytes = profiles[device].needed_bytes(placement.key for placement in residents)
    if 0 < memory_bytes < needed_bytes:
        raise Unprocessable(f"the plan needs {needed_bytes} bytes of memory on `{device}`, which has {memory_bytes}")
