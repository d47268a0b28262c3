import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from synthetic_runs import MADE_BY, burst, reported

from proteus_cli.domain.report import Report
from proteus_cli.errors import ArtefactError
from proteus_cli.reporting.html import page, write_html
from proteus_cli.reporting.plots import PLOTS, svgs, write_png

VOID = {"meta", "link", "br", "hr", "img"}
PAIR = (burst("proteus"), burst("most-accurate"))
PAGE = page(PAIR)


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
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_loads_nothing() -> None:
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|src=", PAGE)
    assert set(re.findall(r'href="(.)', PAGE)) == {"#"}


def test_the_page_nests_and_is_ready_for_phones_and_screen_readers() -> None:
    reader = Reader(PAGE)
    assert PAGE.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert ("name", "viewport") in reader.attributes
    assert {"header", "main", "section", "figure", "figcaption", "footer"} <= set(reader.tags)
    assert "prefers-color-scheme: dark" in PAGE
    assert reader.tags.count("svg") == PAGE.count('role="img"') == len(PLOTS)


def test_ids_are_unique_and_every_reference_leads_somewhere() -> None:
    attributes = Reader(PAGE).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', PAGE))
    assert referred
    assert referred <= set(ids)


def test_tables_hold_the_numbers() -> None:
    """In the burst, 10 s see 600 queries: `most-accurate` answers half of them, 30 qps, and drops 300."""
    rows = Reader(PAGE).rows
    assert ["SLO violations", "* 0.00 %", "30.00 %"] in rows
    assert ["latency p90", "30.0 ms", "30.0 ms"] in rows
    assert ["20–30 s", "60.0", "60.0", "90.00 %", "0 (0.00 %)", "30.0", "100.00 %", "300 (50.00 %)"] in rows
    assert ["proteus", "21.0 s", "burst", "30.0 ms", "3"] in rows
    assert [row[:4] for row in rows if row[:2] == ["signals", "most-accurate"]] == [
        ["signals", "most-accurate", "1,000", "30.00 %"]
    ]


def test_says_of_what_it_is_and_who_made_it() -> None:
    (run,) = made([burst("proteus")])
    text = page([run])
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


def test_the_page_is_the_same_for_the_same_reports() -> None:
    reports = made(PAIR)
    assert page(reports) == page(made((burst("proteus"), burst("most-accurate"))))


def test_an_empty_run_has_a_page() -> None:
    for duration_s in (0.0, 30.0):
        text = page([reported([], duration_s=duration_s)])
        assert "The plan never changed." in text
        Reader(text)


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_html(path, PAIR)
    assert path.read_text(encoding="utf-8") == PAGE
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_is_an_artefact_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError):
        write_html(tmp_path / "file" / "report.html", PAIR)


def test_plots_take_font_ink_and_size_from_the_page() -> None:
    for name, svg in svgs(PAIR).items():
        root = ET.fromstring(svg)  # noqa: S314 - our own
        assert root.get("width") is None
        assert root.get("viewBox")
        assert "currentColor" in svg
        assert "font-family" not in svg
        assert {"proteus", "most-accurate"} <= {element.text for element in root.iter("text")}, name


def test_axes_are_labelled_with_units() -> None:
    drawn = svgs(PAIR)
    labels = {"demand": "queries per second", "accuracy": "(%)", "violations": "(%)", "latency": "(ms)"}
    assert list(drawn) == list(labels) == [plot.name for plot in PLOTS]
    for name, label in labels.items():
        assert label in drawn[name]
        assert name == "latency" or "time since start (s)" in drawn[name]


def test_pngs_hold_the_same_plots(tmp_path: Path) -> None:
    paths = write_png(tmp_path / "plots", PAIR)
    assert [path.name for path in paths] == ["demand.png", "accuracy.png", "violations.png", "latency.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def made(reports: tuple[Report, ...] | list[Report]) -> list[Report]:
    return [msgspec.structs.replace(report, made_by=MADE_BY) for report in reports]
