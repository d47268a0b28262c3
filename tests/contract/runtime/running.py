"""Which scenarios there are for which driver, and running one in a process of its own."""

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SOURCE = Path(__file__).parent / "scenarios.py"
TIMEOUT_S = 100.0


def scenarios(device: str) -> tuple[str, ...]:
    """Read from the source, as importing it takes a driver."""
    functions = [node for node in ast.parse(SOURCE.read_text("utf-8")).body if isinstance(node, ast.AsyncFunctionDef)]
    return tuple(each.name for each in functions if _is_for(each, device))


def command_of(environment: Mapping[str, str], module: str, *arguments: str) -> tuple[list[str], Any]:
    """What starts a module of these tests, and how."""
    paths = [str(ROOT / "tests"), str(ROOT), environment.get("PYTHONPATH", "")]
    where = {"cwd": ROOT, "env": {**environment, "PYTHONPATH": ":".join(filter(None, paths))}}
    return [sys.executable, "-m", module, *arguments], where


def run(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command, where = command_of(environment, "contract.runtime.scenarios", *arguments)
    return subprocess.run(
        command, **where, text=True, timeout=TIMEOUT_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def check_passed(found: "subprocess.CompletedProcess[str]") -> Any:
    """The figures of a scenario, which must do what it should."""
    assert found.returncode == 0, found.stdout
    assert "PyCUDA" not in found.stdout, found.stdout  # it warns of what it can't free
    return json.loads(found.stdout.splitlines()[-1])


def _is_for(function: ast.AsyncFunctionDef, device: str) -> bool:
    return any(device.upper() in ast.unparse(decorator) for decorator in function.decorator_list)
