"""What all pages share."""

from html import escape

import pytest

from proteus_cli.reporting.page_templates import in_two_lines, unbroken


def test_no_line_ends_within_an_option_or_a_name_or_before_a_unit() -> None:
    text = "53.8 % of <b> in 8.1 s; a longer --budget, with --max-violations, tells load--1 and digits-xl-2 apart"
    assert unbroken(text) == (
        "53.8\N{NO-BREAK SPACE}% of &lt;b&gt; in 8.1\N{NO-BREAK SPACE}s; a longer "
        '<span class="whole">--budget</span>, with <span class="whole">--max-violations</span>, tells load--1 '
        'and <span class="whole">digits-xl-2</span> apart'
    )


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "policy",
        "relative|accuracy (%)",
        "SLO violations|(%)",
        "max accuracy|drop (pts)",
        "99.5 %|(ms)",
        "a <b>|(/s)",
    ],
)
def test_a_head_breaks_once_where_its_lines_are_shortest(lines: str) -> None:
    expected = " ".join(f'<span class="line">{escape(line)}</span>' for line in lines.split("|"))
    assert in_two_lines(lines.replace("|", " ")) == expected
