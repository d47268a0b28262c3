"""From a model that nobody here has seen to a server that answers a burst, by the commands of the README."""

import json
from pathlib import Path

import pytest

from benchmarks.first_hour import FAMILY, QUICK, VARIANT, Hour, run

pytestmark = [pytest.mark.live, pytest.mark.extended]


def test_the_first_hour(tmp_path: Path) -> None:
    hour = Hour(tmp_path)
    run(hour, QUICK)
    added, derived, profiles, plan, _, report = (step.said for step in hour.steps)
    assert [each["variant"] for each in added["variants"]] == [VARIANT]
    assert added["variants"][0]["basis"] == "measured on the eval split"
    kept = {each["variant"] for each in derived["derived"] if each["kept"]}
    assert all(each["why"] for each in derived["derived"])
    assert all({VARIANT, *kept} == {each["variant"] for each in profile["variants"]} for profile in profiles)
    assert {each["variant"] for each in plan["placements"]} <= {VARIANT, *kept}
    with (tmp_path / "burst.csv").open(encoding="utf-8") as trace:
        assert report["requests"] == sum(1 for _ in trace) - 1
    assert report["served"] > 0
    assert report["failed"] == 0
    outcomes = ("served", "late", "dropped", "rejected", "failed")
    assert sum(report[outcome] for outcome in outcomes) == report["requests"]
    assert json.loads((tmp_path / "plans" / "p.json").read_text(encoding="utf-8")) == plan
    assert list(report["families"]) == [FAMILY]
