"""Lines of the log, whatever is in them."""

import json
import logging
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.serving.logs import JsonLines, LogRateLimiter, TextLines, fields


def record(message: str, *, error: bool = False, **named: Any) -> logging.LogRecord:
    info: Any = (ValueError, ValueError(message), None) if error else None
    made = logging.LogRecord("proteus.test", logging.WARNING, __file__, 1, "%s", (message,), info)
    made.__dict__.update(fields(**named))
    return made


@given(st.text(), st.dictionaries(st.sampled_from("abc"), st.text() | st.integers(-9, 9) | st.lists(st.text())))
def test_a_json_line_is_one_line_with_the_message_and_the_fields(message: str, named: dict[str, Any]) -> None:
    line = JsonLines().format(record(message, error=True, **named))
    assert "\n" not in line
    assert "\r" not in line
    read = json.loads(line)
    assert (read["message"], read["level"]) == (message, "warning")
    assert {name: read[name] for name in named} == named
    assert "ValueError" in read["exception"]


def test_a_json_line_may_quote_the_name_of_a_file_that_is_no_utf_8() -> None:
    assert json.loads(JsonLines().format(record("no \udcff", file="\udcff")))["file"] == "\udcff"


def test_a_text_line_is_one_line_whatever_it_quotes() -> None:
    line = TextLines().format(record("first\nsecond", who="a b\nc", n=3, plain="cpu0"))
    assert line.endswith(r'WARNING proteus.test: first\nsecond who="a b\nc" n=3 plain=cpu0')


@given(st.text(), st.text())
def test_text_lines_hold_no_control_characters_of_a_terminal(message: str, value: str) -> None:
    first, *exception = TextLines().format(record(message, error=True, who=value)).split("\n")
    assert first.isprintable()
    assert all(map(str.isprintable, exception))
    assert exception


def test_a_line_that_is_due_counts_the_occurrences_since_the_last_line() -> None:
    now_s = 0.0
    seldom = LogRateLimiter(lambda: now_s, every_s=10.0)
    assert [seldom.occurred("a") for _ in range(4)] == [1, 0, 0, 0]
    assert seldom.occurred("b") == 1
    now_s = 9.9
    assert seldom.occurred("a") == 0
    now_s = 10.0
    assert [seldom.occurred("a") for _ in range(2)] == [5, 0]
