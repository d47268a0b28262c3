"""`make fuzz` prints a failing example as a line that can be put on its test."""

import subprocess
import sys
from pathlib import Path

from fuzz import test_cases as cases_in

TEST = """
from hypothesis import given, strategies as st

@given(st.integers(), st.lists(st.booleans()))
def test_small(number, names):
    assert number < 7
"""


def test_a_failing_example_is_printed_as_a_line_for_its_test(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:schemathesis", "--hypothesis-seed=1", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == 1, ended.stdout
    assert cases_in(ended.stdout) == ["@example(number=7, names=[])  # test_small"]


def test_a_run_without_failures_has_no_test_cases() -> None:
    assert cases_in("12 passed in 0.3s") == []
