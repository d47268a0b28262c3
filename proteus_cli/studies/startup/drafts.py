"""Which variants are started, on which devices."""

from collections.abc import Sequence
from pathlib import Path

from proteus_cli.backends.discovery import discover, select
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, model_parts
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, default_name
from proteus_cli.studies.results import Startup
from proteus_cli.studies.startup.starts import FEWEST, Subject, backend_files, startup

KIND = "startup"
RUNS = 20
START_S = 1.0
"""About how long a start takes: it is only for the budget."""

_BACKENDS = {"cpu": "onnxruntime", "gpu": "tensorrt"}


def startup_draft(
    workspace: Workspace,
    families: Sequence[str],
    variants: Sequence[str],
    device: str | None,
    runs: int,
    name: str = "",
) -> StudyDraft:
    """A cell for each variant (none named: all with a model) on one device of each type, or on that one.

    ``variants`` are names, or FAMILY/NAME. Raises `ArtefactError` where a model is missing, `UsageError` where nothing
    fits.
    """
    catalog = workspace.catalog()
    chosen = _chosen(catalog, families, variants)
    devices = _devices(workspace, device)
    subjects = [subject_of(workspace, family, variant, on) for on in devices for family, variant in chosen]
    jobs = [_job(subject, catalog.label(subject.key), runs) for subject in subjects]
    digests = {f"{family.name}/{variant.name}": workspace.loaded_digest(family, variant) for family, variant in chosen}
    ids = ",".join(on.id for on in devices)
    subject = {
        "families": ", ".join(dict.fromkeys(family.name for family, _ in chosen)),
        "devices": ", ".join(f"{on.id} ({on.name})" for on in devices),
        "starts of each": f"up to {runs} with the file cache cold, {runs} warm",
    }
    own_name = default_name(KIND, *dict.fromkeys(families), *dict.fromkeys(variants))
    return StudyDraft(KIND, name or own_name, subject, {"runs": runs, "devices": ids}, digests, jobs, devices=devices)


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """What `proteus study all` measures: the ends of each family. A text says why there is nothing to."""
    try:
        ends = [variant for family in workspace.catalog().families for variant in _ends(family)]
        return startup_draft(workspace, (), ends, None, RUNS, KIND)
    except ArtefactError as error:
        return error.message


def _ends(family: Family) -> list[str]:
    """The most and the least accurate variant with a model, as FAMILY/NAME."""
    known = sorted((each for each in family.variants if each.files), key=lambda each: -each.accuracy)
    return list(dict.fromkeys(f"{family.name}/{each.name}" for each in (*known[:1], *known[-1:])))


def _chosen(catalog: Catalog, families: Sequence[str], variants: Sequence[str]) -> list[tuple[Family, Variant]]:
    for name in families:
        catalog.family(name)  # raises
    known = [(family, variant) for family, variant in catalog.variants if not families or family.name in families]
    for name in variants:
        if not any(name in _names(*each) for each in known):
            raise UsageError(f"No variant `{name}`.", hint=f"there are: {', '.join(each.name for _, each in known)}")
    named = set(variants)
    found = [each for each in known if (named.intersection(_names(*each)) if variants else each[1].files)]
    if not found:
        raise ArtefactError("No variant has an ONNX file, so nothing can be started.", hint="`proteus catalog add`")
    return found


def _names(family: Family, variant: Variant) -> tuple[str, str]:
    """How it may be named."""
    return variant.name, f"{family.name}/{variant.name}"


def _devices(workspace: Workspace, wanted: str | None) -> tuple[Device, ...]:
    """The device of that id, or the first one of each type."""
    here = discover(read_settings(workspace.root).devices)
    if wanted is not None:
        return select(here, wanted)
    return tuple({device.type: device for device in reversed(here)}.values())[::-1]


def subject_of(workspace: Workspace, family: Family, variant: Variant, device: Device) -> Subject:
    """What is started. Raises `ArtefactError` where its model is missing."""
    model = workspace.loaded_model_of(family, variant, to="start")
    files = [part for path in {model, *workspace.files_of(variant)} for part in _parts(path)]
    built = workspace.built_dir / device.type / f"{family.name}__{variant.name}"
    engines = [path for path in built.rglob("*") if path.is_file()]
    return Subject(
        VariantKey(family.name, variant.name),
        device,
        _BACKENDS[device.kind],
        model,
        workspace.built_dir,
        [*files, *engines, *backend_files(device)],
    )


def _parts(path: Path) -> list[Path]:
    return model_parts(path) if path.suffix == ".onnx" else [path]


def _job(subject: Subject, label: str, runs: int) -> Job:
    def measure(turn: JobTurn) -> Startup:
        return startup(subject, runs, turn)

    key = f"{label} on {subject.device.id}"
    return Job(key, "measured", 2 * runs * START_S, measure, 2 * FEWEST * START_S)
