import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from browser import browsing, heads_of_more_than_two_lines
from matplotlib.figure import Figure
from synthetic_runs import MADE_BY, answer, burst, cascading, reported

from proteus_cli.domain.report import Loss, Replan, Report
from proteus_cli.domain.request import RequestRecord
from proteus_cli.reporting.comparison import COMPOSITION_NOTE, STAGES_NOTE
from proteus_cli.reporting.html_page import page
from proteus_cli.reporting.plots import plots
from proteus_cli.reporting.plots.heatmaps import device_rates, family_accuracy
from proteus_cli.reporting.plots.line_plots import PlottedRun, accuracy, latency_cdf, violations
from proteus_cli.reporting.plots.plots import PLOTS, Plot, inline_svgs, plots_of, variant_svgs, write_png
from proteus_cli.reporting.plots.variant_plots import answering_variants, over_time

VOID = {"meta", "link", "br", "hr", "img"}
MANY = ("proteus", *(f"policy-{number}" for number in range(2, 14)))


def burst_by(*policies: str) -> tuple[Report, ...]:
    return tuple(msgspec.structs.replace(burst(policy), made_by=MADE_BY) for policy in policies)


@pytest.fixture(scope="module")
def pair() -> tuple[Report, ...]:
    return burst_by("proteus", "most-accurate")


@pytest.fixture(scope="module")
def html(pair: tuple[Report, ...]) -> str:
    """The page of the pair."""
    return page(pair)


