"""`proteus rollout`: what is asked wrongly is refused before any server is, and what a server says is shown."""

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest
from command_line import proteus
from rich.console import Console
from short_forms import parse_guard

from proteus_cli.cli.rollout import rollout_lines, rollout_table, watch_rollouts
from proteus_cli.control.rollouts.guard import Arm
from proteus_cli.control.rollouts.version_rollout import VersionRollout
from proteus_cli.domain.rollouts import RolloutSpecification, RolloutStatus

START = ("rollout", "start", "digits", "digits-l@2", "--url", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "option",
    [
        "--canary=0%", "--canary=1%,,2%", "--canary=150%", "--shadow=2", "--confidence=95", "--rollback-window=5",
        "--rollback-window=-1s",
    ],
)  # fmt: skip
def test_a_quantity_that_makes_no_sense_is_refused(option: str) -> None:
    assert proteus(*START, option).refused()


@pytest.mark.parametrize(
    "call",
    [("start", "digits\udc80", "digits-l@2"), ("promote", "digits\udc80"), ("abort", "digits", "--reason", "\udc80")],
    ids=lambda call: call[0],
)
def test_what_is_no_text_is_not_asked(call: tuple[str, ...]) -> None:
    assert proteus("rollout", *call, "--url", "http://127.0.0.1:9").refused().startswith("That can't be asked: ")


@pytest.mark.parametrize("call", [("promote",), ("abort", "--reason=late")], ids=lambda call: call[0])
def test_a_family_is_quoted_in_the_path_whatever_is_in_it(call: tuple[str, ...]) -> None:
    asked: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            body = b'{"error": "no version of it is rolled out"}'
            self.send_response(409)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            ended = proteus("rollout", *call, "ä b?\n", "--url", f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            serving.join()
    assert ended.refused(1) == "The server refuses: no version of it is rolled out."
    assert ended.stderr.endswith("hint: `proteus rollout status` lists the roll-outs and their steps\n")
    assert asked == [f"/v2/proteus/rollouts/%C3%A4%20b%3F%0A/{call[0]}"]


@pytest.mark.parametrize("family", ["", "..", "../status", "digits/"])
def test_no_family_leads_to_another_path(family: str) -> None:
    assert proteus("rollout", "promote", family, "--url", "http://127.0.0.1:9").refused() == f"`{family}` is no name."


def test_a_server_that_is_not_there_is_named() -> None:
    ended = proteus(*START)
    assert ended.code == 1
    assert "Can't reach the server at `http://127.0.0.1:9`: Connection refused.\n" in ended.stderr


def test_what_is_measured_says_what_comes_next() -> None:
    machine = VersionRollout(
        RolloutSpecification("digits", "l", "l@2", guard=parse_guard("accuracy >= old - 0.005")), 0.2, 0.0
    )
    assert list(rollout_lines(machine.status(1.0))) == [
        "digits: measuring the new version; its guard begins after that, and needs about 1,100 labels"
    ]


def test_what_waits_for_labels_says_so_and_a_shadow_counts_its_queries() -> None:
    guard = "accuracy >= old - 0.005 and errors <= 1%"
    machine = VersionRollout(
        RolloutSpecification("digits", "l", "l@2", shadow_frac=0.05, guard=parse_guard(guard)), 0.2, 0.0
    )
    machine.ready(1.0)
    for _ in range(40):
        machine.guard.shadowed(1.0)
    status = machine.status(2.0)
    labels = "0 of about 1,100 labels of its queries have come: clients send them as feedback"
    waits = f"digits: accuracy >= old - 0.005: hold, {labels}"
    errors = "digits: errors <= 0.01: hold, 0.0 % [0.0 % – 8.8 %] in 40 queries"
    assert list(rollout_lines(status)) == [waits, errors]
    console = Console(file=io.StringIO(), width=120)
    console.print(rollout_table([status]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "shadow" in shown
    assert " 40 " in shown


def test_a_roll_out_is_shown_with_its_step_and_what_is_known_by_the_terms_of_its_guard() -> None:
    specification = RolloutSpecification(
        "digits",
        "digits-l",
        "digits-l@2",
        canary_fracs=(0.1, 0.5),
        guard=parse_guard("accuracy >= old - 0.005 and errors <= 1% and p99 <= 50ms"),
    )
    machine = VersionRollout(specification, 0.2, 0.0)
    machine.ready(1.0)
    for number in range(40):
        machine.guard.answered(Arm.NEW, 0.01)
        machine.guard.labelled(Arm.NEW, float(number % 4 != 0))
        machine.guard.labelled(Arm.OLD, 1.0)
    console = Console(file=io.StringIO(), width=120)
    console.print(rollout_table([machine.status(2.0)]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "canary 1 of 2" in shown
    assert "digits-l@2" in shown
    lines = list(rollout_lines(machine.status(2.0)))
    accuracy = "75.0 % [59.8 % – 85.8 %], old 100.0 % [91.2 % – 100.0 %]"
    assert lines[0].startswith(f"digits: accuracy >= old - 0.005: hold, {accuracy} in 40 of about 1,100 labels")
    assert lines[1] == "digits: errors <= 0.01: hold, 0.0 % [0.0 % – 8.8 %] in 40 queries"
    assert lines[2] == "digits: p99 <= 50ms: hold, 0.0 % late [0.0 % – 8.8 %] in 40 queries"
    noted = msgspec.structs.replace(machine.status(2.0), note="no query has reached it for 40 s")
    assert list(rollout_lines(noted))[-1] == "digits: no query has reached it for 40 s"
    machine.abort(3.0, "labels are late")
    assert list(rollout_lines(machine.status(3.0)))[-1] == "digits: aborted: labels are late"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_roll_out_is_watched_until_it_has_ended(*, is_terminal: bool) -> None:
    machine, slept = VersionRollout(RolloutSpecification("digits", "digits-l", "digits-l@2"), 0.2, 0.0), list[float]()

    def goes_on(pause_s: float) -> None:
        slept.append(pause_s)
        if len(slept) == 2:  # nothing has changed before
            machine.ready(1.0)
        elif len(slept) == 3:
            machine.abort(2.0, "labels are late")

    shown = Console(file=io.StringIO(), width=120, force_terminal=is_terminal)
    watch_rollouts(lambda: [machine.status(1.0)], shown, goes_on)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert len(slept) == 3
    if is_terminal:
        assert "digits: aborted: labels are late" in text
    else:
        assert text.splitlines() == [
            "digits: digits-l@2: measuring, guard: hold",
            "digits: digits-l@2: canary 1 of 3, guard: hold",
            "digits: digits-l@2: aborted, guard: hold (labels are late)",
        ]


def test_a_roll_out_is_watched_until_the_old_version_is_back() -> None:
    machine, slept = VersionRollout(RolloutSpecification("digits", "digits-l", "digits-l@2"), 0.2, 0.0), list[float]()
    machine.abort(2.0, "labels are late")

    def look() -> list[RolloutStatus]:
        note = "the old version is being put back" if len(slept) < 2 else ""
        return [msgspec.structs.replace(machine.status(3.0), note=note)]

    shown = Console(file=io.StringIO(), width=120)
    watch_rollouts(look, shown, slept.append)
    assert len(slept) == 2
    assert shown.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "digits: digits-l@2: aborted, guard: hold (labels are late; the old version is being put back)",
        "digits: digits-l@2: aborted, guard: hold (labels are late)",
    ]


def test_what_is_watched_is_no_json() -> None:
    assert proteus("rollout", "status", "--watch", "--json").refused()
