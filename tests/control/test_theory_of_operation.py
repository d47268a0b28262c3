"""The worked example in the docstring of `Controller` is true."""

import doctest

from builders import controller_hosting, hosted, make_request

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule

POLICY = Policy("test", "all", GreedyBatcher(), PeriodicRule())


def test_the_worked_example() -> None:
    fast, spare = (
        hosted(device, "a", "fast", latency_s={1: 0.010, 4: 0.016}, weight=weight, capacity_qps=250.0)
        for device, weight in (("cpu0", 1.0), ("cpu1", 0.0))
    )
    controller = controller_hosting(fast, spare, policy=POLICY)
    known = {"controller": controller, "requests": [make_request(n) for n in range(5)]}
    (example,) = doctest.DocTestFinder(recurse=False).find(Controller, "Controller", globs=known)
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=10)
