"""`proteus replay` in simulation: policies, other batching, loads, jitter, failures, and Ctrl-C."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from command_line import command, interrupted_process, proteus
from tiny import DEVICES, SHAPES, Tiny, add_plan, add_profiles, change_json, device, make_workspace

from proteus_cli.arrays import Bools
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.control.policies import POLICIES
from proteus_cli.profiling.answers import measure_answers
from proteus_cli.store.answers import Answers, write_answers

OUTCOMES = ("served", "late", "dropped", "rejected", "failed")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """40 qps for ten seconds, 200 qps for five, and 40 qps again for five; two of three for `shapes`, evenly."""
    gaps = [0.025] * 400 + [0.005] * 1000 + [0.025] * 200
    rows, now_s = [], 0.0
    for number, gap_s in enumerate(gaps):
        rows.append(f"{now_s:.3f},{'tones' if number % 3 == 0 else 'shapes'}\n")
        now_s += gap_s
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,family\n" + "".join(rows))
    return path


@pytest.fixture
def scattering(tiny: Tiny) -> Tiny:
    """Profiles with a tail: p90, p95 and p99 are 1.2, 1.4 and 2 times the median, and so the mean 1.09 times."""
    for of_device in DEVICES:
        path = tiny.place.profile_path(of_device)
        variants = msgspec.json.decode(path.read_bytes())["variants"]
        for point in (point for variant in variants for point in variant["points"]):
            for name, times in (("mean_s", 1.09), ("p90_s", 1.2), ("p95_s", 1.4), ("p99_s", 2.0)):
                point[name] = point["p50_s"] * times
        change_json(path, variants=variants)
    return tiny


def replayed(tiny: Tiny, trace: Path, *options: str) -> Any:
    """The report, or reports, without what differs from run to run."""
    document = proteus("replay", trace, *options, "--json", "-w", tiny.root).document()
    for report in document if isinstance(document, list) else [document]:
        del report["made_by"]
    return document


def test_a_report_says_how_many_noisy_cells_it_goes_by(tiny: Tiny, trace: Path) -> None:
    """Two devices share the profile of the first, and its cells count once."""
    quiet = proteus("replay", trace, "-w", tiny.root)
    assert "noisy" not in quiet.stdout
    for of_device in DEVICES:
        path = tiny.place.profile_path(of_device)
        variants = msgspec.json.decode(path.read_bytes())["variants"]
        for point in variants[0]["points"][:2]:
            point["noise_frac"] = 0.3
        change_json(path, variants=variants)
    assert replayed(tiny, trace)["noisy_cells"] == 2
    assert "noisy cells in profiles" in proteus("replay", trace, "-w", tiny.root).stdout


# --- policies and batching


def test_all_policies_are_compared_in_one_list_and_lose_no_request(tiny: Tiny, trace: Path) -> None:
    reports = replayed(tiny, trace, "--policy", "all")
    assert [report["policy"] for report in reports] == list(POLICIES)
    for report in reports:
        assert report["mode"] == "simulated"
        assert sum(report[outcome] for outcome in OUTCOMES) == report["requests"] == 1600
    by_name = {report["policy"]: report for report in reports}
    assert by_name["clipper-ha"]["replans"] == by_name["most-accurate"]["replans"] == []
    assert by_name["least-accurate"]["effective_accuracy"] < by_name["proteus"]["effective_accuracy"]
    assert all(report["served"] <= by_name["oracle"]["served"] for report in reports)


def test_several_policies_come_in_the_order_in_which_they_were_asked_for(tiny: Tiny, trace: Path) -> None:
    reports = replayed(tiny, trace, "--policy", "clipper-ht, proteus-paper,oracle")
    assert [report["policy"] for report in reports] == ["clipper-ht", "proteus-paper", "oracle"]


@pytest.mark.parametrize(("option", "kind"), [("-o", "directory"), ("--report", "directory"), ("--png", "file")])
def test_what_cannot_be_written_is_refused_before_anything_is_replayed(
    tiny: Tiny, trace: Path, option: str, kind: str
) -> None:
    where = {"directory": tiny.root, "file": tiny.place.catalog_path}[kind]
    said = proteus("replay", trace, option, where, "-w", tiny.root).misused()
    assert f"is a {kind}." in said
    assert "simulat" not in said


def test_an_unknown_policy_among_others_is_refused(tiny: Tiny, trace: Path) -> None:
    for names in ("proteus,clipper", "all,proteus", "proteus,", ""):
        ended = proteus("replay", trace, "--policy", names, "-w", tiny.root)
        assert ended.refused().startswith("No policy `")
        assert "infaas-accuracy" in ended.stderr


def test_all_policies_can_be_simulated_but_not_served(tiny: Tiny, trace: Path) -> None:
    assert proteus("plan", "--demand", "10qps", "-o", tiny.place.plans_dir / "p.json", "-w", tiny.root).code == 0
    ended = proteus("replay", trace, "--serve", "p", "--policy", "clipper-ha", "-w", tiny.root)
    assert ended.refused() == "The policy `clipper-ha` can only be simulated."


@pytest.mark.parametrize("batching", ["proactive", "aimd", "nexus", "greedy", "static-1", "static-4"])
@pytest.mark.parametrize("policy", ["proteus", "proteus-paper"])
def test_any_policy_takes_any_batching(tiny: Tiny, trace: Path, policy: str, batching: str) -> None:
    report = replayed(tiny, trace, "--policy", policy, "--batching", batching)
    assert report["policy"] == policy
    assert sum(report[outcome] for outcome in OUTCOMES) == 1600
    assert report["served"] > 0
    assert (report["mean_batch"] == 1.0) == (batching == "static-1")


def test_a_rule_that_waits_makes_larger_batches_than_one_that_does_not(tiny: Tiny, trace: Path) -> None:
    waits, greedy = (replayed(tiny, trace, "--batching", name) for name in ("proactive", "greedy"))
    assert waits["mean_batch"] > greedy["mean_batch"]
    assert waits["latency_s"]["p50"] > greedy["latency_s"]["p50"]


@pytest.mark.parametrize(
    "batching", ["", "fast", "static", "static-", "static-0", "static-x", "static--1", "static-1.5"]
)
def test_a_batching_that_is_not_there_is_refused(tiny: Tiny, trace: Path, batching: str) -> None:
    ended = proteus("replay", trace, f"--batching={batching}", "-w", tiny.root)
    assert ended.refused() == f"No batching `{batching}`."
    assert "static-N" in ended.stderr


# --- attainment


def test_the_target_is_that_of_the_option_else_of_the_plan_else_of_the_catalog(tiny: Tiny, trace: Path) -> None:
    def targets(*options: str) -> set[float]:
        families = replayed(tiny, trace, *options)["families"].values()
        return {family["attainment"]["target"] for family in families}

    made = proteus(
        "plan", "--demand", "10qps", "--attainment", "0.9", "-o", tiny.place.plans_dir / "p.json", "-w", tiny.root
    )
    assert made.code == 0, made.stderr
    assert targets() == {0.995}
    assert targets("--plan", "p") == {0.9}
    assert targets("--plan", "p", "--attainment", "99%") == targets("--attainment", "0.99") == {0.99}


def test_a_run_that_misses_its_target_is_no_failure(tiny: Tiny, trace: Path) -> None:
    ended = proteus("replay", trace, "--policy", "most-accurate", "--attainment", "99.99%", "-w", tiny.root)
    assert ended.code == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if " 99.99 " in line]
    assert [row.split()[0] for row in rows if row.endswith("!")]


@pytest.mark.parametrize("policy", ["proteus", "most-accurate"])
def test_what_plans_expected_stands_beside_what_was_reached(tiny: Tiny, trace: Path, policy: str) -> None:
    """Plans for forecasts know how queries arrive; the plan that never changes takes arrivals to be Poisson."""
    families = replayed(tiny, trace, "--policy", policy)["families"]
    expected = [family["expected_attainment"] for family in families.values() if family["requests"]]
    assert expected
    assert all(0 <= share <= 1 for share in expected)
    shown = proteus("replay", trace, "--policy", policy, "-w", tiny.root).stdout
    for name, share in zip([name for name, of in families.items() if of["requests"]], expected, strict=True):
        assert any(line.split()[:3] == [name, "99.5", f"{100 * share:.2f}"] for line in shown.splitlines()), shown


# --- loads, jitter, failures


def test_a_burst_costs_more_where_loads_take_time(tiny: Tiny, trace: Path) -> None:
    """A device that loads serves nothing meanwhile; where that would take 3 s of a burst of 5, it loads less.

    There are no standbys, as these need no load.
    """
    loads = (("--load-time", took, "--memory", "0B") for took in ("0s", "300ms", "3s"))
    free, some, long = (replayed(tiny, trace, *options)["slo_violation_ratio"] for options in loads)
    assert free < min(some, long)


@pytest.mark.parametrize("load_time", ["2", "-1s", "soon", "inf s", ""])
def test_a_load_time_is_a_duration(tiny: Tiny, trace: Path, load_time: str) -> None:
    assert "uration" in proteus("replay", trace, f"--load-time={load_time}", "-w", tiny.root).refused()


def test_jitter_scatters_batches_by_the_seed(scattering: Tiny, trace: Path) -> None:
    still = replayed(scattering, trace, "--jitter", "p95", "--seed", "1")
    assert replayed(scattering, trace, "--jitter", "p95", "--seed", "1") == still
    assert replayed(scattering, trace, "--jitter", "p95", "--seed", "2") != still
    steady, wild = (replayed(scattering, trace, *options) for options in ((), ("--jitter", "p99")))
    assert len(set(steady["latency_quantiles_s"])) < len(set(wild["latency_quantiles_s"]))
    assert steady["latency_s"]["p99"] < wild["latency_s"]["p99"]


@pytest.mark.parametrize("jitter", ["p50", "95", "P95", "yes", ""])
def test_a_jitter_is_one_of_three_percentiles(tiny: Tiny, trace: Path, jitter: str) -> None:
    ended = proteus("replay", trace, f"--jitter={jitter}", "-w", tiny.root)
    assert ended.refused() == f"No jitter `{jitter}`."
    assert "p90, p95, p99" in ended.stderr


def test_a_lost_device_answers_nothing_and_the_plans_say_why_they_changed(tiny: Tiny, trace: Path) -> None:
    whole = replayed(tiny, trace)
    fails = replayed(tiny, trace, "--fail", "cpu1@2s..8s")
    reasons = [replan["reason"] for replan in fails["replans"]]
    assert reasons[0] == "cpu1 was lost"
    assert "cpu1 is back" in reasons
    assert 0 < fails["devices"]["cpu1"]["answers"] < whole["devices"]["cpu1"]["answers"]
    assert sum(fails[outcome] for outcome in OUTCOMES) == 1600


def test_a_device_can_be_lost_for_good_and_so_can_all(tiny: Tiny, trace: Path) -> None:
    """From the start cpu0 alone; from 5 s on, after 200 requests, nothing at all."""
    alone = replayed(tiny, trace, "--fail", "cpu1@0s..")
    assert alone["devices"]["cpu1"]["answers"] == 0
    assert alone["served"] > 0
    nothing = replayed(tiny, trace, "--fail", "cpu0@5s..", "--fail", "cpu1@5s..")
    assert 150 <= nothing["served"] <= 200
    assert sum(nothing[outcome] for outcome in OUTCOMES) == 1600


def test_under_all_conditions_together_the_same_seed_gives_the_same_reports(scattering: Tiny, trace: Path) -> None:
    """By policies that have among them each way to plan, to re-plan and to assign."""
    policies = "proteus,clipper-ha,sommelier,infaas-accuracy,no-model-placement,oracle"
    conditions = ("--jitter", "p99", "--load-time", "500ms", "--fail", "cpu0@3s..6s", "--fail", "cpu1@12s..13s")
    first, second = (replayed(scattering, trace, "--policy", policies, *conditions, "--seed", "5") for _ in range(2))
    assert first == second


def test_a_lost_host_is_one_loss_of_all_its_devices(tiny: Tiny, trace: Path, tmp_path: Path) -> None:
    fails = ("--fleet", "a=cpu-1c:2;b=cpu-1c:1", "--fail", "a@2s..8s", "--fail", "a@12s..")
    page, output = tmp_path / "page.html", tmp_path / "report.json"
    ended = proteus("replay", trace, *fails, "--report", page, "-o", output, "-w", tiny.root)
    assert ended.code == 0, ended
    found = json.loads(output.read_text())
    first, second = found["losses"]
    assert (first["what"], first["devices"], first["at_s"]) == ("host a", 2, 2.0)
    assert 8.0 < first["back_s"] < 10.5
    assert second == {"what": "host a", "devices": 2, "at_s": pytest.approx(12.0), "back_s": None}
    assert sum(found[outcome] for outcome in OUTCOMES) == 1600
    reasons = [change["reason"] for change in found["replans"]]
    assert [reason for reason in reasons if "host a" in reason] == [
        "host a was lost (2 devices)", "host a is back (2 devices)", "host a was lost (2 devices)",
    ]  # fmt: skip
    assert re.search(r"host a +2 +2\.0 +[78]\.\d *\n *host a +2 +12\.0 +–", ended.stdout), ended.stdout
    assert page.read_text().count('<td class="text">host a</td>') == 2


def test_without_a_plan_the_devices_are_those_that_a_plan_would_be_for(tiny: Tiny, trace: Path) -> None:
    """This machine's, else those of the fleet that is given."""
    add_profiles(tiny, ["cpu0", "b/cpu0"])
    ended = proteus("replay", trace, "--json", "-w", tiny.root)
    assert [*json.loads(ended.stdout)["devices"]] == ["cpu0", "cpu1"]
    assert "left out the profiles of b: `--cluster` of `proteus plan`" in " ".join(ended.stderr.split())
    given = proteus("replay", trace, "--json", "-w", tiny.root, "--fleet", "b/cpu0:1")
    assert len(json.loads(given.stdout)["devices"]) == 1
    assert "left out" not in given.stderr


