"""Plans that people put in force: `SIGHUP` and ``POST /v2/proteus/plan``."""

import asyncio
import logging
from collections import Counter
from collections.abc import Container, Mapping

from proteus_cli.control.topology.hosting import measured_for
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base, Origin
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import Conflict, ProteusError, Unprocessable
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.plan_inputs import PlanSource, ProfileStore
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.json_bodies import decoded, refusing
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

log = logging.getLogger("proteus.plans")


class ManualPlans:
    """Checks a person's plan, has it put in force, and has the solver go on from it."""

    def __init__(
        self,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        served: ServedCatalog,
        source: PlanSource,
        live_catalog: LiveCatalog | None = None,
    ) -> None:
        self._plane, self._profiles, self._control_loop = plane, profiles, control_loop
        self._served, self._source, self._live_catalog = served, source, live_catalog
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
        self._plane.lifecycle.require_ready()
        return await self._apply(decoded(body, Plan, what="a plan"), "request", "applied by a client")

    async def _from_file(self) -> None:
        is_new = False
        try:
            self._plane.lifecycle.require_ready()
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
        policy, models = self._plane.controller.policy.name, self._plane.fleet.loader.models
        require_fitting(plan, policy, self._served.catalog, self._profiles, models)
        try:
            await asyncio.to_thread(self._source.require_current, plan)
        except ProteusError as error:
            raise Conflict(error.message, hint=error.hint) from error
        with refusing("the plan can't be loaded: "):
            return await self._control_loop.apply(plan, origin, reason, base)


def require_fitting(
    plan: Plan,
    policy: str,
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    models: Container[tuple[str, str]],
) -> None:
    """Raise `Unprocessable` where a plan can't be put in force here, or not be followed."""
    if plan.policy != policy:
        raise Unprocessable(f"the plan is of the policy `{plan.policy}`; this server runs `{policy}`")
    for device in plan.devices:
        if device not in profiles:
            raise Unprocessable(f"the plan is for `{device}`, which this server doesn't have: {', '.join(profiles)}")
    for family in plan.demand_qps:
        if family not in catalog.names:
            raise Unprocessable(f"the plan has a demand of `{family}`, which is no family of the catalog")
    for placement in plan.placements:
        where = f"`{placement.variant}` on `{placement.device}`"
        with refusing():
            catalog.family(placement.family).variant(placement.variant)
            most = measured_for(placement, profiles).points[-1].batch
        if placement.max_batch > most:
            batch = placement.max_batch
            raise Unprocessable(f"{where} was measured with batches of up to {most}; the plan has {batch}")
        if (placement.family, placement.variant) not in models:
            raise Unprocessable(f"there is no model of {where}")
    _require_once(plan)
    _require_room(plan, profiles)


def _require_room(plan: Plan, profiles: Mapping[str, Profile]) -> None:
    for device in plan.devices:
        memory_bytes = profiles[device].device.memory_bytes
        needed_bytes = profiles[device].needed_bytes(each.key for each in plan.placements if each.device == device)
        if 0 < memory_bytes < needed_bytes:
            raise Unprocessable(
                f"the plan needs {needed_bytes} bytes of memory on `{device}`, which has {memory_bytes}"
            )


def _require_once(plan: Plan) -> None:
    for (device, _, variant), times in Counter((p.device, p.family, p.variant) for p in plan.placements).items():
        if times > 1:
            raise Unprocessable(f"the plan puts `{variant}` on `{device}` twice")
