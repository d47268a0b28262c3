"""Options that several commands share, and the defaults from ``proteus.toml`` behind all of them."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from proteus_cli.cli.options.renamed import environment, require_new_name, section_of
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration, parse_rate, parse_size


def _load_defaults(context: typer.Context, workspace: Path) -> Path:
    """Make the command's section of ``proteus.toml`` the defaults of its other options.

    Runs before the other options are read (eager), so that flag > ``PROTEUS_*`` > ``proteus.toml`` > default.
    """
    from proteus_cli.settings import read_settings

    section = section_of(context.info_name)
    options = read_settings(workspace).options
    commands = _commands_with_defaults(context.find_root().command)
    for name in options:
        if name not in commands:
            raise UsageError(
                f"`{workspace / 'proteus.toml'}` has a section [{name}], which is no command with defaults.",
                hint=f"there are: devices, {', '.join(commands)}",
            )
    defaults = options.get(section, {})
    known = {parameter.name for parameter in context.command.params}
    for name in defaults:
        if name not in known:
            require_new_name(section, name, workspace / "proteus.toml")
            raise UsageError(
                f"`{workspace / 'proteus.toml'}` sets `{name}` in [{section}], which has no such option.",
                hint=f"`proteus {section} --help` lists the options",
            )
    context.default_map = {name: _as_typed(value) for name, value in defaults.items()}
    return workspace


def _commands_with_defaults(command: Any) -> tuple[str, ...]:
    """The sections that ``proteus.toml`` may have: commands, at any depth, that know their workspace.

    One that does something by itself, like ``plan``, counts without what is below it.
    """
    if any(parameter.name == "workspace" for parameter in command.params):
        return (section_of(command.name),)
    inner = [_commands_with_defaults(each) for each in getattr(command, "commands", {}).values()]
    return tuple(name for names in inner for name in names)


def _as_typed(value: Any) -> Any:
    """A value as if it came from the command line, so that the option's own parser checks it."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return value if isinstance(value, bool) else str(value)


def flags(context: typer.Context) -> set[str]:
    """The long options that were given on the command line itself, not by the environment or ``proteus.toml``."""
    sources = ((parameter, context.get_parameter_source(parameter.name or "")) for parameter in context.command.params)
    given = (parameter for parameter, source in sources if source is not None and source.name == "COMMANDLINE")
    return {option for parameter in given for option in parameter.opts if option.startswith("--")}


def _parsed(parse: Any, metavar: str) -> dict[str, Any]:
    return {"parser": parse, "metavar": metavar}


WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", envvar=environment("workspace"), is_eager=True, callback=_load_defaults,
        help="Directory with engines/, profiles/ and plans/.",
    ),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
HeadroomOption = Annotated[
    float,
    typer.Option(min=1.0, envvar=environment("headroom"), help="Plan for this multiple of the demand."),
]
PolicyOption = Annotated[
    str,
    typer.Option(envvar=environment("policy"), help="How to plan and adapt: proteus, most-accurate or least-accurate."),
]

FleetOption = Annotated[
    str | None,
    typer.Option(
        envvar=environment("fleet"),
        metavar="TYPE:COUNT,…",
        help="What if these were the devices: `cpu:20,v100:10`, by profiled type or device.",
        show_default="the profiled devices",
    ),
]
FamiliesOption = Annotated[
    str | None,
    typer.Option(help="Shares, like digits=0.7,signals=0.3, or names. Default: the catalog's, by weight."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed makes the same trace.")]
TraceOutputOption = Annotated[Path, typer.Option("--output", "-o", help="File, gzipped if *.gz; - is stdout.")]

DEFAULT_WORKSPACE = Path()
DEFAULT_HEADROOM = 1.2
REPLAY_HEADROOM = 1.0  # policies that re-plan keep room for bursts by themselves
DEFAULT_POLICY = "proteus"

DURATION = _parsed(parse_duration, "DURATION")
RATE = _parsed(parse_rate, "RATE")
SIZE = _parsed(parse_size, "SIZE")


def family_shares(families: str | None, zipf: float | None, workspace: Path) -> dict[str, float]:
    """Shares by family: those given, or the catalog's; by Zipf's law where ``zipf`` is given. Raises `UsageError`."""
    from proteus_cli.replay.synthesis import parse_shares, zipf_shares
    from proteus_cli.store import Workspace

    if families is not None:
        return parse_shares(families, zipf)
    place = Workspace(workspace)
    if not place.catalog_path.exists():
        hint = "name them, like `--families digits=0.7,signals=0.3`, or a workspace with `--workspace`"
        raise UsageError(f"No file `{place.catalog_path}` to take the families from.", hint=hint)
    catalog = place.catalog()
    if zipf is not None:
        return zipf_shares(catalog.names, zipf)
    return {family.name: family.weight for family in catalog.families}


def is_debug() -> bool:
    """Tracebacks were asked for in the environment."""
    return os.environ.get(environment("debug"), "") not in {"", "0"}
