"""A deployment for `proteus serve`: a plan, the devices and models to serve it with, and the source of later plans."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.control.policies import Policy, batcher_named, live_policy_named, with_replanning
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base
from proteus_cli.domain.profile import Profile
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.serving.adaptation.conditions import KeptConditions
from proteus_cli.serving.adaptation.plan_journal import JournalSettings
from proteus_cli.serving.adaptation.shifts import References
from proteus_cli.serving.devices.remote.links.host_list import HostList, known_hosts
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog, current_profiles, model_digests
from proteus_cli.serving.workspace.memory import memory_limits
from proteus_cli.serving.workspace.naming import undo_namings
from proteus_cli.serving.workspace.plans import Emulation, Resources, WorkspacePlans, base_of, starting_plan
from proteus_cli.serving.workspace.profiles import WorkspaceProfiles
from proteus_cli.serving.workspace.versions import WorkspaceVersions
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import sharing_gaps

log = logging.getLogger("proteus.server")

SOLVE_LIMIT_S = 2.0  # shorter than for `proteus plan`: in a server a good plan now beats a better one later


@dataclass(frozen=True, slots=True)
class DeploymentOptions:
    """How a plan is to be served, as it is written on a command line; ``emulation`` where devices are emulated.

    With ``strict``, no profile may be stale; else the server starts without the variants of which one is.
    With ``resume``, if the last server that was started with this plan was killed, the plan is the one that was in
    force then, if that is current; and live conditions count that the last server of the workspace had. ``kept_plans``:
    how many to keep in ``plans/history/``. ``drift_after_s``: how long a profile must be wrong to be recalibrated; 0:
    never. ``record``: recalibrated profiles are written back.
    ``memory`` as in `memory_limits`. Devices of ``hosts`` that the plan does not have join, after
    ``join_budget_s`` of measuring where no profile is of them; None: they do not join.
    ``attainment`` replaces the target of the plan and of its file when that is read again. With ``shifts``, what comes
    is compared with the eval splits. What is new in the catalog is measured for ``catalog_budget_s`` on each device;
    with ``watch``, the catalog is read anew where it changes. With ``fixed_slots``, devices use all their slots.
    """

    replan: str = "auto"
    batching: str | None = None
    emulation: Emulation | None = None
    strict: bool = False
    resume: bool = True
    kept_plans: int = 1000
    in_processes: bool = False
    max_unavailable_frac: float = 0.5
    drift_after_s: float = 60.0
    record: bool = False
    shifts: bool = False
    memory: Mapping[str, int] | None = None
    attainment: float | None = None
    hosts: HostList | None = None
    join_budget_s: float | None = 60.0
    catalog_budget_s: float = 60.0
    watch: bool = False
    fixed_slots: bool = False

    def policy(self, plan: Plan) -> Policy:
        """The policy of a plan, re-planning and batching as these options say. Raises `UsageError`."""
        policy = with_replanning(live_policy_named(plan.policy), self.replan)
        return policy if self.batching is None else replace(policy, batching=batcher_named(self.batching))


def deployment_of(name: Path, workspace: Workspace, options: DeploymentOptions = DeploymentOptions()) -> Deployment:
    """A deployment whose plan is current, and whose devices and models are those that were measured, or emulated.

    Where a server ended before a version served that the catalog was to name, that is undone.
    Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    emulation, is_emulated = options.emulation, options.emulation is not None
    undo_namings(workspace)
    base = base_of(workspace, name)
    start = starting_plan(workspace, name, base, emulation, known_hosts(options.hosts), resume=options.resume)
    catalog, plan, resources = workspace.catalog(), start.plan.with_attainment(options.attainment), start.resources
    workspace.require_current(plan.inputs)
    _require_in_catalog(plan, catalog)
    for line in sharing_gaps(workspace, resources.profiles, plan.hosted()):
        log.info("sharing: %s", line)
    policy = options.policy(plan)
    digests = model_digests(workspace, catalog, {})
    measured, profiles = resources.profiles, resources.profiles
    if not options.strict:
        profiles = current_profiles(workspace, measured, CatalogContent(catalog, digests))
        resources = replace(resources, profiles=profiles)
    settings = planner_settings(
        workspace, policy, plan.headroom, profiles=profiles, rules=plan.rules, time_limit_s=SOLVE_LIMIT_S,
        strict=options.strict,
    )  # fmt: skip
    if stale := _stale_variants(measured, profiles, catalog):
        log.warning(
            "started without variants whose model, eval split or accuracy is not the one that was measured: %s. "
            "`proteus profile` measures them, and then SIGHUP has the server read the catalog",
            ", ".join(f"{key.family}/{key.variant}" for key in stale),
        )
        if any(profiles[each.device].of(each.family, each.variant) is None for each in plan.placements):
            plan = settings.make().with_changes(rules=plan.rules)(plan.demand_qps, None)
    source = WorkspacePlans(workspace, name, resources, emulation, settings, options.attainment)
    followed = WorkspaceCatalog(source, options.catalog_budget_s)
    return Deployment(
        plan=plan,
        catalog=catalog,
        profiles=resources.profiles,
        devices=resources.devices,
        models=resources.models,
        labels=workspace.labels(catalog),
        policy=policy,
        source=source,
        drift_after_s=options.drift_after_s,
        records=options.record,
        built=workspace.built_dir,
        emulated=is_emulated,
        replanning=options.replan if policy.replanning is not None else "off",
        solve_limit_s=SOLVE_LIMIT_S,
        journal=_journal(workspace, base, options),
        origin=start.origin,
        reason=start.reason,
        in_processes=options.in_processes,
        hosts=options.hosts,
        newcomers=_newcomers(source, options),
        max_unavailable_frac=options.max_unavailable_frac,
        catalog_source=followed,
        version_source=WorkspaceVersions(followed),
        digests=digests,
        watches_catalog=options.watch,
        tunes_slots=not options.fixed_slots,
        conditions=_conditions(workspace, catalog, options),
        references=References(workspace) if options.shifts and not is_emulated else None,
        memory_bytes=_memory_bytes(options.memory, resources, is_emulated=is_emulated),
    )


