"""A server is killed in each stage of a version roll-out: the next one serves what it promises, and rolls out again."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from injecting import descendants, is_gone, until
from live_server import serving
from tiny import Tiny, save_eval
from versioned import AUTHORIZED, BY_HAND, NEW, OLD, Watched, make_versioned, measure, opposing, renamed

from proteus_cli.store import model_digest

pytestmark = pytest.mark.live

EVAL_SPLIT = "engines/models/shapes/eval.npz"


def measurements(server: Watched) -> list[int]:
    """The processes that measure."""
    found = [pid for pid in descendants(server.live.process.pid) if not is_gone(pid)]
    return [pid for pid in found if "measuring_child" in Path(f"/proc/{pid}/cmdline").read_text()]


def measuring(server: Watched) -> None:
    server.start(**BY_HAND)
    until(lambda: measurements(server), "a measurement")
    assert server.status()["stage"] == "measuring"


def shadow(server: Watched) -> None:
    measure(server.made, server.version(2))
    server.start(**BY_HAND, shadow=0.5)
    server.until_stage("shadow")
    server.until(lambda found: server.ask() == OLD and found["counts"]["shadowed"] > 0)


def canary(server: Watched) -> None:
    measure(server.made, server.version(2))
    server.start(**BY_HAND)
    server.until_stage("canary", 1)
    server.until(lambda _: server.ask() == NEW)


def promoting(server: Watched) -> None:
    """The catalog names the version, and can't be followed yet: other rows are to judge it, on which it is measured."""
    canary(server)
    save_eval(server.made.root / EVAL_SPLIT, rows=31, right=31)
    assert server.post("/shapes/promote")[0] == 200
    until(lambda: measurements(server), "a measurement")
    for pid in measurements(server):
        os.kill(pid, signal.SIGSTOP)
    assert (server.status()["stage"], "shapes/2/" in server.catalog()) == ("promoting", True)


def full(server: Watched) -> None:
    """Within the rollback window."""
    canary(server)
    assert server.post("/shapes/promote")[0] == 200
    server.until_stage("full")
    server.until(lambda _: server.hosted() == {NEW})


def put_back(server: Watched) -> None:
    """The old version serves alone again."""
    full(server)
    assert server.post("/shapes/abort")[0] == 200
    server.until(lambda found: found["ending"] == "aborted" and not found["note"])
    assert server.hosted() == {OLD}


STAGES: list[tuple[str, Callable[[Watched], None], str]] = [
    ("measuring", measuring, "period=1s"),
    ("shadow", shadow, "period=1s"),
    ("canary", canary, "period=1s"),
    ("promoting", promoting, "period=1s"),
    ("full", full, "period=1s"),
    ("full, and nothing re-plans", full, "off"),
    ("put back, and nothing re-plans", put_back, "off"),
]


@contextmanager
def started(made: Tiny, plan: Path, *options: str) -> Iterator[Watched]:
    with serving(made.root, plan, *options) as live:
        yield Watched(live, made)


def served_digest(server: Watched) -> str:
    """Of the model of the variant that the catalog has."""
    document = server.live.ask("GET", "/v2/proteus/catalog", headers=AUTHORIZED).document()
    assert document["digests"].keys() == {"shapes"}
    return str(document["digests"]["shapes"][OLD])


@pytest.mark.parametrize(("reach", "replan"), [stage[1:] for stage in STAGES], ids=[stage[0] for stage in STAGES])
def test_after_a_kill_the_old_version_serves_until_the_last_step_and_then_the_new_one(
    reach: Callable[[Watched], None], replan: str, tmp_path: Path
) -> None:
    """The new version is always wrong, so that answers tell which one serves."""
    made, plan, options = make_versioned(tmp_path)
    options = (f"--replan={replan}", *options)
    catalog, is_new = (made.root / "engines/catalog.toml").read_text(), reach is full
    shutil.copy(made.root / EVAL_SPLIT, tmp_path / "eval.npz")
    with started(made, plan, *options) as server:
        opposing(server.version(2))
        opposing(server.version(3)).write_bytes(renamed(server.version(3)))
        reach(server)
        server.live.process.kill()
        server.live.process.wait()
    shutil.copy(tmp_path / "eval.npz", made.root / EVAL_SPLIT)

    with started(made, plan, *options) as server:
        assert (
            server.live.ask("GET", "/v2/proteus/status", headers=AUTHORIZED).document()["plan"]["origin"] == "resumed"
        )
        named = catalog.replace("shapes/shapes-s.onnx", "shapes/2/shapes-s.onnx") if is_new else catalog
        assert server.catalog() == named
        serving_model = server.version(2) if is_new else made.model(OLD)
        assert served_digest(server) == model_digest(serving_model)
        assert made.place.profile("cpu0").variants[0].model_digest == model_digest(serving_model)
        assert list(made.place.namings_dir.glob("*")) == []
        told = server.live.ask("GET", "/v2/proteus/rollouts", headers=AUTHORIZED).document()
        assert told == {"rollouts": [], "refusal": ""}
        assert (server.hosted(), {server.ask() for _ in range(4)}) == ({OLD}, {OLD})
        assert {(status, right) for status, _, right in server.answers} == {(200, not is_new)}

        again = 3 if is_new else 2
        measure(made, server.version(again))
        server.start(**BY_HAND, variant=f"{OLD}@{again}")
        server.until_stage("canary", 1)
        server.until(lambda _: server.ask() == f"{OLD}@{again}")
        assert server.post("/shapes/abort")[0] == 200
        server.until_ended("aborted")
        server.until(lambda _: server.hosted() == {OLD})
        assert server.catalog() == named
        assert server.live.stop() == 0, server.live.log.read_text()
        assert "Traceback" not in server.live.log.read_text(), server.live.log.read_text()
