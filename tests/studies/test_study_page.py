"""The page of studies stands alone, and says what was found, how, and what is missing."""

from html.parser import HTMLParser
from pathlib import Path

import msgspec
from studies.fake_study import Square, Squares
from studies.test_study_runs import studied

from proteus_cli.domain.studies.study import Study
from proteus_cli.domain.studies.telemetry import Telemetry
from proteus_cli.reporting.studies.load_pictures import load_pictures
from proteus_cli.reporting.studies.page import busy_notes, missing_text, page
from proteus_cli.reporting.studies.section import Section, StudyTable


def section(study: Study) -> Section:
    rows = [(cell.key, str(cell.read(Square).square)) for cell in study.good]
    return Section(
        "Squares <of> numbers",
        "How large are squares?",
        [f"The sum is {study.conclusion['total']}."],
        tables=[StudyTable("Squares", ("cell", "square"), rows)],
        terms={"square": "A number times itself."},
    )


class _Tags(HTMLParser):
    """Checks that tags are closed in order; collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in {"src", "href"} and value and value[0] != "#"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_stands_alone_and_says_what_is_missing(tmp_path: Path) -> None:
    squares = Squares(broken={3})
    study = studied(tmp_path, squares.draft(1, 2, 3))
    html = page([study, study], {"squares": section})
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.fetched == []
    assert html.count("The sum is 5.") == 2
    assert "Squares &lt;of&gt; numbers" in html
    assert "3 does not run" in html
    assert "A number times itself." in html


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    """By what other programs used while something was measured, not by what the study used itself."""
    study = studied(tmp_path, Squares().draft(1, 2))
    own, others = 0.9 * study.machine.cores, 0.5 * study.machine.cores

    def with_load(used: float) -> Study:
        cells = [msgspec.structs.replace(cell, load={"cpu_cores": own, "machine_cores": used}) for cell in study.cells]
        return msgspec.structs.replace(study, cells=tuple(cells))

    assert busy_notes(with_load(own)) == []
    (note,) = busy_notes(with_load(own + others))
    assert f"up to {others:.1f} of" in note


def test_only_some_missing_cells_are_named(tmp_path: Path) -> None:
    study = msgspec.structs.replace(studied(tmp_path, Squares().draft(1)), missing=tuple(f"c{n}" for n in range(11)))
    assert missing_text(study) == "c0, c1, c2, c3, c4, c5, c6, c7, and 3 more"


def test_the_load_is_drawn_with_what_the_system_says(tmp_path: Path) -> None:
    study = studied(tmp_path, Squares().draft(1))
    ran = Telemetry(
        study.cells[0].begun_unix_s - 1, 0.5, {"cpu_cores": (1.0, None, 0.5, 0.2), "gpu_power_w@gpu0": (1.0,) * 4}
    )
    drawn = load_pictures(msgspec.structs.replace(study, telemetry=(ran,)), "x")
    assert [(each.title, [label for _, label in each.keys]) for each in drawn] == [
        ("Cores in use", ["the study"]), ("GPU power", ["power of gpu0"])
    ]  # fmt: skip
