"""How far something is: a bar on a terminal, elsewhere a line now and then, and what goes on within it beside it."""

from contextlib import suppress

import pytest

from proteus_cli.cli import console


def test_without_a_terminal_it_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 0.0
    monkeypatch.setattr(console, "monotonic", lambda: now_s)
    with console.progress("profiling gpu0") as outer, console.progress("building digits/digits-s") as inner:
        for second in range(26):
            now_s = float(second)
            inner("tactics", second / 100)
        outer("digits-s, batch 1", 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "building digits/digits-s: 10% tactics",
        "building digits/digits-s: 20% tactics",
        "profiling gpu0: 50% digits-s, batch 1",
    ]


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.loudness, "quiet", True)
    monkeypatch.setattr(console, "PLAIN_LINE_EVERY_S", 0.0)
    with console.progress("profiling gpu0") as advance:
        advance("digits-s, batch 1", 0.5)
    assert capsys.readouterr().err == ""


def test_names_in_brackets_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    with console.progress("profiling [bold]") as advance:
        advance("digits[red]", 0.5)
        console._shown[0].refresh()
    shown = capsys.readouterr().err
    assert "profiling [bold]" in shown
    assert "digits[red]" in shown


def test_on_a_terminal_a_bar_stands_below_the_one_that_it_is_within(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one display: a terminal has room for no other. An error takes it off, and the next one is new."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    with suppress(OSError), console.progress("profiling gpu0") as outer:
        outer("digits-s, batch 1", 0.25)
        with console.progress("building digits/digits-m") as inner:
            inner("tactics", 0.5)
            (bars,) = console._shown
            assert [(task.description, task.percentage) for task in bars.tasks] == [
                ("profiling gpu0", 25), ("building digits/digits-m", 50),
            ]  # fmt: skip
        assert [task.description for task in bars.tasks] == ["profiling gpu0"]
        raise OSError("no")
    assert console._shown == []
    assert "profiling gpu0" in capsys.readouterr().err
