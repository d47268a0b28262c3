"""The examples of docs/protocol.md, run as they stand, against a server with the family that the page names."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from live_server import LiveServer, serving
from tiny import TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

pytestmark = pytest.mark.live

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
PROGRAMS = {"sh": ("bash", "-euc"), "python": (sys.executable, "-c")}
SHAPES = TinyFamily(
    "shapes", (TinyVariant("shapes-s", 0.7, hidden=4), TinyVariant("shapes-m", 0.8, hidden=8)), slo="60s"
)
WITHIN_S = 60


@dataclass(frozen=True)
class Example:
    """A block of code, and what the page says that it prints."""

    language: str
    code: str
    prints: str


def examples() -> list[Example]:
    page = PAGE.read_text(encoding="utf-8")
    return [
        Example(*found)
        for found in re.findall(r"```(sh|python)\n(.*?)```\n\n```text\n(.*?)```\n", page, flags=re.DOTALL)
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    tiny = make_workspace(tmp_path_factory.mktemp("live"), (SHAPES,))
    add_profiles(tiny)
    with serving(tiny.root, add_plan(tiny, {"cpu0": "shapes-m"}), "--replan=off", "--grpc-port", "0") as live:
        yield live


def without_measurements(text: str) -> list[str]:
    """Lines, with a 0 for what differs from run to run, times, and from one machine to another, scores."""
    return [
        re.sub(r"(?<=_us\":)\d+|(?<=\[)-?\d+\.\d[^]]*(?=\])|(?<=\")-?\d+\.\d+(?=:\d)", "0", line)
        for line in text.splitlines()
    ]


def test_all_code_of_the_page_is_an_example_that_says_what_it_prints() -> None:
    assert len(re.findall(r"^```(?:sh|python)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)) == len(
        examples()
    )


@pytest.mark.timeout(2 * WITHIN_S)
def test_the_examples_print_what_the_page_says(server: LiveServer, tmp_path: Path) -> None:
    for example in examples():
        check(example, server, tmp_path)


def check(example: Example, server: LiveServer, place: Path) -> None:
    """The examples follow each other in one directory, and use what those before have left there."""
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    code = example.code.replace("8000", str(server.port)).replace("8001", str(server.grpc_port))
    done = subprocess.run(
        [*PROGRAMS[example.language], code],
        cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip
    assert done.returncode == 0, code + done.stderr
    assert without_measurements(done.stdout) == without_measurements(example.prints), code
