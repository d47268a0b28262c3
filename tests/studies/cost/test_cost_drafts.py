"""What a million queries cost in a tiny workspace, and what sharing saves there."""

import math
from dataclasses import dataclass, field, replace
from itertools import count

import msgspec
import pytest
from builders import MADE_BY, make_sharing_cost
from tiny import Tiny

from proteus_cli.domain.interference import Interference, MeasuredVariant
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import EngineError
from proteus_cli.store.sharing import sharing_digest, write_sharing
from proteus_cli.studies.artefacts import StudyFiles
from proteus_cli.studies.budget import Budget
from proteus_cli.studies.cost import drafts
from proteus_cli.studies.cost.drafts import MIN_S, WANTED_S, CostQuestion, cost_draft, workspace_draft
from proteus_cli.studies.cost.search import SIMULATED_QPS
from proteus_cli.studies.frame import Job, JobTurn, run_study
from proteus_cli.studies.pages.cost import section
from proteus_cli.studies.results import CostConclusion, FleetCost
from proteus_cli.studies.study import Study

LITTLE = "arrival_s,family\n" + "".join(f"{n / 10:.2f},{'shapes' if n % 2 else 'tones'}\n" for n in range(200))


def question(tiny: Tiny) -> CostQuestion:
    """At most three devices, for 0.1 per hour each."""
    kind = tiny.place.profile("cpu0").device.type
    return CostQuestion({kind: 0.1}, Rules(minimize="cost", residency=2), {kind: 3}, 0.01, "", 0)


def studied(tiny: Tiny, trace: str = LITTLE) -> Study:
    path = tiny.root / "t.csv"
    path.write_text(trace)
    draft = cost_draft(tiny.place, path, question(tiny))
    return run_study(draft, StudyFiles(tiny.place, draft.name), Budget(), lambda _now, _done: None)


def test_families_that_need_little_cost_half_on_a_device_that_they_share(tiny: Tiny) -> None:
    study = studied(tiny)
    assert not any("as long as profiled" in line for line in section(study).how)
    slower = msgspec.structs.replace(study, options={**study.options, "headroom": 1.2})
    assert any("devices that take 1.2 times as long as profiled" in line for line in section(slower).how)
    dedicated, shared = (cell.read(FleetCost) for cell in study.cells)
    assert [cell.mode for cell in study.cells] == ["simulated"] * 2
    assert (dedicated.devices, shared.devices) == (2, 1)
    assert shared.cost_per_million == pytest.approx(1e6 * 0.1 * 19.9 / 3600 / 200)
    assert dedicated.missed == shared.missed == 0
    assert shared.high_frac > 0
    conclusion = msgspec.convert(study.conclusion, CostConclusion)
    assert conclusion.cheapest.endswith(", shared")
    assert conclusion.savings[0].saved_frac == pytest.approx(0.5)
    said = section(study)
    assert "sharing saves 50.0 %" in said.findings[1]
    assert not dedicated.assumed
    assert "`proteus study share --device cpu0 --variants shapes-" in said.findings[2]
    assert f"{shared.assumed[0]}." == said.findings[2]  # it begins with a name, which keeps its case
    assert all(picture.svg.startswith("<svg") for picture in said.pictures)


def test_where_sharing_costs_more_time_than_there_is_it_saves_nothing(tiny: Tiny) -> None:
    profile = tiny.place.profile("cpu0")
    keys = [each.key for each in profile.variants]
    costs = tuple(make_sharing_cost(one, other, ratio=50.0) for one in keys for other in keys if one != other)
    variants = tuple(MeasuredVariant(*each.key, sharing_digest(each)) for each in profile.variants)
    write_sharing(tiny.place, "cpu0", Interference(2, MADE_BY, profile.device.type, "cpu0", False, variants, costs))
    study = studied(tiny)
    dedicated, shared = (cell.read(FleetCost) for cell in study.cells)
    assert (dedicated.devices, shared.devices) == (2, 2)
    assert msgspec.convert(study.conclusion, CostConclusion).savings[0].saved_frac == 0
    assert not shared.assumed


