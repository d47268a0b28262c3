"""Control loops of tests: around a whole data plane, or around the few parts of one that a test has."""

from types import SimpleNamespace
from typing import Any

from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner


def loop_around(plane: Any, **how: Any) -> ControlLoop:
    """A control loop whose planner no solver listens to, unless ``how`` has another."""
    nothing: Any = None
    return ControlLoop(plane, **{"planner": LivePlanner(nothing, nothing, None), **how})


def parts(controller: Any, fleet: Any, clock: Any) -> Any:
    """The parts of a data plane that a control loop needs. Its families take no profiles."""
    return SimpleNamespace(
        controller=controller, fleet=fleet, clock=clock, families=SimpleNamespace(use=lambda _profiles: None)
    )
