"""The spelling of an option on the command line, in the environment and in `proteus.toml`."""


def section_of(command: str | None) -> str:
    """The section of `proteus.toml` for a command."""
    return (command or "").replace("-", "_")


def flag(name: str) -> str:
    """The option on the command line: ``max_body`` → ``--max-body``."""
    return f"--{name.replace('_', '-')}"


def environment(name: str) -> str:
    """The environment variable behind an option: ``max_body`` → ``PROTEUS_MAX_BODY``."""
    return f"PROTEUS_{name.upper()}"
