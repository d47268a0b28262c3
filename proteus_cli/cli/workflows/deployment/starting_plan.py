"""The plan that a server starts with: the one that is named, or the one that was in force when it was killed."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli.cli.workflows.deployment.resources import Emulation, Resources, on_fleet, resources_for
from proteus_cli.domain.catalog import name_in_catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base, Origin
from proteus_cli.errors import ArtefactError, DeviceUnavailable
from proteus_cli.serving.adaptation.plan_journal import claim, left_behind, records
from proteus_cli.store import Workspace

log = logging.getLogger("proteus.server")


@dataclass(frozen=True, slots=True)
class StartingPlan:
    """A plan, what it is served with, and why it is the first that is in force."""

    plan: Plan
    resources: Resources
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"


def starting_plan(
    workspace: Workspace,
    name: Path,
    base: Base,
    emulation: Emulation | None,
    known: Collection[str] | None,
    *,
    resume: bool,
) -> StartingPlan:
    """The plan of that name; with ``resume``, the one that was in force when the last server with it was killed.

    ``known`` hosts as in `resources_for`. Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    plan = workspace.plan(name)
    resources = resources_for(workspace, plan, emulation, known)
    start = StartingPlan(on_fleet(plan, resources.profiles, emulation), resources)
    return _resumed(workspace, base, start, emulation, known) if resume else start


def _resumed(
    workspace: Workspace, base: Base, start: StartingPlan, emulation: Emulation | None, known: Collection[str] | None
) -> StartingPlan:
    """The plan that was in force when the last server with this plan was killed, else ``start``.

    If ``start`` is stale, as after a server has recorded profiles, the last server need not have been killed. Real
    devices may have joined that server, and devices of ``start`` may have been lost when its last plan was made.
    """
    emulated = emulation is not None
    is_stale = _is_stale(workspace, start.plan)
    left = left_behind(records(workspace.history_dir), base, emulated=emulated, also_stopped=is_stale)
    if left is None or not _claimed(workspace, base):
        return start
    try:
        last = workspace.plan(workspace.history_dir / left.plan).with_names(lambda key: name_in_catalog(key.variant))
        workspace.require_current(last.inputs)
        if not emulated:
            resources = resources_for(workspace, _with_devices_of(last, start.plan), None, known)
        else:
            resources = start.resources
            _require_devices(last, resources)
    except (ArtefactError, DeviceUnavailable) as error:
        log.warning("can't resume `%s`, the last plan in force: %s", left.plan, error.message)
        return start
    why = "the inputs of the plan have changed" if is_stale else "the last server with this plan was killed"
    log.warning("%s: resuming the plan that was in force then, `%s`", why, left.plan)
    reason = f"{why} while `{left.plan}` was in force" if not is_stale else why
    return StartingPlan(last, resources, "resumed", reason)


def _claimed(workspace: Workspace, base: Base) -> bool:
    """Claim ``base`` until this process ends. True also where no lock file can be made."""
    try:
        return claim(workspace.history_dir, base) is not None
    except OSError:
        return True


def _is_stale(workspace: Workspace, plan: Plan) -> bool:
    try:
        workspace.require_current(plan.inputs)
    except ArtefactError:
        return True
    return False


def _with_devices_of(plan: Plan, other: Plan) -> Plan:
    """The plan, with the devices that another one may use, too."""
    types = [*plan.fleet, *(each for each in other.fleet if each not in plan.fleet)]
    fleet = {each: tuple(dict.fromkeys((*plan.fleet.get(each, ()), *other.fleet.get(each, ())))) for each in types}
    return msgspec.structs.replace(plan, fleet=fleet)


def _require_devices(plan: Plan, resources: Resources) -> None:
    others = set(plan.devices) - set(resources.profiles)
    if others:
        raise ArtefactError(f"It is for `{min(others)}`, which isn't served.", hint="leave out `--fleet`")
