"""What a shell offers where a value is expected: by the shell's own way of asking."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest
from command_line import proteus, proteus_process
from tiny import Tiny, add_plan


def asking(*words: str) -> AbstractContextManager[object]:
    """The environment in which a shell asks for the last of the words after `proteus`."""
    return mock.patch.dict(
        os.environ,
        _PROTEUS_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(("proteus", *words)),
        COMP_CWORD=str(len(words)),
    )


def offered(*words: str) -> list[str]:
    with asking(*words):
        ended = proteus()
    assert ended.stderr == ""
    return ended.stdout.split()


def test_a_shell_asks_in_a_process_of_its_own() -> None:
    with asking("plan", "--policy", "mo"):
        ended = proteus_process()
    assert (ended.stdout.split(), ended.stderr) == (["most-accurate"], "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("plan", "--policy", "mo"), ["most-accurate"]),
        (("plan", "--fairness", "m"), ["maxmin"]),
        (("plan", "--capacity", "p9"), ["p95", "p99"]),
        (("replay", "t.csv", "--policy", "proteus,most"), ["proteus,most-accurate"]),
        (("serve", "plan", "--replan", "o"), ["off"]),
        (("serve", "plan", "--set", "log-format=j"), ["log-format=json"]),
        (("trace", "make", "bu"), ["burst"]),
        (("trace", "convert", "a.csv", "--format", "azure-l"), ["azure-llm"]),
    ],
)
def test_names_of_policies_objectives_and_rules_are_offered(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_plans_families_and_types_are_those_of_the_workspace(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-s"})
    (name,) = [path.stem for path in (tiny.root / "plans").glob("*.json")]
    assert offered("serve", "-w", str(tiny.root), name[:2]) == [name]
    assert offered("plan", "diff", "-w", str(tiny.root), name, name[:2]) == [name]
    assert offered("trace", "make", "burst", "-w", str(tiny.root), "--families", "shapes,t") == ["shapes,tones"]
    assert offered("plan", "-w", str(tiny.root), "--fleet", "") == ["cpu-1c:"]
    assert offered("plan", "-w", str(tiny.root), "--fleet", "a=cpu-1c:2;b=c") == ["a=cpu-1c:2;b=cpu-1c:"]
    assert offered("plan", "-w", str(tiny.root), "--fleet", "a=") == ["a=cpu-1c:"]


def test_a_workspace_without_a_catalog_offers_nothing(tmp_path: Path) -> None:
    assert offered("trace", "make", "burst", "-w", str(tmp_path), "--families", "") == []
    assert offered("serve", "-w", str(tmp_path), "") == []
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "catalog.toml").write_text("families = 7")
    assert offered("trace", "make", "burst", "-w", str(tmp_path), "--families", "") == []
