"""Defaults of options from `proteus.toml`, and which options were given on the command line."""

import difflib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from proteus_cli.cli.command_line import completion
from proteus_cli.errors import UsageError
from proteus_cli.settings import Field, fields_of, flag, make_settings, read_settings


def section_of(command: str | None) -> str:
    """The section of `proteus.toml` for a command."""
    return (command or "").replace("-", "_")


def load_defaults(context: typer.Context, workspace_dir: Path) -> Path:
    """Make the command's section of `proteus.toml` the defaults of its other options. Raises `UsageError`.

    Runs before the other options are read (eager), so that flag > ``PROTEUS_*`` > `proteus.toml` > default. The
    settings of a command `with_settings` are kept for it in ``context.meta``.
    """
    section = section_of(context.info_name)
    options = read_settings(workspace_dir).options
    commands = _commands_with_defaults(context.find_root().command)
    for name in options:
        if name not in commands:
            raise UsageError(
                f"`{workspace_dir / 'proteus.toml'}` has a section [{name}], which is no command with defaults.",
                hint=f"sections are: devices, {', '.join(commands)}",
            )
    kind = getattr(context.command.callback, "settings", None)
    in_struct = fields_of(kind) if kind is not None else {}
    own = {_key(parameter) for parameter in context.command.params} - {"set_", *in_struct}
    context.default_map, context.meta[section] = {}, {}
    for name, value in options.get(section, {}).items():
        if name in in_struct:
            context.meta[section][name] = value
        elif name in own:
            context.default_map[name] = _as_typed(value)
        else:
            near = difflib.get_close_matches(name, {*own, *in_struct}, cutoff=0.5)
            raise UsageError(
                f"`{workspace_dir / 'proteus.toml'}` sets `{name}` in [{section}], which has no such option.",
                hint=f"nearest are: {', '.join(near)}" if near else f"`proteus {section} --help` lists the options",
            )
    return workspace_dir


def with_settings(kind: type[msgspec.Struct], *spelled: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a settings struct as ``settings``, read by `make_settings`.

    The command gets an option for each of the fields ``spelled``, and `--set` for all fields.
    """
    fields = fields_of(kind)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        takes_context = "context" in signature.parameters

        @wraps(command)
        def run(**values: Any) -> None:
            context = values["context"] if takes_context else values.pop("context")
            given = {name: values.pop(name) for name in spelled}
            file = context.meta[section_of(context.info_name)]
            values["settings"] = make_settings(kind, file, values.pop("set_") or (), given, os.environ)
            command(**values)

        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(fields[name]))
            for name in spelled
        ]
        assignments = Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="NAME=VALUE",
                help="Any other setting; docs/cli.md lists them. Repeatable.",
                autocompletion=completion.assignments(fields),
            ),
        ]
        options.append(inspect.Parameter("set_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=assignments))
        context = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        own = [each for name, each in signature.parameters.items() if name not in {"settings", "context"}]
        required = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        parameters = [*context, *(each for each in required if each.default is each.empty), *options]
        parameters += [each for each in required if each.default is not each.empty]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.settings = kind  # type: ignore[attr-defined]
        return run

    return decorate


def _option(field: Field) -> Any:
    """The option of a field: text, which `make_settings` reads."""
    name, is_flag = flag(field.name), field.choices == ("true", "false")
    shown: Any = {"show_default": field.shown_default or False}
    if is_flag:
        return Annotated[bool | None, typer.Option(name, help=field.setting.help, show_default=False)]
    kind = list[str] | None if field.setting.is_list else str | None
    complete = field.setting.complete or field.choices
    return Annotated[
        kind,
        typer.Option(
            name,
            metavar=field.metavar,
            help=field.setting.help,
            autocompletion=complete if callable(complete) else completion.one_of(*complete),
            **shown,
        ),
    ]


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
    given = sorted(flags(context) & {"--cluster-key"})
    if given and cluster is None:
        raise UsageError(f"`{given[0]}` is for devices of a cluster.", hint="add `--cluster`, or leave it out")


def flags(context: typer.Context) -> set[str]:
    """The long options that were given on the command line itself, not by the environment or `proteus.toml`."""
    sources = ((parameter, context.get_parameter_source(parameter.name or "")) for parameter in context.command.params)
    given = (parameter for parameter, source in sources if source is not None and source.name == "COMMANDLINE")
    return {option for parameter in given for option in parameter.opts if option.startswith("--")}
