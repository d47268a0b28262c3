"""Options: quantities with units, and flag > environment > proteus.toml > default."""

import itertools
import re
from pathlib import Path

import pytest
from command_line import Ended, files, proteus
from tiny import Tiny, add_plan

from proteus_cli.settings import flag

PLAN = ("plan", "--demand", "20qps")
MAKE = ("trace", "make", "burst", "--families", "a", "--rate=1qps", "--peak=2qps")

# Every option with a unit, in a call that is otherwise right, with a unit that fits.
QUANTITIES = [
    (("plan",), "--demand", "qps"),
    (PLAN, "--time-limit", "s"),
    (("profile",), "--budget", "s"),
    (("profile", "--from-csv", "p.csv"), "--slo", "ms"),
    (("serve", "plan", "--port", "0"), "--feedback", "s"),
    (("study", "cost", "--traffic=t.csv"), "--budget", "s"),
    (("study", "peak", "--family=shapes"), "--budget", "s"),
    (("study", "peak", "--family=shapes", "--url=http://127.0.0.1:9"), "--slo", "ms"),
    (("samples", "export", "shapes", "-o", "x.npz"), "--since", "s"),
    (("replay", "t.csv"), "--scale-to", "qps"),
    (("replay", "t.csv"), "--load-time", "s"),
    (("replay", "t.csv"), "--memory", "GiB"),
    (("trace", "make", "poisson", "--families", "a"), "--rate", "qps"),
    ((*MAKE[:-1],), "--peak", "qps"),
    (MAKE, "--duration", "s"),
    (MAKE, "--ramp", "s"),
    (MAKE, "--burst-start", "s"),
    (MAKE, "--burst-stop", "s"),
    (("task", "add", "t", "--data", "rows.npz"), "--slo", "ms"),
    (("task", "add", "t", "--data", "rows.npz", "--slo=5ms"), "--budget", "s"),
    (("task", "add", "t", "--data", "rows.npz", "--slo=5ms"), "--memory", "GiB"),
    (("trace", "make", "diurnal", "--families", "a", "--rate=1qps", "--peak=2qps"), "--period", "s"),
]
NUMBERS = ["nan", "-1", "inf", "1e999", "1.2.3", "1_000"]


@pytest.mark.parametrize(("call", "option", "unit"), QUANTITIES, ids=str)
def test_a_quantity_that_makes_no_sense_is_refused(tiny: Tiny, call: tuple[str, ...], option: str, unit: str) -> None:
    before = files(tiny.root)
    there = ("-w", str(tiny.root))
    for text in [*(number + unit for number in NUMBERS), "5", "0", "5parsecs", f"5{unit}{unit}", "many", "", unit]:
        ended = proteus(*call, f"{option}={text}", *there)
        assert f"`{text}`" in ended.refused(), (option, text)
    assert files(tiny.root) == before


def test_every_option_with_a_unit_is_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a new one isn't forgotten: the help names them by their kind."""
    monkeypatch.setenv("COLUMNS", "200")
    commands = (
        ["plan"],
        ["profile"],
        ["serve"],
        ["replay"],
        ["task", "add"],
        ["trace", "make"],
        ["samples", "export"],
        ["study", "cost"],
        ["study", "peak"],
    )
    named = set()
    for command in commands:
        text = proteus(*command, "--help").stdout
        named |= set(re.findall(r"(--[a-z-]+)[^\n]*? (?:RATE|DURATION|SIZE)\b", text))
    assert named == {option for _, option, _ in QUANTITIES}


@pytest.mark.parametrize(
    "demand",
    ["shapes=nanqps", "shapes=-1qps", "shapes=5", "shapes=", "=5qps", "shapes=1qps,", "shapes=1qps,shapes=1qps"],
)
def test_a_demand_by_family_that_makes_no_sense_is_refused(tiny: Tiny, demand: str) -> None:
    assert proteus("plan", "--demand", demand, "-w", tiny.root).refused()
    assert not tiny.place.plans_dir.exists()