def test_without_a_plan_variants_share_a_device_where_their_memory_is_known(tiny: Tiny, trace: Path) -> None:
    """As `proteus plan` has it. If the memory is unknown, a device has one variant, and one family is not served."""
    one = ("--fleet", f"{DEVICES[0]}:1")
    shared = replayed(tiny, trace, *one)
    path = tiny.place.profile_path(DEVICES[0])
    change_json(path, device=msgspec.json.decode(path.read_bytes())["device"] | {"memory_bytes": 0})
    alone = replayed(tiny, trace, *one)
    assert shared["served"] == shared["requests"]
    assert alone["rejected"] > 0


def test_a_host_that_fails_has_devices(tiny: Tiny, trace: Path) -> None:
    ended = proteus("replay", trace, "--fleet", "a=cpu-1c:2", "--fail", "b@2s..8s", "-w", tiny.root)
    assert ended.refused() == "`b@2s..8s` names `b`, which is not in the fleet."


def test_without_failures_there_is_no_word_of_losses(tiny: Tiny, trace: Path) -> None:
    ended = proteus("replay", trace, "-w", tiny.root)
    assert "lost" not in ended.stdout
    assert replayed(tiny, trace)["losses"] == []


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        ("cpu7@1s..2s", "`cpu7`, which is not in the fleet"),
        ("cpu1", "is no failure"),
        ("cpu1@1s", "is no failure"),
        ("cpu1@..2s", "is no failure"),
        ("@1s..2s", "is no failure"),
        ("", "is no failure"),
        ("cpu1@2s..1s", "ends before it starts"),
        ("cpu1@1s..1s", "ends before it starts"),
        ("cpu1@1..2", "has no unit"),
        ("cpu1@-1s..2s", "must be a finite number that is not negative"),
        ("cpu1@soon..", "is not a duration"),
    ],
)
def test_a_failure_that_makes_no_sense_is_refused(tiny: Tiny, trace: Path, failure: str, problem: str) -> None:
    assert problem in proteus("replay", trace, f"--fail={failure}", "-w", tiny.root).refused()


