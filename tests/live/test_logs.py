"""What a running server logs: every line of the form that was asked for, few where much happens."""

import json
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from eventful import FAILED, REFUSED, eventful

pytestmark = [pytest.mark.live, pytest.mark.alone]

SECRETS = ("0.1234567", "Bearer", "hush")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All that a server said, at its most talkative."""
    root = tmp_path_factory.mktemp("logs") / "ws"
    with eventful(root, "--set=log-format=json", "--set=log-level=debug") as live:
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1234567, 1, 2, 3]}]}
        assert live.infer("shapes", {**body, "id": "hush"}, {"authorization": "Bearer hush"}).status == 200
        assert live.stop() == 0
        said = live.log.read_text()
    assert not any(secret in said for secret in SECRETS)
    return [json.loads(line) for line in said.splitlines()]


def of(lines: list[dict[str, Any]], message: str) -> list[dict[str, Any]]:
    return [line for line in lines if re.search(message, line["message"])]


def test_every_line_is_an_object_with_time_level_logger_and_message(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert list(line)[:4] == ["ts", "level", "logger", "message"]
        assert datetime.fromisoformat(line["ts"]).tzinfo is not None
        assert line["level"] in {"debug", "info", "warning", "error"}
        assert line["logger"].startswith("proteus.")
        assert "exception" not in line
    times = [line["ts"] for line in lines]
    assert times == sorted(times)


def test_the_log_has_the_life_of_a_server(lines: list[dict[str, Any]]) -> None:
    told = [line["message"].split()[0].rstrip(":,") for line in lines if line["level"] == "info"]
    assert told == ["starting", "loaded", "loaded", "ready", "draining", "requests", "drained"]
    (ready,) = of(lines, "^ready$")
    assert ready["hosts"] == {"cpu0": ["shapes-s"], "cpu1": ["picky-s"]}


def test_each_batch_is_a_line_and_no_request_is(lines: list[dict[str, Any]]) -> None:
    batches = of(lines, "^batch on")
    assert batches == [line for line in lines if line["level"] == "debug"]
    for line in batches:
        assert set(line) == {
            "ts", "level", "logger", "message", "family", "variant", "device", "rows", "requests", "queue_ms",
            "compute_ms",
        }  # fmt: skip
        assert line["compute_ms"] > 0
        assert 0 <= line["queue_ms"] < 1000
    by_family = Counter({"shapes": 0, "picky": 0})
    for line in batches:
        by_family[line["family"]] += line["requests"]
    assert by_family["shapes"] >= 41


def test_overload_and_failures_are_logged_at_a_limited_rate_with_their_number(lines: list[dict[str, Any]]) -> None:
    refusals, failures = of(lines, "^tones: more queries than the plan can carry"), of(lines, "^picky-s failed on cpu1")
    for told, level, happened in ((refusals, "warning", REFUSED), (failures, "error", FAILED)):
        assert 1 <= len(told) <= 3  # one in ten seconds
        assert {line["level"] for line in told} == {level}
        assert 1 <= sum(line["requests"] for line in told) <= happened
    assert [line["level"] for line in of(lines, "^shapes: some queries miss their deadline")] == ["warning"]


def test_text_lines_hold_the_same_at_the_level_that_was_asked_for(tmp_path: Path) -> None:
    with eventful(tmp_path / "ws", "--set=log-level=warning") as live:
        assert live.stop() == 0
        said = live.log.read_text().splitlines()
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 (WARNING|ERROR) proteus\.\w+: .+")
    assert said
    assert all(form.fullmatch(line) for line in said), said
    assert any(line.endswith("family=tones requests=1") for line in said)
