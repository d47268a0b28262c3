"""Drafts of peak studies: variants on a device, a plan, or a server at a URL."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from proteus_cli.backends.discovery import discover
from proteus_cli.control.batching import Batcher
from proteus_cli.control.policies import batcher_named
from proteus_cli.domain.capacity import Capacity
from proteus_cli.domain.catalog import Catalog, Family
from proteus_cli.domain.device import Device
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import UsageError
from proteus_cli.settings import read_settings
from proteus_cli.simulation.conditions import JITTERS, Conditions
from proteus_cli.store import Workspace, digest_of, made_by, require_current_models
from proteus_cli.store.sharing import with_sharing
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, default_name
from proteus_cli.studies.peak.carriers import (
    LONGEST_SLOS,
    PeakQuestion,
    Planned,
    RequestCarrier,
    Server,
    measured_peak,
    served_peak,
    server_peak,
    simulated,
)
from proteus_cli.studies.peak.search import FEWEST_STRETCHES
from proteus_cli.studies.profiled import of_variants, profiled_here
from proteus_cli.studies.results import Peak, PeakRules
from proteus_cli.studies.study import CellMode
from proteus_cli.units import format_duration, format_percent

KIND = "peak"
WANTED_S: Mapping[CellMode, float] = {"simulated": 5.0, "emulated": 60.0, "measured": 60.0}
MIN_S: Mapping[CellMode, float] = {"simulated": 0.2, "emulated": 8.0, "measured": 8.0}
"""The approximate time of a cell, and its minimum, with the start of a server.