def _stale_variants(
    measured: Mapping[str, Profile], current: Mapping[str, Profile], catalog: Catalog
) -> list[VariantKey]:
    """The variants of the catalog that a device was profiled with, and that its current profile lacks."""
    lost = {
        each.key
        for device, profile in measured.items()
        for each in profile.variants
        if current[device].of(*each.key) is None
    }
    keys = [VariantKey(family.name, variant.name) for family, variant in catalog.variants]
    return [key for key in keys if key in lost]


def _journal(workspace: Workspace, base: Base, options: DeploymentOptions) -> JournalSettings | None:
    if not options.kept_plans:
        return None
    return JournalSettings(workspace.history_dir, base, options.emulation is not None, options.kept_plans)


def _newcomers(source: WorkspacePlans, options: DeploymentOptions) -> WorkspaceProfiles | None:
    """What is known of devices that may join; None where none may."""
    if options.hosts is None or options.emulation is not None or options.join_budget_s is None:
        return None
    return WorkspaceProfiles(source, source.resources.profiles, options.join_budget_s, options.memory)


def _conditions(workspace: Workspace, catalog: Catalog, options: DeploymentOptions) -> KeptConditions:
    if options.emulation is not None or not options.resume:
        return KeptConditions(None)
    return KeptConditions.restore(workspace.conditions_path, catalog)


def _require_in_catalog(plan: Plan, catalog: Catalog) -> None:
    """Raise `UsageError` unless the catalog has every variant of a plan."""
    for placement in plan.placements:
        catalog.family(placement.family).variant(placement.variant)


def _memory_bytes(memory: Mapping[str, int] | None, resources: Resources, *, is_emulated: bool) -> Mapping[str, int]:
    devices = {device.id: device for device in resources.devices}
    return memory_limits(memory, devices, None if is_emulated else free_bytes())
