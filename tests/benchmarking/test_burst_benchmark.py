from pathlib import Path

from benchmarks.burst import RULES, simulated
from proteus_cli.store import Workspace

ROOT = Path(__file__).parents[2]


def test_shared_devices_keep_their_deadlines_in_a_burst_where_plans_are_found_soon() -> None:
    """By the profiles in the repository, with variants for bursts beside the accurate ones."""
    burst = simulated(Workspace(ROOT), RULES["shared devices"], solve_s=0.05, seed=11)
    assert burst.violations < 0.01
    assert burst.relative_accuracy > 0.99
