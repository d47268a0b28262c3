"""The clients of benchmarks/serving: they wait for nobody, miss no wrong answer, and count all that a server costs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from installed import needs

from benchmarks.serving import load, pages
from benchmarks.serving.connections import Broken, Http1
from benchmarks.serving.load import Target
from benchmarks.serving.models import SAMPLES, Samples
from benchmarks.serving.peers import PEERS, free_ports
from benchmarks.serving.processes import NotStarted, Process, running
from benchmarks.serving.programs.models import SCORES, SHAPES
from benchmarks.serving.venvs import ROOT
from benchmarks.serving.wire import GRPC_INFER, OIP_BINARY, RAW, TO_NULL, objection
from benchmarks.tables import put_between


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 3\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n",
    ],
)
def test_an_answer_in_any_pieces_is_read(answer: bytes) -> None:
    for cut in range(1, len(answer)):
        connection = Http1()
        connection.ask(7, b"")
        assert connection.receive(answer[:cut]) == ()
        (reply,) = connection.receive(answer[cut:])
        assert (reply.number, reply.status, reply.body) == (7, 200, b"abcde")
        assert connection.in_flight == 0


def test_an_answer_without_a_length_is_refused() -> None:
    connection = Http1()
    connection.ask(0, b"")
    with pytest.raises(Broken, match="no length"):
        connection.receive(b"HTTP/1.1 200 OK\r\n\r\n")


def test_wrong_scores_are_noticed_and_right_ones_accepted() -> None:
    scores = np.arange(SCORES, dtype=np.float32)
    header = b'{"outputs": []}'
    head = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %d" % len(header)
    assert objection(OIP_BINARY, head, header + scores.tobytes(), scores) == ""
    assert "is wrong" in objection(RAW, b"", scores[::-1].tobytes(), scores)
    assert "instead of 10" in objection(RAW, b"", scores[:5].tobytes(), scores)
    assert "can't be read" in objection(OIP_BINARY, b"HTTP/1.1 200 OK", scores.tobytes(), scores)


@pytest.fixture
def null_server(tmp_path: Path) -> Iterator[tuple[Process, int, int]]:
    http_port, grpc_port, _ = free_ports()
    command = (sys.executable, "-m", "benchmarks.serving.null", str(http_port), str(grpc_port))
    with running(command, os.environ, log=tmp_path / "log", directory=ROOT) as process:
        yield process, http_port, grpc_port


def _target(server: tuple[Process, int, int], kind: str, scores: float, directory: Path) -> Target:
    process, http_port, grpc_port = server
    rows = np.random.default_rng(0).standard_normal((SAMPLES, *SHAPES["tiny"])).astype(np.float32)
    samples = Samples(rows, np.full((SAMPLES, SCORES), scores, np.float32))
    path = GRPC_INFER if kind == "grpc" else "/"
    port = grpc_port if kind == "grpc" else http_port
    target = Target(process.tree, port, "tiny", TO_NULL[kind], path, samples, directory)
    stop_s = time.monotonic() + 20
    while scores == 1.0 and load.first_objection(target):  # until it listens
        assert time.monotonic() < stop_s, process.log_end()
        time.sleep(0.05)
    return target


@pytest.mark.parametrize("kind", ["json", "binary", "grpc"])
def test_poisson_arrivals_are_sent_at_their_rate_and_all_answered(
    null_server: tuple[Process, int, int], kind: str, tmp_path: Path
) -> None:
    replies = load.play(_target(null_server, kind, 1.0, tmp_path), 400.0, 1.0, seed=1)
    assert replies.answered.all()
    assert 300 < len(replies.status) < 500
    assert not replies.wrong
    assert (replies.latency_s >= replies.lag_s).all()
    assert (replies.lag_s >= 0).all()


def test_a_wrong_answer_is_noticed(null_server: tuple[Process, int, int], tmp_path: Path) -> None:
    _target(null_server, "json", 1.0, tmp_path)
    strange = _target(null_server, "json", 2.0, tmp_path)
    assert "is wrong" in load.play(strange, 200.0, 0.3, seed=1).wrong[0]
    with pytest.raises(load.WrongAnswer, match="is wrong"):
        load.first_objection(strange)


BURNER = """
import os, subprocess, sys, time
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"], check=True)
stays = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stays], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print("child", child.pid, flush=True)
time.sleep(60)
"""


def _runs(pid: int) -> bool:
    """Whether it does: what has ended may still have a number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cpu_of_children_that_ended_counts_and_nothing_is_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running((sys.executable, "-c", BURNER), os.environ, log=log, directory=tmp_path) as process:
        stop_s = time.monotonic() + 20
        while "child" not in process.log_end():
            assert time.monotonic() < stop_s
            time.sleep(0.05)
        child = int(process.log_end().split()[-1])
        assert process.tree.cpu_s() >= 0.29
        assert {process.popen.pid, child} <= set(process.tree.members())
        assert process.tree.threads() >= 2
        assert process.tree.memory_bytes() > 2**20
    assert process.tree.members() == {}
    assert not _runs(child)


def test_a_server_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no such model')")
    with running(command, os.environ, log=tmp_path / "log", directory=tmp_path) as process:
        process.popen.wait(20)
        with pytest.raises(NotStarted, match="ended with 1; no such model"):
            process.require_alive()


def test_a_page_keeps_the_text_around_the_tables() -> None:
    begin, end = pages.BEGIN, pages.END
    page = put_between(f"# Speed\n\nBy hand.\n\n{begin}{end}\n", begin, end, "one\n")
    assert page.startswith("# Speed\n\nBy hand.\n")
    changed = put_between(page + "\nMore by hand.\n", begin, end, "two\n")
    assert "one" not in changed
    assert changed == page.replace("one", "two") + "\nMore by hand.\n"
    with pytest.raises(ValueError, match="must have"):
        put_between(begin, begin, end, "three")


def test_a_spread_is_the_median_between_the_lowest_and_the_highest() -> None:
    assert pages.spread([3.0, 1.0, 2.0], "{:.0f}".format) == "2 (1–3)"
    assert pages.spread([1.0, 4.0], "{:.1f}".format) == "2.5 (1.0–4.0)"
    assert pages.spread([], "{:.0f}".format) == "–"


def test_each_peer_has_a_reason_for_each_protocol_that_it_is_not_asked_in() -> None:
    for peer in PEERS:
        assert set(peer.speaks) | set(peer.lacks) == {"json", "binary", "grpc"}
        assert not set(peer.speaks) & set(peer.lacks)


@pytest.mark.extended
@pytest.mark.live
@needs("wrk", "h2load")
def test_the_whole_benchmark_measures_proteus_and_reports_it(tmp_path: Path) -> None:
    """The smallest run: one workload, one short round, no peer to install."""
    file = tmp_path / "figures.json"
    arguments = ("--peers", "proteus", "--workloads", "tiny-json", "--extras", "", "--rounds", "1", "--seconds", "0.4")
    command = (sys.executable, "-m", "benchmarks.serving", *arguments, "--json", str(file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads(file.read_text())
    assert [(each["peer"], each["workload"]) for each in figures["loads"]] == [("proteus", "tiny-json")]
    assert figures["loads"][0]["rps"] > 100
    assert 1 < figures["loads"][0]["cpu_us"] < 10_000
    assert figures["latencies"][0]["p50_ms"] <= figures["latencies"][0]["p99_ms"]
    assert figures["failures"] == []
    assert "tiny-json" in done.stdout