def test_a_demand_of_a_family_that_is_not_there_names_those_that_are(tiny: Tiny) -> None:
    ended = proteus("plan", "--demand", "shapes=5qps,nobody=5qps", "-w", tiny.root)
    assert ended.refused() == "No family `nobody` in the catalog."
    assert "shapes, tones" in ended.stderr


@pytest.mark.parametrize("arguments", [(), ("--demand", "5qps", "--from-trace", "t.csv")])
def test_a_plan_needs_a_demand_from_one_source(tiny: Tiny, arguments: tuple[str, ...]) -> None:
    assert "either `--demand` or `--from-trace`" in proteus("plan", *arguments, "-w", tiny.root).refused()


@pytest.mark.parametrize("one", [*itertools.combinations(("--url=http://127.0.0.1:1", "--serve=p", "--plan=p"), 2)])
def test_a_replay_has_one_target(tiny: Tiny, one: tuple[str, str]) -> None:
    assert "Give one of" in proteus("replay", "t.csv", *one, "-w", tiny.root).refused()


@pytest.mark.parametrize("headroom", ["nan", "inf", "0.99", "-1", "1.2x", ""])
def test_a_headroom_is_a_finite_number_from_one_up(tiny: Tiny, headroom: str) -> None:
    ended = proteus(*PLAN, f"--headroom={headroom}", "-w", tiny.root)
    assert ended.code == 2
    assert ended.stdout == ""
    assert "headroom" in ended.stderr
    assert not tiny.place.plans_dir.exists()


