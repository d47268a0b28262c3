"""Plans that people apply to a running server: `SIGHUP` and ``POST /v2/proteus/plan``."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from proteus_cli.control.hosting import measured_for
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.record import Base, Origin
from proteus_cli.errors import BadRequest, Conflict, EngineError, Forbidden, ProteusError, Unfitting
from proteus_cli.serving.adaptation.control_loop import ControlLoop, PlanChange
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.solver_child import Replanner
from proteus_cli.serving.adaptation.solver_process import SolverProcess
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.plans")


class PlanSource(Protocol):
    """Where plans come from, beside the solver, and where recalibrated profiles go."""

    def reread(self) -> tuple[Plan, Base]:
        """Read the file again that the server was started with. Raises `ProteusError`."""
        ...

    def require_current(self, plan: Plan) -> None:
        """Raise `ArtefactError` if an input of a plan has changed."""
        ...

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> Replanner:
        """What re-plans by the rules and the headroom of a plan, with profiles by device id."""
        ...

    def inputs(self, profiles: Mapping[str, Profile]) -> Mapping[str, str]:
        """The digests of what a plan with these profiles is made from."""
        ...

    def record(self, profile: Profile) -> None:
        """Write a recalibrated profile back."""
        ...


@dataclass(frozen=True, slots=True)
class PlanRequirements:
    """What a plan must fit."""

    policy: str
    catalog: Catalog
    profiles: Mapping[str, Profile]
    models: Mapping[VariantKey, Path]


class ManualPlans:
    """Checks a plan, has it put in force, and lets automatic changes go on from there.

    ``is_guarded``: clients have shown a token. Without, no plan is taken from them.
    """

    def __init__(
        self,
        adaptation: ControlLoop,
        lifecycle: Lifecycle,
        source: PlanSource,
        served: PlanRequirements,
        solver: SolverProcess | None,
        history: PlanJournal | None,
        *,
        is_guarded: bool,
    ) -> None:
        self._adaptation, self._lifecycle, self._source, self._served = adaptation, lifecycle, source, served
        self._solver, self._history, self._is_guarded = solver, history, is_guarded
        self._tasks: set[asyncio.Task[None]] = set()

    def hang_up(self) -> None:
        """`SIGHUP`: apply the file that the server was started with, and say how that went."""
        task = asyncio.get_running_loop().create_task(self._from_file())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def from_client(self, body: bytes | bytearray) -> PlanChange:
        """Apply the plan in a request. Raises `RequestError`."""
        if not self._is_guarded:
            raise Forbidden("plans are taken only where clients need a token: start the server with `--auth-tokens`")
        self._lifecycle.require_ready()
        try:
            plan = msgspec.json.decode(body, type=Plan)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is no plan: {error}") from None
        return await self._apply(plan, "request", "applied by a client")

    async def _from_file(self) -> None:
        try:
            self._lifecycle.require_ready()
            plan, base = await asyncio.to_thread(self._source.reread)
            with self._begun_with(base):
                await self._apply(plan, "file", "applied by SIGHUP")
        except ProteusError as error:
            log.error("SIGHUP: kept the plan: %s", error.message, extra=fields(hint=error.hint))  # noqa: TRY400
        except Exception:
            log.exception("SIGHUP: kept the plan, because of a bug")

    @contextlib.contextmanager
    def _begun_with(self, base: Base) -> Iterator[None]:
        """From now on this is the file that a server goes on from, unless its plan is refused."""
        if self._history is None:
            yield
            return
        before, self._history.base = self._history.base, base
        try:
            yield
        except ProteusError:
            self._history.base = before
            raise

    async def _apply(self, plan: Plan, origin: Origin, reason: str) -> PlanChange:
        """Raises `RequestError`; then nothing has changed."""
        require_fitting(plan, self._served)
        try:
            await asyncio.to_thread(self._source.require_current, plan)
        except ProteusError as error:
            raise Conflict(error.message, hint=error.hint) from error
        try:
            change = await self._adaptation.apply(plan, origin, reason)
        except EngineError as error:
            raise Unfitting(f"the plan can't be loaded: {error.message}", hint=error.hint) from error
        if self._solver is not None:
            self._solver.use(self._source.replanner(plan, self._served.profiles))
        return change


def require_fitting(plan: Plan, served: PlanRequirements) -> None:
    """Raise `Unfitting` where a plan is not one for what is served here: it could not be loaded, or not be followed."""
    if plan.policy != served.policy:
        raise Unfitting(f"the plan is of the policy `{plan.policy}`; this server runs `{served.policy}`")
    unknown = [device for device in plan.devices if device not in served.profiles]
    if unknown:
        raise Unfitting(f"the plan is for `{unknown[0]}`, which this server doesn't have: {', '.join(served.profiles)}")
    strange = [family for family in plan.demand_qps if family not in served.catalog.names]
    if strange:
        raise Unfitting(f"the plan has a demand of `{strange[0]}`, which is no family of the catalog")
    for placement in plan.placements:
        _require_placeable(placement, served)
    for device in plan.devices:
        _require_room(device, [p for p in plan.placements if p.device == device], served.profiles)


def _require_placeable(placement: Placement, served: PlanRequirements) -> None:
    where = f"`{placement.variant}` on `{placement.device}`"
    try:
        served.catalog.family(placement.family).variant(placement.variant)
        measured = measured_for(placement, served.profiles)
    except ProteusError as error:
        raise Unfitting(error.message, hint=error.hint) from error
    if placement.max_batch > measured.points[-1].batch:
        most = measured.points[-1].batch
        raise Unfitting(f"{where} was measured with batches of up to {most}; the plan has {placement.max_batch}")
    if (placement.family, placement.variant) not in served.models:
        raise Unfitting(f"there is no model of {where}")


def _require_room(device: str, residents: list[Placement], profiles: Mapping[str, Profile]) -> None:
    twice = [key for key, times in Counter((p.family, p.variant) for p in residents).items() if times > 1]
    if twice:
        raise Unfitting(f"the plan puts `{twice[0][1]}` on `{device}` twice")
    memory_bytes = profiles[device].device.memory_bytes
    needed_bytes = sum(measured_for(placement, profiles).memory_bytes for placement in residents)
    if 0 < memory_bytes < needed_bytes:
        raise Unfitting(f"the plan needs {needed_bytes} bytes of memory on `{device}`, which has {memory_bytes}")
