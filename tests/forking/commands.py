"""All commands of `proteus` and their options, made as it makes them before it reads a command line."""

from collections.abc import Iterator
from typing import Any

from proteus_cli.cli.main import _tree


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _commands(each)


for _command in _commands(_tree()):
    for _parameter in _command.params:
        _parameter.get_runtime_param()