def test_a_failure_is_of_a_device_of_the_plan_or_fleet_that_is_simulated(tiny: Tiny, trace: Path) -> None:
    assert proteus("plan", "--demand", "10qps", "-o", tiny.place.plans_dir / "p.json", "-w", tiny.root).code == 0
    assert replayed(tiny, trace, "--plan", "p", "--fail", "cpu1@1s..2s")["requests"] == 1600
    ended = proteus("replay", trace, "--plan", "p", "--fail", "gpu0@1s..2s", "-w", tiny.root)
    assert "not in the fleet" in ended.refused()


@pytest.mark.parametrize("target", ["--url=http://127.0.0.1:1", "--serve=plan"])
@pytest.mark.parametrize(
    "option", ["--batching=greedy", "--load-time=1s", "--max-unavailable=1", "--jitter=p95", "--fail=cpu0@1s..2s"]
)
def test_conditions_are_for_simulations_only(tiny: Tiny, target: str, option: str) -> None:
    """Refused before the trace is read or anybody is asked."""
    ended = proteus("replay", "nowhere.csv", target, option, "-w", tiny.root)
    assert ended.refused() == f"`{option.partition('=')[0]}` is for simulated replays."


@pytest.mark.parametrize("option", ["--inputs=eval", "--ca=nowhere.pem"])
def test_what_servers_are_sent_and_trusted_by_is_for_servers_only(tiny: Tiny, trace: Path, option: str) -> None:
    ended = proteus("replay", trace, option, "-w", tiny.root)
    assert ended.refused() == f"`{option.partition('=')[0]}` is for replays against a server."


