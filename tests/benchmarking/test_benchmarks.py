"""The smallest run of each benchmark that needs no quiet machine; wrong answers and missed aims are told."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import make_measured, make_profile
from installed import needs
from short_forms import parse_condition
from tiny import INPUTS, mlp

from benchmarks import ablation, arrivals, gpu, parity, planner
from benchmarks.compare.__main__ import PROBE, PairedFigure
from benchmarks.frame import ROOT, Aim, Found, Table, benchmark
from benchmarks.live import cascades, exits
from benchmarks.paper.figures import EXPERIMENTS
from benchmarks.paper.lab import Case, Lab, play
from benchmarks.paper.traces import cut, steps
from benchmarks.planner import make_planner, objection
from benchmarks.serving import load
from benchmarks.serving.load import Target, WrongAnswer
from benchmarks.serving.models import Samples
from benchmarks.serving.programs.models import SCORES
from benchmarks.serving.wire import RAW
from benchmarks.worlds import alike, synthetic_fleet, synthetic_mix
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.control.policies import PROTEUS, policy_named
from proteus_cli.control.replanning import replan_rules
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.store import Workspace
from proteus_cli.store.answers import Answers

SMALL = arrivals.Replayed("steps", steps((120.0, 230.0)), 10.0, workers=6)


def test_a_benchmark_prints_its_parts_and_aims_and_fails_where_one_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(aim: Aim) -> Found:
        return Found((Table("Goodput", ("workers", "part"), (("2", "97 %"),)),), (aim,), ("a remark",))

    parts = {
        "reached": lambda _: part(Aim("goodput", 0.97, 0.95, "of what is possible", is_most=False)),
        "missed": lambda _: part(Aim("longest wait", 2.0, 1.0, "s", is_most=True)),
    }
    assert benchmark("", parts, arguments=["--parts", "reached", "--json", str(tmp_path / "found.json")]) == 0
    assert "97 %" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "found.json").read_text())["parts"]) == ["reached"]
    assert benchmark("", parts, arguments=[]) == 1
    printed = capsys.readouterr().out
    assert "✓ goodput: 0.97 of what is possible (to reach: ≥ 0.95)" in printed
    assert "✗ longest wait: 2.00 s (to reach: ≤ 1)" in printed
    with pytest.raises(SystemExit):
        benchmark("", parts, arguments=["--parts", "unknown"])


def test_arrivals_compare_policies_and_the_oracle_is_the_most_accurate(tmp_path: Path) -> None:
    """The same seed gives the same run; no seed for tuning is one for validation."""
    assert not set(arrivals.TUNING) & set(arrivals.VALIDATION)
    runs = [
        SMALL.measure(arrivals.Site(tmp_path / str(number), (1,), arrivals.POLICIES, is_quick=True), "row")
        for number in range(2)
    ]
    one, other = ([runs_.violations for runs_ in run.policies] for run in runs)
    assert one == other
    by_name = {each.policy: each for each in runs[0].policies}
    assert by_name[arrivals.OURS].accuracy_on_time <= by_name[arrivals.ORACLE].accuracy_on_time
    assert [aim.what for aim in runs[0].aims] == [
        "row: ahead of proteus-paper, on time", "row: ahead of never re-plans, on time"
    ]  # fmt: skip


def test_the_ablation_changes_rules_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "ROWS", {"small": SMALL})
    gain = replan_rules.MIN_GAIN
    parser = ablation.add_rules(argparse.ArgumentParser())
    benchmark("", {"ablation": ablation.ablation}, parser=parser, arguments=["--only", "small", "--seeds", "tuning"])
    assert capsys.readouterr().out.count("points (to reach: ≥ 0.1)") == len(ablation.RULES)
    assert (replan_rules.MIN_GAIN, policy_named("proteus")) == (gain, PROTEUS)


def test_experiments_of_the_paper_have_a_cell_for_each_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a synthetic cluster, where each run has the figures of one short run."""
    monkeypatch.setattr("benchmarks.paper.lab.PAPER", tmp_path / "missing")
    lab = Lab(tmp_path / "lab", is_quick=True)
    trace = cut(lab.made_up[0], 0.0, 0.2)
    figures = play(Case(PROTEUS, trace), lab.cluster())
    monkeypatch.setattr(Lab, "run", lambda *_: figures)
    monkeypatch.setattr(Lab, "shared", trace)
    for experiment in EXPERIMENTS.values():
        for table in experiment(lab).tables:
            assert table.rows
            assert all(len(row) == len(table.columns) for row in table.rows)


def test_the_planner_s_plans_are_as_good_as_an_independent_solve_and_a_worse_one_is_noticed() -> None:
    rng = np.random.default_rng(1)
    fleet = synthetic_fleet(families=3, variants=3, types=2, devices=8, rng=rng)
    demand = {family: 20.0 * share for family, share in synthetic_mix(fleet, rng).items()}
    plan = make_planner(fleet).with_changes(headroom=1.0)(demand)
    assert objection(fleet, plan, shares_devices=False) == ""
    worse = msgspec.structs.replace(plan, placements=plan.placements[1:])
    assert "misses" in objection(fleet, worse, shares_devices=False)
    task = planner.Task("alike", alike(4), ({"images": 50.0},), median_s=10.0)
    assert planner._aims(task, 1.0, 1.0, 0.0, 0) is not None


def test_shared_devices_keep_their_deadlines_in_the_demo_s_burst() -> None:
    """By the profiles in the repository, with variants for bursts beside the accurate ones."""
    violations, accuracy = parity.burst_of(Workspace(ROOT), parity.BURST_RULES["shared devices"], 0.05, seed=11)
    assert violations < 0.01
    assert accuracy > 0.99


