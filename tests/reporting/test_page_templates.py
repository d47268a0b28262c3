"""What all pages share."""

from proteus_cli.reporting.page_templates import unbroken


def test_no_line_ends_within_an_option_or_a_name_or_before_a_unit() -> None:
    text = "53.8 % of <b> in 8.1 s; a longer --budget, with --max-violations, tells load--1 and digits-xl-2 apart"
    assert unbroken(text) == (
        "53.8\N{NO-BREAK SPACE}% of &lt;b&gt; in 8.1\N{NO-BREAK SPACE}s; a longer "
        '<span class="whole">--budget</span>, with <span class="whole">--max-violations</span>, tells load--1 '
        'and <span class="whole">digits-xl-2</span> apart'
    )
