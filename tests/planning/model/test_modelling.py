"""CVXPY without the import of what no model here has, and with all of its functions."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import numpy as np
import proteus_cli.planning.planner
from proteus_cli.planning.model.modelling import cp

LEFT_OUT = {"clarabel", "numpy.f2py", "numpy.testing", "osqp", "scipy.optimize", "scipy.stats", "scs"}
imported = sorted(LEFT_OUT & {*sys.modules})
value = cp.quantum_rel_entr(np.diag([0.25, 0.75]), np.diag([0.5, 0.5])).value
import scipy.optimize, scipy.stats
expected = scipy.stats.entropy([0.25, 0.75], [0.5, 0.5])
least = scipy.optimize.minimize_scalar(lambda x: (x - 2) ** 2).x
np.testing.assert_allclose(least, 2.0)
print(json.dumps([imported, float(value), float(expected), scipy.stats.norm.ppf(0.5), np.f2py.__name__]))
"""


def test_a_planner_imports_nothing_that_no_plan_needs_and_others_find_it_all() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    imported, by_cvxpy, by_scipy, median, module = json.loads(done.stdout)
    assert imported == []
    assert abs(by_cvxpy - by_scipy) < 1e-12
    assert median == 0.0
    assert module == "numpy.f2py"
