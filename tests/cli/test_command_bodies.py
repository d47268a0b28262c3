"""A command parses, loads, calls, saves and prints; the work is done in workflows, views and stages."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.main import get_command

from proteus_cli.cli.main import app

MAX_STATEMENTS = 15


def statements(node: ast.AST) -> int:
    """All statements within a node, however deep: an import and an `if` count as one each, an `else` as none."""
    return sum(isinstance(each, ast.stmt) for each in ast.walk(node)) - isinstance(node, ast.stmt)


def body_statements(function: Callable[..., Any]) -> int:
    """Those of a function's body, without its docstring."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    return statements(definition) - (ast.get_docstring(definition) is not None)


def callbacks(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Callable[..., Any]]]:
    """What a command calls, and each below it, by how it is called."""
    if command.callback is not None:
        yield " ".join(path), inspect.unwrap(command.callback)
    for name, below in getattr(command, "commands", {}).items():
        yield from callbacks(below, (*path, name))


CALLBACKS = dict(callbacks(get_command(app), ("proteus",)))


def test_statements_count_however_deep() -> None:
    tree = ast.parse("if a:\n    from b import c\n    with d:\n        e()\nelse:\n    f()\n")
    assert statements(tree) == 5


def test_all_commands_are_found() -> None:
    assert {"proteus init", "proteus plan", "proteus replay", "proteus task retrain"} <= set(CALLBACKS)
    assert len(CALLBACKS) > 30


@pytest.mark.parametrize("path", CALLBACKS)
def test_the_body_of_a_command_is_short(path: str) -> None:
    assert body_statements(CALLBACKS[path]) <= MAX_STATEMENTS