def test_rows_of_eval_splits_can_be_asked_for_where_all_families_have_one(tiny: Tiny, trace: Path) -> None:
    """`tones` has none. Nobody is asked before that is clear."""
    ended = proteus("replay", trace, "--url", "http://127.0.0.1:1", "--inputs", "eval", "-w", tiny.root)
    unknown = "No eval split of `tones` is known, so none of its rows can be sent, and no answer judged."
    assert ended.refused() == unknown
    trace.write_text("arrival_s,family,eval_row\n0,tones,3\n")
    assert proteus("replay", trace, "--url", "http://127.0.0.1:1", "-w", tiny.root).refused() == unknown


@pytest.mark.live
def test_a_replay_against_a_server_measures_how_accurate_its_answers_are(tmp_path: Path) -> None:
    """Each row of the eval split is sent three times: what is measured is what the only variant gets right of it."""
    made, correct = judged_workspace(tmp_path / "ws")
    trace, page = tmp_path / "t.csv", tmp_path / "page.html"
    trace.write_text("arrival_s,family,slo_s\n" + "".join(f"{0.02 * n:.2f},shapes,20\n" for n in range(96)))
    call = ("replay", trace, "--serve", "plan", "--json", "--report", page, "-w", made.root)
    ended = proteus(*call)
    of = ended.document()["families"]["shapes"]
    assert of["judged"] == of["served"] + of["late"] == 96
    assert of["measured_accuracy"] == pytest.approx(correct.mean())
    assert "sends rows of the eval split, and judges the answers: shapes" in ended.stderr
    assert 'aria-label="Accuracy of answers"' in page.read_text()
    assert proteus(*call, "--inputs", "random").document()["families"]["shapes"]["judged"] == 0