Without a budget, cells in real time take no longer; simulated ones go on until enough is known.
"""
ALLOWED_FRAC = 0.01


# --- variants on a device


def device_draft(
    workspace: Workspace, family_name: str, variants: Sequence[str], device: str, question: PeakQuestion, name: str = ""
) -> StudyDraft:
    """A cell for each variant (none named: all that fit the SLO) and batching rule. Raises `UsageError`."""
    catalog, profile = workspace.catalog(), workspace.profile(device)
    family = catalog.family(family_name)
    inputs = workspace.digests([workspace.catalog_path, workspace.profile_path(device)])
    chosen = _chosen(family, profile, variants, question.rules.min_accuracy)
    devices = _require_here(workspace, question, [of_variants(profile, [each.key for each in chosen])])
    jobs = []
    for each in chosen:
        plan = lone_plan(catalog, family, each, profile, inputs)
        planned = Planned(workspace, catalog, {device: profile}, plan, {family.name: 1.0})
        jobs += _jobs(f"{catalog.label(each.key)} on {device}", planned, question, each.variant)
    subject = {"family": family.name, "device": f"{device} ({profile.device.name})", **question.words()}
    subject["SLO"] = format_duration(catalog.slo_s()[family.name])
    options = {**question.options(), "family": family.name, "device": device}
    own_name = default_name(KIND, family.name, device, *dict.fromkeys(variants), mode=question.mode)
    return StudyDraft(KIND, name or own_name, subject, options, inputs, jobs, devices=devices)


def _require_here(workspace: Workspace, question: PeakQuestion, profiles: Iterable[Profile]) -> tuple[Device, ...]:
    """The devices that something is measured on.

    Raises `DeviceUnavailable` where one is not here, `ArtefactError` where it is another than was profiled, or its
    profile is of other models than there are now.
    """
    if question.mode != "measured":
        return ()
    here = discover(read_settings(workspace.root).devices)
    found = []
    for profile in profiles:
        found.append(profiled_here(profile, here))
        require_current_models(workspace.catalog(), profile, workspace)
    return tuple(found)


def _chosen(family: Family, profile: Profile, variants: Sequence[str], min_accuracy: float) -> list[VariantProfile]:
    """The named variants, or all that carry any rate; the most accurate first.

    Raises `UsageError` where a named variant, or the best one, is below ``min_accuracy``.
    """
    known = {each.variant: each for each in profile.variants if each.family == family.name}
    if strays := [variant for variant in variants if variant not in known]:
        raise UsageError(
            f"`{strays[0]}` of `{family.name}` has no profile on `{profile.device.id}`.",
            hint=f"there are: {', '.join(known) or 'none'}; `proteus profile` measures others",
        )
    for variant in variants:
        _require_accurate(f"`{variant}`", [known[variant].accuracy], min_accuracy)
    if variants:
        return [known[variant] for variant in dict.fromkeys(variants)]
    accuracies = [each.accuracy for each in known.values()] or [1.0]
    _require_accurate(f"The best variant of `{family.name}` on `{profile.device.id}`", accuracies, min_accuracy)
    found = [each for each in carrying(family, profile) if each.accuracy >= min_accuracy]
    if not found:
        raise UsageError(
            f"No variant of `{family.name}` on `{profile.device.id}` is done within the SLO.",
            hint="give the family a longer `slo` in engines/catalog.toml, or measure another device",
        )
    return found


def _require_accurate(what: str, accuracies: Iterable[float], min_accuracy: float) -> None:
    best = max(accuracies, default=0.0)
    if best < min_accuracy:
        raise UsageError(
            f"{what} has an accuracy of {format_percent(best)}, below `--min-accuracy "
            f"{format_percent(min_accuracy)}`: no rate would count.",
            hint="ask for less accuracy, or measure a more accurate variant",
        )


def carrying(family: Family, profile: Profile) -> list[VariantProfile]:
    """The variants of a family that carry any rate within the SLO, so that each has a `lone_plan`; the best first."""
    known = [each for each in profile.variants if each.family == family.name]
    return sorted(
        (each for each in known if _capacity(family, each, profile).max_batch), key=lambda each: -each.accuracy
    )


def lone_plan(
    catalog: Catalog, family: Family, measured: VariantProfile, profile: Profile, inputs: Mapping[str, str]
) -> Plan:
    """A plan that hosts one variant on one device, with the batches that fit the SLO.

    Raises `UsageError` where not even one row fits.
    """
    capacity, device = _capacity(family, measured, profile), profile.device.id
    if not capacity.max_batch:
        raise UsageError(
            f"No batch of `{measured.variant}` on `{device}` is done within the SLO of "
            f"{format_duration(family.slo_s)}, so it carries no rate.",
            hint="name other variants with `--variant`, or give the family a longer `slo` in engines/catalog.toml",
        )
    placement = Placement(
        device, family.name, measured.variant, capacity.max_batch, capacity.qps, share=1.0, capacity_qps=capacity.qps
    )
    none = dict.fromkeys(catalog.names, 0.0)
    served = none | {family.name: capacity.qps}
    return Plan(
        format=PLAN_FORMAT,
        made_by=made_by(),
        policy="proteus",
        objective="one variant on one device",
        rules=Rules(),
        headroom=1.0,
        demand_qps=served,
        served_qps=served,
        unserved_qps=none,
        effective_accuracy=None,
        relative_accuracy=None,
        solver=Solver("none", "optimal", 0.0, 0.0),
        fleet={profile.device.type: (device,)},
        placements=(placement,),
        inputs=dict(inputs),
    )


def _capacity(family: Family, measured: VariantProfile, profile: Profile) -> Capacity:
    return Rules().capacity_within(family.slo_s, profile.points_of(measured), attainment=family.attainment)


# --- a plan


def plan_draft(
    workspace: Workspace, path: Path, family: str | None, question: PeakQuestion, name: str = ""
) -> StudyDraft:
    """A cell for each batching rule; of one family, or of all as the plan's demand is mixed. Raises `ArtefactError`."""
    plan, catalog = workspace.plan(path), workspace.catalog()
    workspace.require_current(plan.inputs)
    served = {each: qps for each, qps in plan.served_qps.items() if qps > 0}
    if family is not None and family not in served:
        raise UsageError(f"The plan serves no `{family}`.", hint=f"it serves: {', '.join(served) or 'nothing'}")
    mix = {family: 1.0} if family is not None else served
    profiles, placed = with_sharing(workspace, workspace.profiles_of(plan)), plan.hosted()
    used = [of_variants(profile, placed.get(device, ())) for device, profile in profiles.items()]
    devices = _require_here(workspace, question, used)
    for each in mix:
        accuracies = (known.accuracy for profile in used for known in profile.variants if known.family == each)
        _require_accurate(f"The best variant of `{each}` in the plan", accuracies, question.rules.min_accuracy)
    planned = Planned(workspace, catalog, profiles, plan, mix)
    subject = {"plan": path.stem, "families": ", ".join(mix), "devices": str(len(plan.devices)), **question.words()}
    options = {**question.options(), "plan": path.stem, "family": family or ""}
    inputs = {**plan.inputs, "plan": digest_of(plan)}
    own_name = default_name(KIND, path.stem, *([] if family is None else [family]), mode=question.mode)
    jobs = _jobs(path.stem, planned, question)
    return StudyDraft(KIND, name or own_name, subject, options, inputs, jobs, devices=devices)


