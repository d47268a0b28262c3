"""Data on stdout, talk on stderr, files whole or not at all."""

import ctypes
import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import WITHIN_S, Ended, command, files, proteus
from tiny import Tiny

BURST = str(Path(__file__).parents[2] / "traces" / "burst.csv")
PLAN = ("plan", "--demand", "20qps")
TOO_MUCH = ("plan", "--demand", "100000qps")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Half a minute of few requests for both families."""
    path = tmp_path / "t.csv"
    rows = [f"{at / 4},{('shapes', 'tones')[at % 2]}\n" for at in range(80)]
    path.write_text("arrival_s,family\n" + "".join(rows))
    return path


def test_what_files_hold_reaches_the_terminal_without_its_control_characters(tmp_path: Path) -> None:
    """ESC ] and CSI would set titles, move the cursor, or hide what was printed before; U+202E turns text around."""
    csv = tmp_path / "profiles.csv"
    header = "device_type,family,variant,accuracy,batch,latency_ms,load_s"
    csv.write_text(f"{header}\na,x\x1b]0;title\x07\x9b2J\u202e,v,0.9,1,1,1\n")
    refused = proteus("profile", "--from-csv", csv, "--slo", "1s", "-w", tmp_path)
    assert refused.code == 2
    assert r"family `x\x1b]0;title\x07\x9b2J\u202e`" in refused.stderr
    assert all(map(str.isprintable, refused.stderr.split("\n")))


def test_a_workspace_may_have_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"w\xff")
    assert proteus("init", place).code == 0
    assert any(r"w\udcff" in found["found"] for found in proteus("doctor", "--json", "-w", place).document())


# --- one JSON document on stdout


def test_json_is_the_only_thing_on_stdout(tiny: Tiny, trace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The solver's C library has nothing to say there, either."""
    there = ("-w", tiny.root)
    plan = proteus(*PLAN, "--json", *there).document()
    assert {placement["variant"] for placement in plan["placements"]} == {"shapes-l", "tones-l"}

    report = proteus("replay", trace, "--json", *there).document()
    assert (report["requests"], report["served"]) == (80, 80)

    ctypes.CDLL(None).fflush(None)  # what C has printed
    assert capfd.readouterr().out == ""


def test_every_command_that_prints_data_prints_one_document(tiny: Tiny, trace: Path) -> None:
    there = ("-w", tiny.root)
    devices = proteus("devices", "--json", *there).document()
    assert [device["id"] for device in devices if device["kind"] == "cpu"] == ["cpu0", "cpu1"]

    facts = proteus("trace", "info", "--json", trace).document()
    assert facts["arrivals"] == 80

    findings = proteus("doctor", "--json", *there).document()
    assert {"proteus", "numpy", "catalog", "profiles"} <= {finding["what"] for finding in findings}

    reports = proteus("replay", trace, "--policy", "proteus,least-accurate", "--json", *there).document()
    assert [report["policy"] for report in reports] == ["proteus", "least-accurate"]

    profiles = proteus("profile", "--budget", "0s", "--max-batch", "1", "--json", *there).document()
    assert [profile["device"]["id"] for profile in profiles] == ["cpu0", "cpu1"]


@pytest.mark.parametrize("device", ["cpu0", "cpu0,cpu1", "all"])
def test_a_dry_run_of_any_number_of_devices_is_one_document(tiny: Tiny, device: str) -> None:
    planned = proteus("profile", "--dry-run", "--device", device, "--json", "-w", tiny.root).document()
    assert [each["device"] for each in planned] == ["cpu0"]  # one for all of its type
    assert all(each["cells"] and each["estimate_s"] > 0 for each in planned)


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_dash_is_stdout_and_writes_no_file(tiny: Tiny, trace: Path, extra: tuple[str, ...]) -> None:
    before = files(tiny.root)
    plan = proteus(*PLAN, "-o", "-", *extra, "-w", tiny.root).document()
    assert plan["format"] == 2
    report = proteus("replay", trace, "-o", "-", *extra, "-w", tiny.root).document()
    assert report["format"] == 1
    assert files(tiny.root) == before


def test_a_trace_goes_to_stdout_as_it_would_into_a_file(tmp_path: Path) -> None:
    call = ("trace", "make", "poisson", "--rate", "5qps", "--duration", "4s", "--families", "a", "--seed", "3")
    assert proteus(*call, "-o", tmp_path / "t.csv").stdout == ""
    assert proteus(*call, "-o", "-").stdout.encode() == (tmp_path / "t.csv").read_bytes()


def test_quiet_leaves_only_results_on_stdout(tiny: Tiny) -> None:
    ended = proteus("-q", *PLAN, "--json", "-w", tiny.root)
    assert ended.document()["format"] == 2
    assert ended.stderr == ""