def test_a_fleet_with_headroom_keeps_the_slo_on_slower_devices(tiny: Tiny) -> None:
    """On devices that take ten thousand times as long as profiled, nothing is in time."""
    path = tiny.root / "t.csv"
    path.write_text(LITTLE)
    asked = replace(question(tiny), jitter="")
    without, with_some, with_much = (
        cost_draft(tiny.place, path, replace(asked, headroom=each)) for each in (1.0, 1.5, 1e4)
    )
    turn = JobTurn(math.inf, lambda _now, _done: None)
    usual, slower = (each.jobs[0].measure(turn) for each in (without, with_some))
    assert isinstance(usual, FleetCost)
    assert isinstance(slower, FleetCost)
    assert slower.percentile_s["shapes"] == pytest.approx(1.5 * (usual.percentile_s["shapes"] or 0))
    with pytest.raises(EngineError, match="keeps the SLO of all families"):
        with_much.jobs[0].measure(turn)
    assert without.options["headroom"] != with_much.options["headroom"], "cells of another headroom count no more"


def test_a_fleet_that_is_too_small_fails_its_cell_and_says_so(tiny: Tiny) -> None:
    much = "arrival_s,family\n" + "".join(f"{n / 8000:.5f},shapes\n" for n in range(4000))
    study = studied(tiny, much)
    assert all("keeps the SLO of all families" in cell.failed for cell in study.cells)
    assert section(study).findings == ["Nothing was found yet."]


def test_too_little_time_and_rules_that_conflict_are_not_taken_for_a_fleet_that_is_too_small(tiny: Tiny) -> None:
    path = tiny.root / "t.csv"
    path.write_text(LITTLE)
    asked = question(tiny)
    strict = replace(asked, rules=msgspec.structs.replace(asked.rules, min_accuracy={"shapes": 0.85}, residency=1))
    one = replace(strict, most=dict.fromkeys(asked.most, 1))
    for each, allowed_s, problem in (
        (asked, 0.0, "The time was over"),
        (one, math.inf, "No plan obeys all rules, however little"),
    ):
        job = cost_draft(tiny.place, path, each).jobs[0]
        with pytest.raises(EngineError, match=problem) as failed:
            job.measure(JobTurn(allowed_s, lambda _now, _done: None))
        assert failed.value.hint


@dataclass
class Told:
    """Notes how far a job says it is; ends with ``raises`` when it says so for the ``at``-th time."""

    raises: BaseException | None = None
    at: int = 2
    done_frac: list[float] = field(default_factory=list)

    def advance(self, _now: str, done_frac: float) -> None:
        self.done_frac.append(done_frac)
        if self.raises is not None and len(self.done_frac) == self.at:
            raise self.raises


def long_job(tiny: Tiny) -> Job:
    path = tiny.root / "t.csv"
    path.write_text("arrival_s,family\n" + "".join(f"{n / 50:.2f},shapes\n" for n in range(4000)))
    return cost_draft(tiny.place, path, question(tiny)).jobs[0]


def test_progress_is_told_while_a_plan_is_tried(tiny: Tiny) -> None:
    told = Told()
    long_job(tiny).measure(JobTurn(math.inf, told.advance))
    within_first = [done_frac for done_frac in told.done_frac if 0 < done_frac < 1 / 8]
    assert within_first == [1 / 32, 2 / 32, 3 / 32], "of 4,000 queries, after each thousand"


def test_a_trial_ends_when_the_time_is_over(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trial asks four times."""
    seconds = count()
    monkeypatch.setattr(drafts, "monotonic", lambda: float(next(seconds)))
    with pytest.raises(EngineError, match="The time was over"):
        long_job(tiny).measure(JobTurn(3.5, lambda _now, _done: None))


def test_an_interrupt_during_a_trial_ends_the_study(tiny: Tiny) -> None:
    """Simulations end with what they have; that is no result of a trial."""
    with pytest.raises(KeyboardInterrupt):
        long_job(tiny).measure(JobTurn(math.inf, Told(KeyboardInterrupt()).advance))


def test_more_traffic_wants_more_time_and_no_cell_is_begun_without_that_of_one_trial(tiny: Tiny) -> None:
    job = long_job(tiny)
    assert job.wanted_s == WANTED_S
    assert job.min_s == pytest.approx(MIN_S + 4000 / SIMULATED_QPS)
    path = tiny.root / "much.csv"
    path.write_text("arrival_s,family\n" + "0.0,shapes\n" * 100_000)
    much = cost_draft(tiny.place, path, replace(question(tiny), jitter="p95")).jobs[0]
    assert much.wanted_s == pytest.approx(8 * 10), "two seeds"
    assert much.min_s == pytest.approx(MIN_S + 10)


def test_of_a_whole_workspace_nobody_knows_the_traffic(tiny: Tiny) -> None:
    assert "--traffic" in str(workspace_draft(tiny.place))
