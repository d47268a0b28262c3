"""Benchmarks end with a line per aim, and exit with 1 where one is missed."""

from pathlib import Path

import pytest

from benchmarks.tables import Aim, conclude

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(
    path
    for path in BENCHMARKS.rglob("*.py")
    if '__name__ == "__main__"' in (text := path.read_text(encoding="utf-8")) and "aim" in text.lower()
)


def test_a_benchmark_says_of_each_aim_whether_it_is_reached_and_fails_where_one_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reached = Aim("goodput", 0.97, 0.95, "of what is possible", is_most=False)
    missed = Aim("longest wait", 2.0, 1.0, "s", is_most=True)
    assert conclude([reached]) == 0
    assert conclude([reached, missed]) == 1
    marks = [line[0] for line in capsys.readouterr().out.splitlines()]
    assert marks == ["✓", "✓", "✗"]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_a_program_that_has_aims_exits_by_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "sys.exit(main())" in text or "SystemExit(" in text
    assert "--strict" not in text, "it does so by itself"
