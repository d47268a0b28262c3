"""Where tests stand: in the folders of what they test, or in one that CONTRIBUTING.md has a row for."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("test_*.py"))
ROW = re.compile(r"^\| ((?:`[a-z_]+/`,? ?)+) \|", re.MULTILINE)
NAMED = re.compile(r"tests/[a-z_0-9/]+(?:/|\.py)")


def test_the_folders_of_tests_are_those_of_the_package_and_those_of_contributing() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    others = {name for row in ROW.findall(page) for name in re.findall(r"[a-z_]+", row)}
    assert [name for name in sorted(others) if not (TESTS / name).is_dir()] == []
    folders = {file.parent.relative_to(TESTS) for file in FILES}
    ours = [folder for folder in folders if not others.intersection(folder.parts[:1])]
    assert len(ours) > 50
    assert [str(folder) for folder in sorted(ours) if not (ROOT / "proteus_cli" / folder).is_dir()] == []


def test_no_two_files_have_the_same_name() -> None:
    """Pytest imports each by its name alone."""
    assert [name for name, times in Counter(file.name for file in FILES).items() if times > 1] == []


def test_each_test_that_is_named_somewhere_exists() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", ".ci/run")]
    for folder, kind in (("docs", "*.md"), ("proteus_cli", "*.py"), ("benchmarks", "*.py"), ("tests", "*.py")):
        pages += (ROOT / folder).rglob(kind)
    named = [(page, path) for page in pages for path in NAMED.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 30
    assert [f"{page.relative_to(ROOT)}: {path}" for page, path in named if not (ROOT / path).exists()] == []
