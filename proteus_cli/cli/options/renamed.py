"""Options that were renamed. An old name is an error whose hint is the new name."""

import os
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from proteus_cli.errors import UsageError

ENVIRONMENT_PREFIX = "PROTEUS"

RENAMED_OPTIONS = {
    "serve": {"lanes": "executor", "most_away": "max_unavailable"},
}
"""By command: old and new names, as `proteus.toml` spells them."""


class Command(TyperCommand):
    """A command that knows the old names of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises `UsageError` if an argument or an environment variable has an old name."""
        renamed = RENAMED_OPTIONS.get(section_of(self.name), {})
        for old, new in renamed.items():
            if any(each == flag(old) or each.startswith(f"{flag(old)}=") for each in args):
                raise _renamed(flag(old), flag(new))
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            for old in (old for old, new in renamed.items() if new == parameter.name and parameter.envvar is not None):
                if environment(old) in os.environ:
                    raise _renamed(environment(old), str(parameter.envvar))
        return rest


def require_new_name(command: str, name: str, where: Path) -> None:
    """Raise `UsageError` if ``name`` in ``where`` is the old name of an option of a command."""
    new = RENAMED_OPTIONS.get(command, {}).get(name)
    if new is not None:
        raise _renamed(name, new, f" in [{command}] of `{where}`")


def _renamed(old: str, new: str, where: str = "") -> UsageError:
    return UsageError(f"`{old}`{where} was renamed.", hint=f"write `{new}`")


def section_of(command: str | None) -> str:
    """The section of `proteus.toml` for a command."""
    return (command or "").replace("-", "_")


def flag(name: str) -> str:
    """The option on the command line: ``max_body`` → ``--max-body``."""
    return f"--{name.replace('_', '-')}"


def environment(name: str) -> str:
    """The environment variable behind an option: ``max_body`` → ``PROTEUS_MAX_BODY``."""
    return f"{ENVIRONMENT_PREFIX}_{name.upper()}"
