"""What was measured of multi-exit models, in a line for each."""

from collections.abc import Iterator

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.units import UNKNOWN, format_duration, format_percent


def exit_lines(profile: Profile, catalog: Catalog) -> Iterator[str]:
    """The share of rows of each exit, their accuracy, and the time of the stage before it."""
    for measured in profile.variants:
        if measured.exits and measured.family in catalog.names:
            has_split = catalog.family(measured.family).eval is not None
            yield f"{catalog.label(measured.key)}: {_line(measured, has_split=has_split)}"


def _line(measured: VariantProfile, *, has_split: bool) -> str:
    exits = f"exits 1 to {len(measured.exits)}"
    first = measured.exits[0].points[:1]
    took = f"; stages take {_each(map(_took, measured.exits))} for a batch of {first[0].batch}" if first else ""
    if measured.exits[0].share is None and has_split:
        return f"{exits}: which rows of the eval split they answer, and how accurately, is still to be measured{took}"
    if measured.exits[0].share is None:
        return f"{exits}, measured with random rows, as there is no eval split: which exit they take says little{took}"
    shares = _each(format_percent(each.share or 0.0) for each in measured.exits)
    accuracies = _each(UNKNOWN if each.accuracy is None else f"{each.accuracy:.4f}" for each in measured.exits)
    return f"{exits} answer {shares} of the rows, with accuracies {accuracies}{took}"


def _took(each: ExitProfile) -> str:
    return format_duration(each.points[0].mean_s)


def _each(texts: Iterator[str]) -> str:
    return ", ".join(texts)
