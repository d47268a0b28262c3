"""A deployment for `proteus serve`: a plan, the devices and models to serve it with, and the source of later plans."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.control.policies import Policy, batcher_named, live_policy_named, with_replanning
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.serving.adaptation.conditions import KeptConditions
from proteus_cli.serving.adaptation.plan_journal import JournalSettings
from proteus_cli.serving.adaptation.shifts import References
from proteus_cli.serving.devices.remote.channel.address import HostList, known_hosts
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog, current_profiles, model_digests
from proteus_cli.serving.workspace.memory import memory_limits
from proteus_cli.serving.workspace.naming import undo_namings
from proteus_cli.serving.workspace.plans import Emulation, WorkspacePlans, base_of, starting_plan
from proteus_cli.serving.workspace.profiles import WorkspaceProfiles
from proteus_cli.serving.workspace.versions import WorkspaceVersions
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import sharing_gaps

log = logging.getLogger("proteus.server")

SOLVE_LIMIT_S = 2.0  # shorter than for `proteus plan`: in a server a good plan now beats a better one later


def deployment_of(
    name: Path,
    workspace: Workspace,
    *,
    replan: str = "auto",
    batching: str | None = None,
    emulation: Emulation | None = None,
    strict: bool = False,
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
    """A deployment whose plan is current, and whose devices and models were measured, or are emulated.

    If a server ended while the catalog was to name another version, that is undone first.

    ``emulation``: the devices are emulated. ``strict``: no profile may be stale; else the server starts without the
    variants of stale profiles. ``resume``: if the last server with this plan was killed, its last plan is resumed, if
    that is current; live conditions of the last server of the workspace hold. ``kept_plans``: the number of plans kept
    in ``plans/history/``. ``drift_after_s``: how long a profile must be wrong to be recalibrated; 0: never.
    ``record``: recalibrated profiles are written back. ``memory`` as in `memory_limits`. ``attainment`` replaces the
    target of the plan, also when its file is read again. ``shifts``: requests are compared with the eval splits.

    Devices of ``hosts`` that the plan does not have join; without a profile they are measured for ``join_budget_s``
    first. None: they do not join. New variants of the catalog are measured for ``catalog_budget_s`` on each device.
    ``watch``: the catalog is read when it changes. ``fixed_slots``: devices use all their slots.

    Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    is_emulated = emulation is not None
    undo_namings(workspace)
    base = base_of(workspace, name)
    start = starting_plan(workspace, name, base, emulation, known_hosts(hosts), resume=resume)
    catalog, plan, resources = workspace.catalog(), start.plan.with_attainment(attainment), start.resources
    workspace.require_current(plan.inputs)
    for placement in plan.placements:  # raises `UsageError` for an unknown variant
        catalog.family(placement.family).variant(placement.variant)
    for line in sharing_gaps(workspace, resources.profiles, plan.hosted()):
        log.info("sharing: %s", line)
    policy = _policy(plan, replan, batching)
    digests = model_digests(workspace, catalog, {})
    measured, profiles = resources.profiles, resources.profiles
    if not strict:
        profiles = current_profiles(workspace, measured, CatalogContent(catalog, digests))
        resources = replace(resources, profiles=profiles)
    settings = planner_settings(
        workspace, policy, plan.headroom, profiles=profiles, rules=plan.rules, time_limit_s=SOLVE_LIMIT_S,
        strict=strict,
    )  # fmt: skip
    if stale := _stale_variants(measured, profiles, catalog):
        log.warning(
            "started without variants whose model, eval split or accuracy is not the one that was measured: %s. "
            "`proteus profile` measures them, and then SIGHUP has the server read the catalog",
            ", ".join(f"{key.family}/{key.variant}" for key in stale),
        )
        if any(profiles[each.device].of(each.family, each.variant) is None for each in plan.placements):
            plan = settings.make().with_changes(rules=plan.rules)(plan.demand_qps, None)
    journal = JournalSettings(workspace.history_dir, base, is_emulated, kept_plans) if kept_plans else None
    conditions = KeptConditions(None)
    if resume and not is_emulated:
        conditions = KeptConditions.restore(workspace.conditions_path, catalog)
    source = WorkspacePlans(workspace, name, resources, emulation, settings, attainment)
    newcomers = None
    if hosts is not None and not is_emulated and join_budget_s is not None:
        newcomers = WorkspaceProfiles(source, resources.profiles, join_budget_s, memory)
    devices = {device.id: device for device in resources.devices}
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
        journal=journal,
        origin=start.origin,
        reason=start.reason,
        in_processes=in_processes,
        hosts=hosts,
        newcomers=newcomers,
        max_unavailable_frac=max_unavailable_frac,
        catalog_source=followed,
        version_source=WorkspaceVersions(followed),
        digests=digests,
        watches_catalog=watch,
        tunes_slots=not fixed_slots,
        conditions=conditions,
        references=References(workspace) if shifts and not is_emulated else None,
        memory_bytes=memory_limits(memory, devices, None if is_emulated else free_bytes()),
    )


def _policy(plan: Plan, replan: str, batching: str | None) -> Policy:
    """The policy of a plan, with other rules for re-planning and batching. Raises `UsageError`."""
    policy = with_replanning(live_policy_named(plan.policy), replan)
    return policy if batching is None else replace(policy, batching=batcher_named(batching))


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
