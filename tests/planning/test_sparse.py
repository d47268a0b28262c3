"""Sparse arrays without the import of what no planner needs, which others find all the same."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import numpy as np
import proteus_cli.planning.planner

names = {"cvxpy", "numpy.f2py", "numpy.testing", "scipy.optimize", "scipy.stats"}
imported = sorted(names & {*sys.modules})
from scipy.optimize import minimize_scalar
np.testing.assert_allclose(minimize_scalar(lambda x: (x - 2) ** 2).x, 2.0)
print(json.dumps([imported, np.f2py.__name__, sys.modules["numpy.f2py"] is np.f2py]))
"""


def test_a_planner_imports_nothing_that_no_plan_needs_and_others_find_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[], "numpy.f2py", True]
