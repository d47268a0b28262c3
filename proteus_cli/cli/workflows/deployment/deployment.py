"""A deployment for `proteus serve`: a plan, the devices and models to serve it with, and the source of later plans."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.cli.command_line.memory import memory_limits
from proteus_cli.cli.workflows.cluster.hosts import known_hosts
from proteus_cli.cli.workflows.deployment.joining import WorkspaceProfiles
from proteus_cli.cli.workflows.deployment.live_catalog import WorkspaceCatalog, model_digests
from proteus_cli.cli.workflows.deployment.naming_intents import undo_namings
from proteus_cli.cli.workflows.deployment.resources import Emulation, Resources, on_fleet, resources_for
from proteus_cli.cli.workflows.deployment.versions import WorkspaceVersions
from proteus_cli.cli.workflows.deployment.workspace_plans import WorkspacePlans, base_of
from proteus_cli.control.policies import Policy, batcher_named, live_policy_named, with_replanning
from proteus_cli.domain.catalog.catalog import Catalog, name_in_catalog
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.plan_changes.record import Base, Origin
from proteus_cli.errors import ArtefactError, DeviceUnavailable
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.serving.adaptation.kept_conditions import KeptConditions
from proteus_cli.serving.adaptation.plan_journal import JournalSettings, claim, left_behind, records
from proteus_cli.serving.adaptation.shifts.references import References
from proteus_cli.serving.devices.remote.links.host_list import HostList
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import sharing_gaps

log = logging.getLogger("proteus.server")

SOLVE_LIMIT_S = 2.0  # shorter than for `proteus plan`: in a server a good plan now beats a better one later


def deployment_of(
    name: Path,
    workspace: Workspace,
    *,
    replan: str,
    batching: str | None,
    emulation: Emulation | None = None,
    resume: bool = True,
    kept_plans: int = 1000,
    in_processes: bool = False,
    max_unavailable_frac: float = 0.5,
    drift_after_s: float = 60.0,
    record: bool = False,
    shifts: bool = False,
    memory: Mapping[str, int] | None = None,
    attainment: float | None = None,
    hosts: HostList | None = None,
    join_budget_s: float | None = 60.0,
    catalog_budget_s: float = 60.0,
    watch: bool = False,
    fixed_slots: bool = False,
) -> Deployment:
    """A deployment whose plan is current, and whose devices and models are those that were measured, or emulated.

    With ``resume``, if the last server that was started with this plan was killed, the plan is the one that was in
    force then, if that is current; and live conditions count that the last server of the workspace had. ``kept_plans``:
    how many to keep in ``plans/history/``. ``drift_after_s``: how long a profile must be wrong to be recalibrated; 0:
    never. ``record``: recalibrated profiles are written back.
    ``memory`` as in `memory_limits`. Devices of ``hosts`` that the plan does not have join, after
    ``join_budget_s`` of measuring where no profile is of them; None: they do not join.
    ``attainment`` replaces the target of the plan and of its file when that is read again. With ``shifts``, what comes
    is compared with the eval splits. What is new in the catalog is measured for ``catalog_budget_s`` on each device;
    with ``watch``, the catalog is read anew where it changes. Where a server ended before a version served that the
    catalog was to name, that is undone. With ``fixed_slots``, devices use all their slots.
    Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    is_emulated = emulation is not None
    undo_namings(workspace)
    base = base_of(workspace, name)
    start = _starting_plan(workspace, name, base, emulation, known_hosts(hosts), resume=resume)
    catalog, plan, resources = workspace.catalog(), start.plan.with_attainment(attainment), start.resources
    workspace.require_current(plan.inputs)
    _require_in_catalog(plan, catalog)
    for line in sharing_gaps(workspace, resources.profiles, plan.hosted()):
        log.info("sharing: %s", line)
    policy = _policy(plan, replan, batching)
    settings = planner_settings(
        workspace, policy, plan.headroom, profiles=resources.profiles, rules=plan.rules, time_limit_s=SOLVE_LIMIT_S
    )
    source = WorkspacePlans(workspace, name, resources, emulation, settings, attainment)
    followed = WorkspaceCatalog(source, catalog_budget_s)
    return Deployment(
        plan=plan,
        catalog=catalog,
        profiles=resources.profiles,
        devices=resources.devices,
        models=resources.models,
        labels=workspace.labels(catalog),
        policy=policy,
        source=source,
        drift_after_s=drift_after_s,
        records=record,
        built=workspace.built_dir,
        emulated=is_emulated,
        replanning=replan if policy.replanning is not None else "off",
        solve_limit_s=SOLVE_LIMIT_S,
        journal=JournalSettings(workspace.history_dir, base, is_emulated, kept_plans) if kept_plans else None,
        origin=start.origin,
        reason=start.reason,
        in_processes=in_processes,
        hosts=hosts,
        newcomers=_newcomers(source, memory, join_budget_s) if hosts is not None and not is_emulated else None,
        max_unavailable_frac=max_unavailable_frac,
        catalog_source=followed,
        version_source=WorkspaceVersions(followed),
        digests=model_digests(workspace, catalog, resources.profiles),
        watches_catalog=watch,
        tunes_slots=not fixed_slots,
        conditions=(
            KeptConditions.restore(workspace.conditions_path, catalog)
            if resume and not is_emulated
            else KeptConditions(None)
        ),
        references=References(workspace) if shifts and not is_emulated else None,
        memory_bytes=_memory_bytes(memory, resources, is_emulated=is_emulated),
    )


def _newcomers(
    source: WorkspacePlans, memory: Mapping[str, int] | None, budget_s: float | None
) -> WorkspaceProfiles | None:
    if budget_s is None or source.emulation is not None:
        return None
    return WorkspaceProfiles(source, source.resources.profiles, budget_s, memory)


def _require_in_catalog(plan: Plan, catalog: Catalog) -> None:
    """Raise `UsageError` unless the catalog has every variant of a plan."""
    for placement in plan.placements:
        catalog.family(placement.family).variant(placement.variant)


def _memory_bytes(memory: Mapping[str, int] | None, resources: Resources, *, is_emulated: bool) -> Mapping[str, int]:
    devices = {device.id: device for device in resources.devices}
    return memory_limits(memory, devices, None if is_emulated else free_bytes())


def _policy(plan: Plan, replan: str, batching: str | None) -> Policy:
    policy = with_replanning(live_policy_named(plan.policy), replan)
    return policy if batching is None else replace(policy, batching=batcher_named(batching))


# --- the plan to start with


@dataclass(frozen=True, slots=True)
class _StartingPlan:
    plan: Plan
    resources: Resources
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"


def _starting_plan(
    workspace: Workspace,
    name: Path,
    base: Base,
    emulation: Emulation | None,
    known: Collection[str] | None,
    *,
    resume: bool,
) -> _StartingPlan:
    """The plan to start with and what it is served with; with ``resume`` as in `_resumed`."""
    plan = workspace.plan(name)
    resources = resources_for(workspace, plan, emulation, known)
    start = _StartingPlan(on_fleet(plan, resources.profiles, emulation), resources)
    return _resumed(workspace, base, start, emulation, known) if resume else start


def _resumed(
    workspace: Workspace, base: Base, start: _StartingPlan, emulation: Emulation | None, known: Collection[str] | None
) -> _StartingPlan:
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
    return _StartingPlan(last, resources, "resumed", reason)


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
