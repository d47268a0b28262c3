"""``proteus catalog``: change the catalog."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion
from proteus_cli.cli.command_line.command import Command, group_of_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proteus_cli.backends.base import Backend
    from proteus_cli.domain.catalog_changes import CatalogChange
    from proteus_cli.domain.device import Device
    from proteus_cli.store import Workspace
    from proteus_cli.variants.deriving import Derivation
    from proteus_cli.variants.splitting import SplitModel

FamilyName = Annotated[str, Argument(metavar="FAMILY", help="The family: new, or one of the catalog.")]

Slo = Annotated[str | None, Option(metavar="DURATION", help="The latency target of a new family, such as `200ms`.")]

LOUD_LOSS = 0.05
"""The loss of accuracy that a warning reports. INT8 costs the models of the sample zoo at most half a point."""

_ADVICE = {
    True: "The loss is an estimate: an eval split (`eval` in engines/catalog.toml) tells the true one",
    False: "Other rows to calibrate on, or sizes nearer to its own, may lose less",
}

app = group_of_commands("Change the catalog of what can be served.")


@app.command(cls=Command)
def add(
    family: FamilyName,
    models: Annotated[
        list[Path], Argument(metavar="MODEL", help="ONNX files; each becomes a variant with the file's name.")
    ],
    *,
    slo: Slo = None,
    eval: Annotated[  # noqa: A002 - the name of the option
        Path | None,
        Option(
            metavar="NPZ|FOLDER",
            help="Labelled rows, or images as FOLDER/CLASS/*.jpg or *.png, for a new family: accuracies are measured "
            "on them, here and by `profile`.",
        ),
    ] = None,
    accuracy: Annotated[
        str | None,
        Option(
            metavar="VALUE|VARIANT=VALUE,…",
            help="Accuracies that are known, such as `0.91`, or `small=0.9,large=95.2%`.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        Option(
            metavar="NPZ",
            help="Rows without labels: without an eval split, accuracies are estimated by the part of them on which a "
            "variant agrees with the best of its family.",
        ),
    ] = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Add models as variants of a family; makes the family where it is new, and the catalog where there is none.

    Names, shapes and types are read from the files. Where a batch is fixed, axis 0 is made dynamic, which needs the
    extra `derive`. Without `--eval`, `--accuracy` or `--calibration` the first variant of a new family counts as
    always right, and that is shown as an estimate.
    """
    from proteus_cli.store import Workspace
    from proteus_cli.variants.accuracy import Evidence, parse_accuracies
    from proteus_cli.variants.adding import add
    from proteus_cli.variants.models import variant_names

    workspace, named = Workspace(workspace_dir), variant_names(models)
    stated = parse_accuracies(accuracy, list(named)) if accuracy is not None else {}
    evidence = Evidence(eval, stated, calibration)
    with console.progress(f"adding to {family}") as advance:
        made = add(workspace, family, named, slo=slo, evidence=evidence, backend=_backend(workspace), advance=advance)
    lines = []
    for added in made.variants:
        freed = f"; its batch of {added.fixed_batch} was made dynamic" if added.fixed_batch is not None else ""
        lines.append(f"added {added.variant} to `{family}`: accuracy {added.accuracy:.4f}, {added.basis}{freed}")
    takes, gives = (
        ", ".join(f"{name} ({kind})" for name, kind in tensors.items()) for tensors in (made.inputs, made.outputs)
    )
    lines.append(f"`{family}` takes {takes}, and gives {gives}; SLO {made.slo}")
    console.deliver(made, json=json, lines=[*lines, wrote_catalog(workspace.catalog_path)])


def wrote_catalog(path: Path) -> str:
    """The message after a catalog was written."""
    return f"wrote {path}; next: proteus profile, proteus plan"