@pytest.fixture(scope="module")
def drawn(pair: tuple[Report, ...]) -> dict[str, str]:
    """The plots of the pair."""
    return inline_svgs(pair)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of words and tables alone: plots take nearly all of the time of a page."""
    for pictures, none in (("inline_svgs", {}), ("variant_svgs", {}), ("legend_symbols", "")):
        monkeypatch.setattr(plots, pictures, lambda _reports, none=none: none)


class Reader(HTMLParser):
    """Checks that elements nest, and collects ids, attributes, and the text of table cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Words that are kept on one line are elements within a cell."""
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_loads_nothing(html: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|src=", html)
    assert set(re.findall(r'href="(.)', html)) == {"#"}


def test_the_page_nests_and_is_ready_for_phones_and_screen_readers(html: str) -> None:
    reader = Reader(html)
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert ("name", "viewport") in reader.attributes
    assert {"header", "main", "section", "figure", "figcaption", "footer"} <= set(reader.tags)
    assert "prefers-color-scheme: dark" in html
    assert html.count('role="img"') == len(PLOTS) + 2  # and which variants answered, of two families
    drawn = [plot for plot in PLOTS if plot.has_lines]
    assert html.count('<use href="#key0"/></svg>proteus') == html.count("</svg>most-accurate") == len(drawn)


def test_ids_are_unique_and_every_reference_leads_somewhere(html: str) -> None:
    attributes = Reader(html).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert referred
    assert referred <= set(ids)


def test_simulated_runs_are_not_said_to_be_measured(html: str) -> None:
    assert "<dd>simulated</dd>" in html
    assert "<footer>Made by proteus " in html


def test_tables_hold_the_numbers(html: str) -> None:
    """In the burst, 10 s see 600 queries: `most-accurate` answers half of them, 30 qps, and drops 300."""
    rows = Reader(html).rows
    assert ["SLO violations", "* 0.00 %", "30.00 %"] in rows
    assert ["latency p90", "30.0 ms", "30.0 ms"] in rows
    assert ["20–30 s", "60.0", "60.0", "90.00", "0.00", "30.0", "100.00", "50.00"] in rows
    assert ["proteus", "21.0 s", "cpu0: digits-l → digits-s (loaded in 80 ms)", "burst", "30.0 ms"] in rows
    families = next(place for place, row in enumerate(rows) if "goodput (qps)" in row)
    signals = rows.index(["signals", ""], families)
    assert [row[:3] for row in rows[signals + 1 : signals + 3]] == [
        ["proteus", "1,000", "* 0.00"],
        ["most-accurate", "1,000", "30.00"],
    ]


def test_each_family_has_its_attainment_beside_its_target(html: str) -> None:
    """`most-accurate` drops 300 of 1000 signals: 70 % in time, and 300 of the 5 violations that 99.5 % allows."""
    rows = Reader(html).rows
    heads = ["p99 (ms)", "SLO (ms)", "attainment (%)", "expected (%)", "target (%)", "target met"]
    place = rows.index(["family, policy", *heads, "error budget used (%)"])
    assert rows[place + 4 : place + 7] == [
        ["signals", ""],
        ["proteus", "30.0", "80.0", "* 100.00", "–", "99.5", "met", "* 0"],
        ["most-accurate", "30.0", "80.0", "70.00", "–", "99.5", "missed", "6,000"],
    ]
    assert "<dt>error budget used</dt>" in html


def test_latencies_are_those_of_all_requests(html: str) -> None:
    """800 of 2000 are answered in 20 ms; `most-accurate` answers 600 more in 30 ms, and the rest never."""
    rows = Reader(html).rows
    (head,) = [row for row in rows if "answered at all (%)" in row]
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)}
    assert found["proteus"]["25 % (ms)"] == found["most-accurate"]["25 % (ms)"] == "20.0"
    assert (found["proteus"]["99.5 % (ms)"], found["proteus"]["answered at all (%)"]) == ("30.0", "100.00")
    assert (found["most-accurate"]["75 % (ms)"], found["most-accurate"]["answered at all (%)"]) == ("–", "70.00")
    assert found["most-accurate"]["50 % (ms)"] == "30.0"


def test_devices_are_shown_in_groups_and_each_alone(html: str) -> None:
    """`proteus` answers 400 signals off the burst with the large variant and 600 in it with the small one."""
    rows = Reader(html).rows
    busy = ["proteus", "1,000", "16.7", "250", "4.0", "94.00", "signals-s 60.0 % · signals-l 40.0 %"]
    idle = ["proteus", "0", "0.0", "–", "–", "–", "–"]
    for name, expected in {"2 × gpu": busy, "gpu-0": busy, "gpu-1": idle}.items():
        (place,) = [place for place, row in enumerate(rows) if row[0] == name]
        assert rows[place + 1] == expected
    assert "<summary>Each of the 3 devices</summary>" in html


@pytest.mark.usefixtures("no_pictures")
def test_devices_of_several_hosts_are_shown_by_host_and_each_alone() -> None:
    ended = [answer(0.0, device=f"n{host}/gpu{gpu}") for host in range(3) for gpu in range(2)]
    text = page([reported(ended)])
    for host in range(3):
        assert f'<tr><th scope="row">host n{host}</th><td>2</td>' in text
    assert '<th class="text" scope="col">host</th>' in text
    assert "<summary>Each of the 6 devices</summary>" in text


@pytest.mark.usefixtures("no_pictures")
def test_hundreds_of_devices_are_shown_in_groups_only() -> None:
    ended = [answer(0.0, device=f"{name}-{number}") for name in ("cpu", "v100") for number in range(150)]
    text = page([reported(ended)])
    assert "Each of the 300 devices is in the JSON report." in text
    assert "cpu-149" not in text
    assert Reader(text).rows.count(["150 × v100", "150", "2.5", "–", "–", "100.00", "–"]) == 1


@pytest.mark.usefixtures("no_pictures")
def test_devices_name_variants_with_their_family_where_two_families_have_one_of_that_name() -> None:
    ended = [
        answer(0.0, family=family, variant="large", device="cpu0", accuracy=0.9) for family in ("digits", "signals")
    ]
    ended.append(answer(0.0, variant="own", device="cpu1"))
    rows = {row[0]: row[-1] for row in Reader(page([reported(ended)])).rows}
    assert rows["cpu0"] == "digits/large 50.0 % · signals/large 50.0 %"
    assert rows["cpu1"] == "own 100.0 %"


@pytest.mark.browser
def test_no_table_is_cut_on_a_desk(pair: tuple[Report, ...], html: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with browsing() as browser:
        browser.look(width=1280)
        for text in (page(pair[:1]), html):
            path.write_text(text, encoding="utf-8")
            browser.driver.get(path.as_uri())
            assert browser.run("return document.querySelectorAll('.scroll').length") > 0
            assert browser.run(
                "return [...document.querySelectorAll('.scroll')].filter((at) => at.scrollWidth > at.clientWidth)"
                ".map((at) => at.getAttribute('aria-label'))"
            ) == []  # fmt: skip


@pytest.mark.browser
def test_heads_take_two_lines_at_most_on_a_phone(pair: tuple[Report, ...], html: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with browsing() as browser:
        browser.look(width=390)
        for text in (page(pair[:1]), html):
            path.write_text(text, encoding="utf-8")
            browser.driver.get(path.as_uri())
            assert heads_of_more_than_two_lines(browser) == []


@pytest.mark.usefixtures("no_pictures")
def test_the_page_names_the_trace_the_mode_and_who_made_it() -> None:
    text = page(burst_by("proteus"))
    for fact in (
        "Replay of burst.csv",
        "simulated",
        "digits 50.0 ms, signals 80.0 ms",
        "2026-01-02",
        "proteus 1.2.3 on bench",
    ):
        assert fact in text


def test_text_from_data_is_escaped() -> None:
    evil = '<script>alert("x")</script>'
    text = page([burst(evil, trace=evil), burst("$x$ & co", trace="t")])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "$x$ &amp; co" in text
    Reader(text)


def test_an_empty_run_has_a_page() -> None:
    for duration_s in (0.0, 30.0):
        text = page([reported([], duration_s=duration_s)])
        assert "The plan never changed." in text
        Reader(text)


def test_plots_take_font_ink_and_size_from_the_page(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        root = ET.fromstring(svg)  # noqa: S314 - our own
        assert root.get("width") is None
        assert root.get("viewBox")
        assert "currentColor" in svg
        assert "font-family" not in svg
        texts = {element.text for element in root.iter("text")}
        assert plot_named(name).has_lines != ({"proteus", "most-accurate"} <= texts), name


def plot_named(name: str) -> Plot:
    (found,) = [plot for plot in PLOTS if plot.name == name]
    return found


def test_axes_are_labelled_with_units(drawn: dict[str, str]) -> None:
    labels = {
        "demand": ("queries per second", "time since start (s)"),
        "accuracy": ("relative accuracy (%)", "time since start (s)"),
        "violations": ("violations (%)", "time since start (s)"),
        "latency": ("latency (ms)", "(% of all requests)"),
        "family-accuracy": ("relative accuracy (%)", "94.0"),
        "family-violations": ("SLO violations (% of requests)", "30.0"),
        "devices": ("answers per second and device", "16.7"),
    }
    assert list(drawn) == list(labels) == [plot.name for plot in PLOTS]
    for name, texts in labels.items():
        assert all(f">{text}" in drawn[name] for text in texts), name


def test_which_variants_answered_is_drawn_for_each_family_and_run(html: str, pair: tuple[Report, ...]) -> None:
    """The variants of the burst are in the colours of the legend; the other run never used the small ones."""
    drawn = variant_svgs(pair)
    assert set(drawn) == {"digits", "signals"}
    large, small = answering_variants(pair)["digits"]
    assert (large.name, large.shares) == ("digits-l", (0.4, 1.0))
    assert large.accuracy == pytest.approx(0.98)
    assert (small.name, small.shares) == ("digits-s", (0.6, 0.0))
    root = ET.fromstring(drawn["digits"])  # noqa: S314 - our own
    assert {"proteus", "most-accurate", "answers (qps)"} <= {element.text for element in root.iter("text")}
    assert drawn["digits"].count(small.colour) == drawn["digits"].count(large.colour) > 0
    assert ["digits-s", "88.20", "60.0 %", "0.0 %"] in Reader(html).rows


def test_answers_are_stacked_with_the_most_accurate_at_the_bottom(pair: tuple[Report, ...]) -> None:
    """30 qps of digits in the burst: all of them by the small variant, on top of none by the large one."""
    axes = Figure().add_subplot()
    runs = PlottedRun.all_of(pair[:1])
    over_time([axes], runs, "digits", answering_variants(pair[:1])["digits"], "black")
    large, small = (np.asarray(area.get_paths()[0].vertices) for area in axes.collections)
    busy = large[:, 0] == 25.5
    assert set(large[busy][:, 1]) == {0.0}
    assert set(small[small[:, 0] == 25.5][:, 1]) == {0.0, 30.0}
    assert max(large[:, 1]) == 10.0


def test_of_many_runs_and_families_only_so_many_are_drawn_and_all_are_listed(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    text = page(burst_by(*MANY[:5]))
    assert "Plots of the first 3 runs." in text
    assert text.count("<title>Which variants of") == 2
    monkeypatch.setattr("proteus_cli.reporting.plots.variant_plots.MAX_FAMILIES", 3)
    ended = [answer(0.1 * n, family=f"f{n % 5}", variant=f"v{n % 5}", device="cpu0") for n in range(5 + 4)]
    run = reported(ended)
    assert list(variant_svgs([run])) == ["f0", "f1", "f2"]  # that had two answers each, as `f3`
    request.getfixturevalue("no_pictures")
    assert [row[0] for row in Reader(page([run])).rows].count("v4") == 1


@pytest.mark.usefixtures("no_pictures")
def test_estimated_accuracies_are_marked_by_family_variant_and_device(html: str, pair: tuple[Report, ...]) -> None:
    run = msgspec.structs.replace(pair[0], estimated=("digits",))
    marks = Counter(row[0] for row in Reader(page([run])).rows for cell in row if cell.startswith("≈"))
    of_run = {"effective accuracy": 1, "relative accuracy": 1}
    assert marks == of_run | {"digits": 2, "digits-l": 1, "digits-s": 1, "cpu0": 2}  # cpu0: alone, and as a group
    assert "≈" not in html


def test_a_single_family_or_device_has_no_heat_map(html: str) -> None:
    ended = [answer(0.1, variant="l", device="cpu0")]
    run = msgspec.structs.replace(reported(ended), families={"digits": reported(ended).families["digits"]})
    assert [plot.name for plot in plots_of([run])] == ["demand", "accuracy", "violations", "latency"]
    assert 'class="cells"' not in page([run])
    assert 'class="cells"' in html


def test_the_latency_curve_ends_at_what_was_answered_at_all(pair: tuple[Report, ...]) -> None:
    """`most-accurate` drops 600 of 2000."""
    axes = Figure().add_subplot()
    latency_cdf(axes, PlottedRun.all_of(pair), "black")
    ends = [float(np.asarray(line.get_ydata())[-1]) for line in axes.lines[:2]]
    assert ends == pytest.approx([100.0, 70.0])
    assert [text.get_text() for text in axes.texts] == ["SLO digits 50 ms", "SLO signals 80 ms"]


def accuracy_axis(ended: list[RequestRecord]) -> tuple[tuple[float, float], list[float], list[float]]:
    """The limits of the axis of relative accuracy, its ticks, and all that is drawn."""
    axes = Figure().add_subplot()
    replans = (Replan(1.0, reason="burst", solve_s=0.03, swaps=1),)
    accuracy(axes, PlottedRun.all_of([reported(ended, duration_s=10.0, replans=replans)]), "black")
    drawn = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata())]
    return axes.get_ylim(), axes.get_yticks().tolist(), drawn


def test_more_than_all_of_the_accuracy_is_within_the_axis() -> None:
    """0.5 points above the best variant at the end; without losses, beside losses of a few points, and of half."""
    for lowest in (0.9849, 0.95, 0.49):
        ended = [answer(k / 10, accuracy=0.9849 if k >= 50 else lowest) for k in range(100)]
        (bottom, top), _, drawn = accuracy_axis(ended)
        assert max(drawn) == pytest.approx(100.5)
        assert bottom < min(drawn) <= max(drawn) < top < 102, lowest


def test_a_family_that_gained_accuracy_has_the_colour_of_no_loss() -> None:
    axes = Figure().add_subplot()
    run = reported([answer(0.1, accuracy=1.0), answer(0.2, family="signals", accuracy=0.9)])
    family_accuracy(axes, PlottedRun.all_of([run]), "black")
    (mesh,) = axes.collections
    alphas = np.asarray(mesh.get_array())[..., 3].ravel()
    assert alphas[0] == 0.0 < alphas[1]


def test_large_rates_in_heat_maps_have_thousands_and_no_exponent() -> None:
    axes = Figure().add_subplot()
    ended = [answer(k / 2040.6, device=device, batch=1) for k in range(20406) for device in ("cpu0",)]
    device_rates(axes, PlottedRun.all_of([reported(ended, duration_s=10.0, devices=("cpu0", "cpu1"))]), "black")
    assert [text.get_text() for text in axes.texts] == ["2,040.6", "0.0"]
    assert axes.get_xlabel().endswith("at most 2,040.6")


def test_variants_with_cascades_are_ordered_and_coloured_by_their_own_accuracy() -> None:
    """The first stage has the better answers, as it gives them to the queries that it is sure of."""
    large, small = answering_variants([cascading()])["digits"]
    assert (large.name, large.accuracy, large.shares) == ("l", 0.98, (500 / 3000,))
    assert (small.name, small.accuracy, small.shares) == ("s", 0.95, (2500 / 3000,))
    assert large.of_answers == pytest.approx(0.9398)
    assert small.of_answers == pytest.approx(0.9998)
    alone = reported([answer(0.0, variant="l", device="cpu0", accuracy=0.98)])
    both = answering_variants([alone, cascading()])["digits"]
    assert [(each.name, each.accuracy, each.colour) for each in both] == [
        ("l", 0.98, large.colour), ("s", 0.95, small.colour),
    ]  # fmt: skip
    assert both[0].of_answers == pytest.approx((0.98 + 500 * 0.9398) / 501)


@pytest.mark.usefixtures("no_pictures")
def test_the_page_tells_the_accuracy_of_a_variant_from_that_of_its_answers() -> None:
    for reports in ([cascading()], [cascading(), cascading("other")]):
        text = page(reports)
        rows = Reader(text).rows
        (head,) = [row for row in rows if row[0] == "family, variant"]
        assert head[1:3] == ["accuracy (%)", "accuracy of its answers (%)"]
        assert [row[:3] for row in rows if row[0] in {"l", "s"}] == [["l", "98.00", "93.98"], ["s", "95.00", "99.98"]]
        assert {len(row) for row in rows if row[0] in {"l", "s"}} == {len(head)}
        assert text.count(STAGES_NOTE) == 2  # variants, devices
        assert COMPOSITION_NOTE in text


LOSSES = (Loss("host <a>", 8, 20.0, 25.0), Loss("v100-3", 1, 50.0))


@pytest.mark.usefixtures("no_pictures")
def test_losses_are_listed_by_run_and_shaded_among_the_violations(pair: tuple[Report, ...]) -> None:
    fails, whole = (
        msgspec.structs.replace(report, losses=losses) for report, losses in zip(pair, (LOSSES, ()), strict=True)
    )
    html = page([fails, whole])
    assert re.findall(r'<td class="text">(.*?)</td><td>(.*?)</td><td>(.*?)</td>', html) == [
        ("host &lt;a&gt;", "8", "5.0 s"), ("v100-3", "1", "–"),
    ]  # fmt: skip
    axes = Figure().add_subplot()
    violations(axes, PlottedRun.all_of([fails, whole]), "black")
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert [(round(span.x0, 6), round(span.x1, 6)) for span in spans] == [(20.0, 25.0), (50.0, 60.0)]


def test_a_page_without_losses_or_cascades_does_not_speak_of_them(html: str) -> None:
    assert 'aria-label="Losses"' not in html
    assert 'aria-label="Cascades"' not in html
    assert 'aria-label="Accuracy of answers"' not in html
    assert "of its answers" not in html
    assert STAGES_NOTE not in html
    assert COMPOSITION_NOTE not in html


def test_pngs_hold_the_same_plots(pair: tuple[Report, ...], tmp_path: Path) -> None:
    paths = write_png(tmp_path / "plots", pair)
    assert [path.stem for path in paths] == [*(plot.name for plot in PLOTS), "variants"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("section", "ended", "cells"),
    [
        ("Accuracy of answers", [answer(0.1 * n, accuracy=0.875, is_correct=n > 0) for n in range(4)],
         ("87.50", "75.00", "30.06 to 95.44", "4")),
        ("Cascades", [answer(0.0), answer(1.0, is_deferred=True, is_fallback=True)], ("50.00", "100.00")),
        ("Exits", [answer(0.0), answer(1.0, is_cut=True)], ("50.00",)),
    ],
)  # fmt: skip
def test_a_section_shows_what_only_some_runs_have(
    pair: tuple[Report, ...], section: str, ended: list[RequestRecord], cells: tuple[str, ...]
) -> None:
    run = reported(ended)
    for reports, name in (([run], "digits"), ([run, pair[0]], 'proteus.*?</th><td class="text">digits')):
        (found,) = re.findall(rf'aria-label="{section}".*?</section>', page(reports), re.DOTALL)
        assert re.search(rf">{name}</t[hd]>\s*" + "".join(rf"<td>{cell}</td>\s*" for cell in cells), found)
    assert f'aria-label="{section}"' not in page(pair)