def _jobs(key: str, planned: Planned, question: PeakQuestion, variant: str = "") -> list[Job]:
    """A cell of a plan for each batching rule: simulated, or served here on devices that are emulated or not."""

    def measured(rule: str, batcher: Batcher, turn: JobTurn) -> Peak:
        if question.mode == "simulated":
            conditions = Conditions(jitter=JITTERS[question.jitter] if question.jitter else None)
            run = simulated(planned.plan, planned.catalog, planned.profiles, batcher, conditions)
            rules, slo_s = question.rules, planned.slo_s
            carrier = RequestCarrier(run, planned.mix, slo_s, rules.min_accuracy, is_real_time=False)
            peak = measured_peak(carrier, rules, planned.first_qps, turn.allowed_s, question.seed, turn.advance)
            peak = msgspec.structs.replace(peak, slo_s=slo_s)
        else:
            peak = served_peak(planned, rule, question, turn)
        return msgspec.structs.replace(peak, family=", ".join(planned.mix), variant=variant, batching=rule)

    batchers = {rule: batcher_named(rule) for rule in question.batchings}  # an unknown name is found at once
    return [
        _timed(f"{key}, {rule}", question.mode, planned.slo_s, partial(measured, rule, batcher))
        for rule, batcher in batchers.items()
    ]


def _timed(key: str, mode: CellMode, slo_s: float, measure: Callable[[JobTurn], Peak]) -> Job:
    if mode == "simulated":
        return Job(key, mode, WANTED_S[mode], measure, MIN_S[mode])
    wanted_s = max(WANTED_S[mode], FEWEST_STRETCHES * LONGEST_SLOS * slo_s)
    return Job(key, mode, wanted_s, measure, MIN_S[mode], without_budget_s=wanted_s)


# --- a server


def url_draft(server: Server, family: str, question: PeakQuestion, name: str = "") -> StudyDraft:
    """One cell: a family, or a model, of the server. Nothing says whether it is still the same as in an earlier run."""

    def measure(turn: JobTurn) -> Peak:
        ends_s = time.monotonic() + turn.allowed_s
        return server_peak(server, {family: 1.0}, question, None, ends_s, turn.advance)

    at = urlsplit(server.url)
    place = "-".join(filter(None, (at.hostname, str(at.port or ""), at.path.strip("/"))))
    own_name = default_name(KIND, *(re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in (place, family)))
    subject = {"server": server.url, "family": family, **question.words()}
    options = {**question.options(), "url": server.url, "family": family, "slo_s": server.slo_s}
    job = _timed(f"{family} at {server.url}", "measured", server.slo_s or 0.0, measure)
    return StudyDraft(KIND, name or own_name, subject, options, {}, [job])


# --- the whole workspace


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """The draft of `proteus study all`: on the first device, the most and the least accurate variant of each family.

    A text says why there is nothing to measure.
    """
    if not workspace.profiles_dir.is_dir():
        return "there is no profile: `proteus profile` makes one"
    catalog, profile = workspace.catalog(), next(iter(workspace.profiles().values()))
    device = profile.device
    question = PeakQuestion(PeakRules(ALLOWED_FRAC), mode_for(workspace, catalog, profile))
    parts = []
    for family in catalog.families:
        if fitting := [each.variant for each in carrying(family, profile)]:
            ends = tuple(dict.fromkeys((fitting[0], fitting[-1])))
            parts.append(device_draft(workspace, family.name, ends, device.id, question))
    if not parts:
        return f"no variant is done within its SLO on {device.id}"
    subject = {"device": f"{device.id} ({device.name})", **question.words()}
    jobs = [job for part in parts for job in part.jobs]
    options = {**question.options(), "family": "all", "device": device.id}
    return StudyDraft(KIND, KIND, subject, options, parts[0].inputs, jobs, devices=parts[0].devices)


def mode_for(workspace: Workspace, catalog: Catalog, profile: Profile) -> CellMode:
    """Measured where the device and all models of the catalog are here, else simulated."""
    here = {device.id for device in discover(read_settings(workspace.root).devices)}
    files = [path for family, variant in catalog.variants for path in workspace.files_of(variant)]
    has_models = all(variant.files for _, variant in catalog.variants) and all(path.is_file() for path in files)
    return "measured" if has_models and profile.device.id in here else "simulated"
