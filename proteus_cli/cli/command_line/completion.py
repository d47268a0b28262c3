"""Values of options for the completion of shells: names of policies and rules, and contents of the workspace.

A broken or missing file offers nothing, as the shell has no place for an error; the command itself says what is wrong.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proteus_cli.errors import ProteusError

if TYPE_CHECKING:
    from proteus_cli.settings import Field
    from proteus_cli.store import Workspace


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completes any of these names."""

    def complete(incomplete: str) -> list[str]:
        return _starting(names, incomplete)

    return complete


def assignments(fields: "Mapping[str, Field]") -> Callable[[str], list[str]]:
    """Completes ``name=value`` for settings."""

    def complete(incomplete: str) -> list[str]:
        name, equals, _ = incomplete.partition("=")
        field = fields.get(name.replace("-", "_"))
        if not equals or field is None:
            return _starting([f"{each.replace('_', '-')}=" for each in fields], incomplete)
        names = field.choices if callable(field.setting.complete) else field.setting.complete or field.choices
        return _starting([f"{name}={each}" for each in names], incomplete)

    return complete


def trace_formats(incomplete: str) -> list[str]:
    """The formats of traces that can be converted."""
    from proteus_cli.replay.formats import NAMES

    return _starting(NAMES, incomplete)


def trace_shapes(incomplete: str) -> list[str]:
    """The shapes of traces that can be made."""
    from proteus_cli.replay.synthesis import SHAPES

    return _starting(SHAPES, incomplete)


def policies(incomplete: str) -> list[str]:
    """The policies that a plan or a server may have."""
    from proteus_cli.control.policies import LIVE

    return _starting(LIVE, incomplete)


def simulated_policies(incomplete: str) -> list[str]:
    """All policies, in a list with commas."""
    from proteus_cli.control.policies import ALL, POLICIES

    return _in_list((ALL, *POLICIES), incomplete)


def plans(context: typer.Context, incomplete: str) -> list[str]:
    """The plans of the workspace, the newest of its history first."""
    workspace = _workspace(context)
    named = sorted(path.stem for path in workspace.plans_dir.glob("*.json"))
    kept = sorted((path.stem for path in workspace.history_dir.glob("*Z.json")), reverse=True)
    return _starting((*named, *kept), incomplete)


def families(context: typer.Context, incomplete: str) -> list[str]:
    """The families of the catalog, in a list with commas."""
    try:
        return _in_list(_workspace(context).catalog().names, incomplete)
    except ProteusError:
        return []


def devices(context: typer.Context, incomplete: str) -> list[str]:
    """The devices of this machine, in a list with commas."""
    from proteus_cli.backends.discovery import discover
    from proteus_cli.settings import read_settings

    try:
        found = discover(read_settings(_workspace(context).root).devices)
    except ProteusError:
        return []
    return _in_list(("all", *(device.id for device in found)), incomplete)


def fleets(context: typer.Context, incomplete: str) -> list[str]:
    """The types of profiled devices, each with a colon, in a list with commas; on each host anew."""
    try:
        types = dict.fromkeys(profile.device.type for profile in _workspace(context).profiles().values())
    except ProteusError:
        return []
    place = max(incomplete.rfind(";"), incomplete.rfind("=")) + 1
    return [incomplete[:place] + each for each in _in_list([f"{name}:" for name in types], incomplete[place:])]


def _workspace(context: typer.Context) -> "Workspace":
    from proteus_cli.store import Workspace

    return Workspace(Path(context.params.get("workspace_dir") or Path()))


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _in_list(names: Iterable[str], incomplete: str) -> list[str]:
    """The last part of a list is completed by names that the list does not have yet."""
    before, comma, last = incomplete.rpartition(",")
    known = before.split(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in known]
