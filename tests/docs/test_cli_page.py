"""Generated files are up to date, and docs/cli.md has the examples of each command."""

import subprocess
import sys
from pathlib import Path

import pytest

from proteus_cli.cli.command_line.examples import EXAMPLES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("script", ["generate_cli.py", "generate_openapi.py"])
def test_a_generated_file_is_up_to_date(script: str) -> None:
    done = subprocess.run([sys.executable, DOCS / script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_has_the_examples_of_each_command() -> None:
    sections = dict(part.split("`\n", 1) for part in (DOCS / "cli.md").read_text().split("\n## `")[1:])
    assert set(sections) == set(EXAMPLES)
    for path, examples in EXAMPLES.items():
        assert all(f"  {line}\n      {meaning}\n" in sections[path] for line, meaning in examples)
