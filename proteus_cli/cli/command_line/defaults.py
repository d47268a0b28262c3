"""Defaults of options from `proteus.toml`, and which options were given on the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from proteus_cli.cli.command_line.names import flag, section_of
from proteus_cli.errors import UsageError


def load_defaults(context: typer.Context, workspace_dir: Path) -> Path:
    """Make the command's section of `proteus.toml` the defaults of its other options. Raises `UsageError`.

    Runs before the other options are read (eager), so that flag > ``PROTEUS_*`` > `proteus.toml` > default.
    """
    from proteus_cli.settings import read_settings

    section = section_of(context.info_name)
    options = read_settings(workspace_dir).options
    commands = _commands_with_defaults(context.find_root().command)
    for name in options:
        if name not in commands:
            raise UsageError(
                f"`{workspace_dir / 'proteus.toml'}` has a section [{name}], which is no command with defaults.",
                hint=f"sections are: devices, {', '.join(commands)}",
            )
    defaults = options.get(section, {})
    known = {_key(parameter) for parameter in context.command.params}
    for name in defaults:
        if name not in known:
            raise UsageError(
                f"`{workspace_dir / 'proteus.toml'}` sets `{name}` in [{section}], which has no such option.",
                hint=f"`proteus {section} --help` lists the options",
            )
    context.default_map = {name: _as_typed(value) for name, value in defaults.items()}
    return workspace_dir


@contextmanager
def told_as_settings(context: typer.Context) -> Iterator[None]:
    """Within it, an invalid value of an option that is from `proteus.toml` is told as one of that file."""
    try:
        yield
    except typer.BadParameter as error:
        name = (error.param.name if error.param is not None else None) or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT_MAP":
            error.param_hint = f"'{flag(name)}' (as set in proteus.toml)"
        raise


def _commands_with_defaults(command: Any) -> tuple[str, ...]:
    """The sections that `proteus.toml` may have: the commands, at any depth, with an option `--workspace`.

    A group with that option, such as ``plan``, counts itself and not its commands.
    """
    if any(_key(parameter) == "workspace" for parameter in command.params):
        return (section_of(command.name),)
    inner = [_commands_with_defaults(each) for each in getattr(command, "commands", {}).values()]
    return tuple(name for names in inner for name in names)


def _key(parameter: Any) -> str:
    """The name of an option in `proteus.toml`: the name of its parameter, except for `--workspace`."""
    return "workspace" if "--workspace" in parameter.opts else str(parameter.name)


def _as_typed(value: Any) -> Any:
    """A value as if it came from the command line, so that the option's own parser checks it."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return value if isinstance(value, bool) else str(value)


def require_no_flags(context: typer.Context, purpose: str) -> None:
    """Raise `UsageError` where an option of a group, which is for a ``purpose``, stands before one of its commands."""
    given = sorted(flags(context))
    if given:
        name = f"{context.info_name} {context.invoked_subcommand}"
        raise UsageError(
            f"`{given[0]}` is for {purpose}, not for `{name}`.", hint=f"options of `{name}` come after its name"
        )


def require_cluster(context: typer.Context, cluster: str | None) -> None:
    """Raise `UsageError` where flags are given that are for a cluster, without `--cluster`."""
    given = sorted(flags(context) & {"--cluster-key", "--join", "--join-budget"})
    if given and cluster is None:
        name = "--join/--no-join" if given[0] == "--join" else given[0]
        raise UsageError(f"`{name}` is for devices of a cluster.", hint="add `--cluster`, or leave it out")


def flags(context: typer.Context) -> set[str]:
    """The long options that were given on the command line itself, not by the environment or `proteus.toml`."""
    sources = ((parameter, context.get_parameter_source(parameter.name or "")) for parameter in context.command.params)
    given = (parameter for parameter, source in sources if source is not None and source.name == "COMMANDLINE")
    return {option for parameter in given for option in parameter.opts if option.startswith("--")}
