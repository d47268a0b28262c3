"""``proteus catalog``: change the catalog."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command import Command
from proteus_cli.cli.options import catalog as options
from proteus_cli.cli.options import common

if TYPE_CHECKING:
    from proteus_cli.backends.base import Backend
    from proteus_cli.store import Workspace

app = typer.Typer(help="Change the catalog of what can be served.", no_args_is_help=True)


class Precision(StrEnum):
    """The precisions that a model can be converted to."""

    FP16 = "fp16"


VariantName = Annotated[str, typer.Argument(help="The variant: its name, or FAMILY/NAME.")]
TargetPrecision = Annotated[Precision, typer.Option(help="The precision of the new variant.")]


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
    extra `derive`. Without `--eval`, `--accuracy` or `--calibration` the first variant of a family counts as always
    right, and that is shown as an estimate.
    """
    from proteus_cli.cli.views.catalog_lines import addition_lines
    from proteus_cli.store import Workspace
    from proteus_cli.variants.accuracy import Evidence, parse_accuracies
    from proteus_cli.variants.adding import add
    from proteus_cli.variants.models import variant_names

    workspace, named = Workspace(workspace_dir), variant_names(models)
    stated = parse_accuracies(accuracy, list(named)) if accuracy is not None else {}
    evidence = Evidence(eval, stated, calibration)
    with console.progress(f"adding to {family}") as advance:
        made = add(workspace, family, named, slo=slo, evidence=evidence, backend=_backend(workspace), advance=advance)
    if json:
        console.show_json(made)
        return
    for line in addition_lines(made):
        console.say(line)
    console.say(f"wrote {workspace.catalog_path}; next: proteus profile, proteus plan")


@app.command(cls=Command)
def precision(
    variant: VariantName,
    *,
    to: TargetPrecision,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Add a variant with the same model in another precision, and measure its accuracy on the family's eval split.

    Inputs and outputs keep their types. Run `proteus profile` and `proteus plan` afterwards. Needs the extra
    `derive`.
    """
    from proteus_cli.profiling.precision import add_fp16
    from proteus_cli.store import Workspace
    from proteus_cli.units import format_size

    assert to is Precision.FP16  # noqa: S101 - there is no other
    workspace = Workspace(workspace_dir)
    made = add_fp16(workspace, variant, _backend(workspace))
    if json:
        console.show_json(made)
        return
    console.say(
        f"added {made.variant} to `{made.family}`: accuracy {made.accuracy:.4f} (before: {made.accuracy_before:.4f}), "
        f"{format_size(made.size_bytes)} (before: {format_size(made.size_before_bytes)})"
    )
    console.say(
        f"wrote {workspace.model_path(made.onnx)} and {workspace.catalog_path}; next: proteus profile, proteus plan"
    )


def _backend(workspace: "Workspace") -> "Backend":
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.registry import open_backend
    from proteus_cli.settings import read_settings

    return open_backend(select(discover(read_settings(workspace.root).devices), "all")[0])
