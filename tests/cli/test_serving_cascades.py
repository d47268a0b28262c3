"""Servers do not run cascades yet, and say so."""

from pathlib import Path

import msgspec
import pytest
from builders import make_cascade
from tiny import add_plan, add_profiles, make_workspace

from proteus_cli.cli.workflows.deployment import deployment_of
from proteus_cli.errors import ArtefactError
from proteus_cli.store import write_json


def test_a_plan_with_cascades_is_not_served(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws")
    add_profiles(made, ("cpu0", "cpu1"))
    add_plan(made, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    plan = made.place.plan(Path("plan"))
    cascade = make_cascade("shapes", "shapes-s", "shapes-l")
    write_json(made.place.plan_path(Path("plan")), msgspec.structs.replace(plan, cascades=(cascade,)))
    with pytest.raises(ArtefactError, match="cascades, `shapes-s` → `shapes-l`") as refused:
        deployment_of(Path("plan"), made.place, replan="auto", batching=None)
    assert "proteus replay --plan" in refused.value.hint
