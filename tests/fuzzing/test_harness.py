"""The fuzzers find what they should, and make it small."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from fuzzing import watch
from fuzzing.findings import minimised
from fuzzing.judge import Verdict
from fuzzing.session import Session, kind_of, mutated
from fuzzing.targets.table import TARGETS, open_target
from fuzzing.watch import MIB, Cost, ResidentMemory, Watch


class Careless:
    """A target with a bug of each kind, each behind a word."""

    def play(self, content: bytes, watch: Watch) -> None:
        watch.call(self._take, content)

    def _take(self, content: bytes) -> None:
        if b"large" in content:
            b"x" * (64 * MIB)  # above 32 MiB, malloc takes new pages, and none of an earlier test
        if b"crash" in content:
            raise KeyError(content)


def test_memory_that_an_input_takes_for_a_moment_counts() -> None:
    memory = ResidentMemory()
    before = memory.reset()
    content = b"x" * (64 * MIB)
    del content
    assert 60 * MIB <= memory.peak() - before < 80 * MIB
    memory.reset()
    assert memory.peak() - before < 20 * MIB


def test_the_longest_callback_counts() -> None:
    now_s = iter([0.0, 1.0, 1.0, 4.0, 4.0, 6.0])
    watched = Watch(lambda: next(now_s))
    for _ in range(3):
        watched.call(len, "")
    assert watched.hold_s == 3.0


@pytest.mark.parametrize(
    ("cost", "excess"),
    [(Cost(1, 0.1), ""), (Cost(2**28, 0.25), ""), (Cost(2**28 + 1, 0.0), "memory"), (Cost(0, 0.26), "stall")],
)
def test_what_is_too_much(cost: Cost, excess: str) -> None:
    assert cost.excess == excess


def test_a_session_keeps_one_input_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_PEAK_BYTES", 8 * MIB)
    session = Session(cast("Any", Careless()), tmp_path)
    for content in (b"fine", b"a large one", b"a crash", b"another large one", b"another crash"):
        session.play(content)
    found = {path.read_bytes() for path in (tmp_path / "found").iterdir()}
    assert found == {b"a large one", b"a crash"}
    assert (tmp_path / "largest").read_bytes() == b"a large one"


def test_errors_of_one_place_are_of_one_kind() -> None:
    kinds = set()
    for content in (b"crash 1", b"crash 2"):
        try:
            Careless().play(content, Watch())
        except KeyError as error:
            kinds.add(kind_of(error))
    assert kinds == {"KeyError-test_harness-_take"}


def test_a_finding_is_made_small() -> None:
    def judge(content: bytes) -> Verdict:
        return Verdict(0, 0.0, "crash" if b"(" in content and b")" in content else "", "")

    assert minimised(b"some (text) around" * 20, "crash", judge) == b"()"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_valid(name: str) -> None:
    with closing(open_target(name)) as target:
        assert [seed for seed, content in target.seeds().items() if not target.accepts(content)] == []


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_depend_on_their_seed_alone_and_are_within_bounds(name: str) -> None:
    with closing(open_target(name)) as target:
        for number, content in enumerate(target.seeds().values()):
            assert mutated(target, content, Random(number)) == mutated(target, content, Random(number))
            assert len(mutated(target, content, Random(number))) <= max(len(content), watch.MAX_INPUT_BYTES)


@pytest.mark.extended
def test_hypothesis_takes_the_place_of_an_engine_that_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzzing.engines.drawn", "json", "3", str(tmp_path)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, timeout=100, check=True)
    assert int((tmp_path / "cases").read_text()) > 0
