"""A server describes its planner without importing the solver; its solver's process makes it."""

import pickle
import subprocess
import sys

from tiny import Tiny

from proteus_cli.control.policies import live_policy_named
from proteus_cli.domain.device import NONE_OUT
from proteus_cli.planning.from_workspace import deferred_planner, planner_settings

SERVER = "proteus_cli.serving.workspace.deployment, proteus_cli.serving.server.server"
DEMAND = {"shapes": 20.0, "tones": 5.0}


def test_the_modules_of_a_server_import_no_solver() -> None:
    code = f"import sys, {SERVER}; print([name for name in ('highspy', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_deferred_planner_plans_like_the_planner_with_the_rules_and_headroom_of_the_plan(tiny: Tiny) -> None:
    profiles = {device: tiny.place.profile(device) for device in ("cpu0", "cpu1")}
    settings = planner_settings(tiny.place, live_policy_named("proteus"), 1.2, profiles=profiles)
    planner = settings.make()
    plan = planner.with_changes(headroom=1.5)(DEMAND)

    deferred = pickle.loads(pickle.dumps(deferred_planner(settings, plan, profiles, {"a file": "its digest"})))  # noqa: S301 - our own bytes
    found = deferred(DEMAND, plan, NONE_OUT, {})

    assert (found.placements, found.rules, found.headroom) == (plan.placements, plan.rules, 1.5)
    assert found.inputs == {"a file": "its digest"}