# --- comparing trees


def test_both_trees_take_turns_and_the_order_alternates() -> None:
    calls: list[str] = []
    figure = PairedFigure("tiny-json, per request", "µs", 1e-6)

    def measure(name: str, value: float) -> float:
        calls.append(name)
        return value

    figure.take_turns(lambda: measure("base", 2.0), lambda: measure("ours", 3.0), rounds=3)
    assert calls == ["base", "ours", "ours", "base", "base", "ours"]
    assert figure.ratios == [1.5] * 3


@pytest.mark.parametrize("what", ["planner", "simulator"])
def test_a_probe_measures_this_tree_once_for_each_line(what: str) -> None:
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = (sys.executable, str(PROBE), what, "no such directory")
    done = subprocess.run(command, input="\n\n", env=variables, capture_output=True, text=True, timeout=100, check=True)
    ready, *measured = done.stdout.split()
    assert ready == "ready"
    assert len(measured) == 2
    assert all(float(each) > 0 for each in measured)


# --- live ones, without a server


def test_cascades_gain_where_the_accurate_variant_cannot_carry_the_demand() -> None:
    """`m` is right where it is sure, and `xxl` nearly everywhere; 1,000 and 100 qps on each of the devices."""
    rng = np.random.default_rng(0)
    hard = rng.random(3000)
    family = Family("digits", "1s", (Variant("digits-m", 0.8), Variant("digits-xxl", 0.99)))
    right: dict[str, Any] = {"digits-m": hard < 0.8, "digits-xxl": rng.random(3000) < 0.99}
    answers = {
        name: Answers("1", "2", "margin", (1 - hard).astype(np.float32), of, of.astype(np.int64))
        for name, of in right.items()
    }
    times_s = {"digits-m": 0.001, "digits-xxl": 0.010}
    profile = make_profile("cpu0", *(make_measured("digits", name, 0.5, {1: s}) for name, s in times_s.items()))
    found = cascades._planned(cascades.Answered(family, profile, answers), True)
    assert all(aim.is_reached for aim in found.aims)


def test_an_emulated_core_keeps_bounds_that_it_has_time_for() -> None:
    """A quiet core, with requests of ten times the time of the whole chain: each answers at its own exit."""
    stops_at = np.array([1, 2, 3, 4])
    chain = exits.EmulatedChain(exits.CORES[0], stops_at, np.random.default_rng(1))
    variant = Variant(exits.KEY.variant, 0.9, exits=("a.onnx", "b.onnx"), stop_when=parse_condition("exit >= 1"))
    catalog = Catalog(FORMAT, (Family(exits.KEY.family, "100ms", (variant,)),))
    device = exits.OneDevice(exits.KEY, exits.profile_of(chain), catalog, chain)
    found = exits.served(device, np.arange(100) % 4, np.full(100, 10 * sum(exits.STAGES_S)))
    assert found.exit.tolist() == stops_at.tolist() * 25
    assert found.within_percent == found.possible_percent == 100.0
    assert exits.served(device, np.zeros(20, np.int64), np.full(20, 1e-6)).answered.sum() == 0


def test_the_closed_loop_of_the_gpu_benchmark_ends_by_a_wrong_answer(tmp_path: Path) -> None:
    """It runs on a CPU here."""
    cpu, key = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,)), VariantKey("shapes", "s")
    batch = Batch(key, [(2, (np.ones((2, INPUTS), np.float32).tobytes(),))], 2)

    async def looped(check: Any) -> float:
        executor = CpuExecutor(cpu, OnnxRuntime(cpu), print)
        try:
            await executor.load(key, mlp(tmp_path / "m.onnx"), 2)
            return await gpu.closed_loop(executor, batch, 3, check, 0.1)
        finally:
            executor.close()

    seen: list[BatchResult] = []
    assert 0 < asyncio.run(looped(seen.append)) <= len(seen) / 0.1

    def refuse(_result: BatchResult) -> None:
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        asyncio.run(looped(refuse))


# --- servers under load


def test_wrong_scores_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = np.arange(SCORES, dtype=np.float32)[None]
    nothing: Any = None
    target = Target(nothing, 0, "tiny", RAW, "/", Samples(scores, scores), tmp_path)
    for answer, objection_ in ((scores, ""), (scores[:, ::-1], "is wrong"), (scores[:, :5], "is wrong")):
        monkeypatch.setattr(load, "_asked", lambda *_, given=answer: ({}, given.tobytes()))
        if objection_:
            with pytest.raises(WrongAnswer, match=objection_):
                load.first_objection(target)
        else:
            assert load.first_objection(target) == ""


@pytest.mark.extended
@pytest.mark.live
@needs("wrk", "h2load")
def test_the_benchmark_of_serving_measures_proteus(tmp_path: Path) -> None:
    """One workload, one short round, no peer to install."""
    file = tmp_path / "found.json"
    arguments = ("--quick", "--parts", "rivals", "--peers", "proteus", "--workloads", "tiny-json", "--json", str(file))
    command = (sys.executable, "-m", "benchmarks.serving", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    (row,) = json.loads(file.read_text())["parts"]["rivals"]["tables"][0]["rows"]
    name, cpu_us, rps, p50_ms, p99_ms, *_ = row
    assert name == "tiny-json, proteus"
    assert 1 < float(cpu_us) < 10_000
    assert float(rps.replace(",", "")) > 100
    assert float(p50_ms) <= float(p99_ms)
