"""`Command` and `Group` of typer, with examples in their help, sections of options, and commands in order."""

import re
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from proteus_cli.cli.command_line.defaults import told_as_settings
from proteus_cli.cli.command_line.examples import EXAMPLES
from proteus_cli.cli.command_line.sections import ARGUMENTS, OPTIONS, SECTIONS

MAX_NAME = 28
"""Longer names of options, with what they take, have a line of their own."""


_TEXT_DEFAULT = re.compile(r"default: \((.*)\)\]")


class _Help:
    """Help without markup that ends with examples. Errors name `proteus.toml` for values from that file."""

    help: str | None

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(*args, help=_unwrapped(help), **{**kwargs, "rich_markup_mode": None})  # type: ignore[call-arg]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``PLAN``, not typer's ``{PLAN}``."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of typer, then the examples."""
        super().format_help(ctx, formatter)  # type: ignore[misc]
        formatter.write("\nExamples:\n")
        for line, meaning in EXAMPLES.get(ctx.command_path, ()):
            formatter.write(f"  {line}\n")  # whole, to be copied
            formatter.write(f"      {meaning}\n")
        if hasattr(ctx.command.callback, "settings"):
            formatter.write("\nMore: docs/cli.md, `--set`\n")

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        """Write the description."""
        for paragraph in (self.help or "").split("\n\n"):
            formatter.write("\n" + _wrapped(paragraph, formatter.width, "  ", "  "))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel of options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                title = parameter.rich_help_panel or (ARGUMENTS if is_argument else OPTIONS)
                name = parameter.metavar if is_argument and parameter.metavar else record[0]
                text = _TEXT_DEFAULT.sub(r"default: \1]", record[1])
                sections.setdefault(title, []).append((name, text))
        for title, records in sorted(sections.items(), key=lambda section: SECTIONS.index(section[0])):
            _write_section(title, records, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. Raises `UsageError`, `typer.BadParameter`."""
        with told_as_settings(ctx):
            return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]


class Command(_Help, TyperCommand):
    """A command with our help."""


class Group(_Help, TyperGroup):
    """A group that lists its commands in the order in which they are used, with the first sentence of their help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of options, then the commands."""
        super().format_options(ctx, formatter)
        commands = [(name, self.commands[name].help or "") for name in self.list_commands(ctx)]
        sentences = [(name, re.split(r"\.(?=\s|$)", text, maxsplit=1)[0]) for name, text in commands]
        _write_section("Commands", sentences, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of their examples."""
        last_words = [path.split()[-2:] for path in EXAMPLES]
        return sorted(super().list_commands(ctx), key=lambda name: last_words.index([str(self.name), name]))


def _write_section(title: str, records: Sequence[tuple[str, str]], formatter: Any) -> None:
    formatter.write(f"\n{title}:\n")
    indent = min(MAX_NAME, max(len(name) for name, _ in records)) + 4
    for name, text in records:
        head = f"  {name}".ljust(indent)
        if len(name) > MAX_NAME:
            formatter.write(f"{head}\n")
            head = ""
        formatter.write(_wrapped(text, formatter.width, head.ljust(indent), " " * indent))


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