@app.command(cls=Command)
def split(
    family: FamilyName,
    model: Annotated[
        Path, Argument(metavar="MODEL", help="An ONNX file with the outputs of all exits, in their order.")
    ],
    *,
    at: Annotated[
        str,
        Option(
            metavar="TENSOR,…",
            help="The tensors within the model to cut it at, one less than exits; `a+b` where a stage takes two.",
        ),
    ],
    stop_when: Annotated[
        str | None,
        Option(
            metavar="JSON",
            help='Make one variant, which stops queries under this condition, such as `{"metric": "exit", "op": ">=", '
            '"value": 2}`; else three are made, for which 70, 40 and 10 % of the eval split stop at the first exit.',
        ),
    ] = None,
    slo: Slo = None,
    eval: Annotated[  # noqa: A002 - the name of the option
        Path | None,
        Option("--eval", metavar="NPZ", help="Labelled rows, for a new family: exits are judged on them."),
    ] = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Cut a model with several exits into stages, and add it to a family as a multi-exit model.

    The stages must compute what the whole model does. Accuracies are measured on the eval split of the family; labels
    have no part in the thresholds of the variants that are made. Needs the extra `derive`.
    """
    import msgspec

    from proteus_cli.domain.conditions import Condition
    from proteus_cli.input_files import decoded
    from proteus_cli.store import Workspace
    from proteus_cli.variants.cutting import parse_cuts
    from proteus_cli.variants.splitting import split

    workspace, cuts = Workspace(workspace_dir), parse_cuts(at)
    condition = None
    if stop_when is not None:
        what, hint = f"`--stop-when {stop_when}` is no condition", "docs/serving.md describes conditions"
        condition = decoded(stop_when.encode(), msgspec.json.Decoder(Condition).decode, what, hint=hint)
    with console.progress(f"splitting {model.name}") as advance:
        made = split(
            workspace, family, model, cuts,
            slo=slo, eval_path=eval, stop_when=condition, backend=_backend(workspace), advance=advance,
        )  # fmt: skip
    console.deliver(made, json=json, lines=[*split_lines(made), wrote_catalog(workspace.catalog_path)])


def split_lines(made: "SplitModel") -> "Iterator[str]":
    """A line on the stages, then one for each variant."""
    from proteus_cli.units import format_percent

    yield f"cut into {', '.join(made.stages)}; together they compute what the model does"
    for point in made.variants:
        shares = ", ".join(format_percent(each.share or 0.0) for each in point.exits)
        yield (
            f"added {point.variant} to `{made.family}`: {point.stop_when}; exits answer {shares} of the rows; accuracy "
            f"{point.accuracy:.4f}, measured on the eval split"
        )


@app.command(cls=Command)
def diff(
    *,
    url: Annotated[str, Option(metavar="URL", help="The server to compare with.")] = "http://127.0.0.1:8000",
    ca: options.Ca = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Show what a running server would change if it read the catalog now: by SIGHUP, `--set watch=true`, or POST.

    Models are compared by what their files hold. A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.reporting.tables import name, table, text
    from proteus_cli.store import Workspace
    from proteus_cli.units import counted

    found = catalog_changes(Workspace(workspace_dir), url, ca)
    line = f"{counted(len(found), 'difference')} between the catalog and what {url} serves"
    rows = table(name("family"), name("variant"), name("change"), text("what differs"))
    for each in found:
        rows.add_row(each.family or "all", each.variant, each.kind, each.what)
    console.deliver(found, json=json, tables=[rows] if found else [], lines=[line])


def catalog_changes(workspace: "Workspace", url: str, ca: Path | None) -> "list[CatalogChange]":
    """The changes that the server at ``url`` would make if it read the catalog of a workspace now. ``ca`` is trusted.

    Raises `ServerError`, `ArtefactError`.
    """
    import asyncio

    from proteus_cli.cli.servers import server_at
    from proteus_cli.domain.catalog_changes import CatalogContent, changes
    from proteus_cli.serving.workspace.catalog import model_digests

    async def served() -> CatalogContent:
        async with server_at(url, ca) as target:
            return await target.served()

    catalog = workspace.catalog()
    return list(changes(asyncio.run(served()), CatalogContent(catalog, model_digests(workspace, catalog, {}))))


@app.command(cls=Command)
def derive(
    variant: Annotated[str, Argument(metavar="VARIANT", help="The variant to derive from: its name, or FAMILY/NAME.")],
    *,
    int8: Annotated[
        bool,
        Option("--int8", help="In INT8: statically quantised where most layers are convolutions, else dynamically."),
    ] = False,
    fp16: Annotated[
        bool, Option("--fp16", help="In FP16, which pays on GPUs; CPUs are mostly slower with it.")
    ] = False,
    sizes: Annotated[
        str | None,
        Option(
            metavar="SIZE,…",
            help="With square images of these sizes, such as `160,192`: each is resized inside of the model.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        Option(
            "--calibration",
            metavar="NPZ",
            help="Rows without labels, none of them in the eval split: to quantise statically, and to estimate "
            "accuracies.",
        ),
    ] = None,
    device: Annotated[
        str,
        Option(
            metavar="DEVICE,…",
            autocompletion=completion.devices,
            help="Ids of devices to measure on, separated by commas; `all`: one CPU device of each type.",
        ),
    ] = "all",
    keep_all: Annotated[
        bool, Option("--keep-all", help="Also keep what is not worth it here: for devices that are elsewhere.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be made.")] = False,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
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
        planned = [
            {"variant": parent.key(each).variant, "onnx": parent.onnx(each), "how": each.how} for each in recipes
        ]
        lines = [f"would make {each['variant']} ({each['how']}) as {each['onnx']}" for each in planned]
        console.deliver(planned, json=json, lines=lines)
        return
    with console.progress(f"deriving from {variant}") as advance:
        made = derive(parent, recipes, _devices(workspace, device), keep_all=keep_all, advance=advance)
    if json:
        console.show_json(made)
    else:
        _show(made)


def _show(made: "Derivation") -> None:
    """A table of the parent and each derived variant on each device, the results, and warnings of lost accuracy."""
    from proteus_cli.reporting.tables import described, name, number, table
    from proteus_cli.units import ESTIMATED, format_accuracy, format_size

    all_variants = [(made.variant, made.size_bytes, made.devices)]
    all_variants += [(each.variant, each.size_bytes, each.devices) for each in made.derived]
    is_estimated = any(measured.estimated for _, _, devices in all_variants for measured in devices.values())
    rows = table(name("variant"), name("device"), number("accuracy"), number("rate"), number("size"))
    for variant, size_bytes, devices in all_variants:
        for device, measured in devices.items():
            accuracy = format_accuracy(measured.accuracy, estimated=measured.estimated)
            rows.add_row(variant, device, accuracy, f"{measured.qps:,.0f}", format_size(size_bytes))
    notes = [f"{ESTIMATED}: estimated"] if is_estimated else []
    console.show(described(rows, "rate: queries per second within the SLO", *notes))
    for each in made.derived:
        basis = next(iter(each.devices.values())).basis
        kept = "kept" if each.kept else "dropped"
        console.say(f"{kept} {each.variant} ({each.how}): {each.why}; accuracy {basis}")
    is_changed = any(each.kept for each in made.derived)
    wrote = "wrote engines/catalog.toml; next: proteus profile, proteus plan"
    console.say(wrote if is_changed else "nothing was kept: the catalog is as it was")
    for each in made.derived:
        losses = {device: made.devices[device].accuracy - found.accuracy for device, found in each.devices.items()}
        device = max(losses, key=lambda name: losses[name])
        if each.kept and losses[device] > LOUD_LOSS:
            own, parent = each.devices[device], made.devices[device]
            now, before = (format_accuracy(of.accuracy, estimated=of.estimated) for of in (own, parent))
            console.warn(
                f"{each.variant} is {100 * losses[device]:.1f} points less accurate than {made.variant} on {device}: "
                f"{now} against {before}. Plans use it where demand leaves them no better one. {_ADVICE[own.estimated]}"
            )


def _backend(workspace: "Workspace") -> "Backend":
    return _devices(workspace, "all")[0][1]


def _devices(workspace: "Workspace", names: str) -> "list[tuple[Device, Backend]]":
    """The first device of each type among the named devices."""
    from proteus_cli.backends.base import BuildContext
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.registry import open_backend
    from proteus_cli.settings import read_settings

    chosen = select(discover(read_settings(workspace.root).devices), names)
    first_of_type = {device.type: device for device in reversed(chosen)}
    engines = BuildContext(workspace.built_dir, say=console.say)
    return [(device, open_backend(device, engines)) for device in chosen if device is first_of_type[device.type]]