def test_tables_for_people_say_where_the_plan_went(tiny: Tiny) -> None:
    ended = proteus(*PLAN, "-w", tiny.root)
    assert ended.code == 0
    assert "shapes-l" in ended.stdout
    assert str(tiny.place.plans_dir / "plan.json") in ended.stderr
    assert tiny.place.plan(Path("plan")).served_qps == pytest.approx({"shapes": 10, "tones": 10})


# --- too much demand, failed gates


def test_a_demand_beyond_the_devices_is_planned_with_a_warning(tiny: Tiny) -> None:
    ended = proteus(*TOO_MUCH, "-w", tiny.root)
    assert ended.code == 0
    assert "warning: " in ended.stderr
    assert "the devices cannot serve" in ended.stderr
    assert tiny.place.plan(Path("plan")).shortfall_qps > 90_000


def test_strictly_a_demand_beyond_the_devices_makes_no_plan(tiny: Tiny) -> None:
    before = files(tiny.root)
    assert "unserved" in proteus(*TOO_MUCH, "--strict", "-w", tiny.root).refused(3)
    assert files(tiny.root) == before


@pytest.mark.parametrize("demand", ["1e12qps", "shapes=1e12qps,tones=1e12qps"])
def test_an_absurd_demand_is_served_as_far_as_possible(tiny: Tiny, demand: str) -> None:
    plan = proteus("plan", "--demand", demand, "-o", "-", "-w", tiny.root).document()
    assert sum(plan["served_qps"].values()) == pytest.approx(2 * 8 / 0.011)


@pytest.mark.parametrize("demand", ["1e20qps", "1.7e308qps", "shapes=1qps,tones=1e300qps"])
def test_a_demand_that_no_machine_can_have_is_refused(tiny: Tiny, demand: str) -> None:
    """Its shortfall was told with 300 digits."""
    assert "is more than 10¹² queries per second" in proteus("plan", "--demand", demand, "-w", tiny.root).refused()
    assert not tiny.place.plans_dir.exists()


def test_no_demand_is_a_plan_without_a_shortfall(tiny: Tiny) -> None:
    plan = proteus("plan", "--demand", "0qps", "--strict", "-o", "-", "-w", tiny.root).document()
    assert plan["unserved_qps"] == {"shapes": 0, "tones": 0}


def test_a_gate_that_fails_ends_with_5_after_the_report(tiny: Tiny, trace: Path) -> None:
    ended = proteus("replay", trace, "--fail-on", "requests>=80", "--json", "-w", tiny.root)
    assert ended.code == 5
    assert json.loads(ended.stdout)["requests"] == 80
    assert "error: Gate `requests>=80`" in ended.stderr
    assert "\n\nhint: " in ended.stderr


def test_gates_that_hold_change_nothing(tiny: Tiny, trace: Path) -> None:
    gates = ("--fail-on", "requests>80", "--fail-on", "slo_violation_ratio>0")
    assert proteus("replay", trace, *gates, "-w", tiny.root).code == 0


