"""`Command` and `Group`: those of typer, with old names of options, help texts that wrap, and commands in order."""

import os
from typing import Any

from typer.core import TyperCommand, TyperGroup

from proteus_cli.cli.options.names import RENAMED_OPTIONS, environment, flag, renamed, section_of


class Command(TyperCommand):
    """A command for which the old name of an option is an error, with the new one as its hint."""

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(*args, help=_unwrapped(help), **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises `UsageError` if an argument or an environment variable has an old name."""
        names = RENAMED_OPTIONS.get(section_of(self.name), {})
        for old, new in names.items():
            if any(each.partition("=")[0] == flag(old) for each in args):
                raise renamed(flag(old), flag(new))
        rest = super().parse_args(ctx, args)
        variables = {parameter.envvar for parameter in self.params}
        for old, new in names.items():
            if environment(old) in os.environ and environment(new) in variables:
                raise renamed(environment(old), environment(new))
        return rest


class Group(TyperGroup):
    """A group that lists its commands in the order in which they are used."""

    ORDER = ("init", "devices", "catalog", "profile", "plan", "serve", "replay", "trace", "engines", "doctor", "demo")

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(*args, help=_unwrapped(help), **kwargs)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in order."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: self.ORDER.index(name) if name in self.ORDER else len(self.ORDER))


def _unwrapped(text: str | None) -> str | None:
    """A help text with a line for each paragraph: typer keeps line breaks after the first one."""
    return None if text is None else "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
