"""Options that several studies have, and the run of a study."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.options import DURATION
from proteus_cli.errors import UsageError
from proteus_cli.settings import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from proteus_cli.domain.catalog import Catalog, VariantKey
    from proteus_cli.store import Workspace
    from proteus_cli.studies.frame import StudyDraft

_measuring = partial(Option, rich_help_panel=sections.MEASURING)


def parse_name(text: str) -> str:
    """One name of an option that may be given several times. Raises `UsageError` for a list."""
    if "," in text:
        raise UsageError(
            f"`{text}` is a list, and this option takes one name.", hint="give the option again for each name"
        )
    return text


NAMES: dict[str, Any] = {"parser": parse_name}

Budget = Annotated[
    float | None,
    Option(
        **DURATION,
        envvar=environment("budget"),
        show_default="as long as it takes",
        help="The time of the whole command, such as `60s`, starts included. A cell that has begun may take longer. "
        "The same command, run again, measures what is left.",
    ),
]
Force = Annotated[bool, Option("--force", help="Measure again what is measured already.")]
Name = Annotated[
    str | None,
    Option(
        metavar="NAME", show_default="by what is studied", help="The study's files are studies/NAME.json, .csv, .html."
    ),
]
Names = Annotated[
    list[str] | None, Argument(metavar="NAME", help="Studies of the workspace.", show_default="all of them")
]
Page = Annotated[
    Path, Option("--output", "-o", metavar="HTML", dir_okay=False, help="The page to write; `-` is stdout.")
]
Device = Annotated[
    str,
    Option(
        "--device", metavar="DEVICE", autocompletion=completion.devices, help="The device to study, such as `cpu0`."
    ),
]
Emulate = Annotated[
    bool,
    Option(
        "--emulate",
        help="Study the emulated device of the profile: batches take what its files say.",
        rich_help_panel=sections.DEVICES,
    ),
]


_PERCENTILE = re.compile(r"p([0-9]+(?:\.[0-9]+)?)")


def parse_percentile(text: str) -> float:
    """``"p99.9"`` → 0.999. Raises `UsageError`."""
    match = _PERCENTILE.fullmatch(text)
    part = round(float(match[1]) / 100, 12) if match else 0.0
    if not 0 < part < 1:
        raise UsageError(f"`{text}` is no percentile.", hint="write it like `p99` or `p99.9`")
    return part


Percentile = Annotated[
    float,
    _measuring(
        parser=parse_percentile, metavar="pN", help="The percentile of the latency that must be within the SLO."
    ),
]
Jitter = Annotated[
    str,
    Option(
        metavar="p90|p95|p99|none",
        help="Draw the batch times of simulated devices from the profile, up to this percentile; `none`: their mean.",
        rich_help_panel=sections.SIMULATION,
    ),
]
Seed = Annotated[int, _measuring(min=0, metavar="N", help="The seed of the arrivals, and of jitter.")]


def variant_keys(catalog: "Catalog", text: str, separator: str = ",") -> "tuple[VariantKey, ...]":
    """``"a,b"`` → the keys of variants, by name or FAMILY/NAME. Raises `UsageError`."""
    from proteus_cli.domain.catalog import VariantKey

    found = (catalog.find(name.strip()) for name in text.split(separator))
    return tuple(VariantKey(family.name, variant.name) for family, variant in found)


def run(
    drafted: "Callable[[Workspace], StudyDraft]",
    budget: float | None,
    workspace_dir: Path,
    state: Path | None,
    *,
    force: bool,
    json: bool,
) -> None:
    """Draft and run a study, and show what it found. Drafting counts in the budget, and so do imports."""
    from proteus_cli.studies.budget import Budget

    limit = Budget.of(budget)

    from proteus_cli.cli.study.running import show, studied
    from proteus_cli.store import Workspace

    workspace = Workspace(workspace_dir, state)
    show(studied(workspace, drafted(workspace), limit, force=force), json=json)
