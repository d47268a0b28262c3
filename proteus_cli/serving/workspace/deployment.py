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
from proteus_cli.serving.requests.samples.writer import SampleSettings
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.transport.tls import ServerCertificate
from proteus_cli.serving.transport.tokens import read_tokens
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
    name: Path, workspace: Workspace, settings: ServeSettings | None = None, hosts: HostList | None = None
) -> Deployment:
    """The deployment of a plan. The plan is current, and its devices and models were measured or are emulated.

    If a server ended while the catalog was to name another version, that is undone first. Devices of ``hosts`` that the
    plan does not have may join.

    Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    settings = settings or ServeSettings()
    strict, resume, memory = settings.strict, settings.resume, settings.memory
    emulation = Emulation(settings.fleet) if settings.emulate else None
    is_emulated = emulation is not None
    undo_namings(workspace)
    base = base_of(workspace, name)
    start = starting_plan(workspace, name, base, emulation, known_hosts(hosts), resume=resume)
    catalog, plan, resources = workspace.catalog(), start.plan.with_attainment(settings.attainment), start.resources
    workspace.require_current(plan.inputs)
    for placement in plan.placements:  # raises `UsageError` for an unknown variant
        catalog.family(placement.family).variant(placement.variant)
    for line in sharing_gaps(workspace, resources.profiles, plan.hosted()):
        log.info("sharing: %s", line)
    policy = _policy(plan, settings)
    digests = model_digests(workspace, catalog, {})
    measured, profiles = resources.profiles, resources.profiles
    if not strict:
        profiles = current_profiles(workspace, measured, CatalogContent(catalog, digests))
        resources = replace(resources, profiles=profiles)
    planner = planner_settings(
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
            plan = planner.make().with_changes(rules=plan.rules)(plan.demand_qps, None)
    journal = None
    if settings.plan_history:
        journal = JournalSettings(workspace.history_dir, base, is_emulated, settings.plan_history)
    conditions = KeptConditions(None)
    if resume and not is_emulated:
        conditions = KeptConditions.restore(workspace.conditions_path, catalog)
    source = WorkspacePlans(workspace, name, resources, emulation, planner, settings.attainment)
    newcomers = None
    if hosts is not None and not is_emulated and settings.join:
        newcomers = WorkspaceProfiles(source, resources.profiles, settings.join_budget_s, memory)
    devices = {device.id: device for device in resources.devices}
    followed = WorkspaceCatalog(source, settings.catalog_budget_s)
    return Deployment(
        plan=plan,
        catalog=catalog,
        profiles=resources.profiles,
        devices=resources.devices,
        models=resources.models,
        labels=workspace.labels(catalog),
        policy=policy,
        source=source,
        settings=settings,
        certificate=_certificate(settings),
        tokens=read_tokens(settings.auth_tokens) if settings.auth_tokens is not None else None,
        samples=_samples(settings, workspace),
        built=workspace.built_dir,
        solve_limit_s=SOLVE_LIMIT_S,
        journal=journal,
        origin=start.origin,
        reason=start.reason,
        hosts=hosts,
        newcomers=newcomers,
        catalog_source=followed,
        version_source=WorkspaceVersions(followed),
        digests=digests,
        conditions=conditions,
        references=References(workspace) if settings.shifts and not is_emulated else None,
        memory_bytes=memory_limits(memory, devices, None if is_emulated else free_bytes()),
    )


def _certificate(settings: ServeSettings) -> ServerCertificate | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerCertificate(settings.tls_cert, settings.tls_key)


def _samples(settings: ServeSettings, workspace: Workspace) -> SampleSettings | None:
    if settings.samples is None:
        return None
    return SampleSettings(workspace.samples_dir, settings.samples, settings.samples_space_bytes, settings.samples_for_s)


def _policy(plan: Plan, settings: ServeSettings) -> Policy:
    """The policy of a plan, with the settings' rules for re-planning and batching. Raises `UsageError`."""
    policy = with_replanning(live_policy_named(plan.policy), settings.replan)
    return policy if settings.batching is None else replace(policy, batching=batcher_named(settings.batching))


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
