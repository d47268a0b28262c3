"""docs/bounds.md shows policies by example: each of its traces is simulated, and ends as the page says."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import make_cascade, make_catalog, make_family, make_measured, make_placement, make_plan, make_profile

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.policies import Policy
from proteus_cli.domain.plan.plan import Placement, Plan
from proteus_cli.domain.request import RequestRecord
from proteus_cli.replay.trace import read_trace
from proteus_cli.simulation.run import simulate

PAGE = (Path(__file__).parents[2] / "docs" / "bounds.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### (Policy: .*?)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"```csv\n(.*?)```\n.*?```text\n(.*?)```", re.DOTALL)

CATALOG = make_catalog(make_family("signs", {"small": 0.8, "large": 0.95}))
MEASURED = (
    make_measured("signs", "small", 0.8, {1: 0.010, 4: 0.016}, power_w=10.0),
    make_measured("signs", "large", 0.95, {1: 0.020, 4: 0.040}, power_w=20.0),
)
AT_ONCE = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)


def plan_on(*devices: str) -> Plan:
    """`small` on the first device, and `large`, the second stage of a cascade, on the last."""
    cascade = make_cascade("signs", "small", "large", rate_qps=10.0)
    first = make_placement(devices[0], "signs", "small", rate_qps=10.0, capacity_qps=250.0)
    second = Placement(devices[-1], "signs", "large", 4, 0.0, 0.0, 100.0, deferred_qps=5.0)
    return make_plan(
        first, second, cascades=(cascade,), devices=tuple(dict.fromkeys(devices)), demand_qps={"signs": 10}
    )


def never(*_asked: object) -> Plan:
    raise AssertionError("this policy never re-plans")


def simulated(text: str, plan: Plan, directory: Path) -> Sequence[RequestRecord]:
    path = directory / "t.csv"
    path.write_text(text)
    profiles = {device: make_profile(device, *MEASURED) for device in plan.devices}
    found = simulate(read_trace(path), plan, CATALOG, profiles, AT_ONCE, never)
    return sorted(found.ended, key=lambda each: each.arrival_s)


def told(ended: RequestRecord) -> str:
    if ended.latency_s is None:
        return f"{ended.arrival_s:.1f} s: {ended.outcome}"
    fallback = ", fallback" if ended.is_fallback else ""
    return f"{ended.arrival_s:.1f} s: {ended.variant}, {1000 * ended.latency_s:.0f} ms, {ended.accuracy:g}{fallback}"


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("Policy: a fixed latency", ("cpu0", "cpu1")),
        ("Policy: the best accuracy within an energy", ("cpu0", "cpu1")),
        ("Policy: several applications on one device", ("cpu0",)),
    ],
)
def test_an_example_ends_as_the_page_says(name: str, devices: tuple[str, ...], tmp_path: Path) -> None:
    trace, said = BLOCK.findall(EXAMPLES[name])[0]
    assert [told(each) for each in simulated(trace, plan_on(*devices), tmp_path)] == said.splitlines()


def test_the_page_has_no_example_that_is_not_simulated() -> None:
    assert len(EXAMPLES) == 3