def judged_workspace(root: Path) -> tuple[Tiny, Bools]:
    """A family of one variant, and which rows of its eval split that gets right, as stands beside its profile."""
    made = make_workspace(root, [replace(SHAPES, variants=SHAPES.variants[:1])])
    add_profiles(made)
    add_plan(made, {"cpu0": "shapes-s"})
    (of,) = made.place.profile("cpu0").variants
    split = made.place.eval_path(made.place.catalog().family("shapes"))
    assert split is not None
    assert of.eval_digest is not None
    with OnnxRuntime(device(made, "cpu0")).runner(made.model("shapes-s"), of.key) as runner:
        found = measure_answers(runner, split, None)
    answers = Answers(of.engine_digest, of.eval_digest, "margin", found.confidences, found.correct, found.classes)
    write_answers(made.place.answers_path("cpu0"), {of.key: answers})
    return made, found.correct


@pytest.mark.live
def test_rows_of_eval_splits_that_a_trace_names_are_judged_alike_by_servers_and_simulations(tmp_path: Path) -> None:
    made, correct = judged_workspace(tmp_path / "ws")
    rows = [*np.flatnonzero(correct)[[0, 1, 1]].tolist(), *np.flatnonzero(~correct)[:1].tolist()]
    trace = tmp_path / "t.csv"
    lines = (f"{number / 50},shapes,20,{row}\n" for number, row in enumerate(rows))
    trace.write_text("arrival_s,family,slo_s,eval_row\n" + "".join(lines))
    for options in ((), ("--serve", "plan")):
        of = proteus("replay", trace, *options, "--json", "-w", made.root).document()["families"]["shapes"]
        assert (of["judged"], of["measured_accuracy"]) == (4, 0.75)


def test_rows_of_eval_splits_need_answers_that_are_known(tmp_path: Path) -> None:
    made, correct = judged_workspace(tmp_path / "ws")
    trace = tmp_path / "t.csv"
    trace.write_text(f"arrival_s,family,eval_row\n0,shapes,{len(correct)}\n")
    refusal, known = proteus("replay", trace, "-w", made.root).refused(), len(correct)
    assert re.fullmatch(f"The trace names row {known} of the eval split `.*`, which has {known} rows.", refusal)
    trace.write_text("arrival_s,family,eval_row\n0,shapes,0\n")
    made.place.answers_path("cpu0").unlink()
    refusal, known = proteus("replay", trace, "-w", made.root).refused(), len(correct)
    assert refusal == "The trace has rows of the eval split of `shapes`, and no answers to them are known."


