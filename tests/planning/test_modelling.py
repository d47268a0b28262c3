"""CVXPY without the import of what no model here has, and with all of its functions."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import numpy as np
import proteus_cli.planning.planner
from proteus_cli.planning.model.modelling import cp

before = "scipy.stats" in sys.modules
value = cp.quantum_rel_entr(np.diag([0.25, 0.75]), np.diag([0.5, 0.5])).value
import scipy.stats
expected = scipy.stats.entropy([0.25, 0.75], [0.5, 0.5])
print(json.dumps([before, float(value), float(expected), scipy.stats.norm.ppf(0.5)]))
"""


def test_a_planner_imports_no_statistics_and_what_needs_them_finds_them() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    is_imported, by_cvxpy, by_scipy, median = json.loads(done.stdout)
    assert not is_imported
    assert abs(by_cvxpy - by_scipy) < 1e-12
    assert median == 0.0
