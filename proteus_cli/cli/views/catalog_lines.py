"""What was added to the catalog, and what was derived, in lines and tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType

from proteus_cli.domain.catalog_changes import CatalogChange
from proteus_cli.reporting.tables import described, name, number, table, text
from proteus_cli.units import ESTIMATED, format_accuracy, format_percent, format_size
from proteus_cli.variants.adding import Addition
from proteus_cli.variants.deriving import Derivation
from proteus_cli.variants.splitting import SplitModel

LOUD_LOSS = 0.05
"""Of accuracy: what loses more is named in a warning. INT8 costs the models of the sample zoo half a point at most."""


def addition_lines(made: Addition) -> Iterator[str]:
    """A line for each variant, then what all of the family take and give."""
    for added in made.variants:
        freed = f"; its batch of {added.fixed_batch} was made dynamic" if added.fixed_batch is not None else ""
        yield f"added {added.variant} to `{made.family}`: accuracy {added.accuracy:.4f}, {added.basis}{freed}"
    yield f"`{made.family}` takes {_tensors(made.inputs)}, and gives {_tensors(made.outputs)}; SLO {made.slo}"


def _tensors(tensors: dict[str, str]) -> str:
    return ", ".join(f"{name} ({described})" for name, described in tensors.items())


def changes_table(changes: Sequence[CatalogChange]) -> RenderableType:
    """A row for each difference; of families without a variant."""
    rows = table(name("family"), name("variant"), name("change"), text("what differs"))
    for each in changes:
        rows.add_row(each.family or "all", each.variant, each.kind, each.what)
    return rows


def wrote_catalog(path: Path) -> str:
    """A line after a catalog was written: where, and what comes next."""
    return f"wrote {path}; next: proteus profile, proteus plan"


def split_lines(made: SplitModel) -> Iterator[str]:
    """The stages, then a line for each variant."""
    yield f"cut into {', '.join(made.stages)}; together they compute what the model does"
    for point in made.variants:
        shares = ", ".join(format_percent(each.share or 0.0) for each in point.exits)
        yield (
            f"added {point.variant} to `{made.family}`: {point.stop_when}; exits answer {shares} of the rows; accuracy "
            f"{point.accuracy:.4f}, measured on the eval split"
        )


def derivation_table(made: Derivation) -> RenderableType:
    """A row for the parent and for each derived variant, on each device."""
    all_variants = [
        (made.variant, made.size_bytes, made.devices),
        *((each.variant, each.size_bytes, each.devices) for each in made.derived),
    ]
    is_estimated = any(measured.estimated for _, _, devices in all_variants for measured in devices.values())
    rows = table(name("variant"), name("device"), number("accuracy"), number("rate"), number("size"))
    for variant, size_bytes, devices in all_variants:
        for device, measured in devices.items():
            accuracy = format_accuracy(measured.accuracy, estimated=measured.estimated)
            rows.add_row(variant, device, accuracy, f"{measured.qps:,.0f}", format_size(size_bytes))
    notes = [f"{ESTIMATED}: estimated"] if is_estimated else []
    return described(rows, "rate: queries per second within the SLO", *notes)


def derivation_lines(made: Derivation) -> Iterator[str]:
    """What became of each derived variant."""
    for each in made.derived:
        basis = next(iter(each.devices.values())).basis
        yield f"{'kept' if each.kept else 'dropped'} {each.variant} ({each.how}): {each.why}; accuracy {basis}"
    if any(each.kept for each in made.derived):
        yield "wrote engines/catalog.toml; next: proteus profile, proteus plan"
    else:
        yield "nothing was kept: the catalog is as it was"


def loss_warnings(made: Derivation) -> Iterator[str]:
    """A warning for each variant that is kept and lost more than `LOUD_LOSS` of accuracy, with what may help."""
    for each in made.derived:
        losses = {device: made.devices[device].accuracy - found.accuracy for device, found in each.devices.items()}
        device = max(losses, key=lambda name: losses[name])
        if not each.kept or losses[device] <= LOUD_LOSS:
            continue
        own, parent = each.devices[device], made.devices[device]
        now = format_accuracy(own.accuracy, estimated=own.estimated)
        before = format_accuracy(parent.accuracy, estimated=parent.estimated)
        yield (
            f"{each.variant} is {100 * losses[device]:.1f} points less accurate than {made.variant} on {device}: {now} "
            f"against {before}. Plans use it where demand leaves them no better one. {_ADVICE[own.estimated]}"
        )


_ADVICE = {
    True: "The loss is an estimate: an eval split (`eval` in engines/catalog.toml) tells the true one",
    False: "Other rows to calibrate on, or sizes nearer to its own, may lose less",
}
