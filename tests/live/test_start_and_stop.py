"""How a server starts, or says why it doesn't, and how it stops without losing what is inside."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from command_line import WITHIN_S, Ended, command, proteus, proteus_process
from injecting import pid_of, standing_still
from live_server import ANSWER_WITHIN_S, LiveServer, Reply, serving
from onnx import helper
from tiny import (
    SHAPES,
    TONES,
    Tiny,
    TinyFamily,
    TinyVariant,
    add_plan,
    add_profiles,
    make_workspace,
    mlp,
    save_model,
    tensor,
)

pytestmark = pytest.mark.live

X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}
# Batched so, a request waits for others until shortly before the SLO: for longer than anything here takes.
WAITING = ("--replan=off", "--set=batching=proactive")
PATIENT = TinyFamily("shapes", SHAPES.variants, slo="60s")
# A batch takes 10 s by its profile, so that a device that stands still is not taken for one that hangs.
SLOW = TinyFamily("shapes", (TinyVariant("shapes-s", 0.7, hidden=4, first_s=10.0, row_s=0.1),), slo="50s")


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    return planned(tmp_path / "ws", PATIENT)


@pytest.fixture
def slow(tmp_path: Path) -> Tiny:
    return planned(tmp_path / "slow", SLOW)


def planned(root: Path, family: TinyFamily) -> Tiny:
    tiny = make_workspace(root, (family, TONES))
    add_profiles(tiny)
    add_plan(tiny, {"cpu0": "shapes-s"})
    return tiny


@pytest.fixture
def _begun_here() -> Iterator[None]:
    """A server may be begun in this process: one that gets ready all the same is stopped, and then nothing is left."""
    interval_s = sys.getswitchinterval()
    stop = threading.Timer(WITHIN_S, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    yield
    stop.cancel()
    sys.setswitchinterval(interval_s)


Start = Callable[..., Ended]
"""Runs a command that ends: in this process, or in one of its own, which takes a second more."""


def start(run: Start, made: Tiny) -> Ended:
    """A server that doesn't get ready."""
    return run("serve", "plan", "--port", "0", "--replan=off", "--set=log-level=warning", "-w", made.root)


def send(pool: ThreadPoolExecutor, live: LiveServer) -> "Future[Reply]":
    return pool.submit(live.infer, "shapes", {"inputs": [X]})


# --- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_before_the_server_stops(slow: Tiny, number: int) -> None:
    options = ("--replan=off", "--set=executor=process")
    with serving(slow.root, Path("plan"), *options) as live, ThreadPoolExecutor(3) as pool:
        with standing_still(pid_of(live, "cpu0")):
            inside = [send(pool, live) for _ in range(3)]
            live.until(lambda status: status["inside"] == 3)

            live.process.send_signal(number)
            status = live.until(lambda status: status["state"] == "draining")
            assert status["inside"] == 3
            refused = live.infer("shapes", {"inputs": [X]})
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            ready = live.get("/v2/health/ready")
            assert (ready.status, ready.document()) == (503, {"ready": False})
            assert live.get("/v2/models/shapes/ready").status == 503
            assert live.get("/v2/health/live").status == 200

        assert [future.result().status for future in inside] == [200, 200, 200]
        assert live.process.wait(ANSWER_WITHIN_S) == 0
        assert "drained, stopped" in live.log.read_text()


@pytest.mark.from_nothing
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_stops_the_server_and_ends_no_child_early(slow: Tiny, number: int) -> None:
    """As Ctrl-C in a terminal and service managers send it: devices and the solver have work to do until the end."""
    with serving(slow.root, Path("plan"), "--set=executor=process") as live, ThreadPoolExecutor(3) as pool:
        live.until(lambda status: bool(status["solver"]["is_warm"]))
        with standing_still(pid_of(live, "cpu0")):
            inside = [send(pool, live) for _ in range(3)]
            live.until(lambda status: status["inside"] == 3)
            os.killpg(live.process.pid, number)
        assert [future.result().status for future in inside] == [200, 200, 200]
        assert live.process.wait(ANSWER_WITHIN_S) == 0
        log = live.log.read_text()
        assert "drained, stopped" in log
        assert not [problem for problem in ("died", "lost", "killed", "WARNING", "Traceback") if problem in log], log


