"""How an option is spelled on the command line, in the environment and in `proteus.toml`, and how it was spelled."""

from proteus_cli.errors import UsageError

RENAMED_OPTIONS = {"serve": {"lanes": "executor", "most_away": "max_unavailable"}}
"""By command: old and new names of options, as `proteus.toml` spells them. An old name is an error."""

RENAMED_COMMANDS = {"catalog precision": "proteus catalog derive VARIANT --fp16"}
"""Old names of commands, and what to write instead. An old name is an error."""


def renamed(old: str, new: str, where: str = "") -> UsageError:
    """The error for an old name."""
    return UsageError(f"`{old}`{where} was renamed.", hint=f"write `{new}`")


def section_of(command: str | None) -> str:
    """The section of `proteus.toml` for a command."""
    return (command or "").replace("-", "_")


def flag(name: str) -> str:
    """The option on the command line: ``max_body`` → ``--max-body``."""
    return f"--{name.replace('_', '-')}"


def environment(name: str) -> str:
    """The environment variable behind an option: ``max_body`` → ``PROTEUS_MAX_BODY``."""
    return f"PROTEUS_{name.upper()}"
