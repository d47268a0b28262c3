"""Clients tell labels of what was answered: the accuracy of answers is known then, and plans count on it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import proteus
from injecting import until_holds
from live_server import LiveServer, serving
from tiny import SHAPES, TinyFamily, add_plan, add_profiles, make_workspace, passing_on

pytestmark = pytest.mark.live

FEEDBACK = "/v2/proteus/feedback"
TOKEN = "f00d" * 8
LABELS = ("red", "green", "blue", "white")
FAMILY = TinyFamily("shapes", SHAPES.variants[:2], slo="10s", labels="labels.txt")


@dataclass
class Asked:
    """A server, and what its answers to requests should be, by their id."""

    live: LiveServer
    root: Path
    classes: dict[str, list[int]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def ask(self, rows: int = 1) -> str:
        """Ask about rows whose highest input is their class; returns the id."""
        name = f"r{next(self._numbers)}"
        x = np.random.default_rng(len(self.classes)).random((rows, 4)).astype(np.float32)
        tensor = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": x.ravel().tolist()}
        assert self.live.infer("shapes", {"id": name, "inputs": [tensor]}).status == 200
        self.classes[name] = x.argmax(axis=1).tolist()
        return name

    def tell(self, *items: dict[str, Any]) -> Any:
        reply = self.live.ask("POST", FEEDBACK, {"feedback": [{"model": "shapes", **item} for item in items]})
        assert reply.status == 200, reply.body
        return reply.document()

    def status(self) -> Any:
        return self.live.get(FEEDBACK).document()["families"]["shapes"]

    def until(self, holds: Callable[[Any], bool]) -> Any:
        return until_holds(self.status, holds, self.live.log.read_text)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    root = tmp_path_factory.mktemp("feedback")
    made = make_workspace(root, (FAMILY,))
    for variant in FAMILY.variants:
        passing_on(made.model(variant.name))
    (root / "engines" / "labels.txt").write_text("\n".join(LABELS))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "shapes-m"}, demand_qps=1.0)
    with serving(root, plan, "--replan=period=1s", "--feedback=10min", "--set=record=true", token=TOKEN) as live:
        yield Asked(live, root)
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


def test_labels_and_scores_of_requests_count_once(server: Asked) -> None:
    one, named, three, scored = server.ask(), server.ask(), server.ask(3), server.ask()
    right = server.classes[three]
    told = server.tell(
        {"id": one, "label": server.classes[one][0]},
        {"id": named, "label": LABELS[server.classes[named][0]]},
        {"id": three, "label": [*right[:2], (right[2] + 1) % 4]},
        {"id": scored, "score": 0.5},
        {"id": one, "label": 0},
        {"id": "never-asked", "label": 0},
    )
    assert told == {"accepted": 4, "repeated": 1, "unknown": 1, "wrong": 0, "problems": []}
    found = server.status()["plain"]["shapes-m"]
    assert (found["rows"], round(found["accuracy"], 4), round(found["promised"], 4)) == (6, 0.75, 0.8)
    assert found["low"] < 0.75 < found["high"]
    metrics = server.live.get("/metrics").body.decode()
    assert 'proteus_feedback_rows_total{answers="plain",family="shapes",variant="shapes-m"} 6' in metrics
    assert 'proteus_feedback_right_total{answers="plain",family="shapes",variant="shapes-m"} 4.5' in metrics


def test_feedback_that_does_not_fit_its_request_may_come_again(server: Asked) -> None:
    one, three = server.ask(), server.ask(3)
    told = server.tell(
        {"id": three, "label": 1},
        {"id": one, "label": "mauve"},
        {"id": one},
        {"id": one, "label": 1, "score": 1.0},
        {"id": one, "model": "tones", "label": 1},
    )
    assert (told["accepted"], told["wrong"]) == (0, 5)
    assert [problem["error"] for problem in told["problems"]] == [
        "the request had 3 rows; there is feedback of 1",
        "`shapes` has no class `mauve`",
        "feedback has a `label` or a `score`",
        "feedback has a `label` or a `score`",
        "no model `tones`",
    ]
    assert server.tell({"id": one, "label": server.classes[one][0]})["accepted"] == 1
    assert server.live.ask("POST", FEEDBACK, {"feedback": [{"id": one}]}).status == 400


def test_plans_do_without_a_variant_that_is_wrong_more_often_than_profiled(server: Asked) -> None:
    ids = [server.ask() for _ in range(60)]
    server.tell(*({"id": name, "score": 0.2} for name in ids))
    found = server.until(lambda each: each["planned"])
    assert found["plain"]["shapes-m"]["is_lower"]
    assert 0.15 < found["planned"]["shapes-m"] < 0.25
    server.live.until(lambda status: {each["variant"] for each in status["placements"]} == {"shapes-s"})
    status = server.live.status()
    assert any("shapes-m has an accuracy of 20" in change["reason"] for change in status["changes"]), status["changes"]
    told = json.loads((server.root / "profiles" / "cpu0.json").read_text())
    (recorded,) = [each for each in told["variants"] if each["variant"] == "shapes-m"]
    assert (recorded["accuracy"], recorded["live"]["rows"]) == (0.8, 60)
    assert recorded["live"]["accuracy"] == found["planned"]["shapes-m"]
    planned = proteus("plan", "--demand", "1qps", "-w", server.root, "-o", server.root / "plans" / "next.json")
    assert "shapes-m counts with 20.0 %, by 60 labelled rows while serving" in planned.stderr
    chosen = json.loads((server.root / "plans" / "next.json").read_text())
    assert {each["variant"] for each in chosen["placements"]} == {"shapes-s"}
    metrics = server.live.get("/metrics").body.decode()
    assert 'proteus_accuracy_is_lower{answers="plain",family="shapes",variant="shapes-m"} 1' in metrics


def test_without_the_option_nothing_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("no-feedback")
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants[:1], slo="10s"),))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "shapes-s"}, demand_qps=1.0)
    with serving(root, plan, "--replan=off", token=TOKEN) as live:
        assert live.get(FEEDBACK).status == 409
        reply = live.ask("POST", FEEDBACK, {"feedback": []})
        assert (reply.status, "--feedback" in reply.document()["error"]) == (409, True)
        assert live.stop() == 0
    refused = proteus("serve", "plan", "--emulate", "--feedback", "1min", "-w", root)
    assert (refused.code, "Emulated devices give no answers" in refused.stderr) == (2, True)
    refused = proteus("serve", "plan", "--feedback", "1min", "-w", root)
    assert (refused.code, "only from clients with a token" in refused.stderr) == (2, True)