def test_requests_that_outlast_the_drain_timeout_are_dropped_with_an_answer(made: Tiny) -> None:
    options = (*WAITING, "--set=drain-timeout=200ms")
    with serving(made.root, Path("plan"), *options) as live, ThreadPoolExecutor(1) as pool:
        inside = send(pool, live)
        live.until(lambda status: status["inside"] == 1)
        assert live.stop() == 0
        assert (inside.result().status, inside.result().headers["proteus-outcome"]) == (504, "dropped")


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_ends_at_once(made: Tiny, first: int, second: int) -> None:
    options = (*WAITING, "--set=drain-timeout=60s")
    with serving(made.root, Path("plan"), *options) as live, ThreadPoolExecutor(1) as pool:
        inside = send(pool, live)
        live.until(lambda status: status["inside"] == 1)
        live.process.send_signal(first)
        live.until(lambda status: status["state"] == "draining")
        assert live.stop(second) == 130
        with pytest.raises((ConnectionError, HTTPException)):
            inside.result()


def test_a_client_that_goes_away_while_it_waits_is_counted_once(made: Tiny) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    head = b"POST /v2/models/shapes/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with serving(made.root, Path("plan"), *WAITING) as live:
        with socket.create_connection(("127.0.0.1", live.port), ANSWER_WITHIN_S) as client:
            client.sendall(head + body)
            live.until(lambda status: status["inside"] == 1)
        status = live.until(lambda status: status["inside"] == 0)
        assert sum(status["outcomes"]["shapes"].values()) == 1
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


# --- starting


@pytest.mark.usefixtures("_begun_here")
def test_a_port_that_is_taken_is_an_error(made: Tiny) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = proteus("serve", "plan", "--port", port, "--replan=off", "-w", made.root)
    assert ended.refused(1) == f"Can't listen on 127.0.0.1:{port}: Address already in use."
    assert "--port" in ended.stderr


@pytest.mark.usefixtures("_begun_here")
def test_an_address_that_is_not_ours_is_an_error(made: Tiny) -> None:
    ended = proteus("serve", "plan", "--port", "0", "--host", "192.0.2.1", "-w", made.root)
    assert ended.refused(1).startswith("Can't listen on 192.0.2.1:0: ")


def other_inputs(made: Tiny) -> None:
    mlp(made.model("shapes-s"), inputs=5)


def other_outputs(made: Tiny) -> None:
    node = helper.make_node("Identity", ["x"], ["scores"])
    ends = [[tensor(name, ["n", 4])] for name in ("x", "scores")]
    save_model(made.model("shapes-s"), [node], inputs=ends[0], outputs=ends[1])


def rows_of_its_own(made: Tiny) -> None:
    """All variants, as they must take and give the same."""
    for variant in PATIENT.variants:
        node = helper.make_node("Concat", ["x", "x"], ["scores"], axis=0)
        ends = [tensor("x", ["n", 4])], [tensor("scores", ["m", 4])]
        save_model(made.model(variant.name), [node], inputs=ends[0], outputs=ends[1])


def garbage(made: Tiny) -> None:
    made.model("shapes-s").write_bytes(b"not a model")


@pytest.mark.usefixtures("_begun_here")
@pytest.mark.parametrize(
    ("run", "break_it", "variant", "problem"),
    [
        (proteus, other_inputs, "shapes-l", "takes or gives other tensors than the rest of family `shapes`"),
        (proteus, other_outputs, "shapes-l", "takes or gives other tensors than the rest of family `shapes`"),
        (proteus, rows_of_its_own, "shapes-s", "has 2 rows for 1 of input"),
        (proteus_process, garbage, "shapes-s", "can't load"),
    ],
)
def test_models_that_cannot_be_served_together_are_refused(
    made: Tiny, run: Start, break_it: Callable[[Tiny], None], variant: str, problem: str
) -> None:
    break_it(made)
    add_profiles(made)
    add_plan(made, {"cpu0": variant})
    assert problem in start(run, made).refused(1)


def test_a_server_whose_stdout_is_closed_ends_quietly(made: Tiny) -> None:
    """Nobody can be told that it is ready."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody:  # noqa: PTH123 - it is a pipe
        done = subprocess.run(
            command("serve", "plan", "--port", "0", "-w", made.root),
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=ANSWER_WITHIN_S,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
