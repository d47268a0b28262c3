"""The live view fits its terminal, says what is wrong without colours, and never keeps a line for itself."""

import io
import logging
import re
import threading

import pytest
from msgspec import structs
from msgspec.structs import replace
from rich.console import Console

from proteus_cli.cli.live_view import MAX_LINES, HoldableStream, LiveView, frame
from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.attainment import Attainment
from proteus_cli.serving.lifecycle import ServerState as LifecycleState
from proteus_cli.serving.logs import BriefLines
from proteus_cli.serving.telemetry.state import (
    DeviceState,
    ExpectedQueries,
    FamilyShifts,
    FamilyState,
    Flows,
    HostState,
    HostStatus,
    ServerEvent,
    ServerEventKind,
    ServerState,
)

SOME, NONE = Attainment.of(1000, 2, 0.995), Attainment.of(0, 0, 0.995)
SIGNALS = FamilyState(
    slo_s=0.05, prefers="accuracy", loaded=True, estimated=False, variants={}, best_accuracy=None, demand_qps=4.26,
    demand_windows_qps={}, planned_qps=0.0, capacity_qps=0.0, throughput_qps=0.0, goodput_qps=0.0, outcomes={},
    violations=None, accuracy=None, effective_accuracy=None, relative_accuracy=None, p99_s=None, waiting=0,
    deferred=None, fallbacks=None, cut=None, attainment=NONE, recent_attainment=NONE, expected_attainment=None,
    expected=ExpectedQueries(0.0, 0.0), cascades=(), exits=(), stop_when=None, shifts=FamilyShifts(None, {}),
    shifted=False,
)  # fmt: skip
DIGITS = structs.replace(
    SIGNALS, best_accuracy=0.98, demand_qps=1234.4, throughput_qps=1200.0, goodput_qps=1190.0, violations=0.002,
    accuracy=0.97, relative_accuracy=0.97 / 0.98, p99_s=0.041, waiting=3, attainment=SOME, recent_attainment=SOME,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _a_terminal_that_can_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dumb terminal is shown no frames."""
    monkeypatch.setenv("TERM", "xterm-256color")


def device(
    *variants: str, load: float, mean_batch: float | None, state: BreakerState = BreakerState.CLOSED, reason: str = ""
) -> DeviceState:
    return DeviceState(
        host="", type="", kind="cpu", variants=variants, warm=(), cold=0, broken={}, load=load, mean_batch=mean_batch,
        busy_s=0.0, pace=1.0, breaker=state, breaker_s=0.0, reason=reason, retry_s=None, losses=0, servers=1, pid=None,
        slots=None,
    )  # fmt: skip


EVENTS = [
    ServerEvent(
        10.0, ServerEventKind.PLAN, "cpu0: a → b (was warm)", "digits: 1,200 qps is more than the plan carries"
    ),
    ServerEvent(70.0, ServerEventKind.PLAN, "cpu0: b → a (was warm)", "digits: 900 qps for 5 s"),
]
NOW = ServerState(
    version="1",
    state=LifecycleState.READY,
    policy="proteus",
    emulated=False,
    inside=7,
    unix_s=0.0,
    uptime_s=75.0,
    families={"digits": DIGITS, "signals": SIGNALS},
    devices={"cpu0": device("digits-l", load=0.5, mean_batch=1.25), "cpu1": device(load=0.0, mean_batch=None)},
    hosts={},
    rollouts=(),
    flows=Flows(*([] for _ in Flows.__struct_fields__)),
    events=EVENTS,
)


def drawn(now: ServerState, columns: int = 120, lines: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=True, no_color=True, emoji=False)
    with console.capture() as capture:
        console.print(frame(now, columns, lines))
    text = capture.get()
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):  # bold and dim are no colours
        text = text.replace(code, "")
    return text.splitlines()


def row(lines: list[str], name: str) -> list[str]:
    (found,) = [line.split("  ") for line in lines if line.startswith(name)]
    return [cell.strip() for cell in found if cell.strip()]


def many(number: int) -> dict[str, DeviceState]:
    """Devices of three kinds, of which one is lost."""
    devices = {f"gpu{at}": device(f"digits-{'sml'[at % 3]}", load=at % 10 / 10, mean_batch=2.0) for at in range(number)}
    lost = structs.replace(devices["gpu7"], breaker=BreakerState.OPEN, reason="its process died", retry_s=4.2)
    return {**devices, "gpu7": lost}


def test_families_and_devices_have_a_row_each() -> None:
    lines = drawn(NOW)
    assert lines[0] == "proteus ready · policy proteus · up 1 min · 7 in flight"
    assert row(lines, "digits ") == ["digits", "1,234", "1,200", "0.2%", "40%", "97.0%", "99.0%", "41.0 ms", "50.0 ms"]
    assert row(lines, "signals") == ["signals", "4.3", "0", "–", "–", "–", "–", "–", "50.0 ms"]
    assert row(lines, "cpu0") == ["cpu0", "digits-l", "50.0%", "1.2", "working"]
    assert row(lines, "cpu1") == ["cpu1", "–", "0.0%", "–", "working"]


def test_abbreviations_are_explained_where_there_is_room() -> None:
    assert any("budget: error budget used" in line for line in drawn(NOW, columns=80, lines=24))
    assert not any("budget: error budget used" in line for line in drawn(NOW, columns=80, lines=12))


def test_what_follows_from_estimates_is_marked() -> None:
    families = {"digits": structs.replace(DIGITS, estimated=True), "signals": structs.replace(SIGNALS, estimated=True)}
    lines = drawn(replace(NOW, families=families))
    assert row(lines, "digits ")[5:7] == ["≈97.0%", "≈99.0%"]
    assert row(lines, "signals")[5:7] == ["–", "–"]
    assert row(drawn(replace(NOW, families=families), columns=60), "digits ")[3] == "≈99.0%"


def test_every_number_of_a_family_is_whole_in_eighty_columns() -> None:
    busy = structs.replace(
        DIGITS, demand_qps=23456.0, violations=1.0, recent_attainment=Attainment.of(9, 9, 0.995), p99_s=0.1234
    )
    lines = drawn(replace(NOW, families={"digits": busy}), columns=80)
    cells = ["digits", "23,456", "1,200", "100.0%!", "20,000%!", "97.0%", "99.0%", "123.4 ms!", "50.0 ms"]
    assert row(lines, "digits") == cells


def test_the_last_changes_of_plan_are_told_newest_first() -> None:
    lines = drawn(NOW)
    assert " ".join(lines[-2].split()) == "5 s ago plan cpu0: b → a (was warm) · digits: 900 qps for 5 s"
    assert " ".join(lines[-1].split()).startswith("1 min ago plan cpu0: a → b (was warm) · digits: 1,200 qps is more")


def test_what_is_wrong_is_said_not_only_coloured() -> None:
    late = structs.replace(DIGITS, p99_s=0.06, violations=0.2, recent_attainment=Attainment.of(100, 15, 0.99))
    lines = drawn(replace(NOW, families={"digits": late}, devices=many(12)))
    assert row(lines, "digits")[3:5] == ["20.0%!", "1,500%!"]
    assert row(lines, "digits")[-2] == "60.0 ms!"
    assert "1 LOST" in lines[0]
    devices = [line for line in lines if line.startswith("gpu")]
    assert devices[0].split()[0] == "gpu7"
    assert devices[0].rstrip().endswith("LOST, again in 4 s: its process died")


def test_a_broken_variant_is_told_beside_its_device() -> None:
    broken = structs.replace(NOW.devices["cpu0"], broken={"digits-xl": "it cannot be loaded"})
    lines = drawn(replace(NOW, devices={"cpu0": broken, "cpu1": NOW.devices["cpu1"]}))
    assert "1 BROKEN" in lines[0]
    assert row(lines, "cpu0")[-1] == "working; without digits-xl: it cannot be loaded"


def test_emulated_devices_are_said_to_be() -> None:
    assert not any("EMULATED" in line for line in drawn(NOW))
    assert "EMULATED" in drawn(replace(NOW, emulated=True))[1]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("lines", [6, 10, 24, 50, 120])
@pytest.mark.parametrize("number", [8, 100])
def test_a_frame_fits_its_terminal(columns: int, lines: int, number: int) -> None:
    families = {f"a family with a long name {at}": DIGITS for at in range(10)}
    found = drawn(replace(NOW, families=families, devices=many(number), emulated=True), columns, lines)
    assert len(found) < lines
    assert max(map(len, found)) <= columns
    assert "LOST" in found[0] or columns < 60
    assert any(line.startswith("a fam") for line in found)


# --- hosts of a cluster


def host(*, is_lost: bool = False, has_agent: bool = True, devices: int = 8, servers: int = 1) -> HostStatus:
    if is_lost:
        return HostStatus(
            HostState.LOST, 12.3, "nothing came from it for 500 ms", "10.0.0.2:7000", devices, 0, 1, 1, None, 9, 9
        )
    away_s, count = (0.0004, 0) if has_agent else (None, None)
    return HostStatus(
        HostState.CONNECTED, 70.0, "", "10.0.0.2:7000", devices, devices, servers, count, away_s, count, count
    )


def clustered(*names: str, lost: str = "", local: int = 0) -> ServerState:
    """Eight devices on each host, of which one host may be lost, and some of this machine."""
    devices = {f"cpu{at}": device("digits-s", load=0.1, mean_batch=1.0) for at in range(local)}
    for name in names:
        of = (
            device(load=0.0, mean_batch=None, state=BreakerState.OPEN, reason="host is lost")
            if name == lost
            else device("digits-l", load=0.5, mean_batch=2.0)
        )
        devices |= {f"{name}/gpu{at}": structs.replace(of, host=name) for at in range(8)}
    return replace(NOW, devices=devices, hosts={name: host(is_lost=name == lost) for name in names})


def of_devices(lines: list[str]) -> list[list[str]]:
    """The rows of the table of devices, in cells."""
    (first,) = [at for at, line in enumerate(lines) if line.startswith("device")]
    rows = [line.split("  ") for line in lines[first + 1 :]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return cells[: cells.index([])] if [] in cells else cells


def test_devices_stand_under_their_hosts_of_which_the_lost_ones_come_first() -> None:
    rows = of_devices(drawn(clustered("a", "b", lost="b", local=1)))
    assert rows[0] == ["host b", "–", "0.0% ≤ 0%", "–", "LOST 12.3 s ago, 8 devices: nothing came from it for 500 ms"]
    assert rows[1] == ["this machine", "digits-s", "10.0%", "1.0", "1 device"]
    assert rows[3] == ["host a", "8 × digits-l", "50.0% ≤ 50%", "2.0", "connected, 8 devices, 400 µs away"]
    assert [cells[0] for cells in rows[4:]] == [f"a/gpu{at}" for at in range(8)]


def test_devices_that_several_servers_share_are_said_to_be_under_their_host_and_alone() -> None:
    now = clustered("a")
    devices = {**now.devices, "a/gpu3": structs.replace(now.devices["a/gpu3"], servers=3)}
    rows = of_devices(drawn(replace(now, devices=devices, hosts={"a": host(servers=3)})))
    states = {cells[0]: cells[-1] for cells in rows}
    assert states["host a"] == "connected, 8 devices, shared by 3 servers, 400 µs away"
    assert (states["a/gpu3"], states["a/gpu4"]) == ("working, shared by 3 servers", "working")


def test_a_lost_host_is_counted_once_at_the_top() -> None:
    now = clustered("a", "b", lost="b")
    assert "1 HOST LOST · policy" in drawn(now)[0]
    devices = {
        **now.devices,
        "a/gpu3": structs.replace(now.devices["a/gpu3"], breaker=BreakerState.OPEN, reason="it hangs"),
    }
    assert "1 HOST LOST · 1 LOST · policy" in drawn(replace(now, devices=devices))[0]


def test_where_devices_do_not_fit_hosts_do_with_devices_that_are_not_well() -> None:
    now = clustered("a", "b", "c", lost="b")
    devices = {
        **now.devices,
        "c/gpu5": structs.replace(now.devices["c/gpu5"], breaker=BreakerState.HALF_OPEN, reason="it hangs"),
    }
    rows = of_devices(drawn(replace(now, devices=devices, families={"digits": DIGITS}), lines=24))
    assert [cells[0] for cells in rows] == ["host b", "host c", "c/gpu5", "host a"]
    assert rows[1][-1] == "connected, 7 of 8 devices work, 400 µs away"


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("lines", [6, 10, 24, 50, 2000])
def test_a_frame_of_a_cluster_fits_its_terminal(columns: int, lines: int) -> None:
    found = drawn(clustered(*(f"a-long-name-{at}" for at in range(60)), lost="a-long-name-7"), columns, lines)
    assert len(found) < lines
    assert max(map(len, found)) <= columns


def test_what_does_not_fit_is_counted() -> None:
    lines = drawn(replace(NOW, families={f"family{at}": DIGITS for at in range(30)}), lines=20)
    shown = sum(line.startswith("family") for line in lines) - 1  # the head
    assert f"… {30 - shown} more" in "\n".join(lines)
    assert any(line.startswith("cpu0") for line in lines)


# --- lines that are logged meanwhile


def test_lines_are_held_while_a_view_is_drawn_and_written_afterwards() -> None:
    stream = io.StringIO()
    held = HoldableStream(stream)
    held.write("before\n")
    held.hold()
    held.write("one\n")
    held.write("two\n")
    assert (stream.getvalue(), held.take()) == ("before\n", ["one\n", "two\n"])
    held.write("three\n")
    held.release()
    held.write("after\n")
    assert stream.getvalue() == "before\nthree\nafter\n"


def test_of_too_many_lines_the_newest_are_kept_and_the_others_counted() -> None:
    held = HoldableStream(io.StringIO())
    held.hold()
    for number in range(MAX_LINES + 5):
        held.write(f"{number}\n")
    taken = held.take()
    assert taken[0] == "… 5 lines left out\n"
    assert taken[1] == "5\n"
    assert taken[-1] == f"{MAX_LINES + 4}\n"


def test_a_view_shows_frames_and_lines_and_leaves_nothing_behind() -> None:
    stdout, stderr, asked = io.StringIO(), io.StringIO(), threading.Semaphore(0)

    def now() -> ServerState:
        asked.release()
        return NOW

    held = HoldableStream(stderr)
    with LiveView(stdout, held, every_s=0.01)(now):
        held.write("a line [not markup]\n")
        for _ in range(3):
            assert asked.acquire(timeout=10)
    held.write("a last line\n")
    assert "1,234" in stdout.getvalue()
    assert "a line [not markup]\n" in stdout.getvalue()
    assert stderr.getvalue() == "a last line\n"
    assert "\x1b[?25l" not in stdout.getvalue()  # the cursor is never hidden, so it needn't come back


def test_a_bug_in_the_view_is_logged_and_ends_the_view_only(caplog: pytest.LogCaptureFixture) -> None:
    def now() -> ServerState:
        raise ZeroDivisionError

    stderr = io.StringIO()
    held = HoldableStream(stderr)
    ended = threading.Event()
    with LiveView(io.StringIO(), held, every_s=0.01)(now):
        held.write("a line\n")
        for _ in range(1000):
            if "a bug has ended the live view" in caplog.text and stderr.getvalue():
                break
            ended.wait(0.01)
    assert "ZeroDivisionError" in caplog.text
    assert stderr.getvalue() == "a line\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch, *, no_color: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stdout, asked = io.StringIO(), threading.Semaphore(0)

    def now() -> ServerState:
        asked.release()
        return NOW

    with LiveView(stdout, every_s=0.01)(now):
        for _ in range(2):
            assert asked.acquire(timeout=10)
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", stdout.getvalue()) for code in found.split(";")}
    assert (codes <= {"0", "1", "2"}) is no_color  # bold and dim


def test_events_are_in_the_log_or_in_the_view_and_never_in_both() -> None:
    for log_stream in (None, HoldableStream(io.StringIO())):
        stdout, asked = io.StringIO(), threading.Semaphore(0)

        def now(asked: threading.Semaphore = asked) -> ServerState:
            asked.release()
            return NOW

        with LiveView(stdout, log_stream, every_s=0.01)(now):
            for _ in range(2):
                assert asked.acquire(timeout=10)
        assert ("b → a (was warm)" in stdout.getvalue()) is (log_stream is None)


def test_log_lines_beside_the_view_are_brief_and_say_what_is_wrong() -> None:
    record = logging.makeLogRecord({
        "msg": "%s was lost", "args": ("cpu0",), "levelno": logging.WARNING, "levelname": "WARNING", "created": 0.0,
        "name": "proteus.fleet", "fields": {"device": "cpu0"},
    })  # fmt: skip
    assert re.fullmatch(r"\d\d:00:00 WARNING cpu0 was lost", BriefLines().format(record))
    record.levelno, record.levelname = logging.INFO, "INFO"
    assert re.fullmatch(r"\d\d:00:00 cpu0 was lost", BriefLines().format(record))