def test_it_is_said_of_which_queries_no_confidence_is_known(tmp_path: Path) -> None:
    made, _ = judged_workspace(tmp_path / "ws")
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,family,eval_row,min_confidence\n0,shapes,0,0.9\n0.1,shapes,0,\n")
    assert "min_confidence" not in proteus("replay", trace, "-w", made.root).stderr
    trace.write_text("arrival_s,family,eval_row,min_confidence\n0,shapes,0,0.9\n0.1,shapes,,0.9\n")
    said = proteus("replay", trace, "-w", made.root).stderr
    assert "1 query with a `min_confidence` and without an `eval_row`" in " ".join(said.split())


# --- Ctrl-C


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT in this process, once the simulation of `proteus` is under way."""

    @contextmanager
    def progress(title: str) -> Iterator[Callable[[str, float], None]]:
        def advance(_now: str, done: float) -> None:
            if title == "simulating proteus" and done > 0:
                signal.raise_signal(signal.SIGINT)

        yield advance

    monkeypatch.setattr("proteus_cli.cli.console.progress", progress)


def test_ctrl_c_prints_what_is_known_so_far_and_ends_with_130(tiny: Tiny, tmp_path: Path) -> None:
    """Of far more than is simulated in the time that it takes to interrupt it: 240,000 queries."""
    trace = tmp_path / "long.csv"
    trace.write_text("second,family,count\n" + "".join(f"{second},shapes,100\n" for second in range(2400)))
    call = command("replay", trace, "--json", "-w", tiny.root)
    ended = interrupted_process(call, once=r"simulating proteus .*[1-9]\d*%")
    assert ended.code == 130
    stdout, stderr = ended.stdout, ended.stderr
    report = json.loads(stdout)
    assert 0 < report["requests"] < 240_000
    assert report["requests"] == sum(report[outcome] for outcome in OUTCOMES)
    assert 0 < report["duration_s"] < 2400
    assert report["interrupted"]
    assert report["requests"] == pytest.approx(100 * report["duration_s"], rel=0.1)
    assert f"interrupted after {report['duration_s']:.1f} s of the trace" in " ".join(stderr.split())
    assert stderr.rstrip().endswith("interrupted")
    assert "Traceback" not in stderr


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_in_the_second_of_three_policies_keeps_the_first_and_what_is_known_of_the_second(
    tiny: Tiny, trace: Path, tmp_path: Path
) -> None:
    """As tables, and in the file that was asked for."""
    path = tmp_path / "out.json"
    ended = proteus("replay", trace, "--policy", "clipper-ht,proteus,clipper-ha", "-o", path, "-w", tiny.root)
    assert ended.code == 130
    first, second = json.loads(path.read_text())
    assert (first["policy"], first["interrupted"], first["requests"]) == ("clipper-ht", False, 1600)
    assert (second["policy"], second["interrupted"]) == ("proteus", True)
    assert 0 < second["requests"] < 1600
    assert "clipper-ht" in ended.stdout
    assert "SLO violations" in ended.stdout


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_in_the_first_of_two_policies_still_gives_a_list(tiny: Tiny, trace: Path) -> None:
    ended = proteus("replay", trace, "--policy", "proteus,clipper-ha", "--json", "-w", tiny.root)
    assert ended.code == 130
    assert [report["policy"] for report in json.loads(ended.stdout)] == ["proteus"]


@pytest.mark.live
def test_ctrl_c_in_a_replay_against_a_server_reports_what_was_sent(tiny: Tiny, tmp_path: Path) -> None:
    """Requests that were sent end; the server outlives the interrupt, and is asked for its status after it."""
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-s"})
    trace, path = tmp_path / "t.csv", tmp_path / "out.json"
    trace.write_text("second,family,count\n" + "".join(f"{second},shapes,100\n" for second in range(200)))
    call = ("replay", trace, "--serve", "plan", "--emulate", "-o", path, "-w", tiny.root)
    ended = interrupted_process(command(*call), once=r"replaying against proteus .*[1-9]\d*%")
    assert ended.code == 130
    report = json.loads(path.read_text())
    assert (report["mode"], report["interrupted"]) == ("emulated", True)
    assert 0 < report["requests"] < 20_000
    assert report["requests"] == sum(report[outcome] for outcome in OUTCOMES)
    assert report["requests"] == pytest.approx(100 * report["duration_s"], rel=0.1, abs=10)
    assert f"interrupted after {report['duration_s']:.1f} s of the trace" in " ".join(ended.stderr.split())
    assert "SLO violations" in ended.stdout
