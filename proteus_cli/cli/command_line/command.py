"""`Command` and `Group`: those of typer, with old names of options, examples in their help, and commands in order."""

import os
import re
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from proteus_cli.cli.command_line.defaults import told_as_settings
from proteus_cli.cli.command_line.examples import EXAMPLES
from proteus_cli.cli.command_line.names import RENAMED_COMMANDS, RENAMED_OPTIONS, environment, flag, renamed, section_of
from proteus_cli.cli.command_line.sections import ARGUMENTS, OPTIONS, SECTIONS

MAX_NAME = 28
"""Longer names of options, with what they take, have a line of their own."""


class _Help:
    """Help without markup, which starts with examples."""

    help: str | None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``PLAN``, not typer's ``{PLAN}``."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Examples come first."""
        _write_examples(ctx.command_path, formatter)
        super().format_help(ctx, formatter)  # type: ignore[misc]  # that of typer

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        """The description."""
        _write_paragraphs(self.help or "", formatter)


class Command(_Help, TyperCommand):
    """A command for which the old name of an option is an error, with the new one as its hint."""

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(*args, help=_unwrapped(help), **{**kwargs, "rich_markup_mode": None})

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """A section for each panel of options."""
        _write_options(self, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises `UsageError` if an argument or an environment variable has an old name."""
        names = RENAMED_OPTIONS.get(section_of(self.name), {})
        for old, new in names.items():
            if any(each.partition("=")[0] == flag(old) for each in args):
                raise renamed(flag(old), flag(new))
        with told_as_settings(ctx):
            rest = super().parse_args(ctx, args)
        variables = {parameter.envvar for parameter in self.params}
        for old, new in names.items():
            if environment(old) in os.environ and environment(new) in variables:
                raise renamed(environment(old), environment(new))
        return rest


class Group(_Help, TyperGroup):
    """A group that lists its commands in the order in which they are used. The old name of one is an error."""

    ORDER = (
        "init",
        "devices",
        "catalog",
        "task",
        "profile",
        "plan",
        "serve",
        "rollout",
        "cluster",
        "agent",
        "replay",
        "trace",
        "study",
        "samples",
        "engines",
        "doctor",
        "demo",
    )

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(*args, help=_unwrapped(help), **{**kwargs, "rich_markup_mode": None})

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """A section for each panel of options, then the commands, each with the first sentence of its help."""
        _write_options(self, ctx, formatter)
        commands = [(name, self.commands[name].help or "") for name in self.list_commands(ctx)]
        _write_section("Commands", [(name, _first_sentence(text)) for name, text in commands], formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say of a value from `proteus.toml` where it is from."""
        with told_as_settings(ctx):
            return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Raises `UsageError` if a command has an old name."""
        new = RENAMED_COMMANDS.get(f"{section_of(self.name)} {cmd_name}")
        if new is not None:
            raise renamed(cmd_name, new)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in order."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: self.ORDER.index(name) if name in self.ORDER else len(self.ORDER))


def _write_examples(path: str, formatter: Any) -> None:
    formatter.write("Examples:\n")
    for line, meaning in EXAMPLES.get(path, ()):
        formatter.write(f"  {line}\n")  # whole, to be copied
        formatter.write(f"      {meaning}\n")
    formatter.write_paragraph()


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """A section for each panel."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            title = parameter.rich_help_panel or (ARGUMENTS if is_argument else OPTIONS)
            sections.setdefault(title, []).append(
                (parameter.metavar or record[0], record[1]) if is_argument else record
            )
    for title, records in sorted(sections.items(), key=lambda section: SECTIONS.index(section[0])):
        _write_section(title, records, formatter)


def _write_section(title: str, records: Sequence[tuple[str, str]], formatter: Any) -> None:
    formatter.write(f"\n{title}:\n")
    indent = min(MAX_NAME, max(len(name) for name, _ in records)) + 4
    for name, text in records:
        head = f"  {name}".ljust(indent)
        if len(name) > MAX_NAME:
            formatter.write(f"{head}\n")
            head = ""
        formatter.write(_wrapped(text, formatter.width, head.ljust(indent), " " * indent))


def _write_paragraphs(text: str, formatter: Any) -> None:
    for paragraph in text.split("\n\n"):
        formatter.write("\n" + _wrapped(paragraph, formatter.width, "  ", "  "))


def _first_sentence(text: str) -> str:
    return re.split(r"\.(?=\s|$)", text, maxsplit=1)[0]


def _wrapped(text: str, width: int, first: str, others: str) -> str:
    """Lines that break no word, not even at a hyphen, as options have them."""
    lines = wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )
    return "".join(f"{line}\n" for line in lines or [first.rstrip()])


def _unwrapped(text: str | None) -> str | None:
    """A help text with a line for each paragraph: typer keeps line breaks after the first one."""
    return None if text is None else "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def group_of_commands(about: str) -> typer.Typer:
    """An empty group, which shows its help where no command is given."""
    return typer.Typer(cls=Group, rich_markup_mode=None, help=about, no_args_is_help=True)
