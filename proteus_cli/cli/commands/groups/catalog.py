"""``proteus catalog``: change the catalog."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import catalog as options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proteus_cli.backends.base import Backend
    from proteus_cli.domain.device import Device
    from proteus_cli.store import Workspace
    from proteus_cli.variants.conversions.recipes import Recipe
    from proteus_cli.variants.deriving import Derivation, Parent

app = group_of_commands("Change the catalog of what can be served.")


@app.command(cls=Command)
def add(
    family: options.FamilyName,
    models: options.Models,
    *,
    slo: options.Slo = None,
    eval: options.Eval = None,  # noqa: A002 - the name of the option
    accuracy: options.Accuracy = None,
    calibration: options.Calibration = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Add models as variants of a family; makes the family where it is new, and the catalog where there is none.

    Names, shapes and types are read from the files. Where a batch is fixed, axis 0 is made dynamic, which needs the
    extra `derive`. Without `--eval`, `--accuracy` or `--calibration` the first variant of a new family counts as
    always right, and that is shown as an estimate.
    """
    from proteus_cli.cli.views.catalog_lines import addition_lines, wrote_catalog
    from proteus_cli.store import Workspace
    from proteus_cli.variants.accuracy import Evidence, parse_accuracies
    from proteus_cli.variants.adding import add
    from proteus_cli.variants.models import variant_names

    workspace, named = Workspace(workspace_dir), variant_names(models)
    stated = parse_accuracies(accuracy, list(named)) if accuracy is not None else {}
    evidence = Evidence(eval, stated, calibration)
    with console.progress(f"adding to {family}") as advance:
        made = add(workspace, family, named, slo=slo, evidence=evidence, backend=_backend(workspace), advance=advance)
    console.deliver(made, json=json, lines=[*addition_lines(made), wrote_catalog(workspace.catalog_path)])


@app.command(cls=Command)
def split(
    family: options.FamilyName,
    model: options.WholeModel,
    *,
    at: options.At,
    stop_when: options.StopWhen = None,
    slo: options.Slo = None,
    eval: options.SplitEval = None,  # noqa: A002 - the name of the option
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Cut a model with several exits into stages, and add it to a family as a multi-exit model.

    The stages must compute what the whole model does. Accuracies are measured on the eval split of the family; labels
    have no part in the thresholds of the variants that are made. Needs the extra `derive`.
    """
    import msgspec

    from proteus_cli.cli.views.catalog_lines import split_lines, wrote_catalog
    from proteus_cli.domain.conditions import Condition
    from proteus_cli.input_files import decoded
    from proteus_cli.store import Workspace
    from proteus_cli.variants.cutting import parse_cuts
    from proteus_cli.variants.splitting import split

    workspace, cuts = Workspace(workspace_dir), parse_cuts(at)
    condition = None
    if stop_when is not None:
        what, hint = f"`--stop-when {stop_when}` is no condition", "docs/bounds.md describes conditions"
        condition = decoded(stop_when.encode(), msgspec.json.Decoder(Condition).decode, what, hint=hint)
    with console.progress(f"splitting {model.name}") as advance:
        made = split(
            workspace, family, model, cuts,
            slo=slo, eval_path=eval, stop_when=condition, backend=_backend(workspace), advance=advance,
        )  # fmt: skip
    console.deliver(made, json=json, lines=[*split_lines(made), wrote_catalog(workspace.catalog_path)])


@app.command(cls=Command)
def diff(
    *,
    url: options.Url = "http://127.0.0.1:8000",
    ca: common.Ca = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Show what a running server would change if it read the catalog now: by SIGHUP, --watch, or POST.

    Models are compared by what their files hold. A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.cli.views.catalog_lines import changes_table
    from proteus_cli.cli.workflows.deployment.live_catalog import catalog_changes
    from proteus_cli.store import Workspace
    from proteus_cli.units import counted

    found = catalog_changes(Workspace(workspace_dir), url, ca)
    line = f"{counted(len(found), 'difference')} between the catalog and what {url} serves"
    console.deliver(found, json=json, tables=[changes_table(found)] if found else [], lines=[line])


@app.command(cls=Command)
def derive(
    variant: options.VariantName,
    *,
    int8: options.Int8 = False,
    fp16: options.Fp16 = False,
    sizes: options.Sizes = None,
    calibration: options.CalibrationRows = None,
    device: options.Device = "all",
    keep_all: options.KeepAll = False,
    dry_run: options.DryRun = False,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Make variants of a variant: in INT8 or FP16, or with smaller images inside. Needs the extra `derive`.

    Each is measured beside the variant that it is made of, and kept if it is faster and answers more queries rightly
    per second, or if it is more accurate than all that are as fast. Its accuracy is measured on the eval split of the
    family; without one it is estimated, by its agreement with that variant on the calibration rows. Run `proteus
    profile` and `proteus plan` afterwards.
    """
    from proteus_cli.store import Workspace
    from proteus_cli.variants.conversions.recipes import Wanted, parse_sizes
    from proteus_cli.variants.deriving import derive, read_parent

    workspace = Workspace(workspace_dir)
    with workspace.only_read() if dry_run else nullcontext(workspace) as place:
        parent = read_parent(place, variant, calibration, _backend(place))
        recipes = parent.recipes(Wanted(int8, fp16, parse_sizes(sizes) if sizes is not None else ()))
    if dry_run:
        _list(parent, recipes, json=json)
        return
    with console.progress(f"deriving from {variant}") as advance:
        made = derive(parent, recipes, _devices(workspace, device), keep_all=keep_all, advance=advance)
    _show(made, json=json)


def _show(made: "Derivation", *, json: bool) -> None:
    from proteus_cli.cli.views.catalog_lines import derivation_lines, derivation_table, loss_warnings

    console.deliver(made, json=json, tables=[derivation_table(made)], lines=derivation_lines(made))
    if not json:
        for warning in loss_warnings(made):
            console.warn(warning)


def _list(parent: "Parent", recipes: "Sequence[Recipe]", *, json: bool) -> None:
    """Show what would be made."""
    planned = [{"variant": parent.key(each).variant, "onnx": parent.onnx(each), "how": each.how} for each in recipes]
    lines = [f"would make {each['variant']} ({each['how']}) as {each['onnx']}" for each in planned]
    console.deliver(planned, json=json, lines=lines)


def _backend(workspace: "Workspace") -> "Backend":
    return _devices(workspace, "all")[0][1]


def _devices(workspace: "Workspace", names: str) -> "list[tuple[Device, Backend]]":
    """One device of each type among those that are named."""
    from proteus_cli.backends.base import BuildContext
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.registry import open_backend
    from proteus_cli.settings import read_settings

    chosen = select(discover(read_settings(workspace.root).devices), names)
    first_of_type = {device.type: device for device in reversed(chosen)}
    engines = BuildContext(workspace.built_dir, say=console.say)
    return [(device, open_backend(device, engines)) for device in chosen if device is first_of_type[device.type]]