@pytest.mark.parametrize(
    "call",
    [
        ("serve",),
        ("replay",),
        ("profile", "--max-batch", "0"),
        ("replay", "t.csv", "--seed", "-1"),
        ("plan", "--colour"),
        ("plam",),
        ("trace", "unmake"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_makes_no_sense_is_refused(call: tuple[str, ...]) -> None:
    said = proteus(*call).misused()
    assert "Usage: " in said
    assert "--help" in said or "-h" in said


@pytest.mark.parametrize(
    ("call", "known"),
    [(PLAN, "proteus, most-accurate, least-accurate"), (("replay", "t.csv"), "proteus, proteus-paper, clipper-ha")],
)
def test_a_policy_that_is_unknown_is_refused_with_those_that_are_known(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[str, ...], known: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("arrival_s,family\n0,shapes\n")
    ended = proteus(*call, "--policy", "clairvoyant", "-w", tiny.root)
    assert ended.refused() == "No policy `clairvoyant`."
    assert known in ended.stderr


@pytest.mark.parametrize(
    "gate",
    ["", "late", "late>", ">1", "late=1", "late==1", "colour>1", "late>nan", "late>inf", "late>a few", "late>1>2"],
)
def test_a_gate_that_makes_no_sense_is_refused_before_the_replay(tiny: Tiny, gate: str) -> None:
    message = proteus("replay", "nowhere.csv", f"--fail-on={gate}", "-w", tiny.root).refused()
    assert "gate" in message


@pytest.mark.parametrize("device", ["gpu7", "cpu99", "", "cpu0,gpu7", "CPU0"])
def test_profiling_a_device_that_is_not_here_names_those_that_are(tiny: Tiny, device: str) -> None:
    before = files(tiny.root)
    ended = proteus("profile", "--device", device, "-w", tiny.root)
    assert ended.refused(4).startswith("No device `")
    assert "there are: cpu0" in ended.stderr
    assert files(tiny.root) == before


# --- proteus.toml


def settings(tiny: Tiny, text: str) -> None:
    path = tiny.root / "proteus.toml"
    path.write_text(path.read_text() + text)


def headroom_of(ended: Ended) -> float:
    headroom = ended.document()["headroom"]
    assert isinstance(headroom, float)
    return headroom


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = (*PLAN, "-o", "-", "-w", str(tiny.root))
    assert headroom_of(proteus(*call)) == 1.2
    settings(tiny, "[plan]\nheadroom = 1.3\n")
    assert headroom_of(proteus(*call)) == 1.3
    monkeypatch.setenv("PROTEUS_HEADROOM", "1.4")
    assert headroom_of(proteus(*call)) == 1.4
    assert headroom_of(proteus(*call, "--headroom", "1.5")) == 1.5


def test_the_workspace_may_come_from_the_environment(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTEUS_WORKSPACE", str(tiny.root))
    settings(tiny, "[plan]\nheadroom = 1.3\n")
    assert headroom_of(proteus(*PLAN, "-o", "-")) == 1.3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[plan]\ncolour = 1\n", "sets `colour` in [plan], which has no such option"),
        ("[plan]\ndemands = '5qps'\n", "sets `demands` in [plan]"),
        ("[plam]\nheadroom = 2\n", "has a section [plam]"),
        ("[init]\nforce = true\n", "has a section [init]"),
        ("[devices]\ngpu = 1\n", "not valid"),
        ("[plan\n", "not valid"),
        ("[devices]\ncpu = [[0], [0]]\n", "a core may belong to one device only"),
        ("[devices]\ncpu = [[-1]]\n", "cores must not be negative"),
        ("[devices]\ncpu = [[]]\n", "needs at least one core"),
        ("[plan]\ntime_limit = 5\n", "The duration `5` has no unit."),
        ("[plan]\ntime_limit = 'soon'\n", "`soon` is not a duration."),
        ("[plan]\npolicy = 'clairvoyant'\n", "No policy `clairvoyant`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny: Tiny, text: str, problem: str) -> None:
    (tiny.root / "proteus.toml").write_text(text)
    assert problem in proteus(*PLAN, "-w", tiny.root).refused()
    assert not tiny.place.plans_dir.exists()


@pytest.mark.parametrize("command", ["plan", "profile"])
def test_a_value_out_of_range_is_told_as_one_of_the_settings(tiny: Tiny, command: str) -> None:
    """One that is a group, and one that is not."""
    name = {"plan": "headroom", "profile": "max_batch"}[command]
    settings(tiny, f"[{command}]\n{name} = 0\n")
    said = f"Invalid value for '{flag(name)}' (as set in proteus.toml):"
    assert said in proteus(command, "-w", tiny.root).misused()
    assert said not in proteus(command, flag(name), "0", "-w", tiny.root).misused()


def test_a_number_in_the_settings_that_is_none_is_refused_by_the_option(tiny: Tiny) -> None:
    settings(tiny, "[plan]\nheadroom = 'high'\n")
    assert "--headroom" in proteus(*PLAN, "-w", tiny.root).misused()


def test_settings_may_hold_flags_and_lists(tiny: Tiny, tmp_path: Path) -> None:
    settings(tiny, "[plan]\nstrict = true\n[replay]\nfail_on = ['requests>=1']\n")
    assert proteus("plan", "--demand", "1000000qps", "-w", tiny.root).refused(3)
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,family\n0,shapes\n1,tones\n")
    assert proteus("replay", trace, "-w", tiny.root).code == 5


def test_settings_of_one_command_leave_the_others_alone(tiny: Tiny) -> None:
    settings(tiny, "[serve]\nport = 8001\n")
    assert proteus(*PLAN, "-w", tiny.root).code == 0


def test_cores_that_this_process_may_not_use_are_no_devices(tiny: Tiny) -> None:
    (tiny.root / "proteus.toml").write_text("[devices]\ncpu = [[100000]]\n")
    assert "core 100000" in proteus("devices", "-w", tiny.root).refused()


def test_profiling_no_device_at_all_is_refused(tiny: Tiny) -> None:
    (tiny.root / "proteus.toml").write_text("[devices]\ncpu = []\n")
    assert proteus("profile", "-w", tiny.root).refused(4) == "No CPU device here."


def test_serving_where_the_settings_took_a_device_away_is_refused(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-l", "cpu1": "tones-l"})
    (tiny.root / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n")
    assert "`cpu1`, which is not on this machine" in proteus("serve", "plan", "-w", tiny.root).refused(4)
