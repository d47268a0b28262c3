"""The verbs of the Makefile: each benchmark has one, and no file can take the place of a verb."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_each_benchmark_that_is_a_package_has_a_verb() -> None:
    packages = {path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")}
    assert packages
    assert packages <= set(re.findall(r"-m benchmarks\.(\w+)", MAKEFILE))


def test_verbs_of_benchmarks_are_no_files() -> None:
    verbs = set(re.findall(r"^(bench[a-z-]*):", MAKEFILE, re.MULTILINE))
    phony = {verb for line in re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE) for verb in line.split()}
    assert "bench-study" in verbs
    assert verbs <= phony
