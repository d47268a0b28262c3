"""A running server under load: what it refuses, what a bad request costs the others, and how it stops."""

import gzip
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
import pytest
from injecting import pid_of, standing_still, until
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tiny import TONES, Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, looking_up, make_workspace

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended]

POISON = 99.0
INFER = "/v2/models/shapes/infer"
OF_STATUS = {200: "served", 429: "rejected", 500: "failed"}


def workspace(root: Path, slo: str, *, first_s: float = 0.004, row_s: float = 0.001) -> Tiny:
    """One family whose model fails on inputs of 10 and more."""
    variant = TinyVariant("shapes-s", 0.70, hidden=4, first_s=first_s, row_s=row_s)
    made = make_workspace(root, (TinyFamily("shapes", (variant,), slo=slo), TONES))
    looking_up(made.model("shapes-s"))
    add_profiles(made)
    add_plan(made, {"cpu0": "shapes-s"})
    return made


def body(value: float = 1.0, **more: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
    return msgspec.json.encode({"inputs": [tensor], **more})


# --- poison


def test_a_poisoned_request_hurts_nobody_else_of_its_batch(tmp_path: Path) -> None:
    made = workspace(tmp_path / "ws", "60s")
    options = ("--replan=off", "--set=batching=proactive")
    with serving(made.root, Path("plan"), *options) as live, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda value: live.infer("shapes", body(value)), [1.0, 2.0, POISON, *[3.0] * 5]))
        assert [reply.status for reply in replies] == [200, 200, 500, *[200] * 5]
        assert [reply.document()["parameters"]["batch_size"] for reply in replies if reply.status == 200] == [8] * 7
        assert [reply.document()["outputs"][0]["data"][0] for reply in replies if reply.status == 200] == [
            3.0, 6.0, *[9.0] * 5,
        ]  # fmt: skip
        assert "99" not in replies[2].document()["error"]  # what the model said is for the log
        assert live.status()["outcomes"]["shapes"]["failed"] == 1
        assert live.stop() == 0


# --- large bodies


def test_a_body_larger_than_any_request_can_be_is_refused_whatever_may_be_sent(tmp_path: Path) -> None:
    """Reading JSON takes the others' time, and eight rows of four numbers need no megabytes."""
    made = workspace(tmp_path / "ws", "3s")
    with serving(made.root, Path("plan"), "--replan=off", "--set=max-body=64MiB") as live:
        assert live.infer("shapes", body().ljust(2**16)).status == 200
        assert live.infer("shapes", body().ljust(2**20)).status == 413
        reply = live.infer("shapes", body().ljust(2**20 + 2**12))
        assert (reply.status, reply.headers["connection"]) == (413, "close")  # it was not even read
        bomb = gzip.compress(body().ljust(2**20 + 2**12))
        assert live.infer("shapes", bomb, {"content-encoding": "gzip"}).status == 413
        fits = gzip.compress(body().ljust(2**16))
        assert live.infer("shapes", fits, {"content-encoding": "gzip"}).status == 200
        assert live.stop() == 0


# --- stopping


class Hammer:
    """Clients that ask as fast as they are answered, on connections of their own, until nobody answers."""

    def __init__(self, live: LiveServer, clients: int, statuses: Callable[[int, Any], None]) -> None:
        self._port, self._told = live.port, statuses
        self.lost = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(ANSWER_WITHIN_S)
            assert not thread.is_alive()

    def _ask(self) -> None:
        connection, content = HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_WITHIN_S), body()
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:
                return  # nobody listens any more
            try:
                connection.request("POST", INFER, content)
                response = connection.getresponse()
                response.read()
            except (OSError, HTTPException):
                self.lost += 1
                connection.close()
                continue
            self._told(response.status, response)


def test_stopping_under_full_load_loses_no_request_that_came_in(tmp_path: Path) -> None:
    """Each that was counted was answered, as it was counted; the others were told to go elsewhere, or not let in."""
    made = workspace(tmp_path / "ws", "3s", first_s=0.3)  # ten times of which no stall of a busy machine exceeds
    statuses: Counter[str] = Counter()
    with serving(made.root, Path("plan"), "--replan=off") as live:

        def told(status: int, response: Any) -> None:
            outcome = response.getheader("proteus-outcome")
            statuses[outcome or OF_STATUS.get(status, str(status))] += 1

        hammer = Hammer(live, 8, told)
        hammer.start()
        until(lambda: statuses["served"] > 100)
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(ANSWER_WITHIN_S) == 0
        hammer.join()
        counted = live.ended()
        assert "Traceback" not in live.log.read_text()
    refused = statuses.pop("503", 0)
    assert {outcome: number for outcome, number in counted.items() if number} == dict(statuses)
    assert counted["served"] > 100
    assert refused > 0
    assert hammer.lost <= 8  # at most one per client, on its way when the door was shut


# --- more than can be carried


def test_of_three_times_what_can_be_carried_some_is_refused_and_the_rest_answered_in_time(tmp_path: Path) -> None:
    """A batch takes 10 s by its profile, one row at a time: of 15, five could be answered within the SLO.

    A tenth of what could be is held back, so four are let in. The device stands still until the others are refused.
    """
    made = workspace(tmp_path / "ws", "50s", first_s=10.0, row_s=10.0)
    with serving(made.root, Path("plan"), "--replan=off", "--set=executor=process") as live:
        with ThreadPoolExecutor(15) as pool, standing_still(pid_of(live, "cpu0")):
            asked = [pool.submit(live.infer, "shapes", body()) for _ in range(15)]
            live.until(lambda status: status["outcomes"]["shapes"]["rejected"] == 11)
        replies = [future.result() for future in asked]
        assert live.stop() == 0
    refused = [reply for reply in replies if reply.status == 429]
    assert Counter(reply.status for reply in replies) == {200: 4, 429: 11}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
