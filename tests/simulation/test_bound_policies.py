"""docs/serving.md shows policies by example: each of its traces is simulated, and ends as the page says."""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from builders import (
    make_cascade,
    make_catalog,
    make_family,
    make_measured,
    make_placement,
    make_plan,
    make_profile,
    never,
)

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.policies import Policy
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.request import RequestRecord
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.replay.trace import read_trace
from proteus_cli.simulation.run import simulate

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### (Policy: .*?)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"```csv\n(.*?)```\n.*?```text\n(.*?)```", re.DOTALL)

CATALOG = make_catalog(make_family("signs", {"small": 0.8, "large": 0.95}))
MEASURED = (
    make_measured("signs", "small", 0.8, {1: 0.010, 4: 0.016}, power_w=10.0),
    make_measured("signs", "large", 0.95, {1: 0.020, 4: 0.040}, power_w=20.0),
)
FORMS = make_catalog(make_family("forms", {"chain": 0.945}))
CHAIN = msgspec.structs.replace(
    make_measured("forms", "chain", 0.945, {1: 0.014, 4: 0.056}, power_w=10.0),
    exits=tuple(
        ExitProfile(share, accuracy, cut, tuple(StagePoint(size, size * s, size * s) for size in (1, 4)))
        for share, accuracy, cut, s in ((0.5, 0.98, 0.6, 0.005), (0.3, 0.95, 0.7, 0.01), (0.2, 0.85, None, 0.02))
    ),
)
ON_EXITS = make_plan(
    make_placement("cpu0", "forms", "chain", rate_qps=10.0, capacity_qps=70.0), demand_qps={"forms": 10}
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


def simulated(text: str, plan: Plan, directory: Path) -> Sequence[RequestRecord]:
    path = directory / "t.csv"
    path.write_text(text)
    catalog, measured = (FORMS, [CHAIN]) if plan is ON_EXITS else (CATALOG, MEASURED)
    profiles = {device: make_profile(device, *measured) for device in plan.devices}
    found = simulate(read_trace(path), plan, catalog, profiles, AT_ONCE, never)
    return sorted(found.ended, key=lambda each: each.arrival_s)


def told(ended: RequestRecord) -> str:
    if ended.latency_s is None:
        return f"{ended.arrival_s:.1f} s: {ended.outcome}"
    how = ", fallback" if ended.is_fallback else ", cut" if ended.is_cut else ""
    return f"{ended.arrival_s:.1f} s: {ended.variant}, {1000 * ended.latency_s:.0f} ms, {ended.accuracy:g}{how}"


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("Policy: a fixed latency", plan_on("cpu0", "cpu1")),
        ("Policy: the best accuracy within an energy", plan_on("cpu0", "cpu1")),
        ("Policy: the best accuracy within an energy on a multi-exit model", ON_EXITS),
        ("Policy: several applications on one device", plan_on("cpu0")),
    ],
)
def test_an_example_ends_as_the_page_says(name: str, plan: Plan, tmp_path: Path) -> None:
    trace, said = BLOCK.findall(EXAMPLES[name])[0]
    assert [told(each) for each in simulated(trace, plan, tmp_path)] == said.splitlines()


def test_the_page_has_no_example_that_is_not_simulated() -> None:
    assert len(EXAMPLES) == 4