# --- files that can't be written


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full by the time that a file should be on it."""

    def fsync(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(
    "call",
    [
        PLAN,
        (*PLAN, "-o", "elsewhere.json"),
        ("-q", "profile", "--budget", "0s", "--max-batch", "1"),
        ("trace", "make", "constant", "--rate", "1qps", "--families", "a", "-o", "t.csv"),
        ("trace", "make", "constant", "--rate", "1qps", "--families", "a", "-o", "t.csv.gz"),
        ("-q", "trace", "convert", BURST, "-o", "t.csv"),
        ("-q", "trace", "convert", BURST, "-o", "t.csv.gz"),
        ("init", "new"),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_an_error_and_leaves_no_half_file(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, call: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tiny.root)
    before = files(tiny.root)
    assert "No space left on device" in proteus(*call).refused()
    assert files(tiny.root) == before


def test_a_full_disk_keeps_the_plan_that_is_there(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    assert proteus(*PLAN, "-w", tiny.root).code == 0
    before = files(tiny.root)
    request.getfixturevalue("full_disk")
    assert "plan.json" in proteus("plan", "--demand", "30qps", "-w", tiny.root).refused()
    assert files(tiny.root) == before


def test_a_file_where_a_directory_should_be_is_an_error(tiny: Tiny) -> None:
    tiny.place.plans_dir.write_text("in the way")
    before = files(tiny.root)
    assert "Can't write" in proteus(*PLAN, "-w", tiny.root).refused()
    assert files(tiny.root) == before


@pytest.mark.parametrize("output", ["plans", "a" * 300 + ".json", "engines/catalog.toml/p.json"])
def test_a_place_that_takes_no_file_is_an_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.chdir(tiny.root)
    tiny.place.plans_dir.mkdir()
    before = files(tiny.root)
    assert "Can't write" in proteus(*PLAN, "-o", output).refused()
    assert files(tiny.root) == before


def test_a_pipe_is_written_to_and_not_replaced(tiny: Tiny, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()

    assert proteus(*PLAN, "-o", pipe, "-w", tiny.root).code == 0

    reader.join(WITHIN_S)
    assert json.loads(read[0])["format"] == 2
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_a_full_device_is_an_error_and_stays_a_device(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_arguments: Any, **_options: Any) -> None:
        pytest.fail("a device must not be replaced by a file")

    monkeypatch.setattr("proteus_cli.store.files._temporary_beside", never)
    assert "No space left on device" in proteus(*PLAN, "-o", "/dev/full", "-w", tiny.root).refused()
    assert Path("/dev/full").is_char_device()


def test_a_link_is_followed_and_stays_a_link(tiny: Tiny) -> None:
    tiny.place.plans_dir.mkdir()
    link, there = tiny.place.plans_dir / "plan.json", tiny.root / "there.json"
    link.symlink_to(there)
    assert proteus(*PLAN, "-w", tiny.root).code == 0
    assert link.is_symlink()
    assert tiny.place.plan(there).format == 2


# --- the reader of stdout goes away


@pytest.mark.parametrize(
    "call",
    [
        ("devices", "--json"),
        ("devices",),
        ("trace", "make", "constant", "--rate", "1000qps", "--families", "a"),
        ("trace", "convert", BURST),
        ("--help",),
    ],
    ids=" ".join,
)
def test_a_reader_that_goes_away_ends_a_command_quietly(tiny: Tiny, call: tuple[str, ...]) -> None:
    """As in ``| head -0``: nothing on stderr is a traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody:  # noqa: PTH123 - it is a pipe
        done = subprocess.run(
            command(*call),
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=WITHIN_S,
            cwd=tiny.root,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "call",
    [("devices",), ("devices", "--json"), ("trace", "make", "poisson", "--rate", "5qps", "-o", "-"), ("--version",)],
    ids=" ".join,
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_below_stdout_is_an_error(tiny: Tiny, call: tuple[str, ...], unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(*call),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=WITHIN_S,
            cwd=tiny.root,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    ended = Ended(done.returncode, "", done.stderr)
    assert ended.refused() == "Can't write to stdout, or to a temporary file: No space left on device."


# --- help

COMMANDS = [
    (), ("init",), ("devices",), ("devices", "forget"), ("profile",), ("plan",), ("serve",), ("replay",), ("doctor",),
    ("demo",),
    ("trace",), ("trace", "make"), ("trace", "convert"), ("trace", "info"), ("catalog",), ("catalog", "add"),
    ("catalog", "derive"), ("agent",), ("cluster",), ("cluster", "key"), ("samples",), ("samples", "export"),
    ("task",), ("task", "add"), ("task", "retrain"), ("task", "list"), ("task", "show"),
    ("rollout",), ("rollout", "start"), ("rollout", "status"), ("rollout", "promote"), ("rollout", "abort"),
    ("study",), ("study", "cost"), ("study", "peak"), ("study", "startup"), ("study", "share"),
    ("study", "concurrency"), ("study", "all"), ("study", "report"),
    ("engines",), ("engines", "ls"), ("engines", "verify"), ("engines", "prune"),
]  # fmt: skip
HELP_OF_ALL = """
import contextlib, io, json, sys
from proteus_cli.cli.main import run
said = []
for call in json.loads(sys.argv[1]):
    sys.argv = ["proteus", *call, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            run()
        except SystemExit as end:
            said.append([end.code, out.getvalue()])
names = ("numpy", "highspy", "onnxruntime", "matplotlib", "hpack", "google.protobuf")
heavy = [name for name in names if name in sys.modules]
print(json.dumps([said, heavy]))
"""


def test_every_command_has_help_and_loads_nothing_heavy_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, json.dumps(COMMANDS)],
        capture_output=True,
        text=True,
        check=True,
        timeout=WITHIN_S,
    )
    said, heavy = json.loads(done.stdout)
    assert heavy == []
    assert len(said) == len(COMMANDS)
    for call, (code, text) in zip(COMMANDS, said, strict=True):
        assert code == 0
        assert " ".join(("Usage: proteus", *call)) in text


def test_the_list_of_commands_above_is_complete() -> None:
    listed = proteus("--help").stdout.split("Commands")[1].split("Examples")[0]
    assert {line.split()[0] for line in listed.splitlines() if re.match("  [a-z]", line)} == {
        call[0] for call in COMMANDS if call
    }


def test_the_version_is_told() -> None:
    ended = proteus("--version")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("proteus ")
