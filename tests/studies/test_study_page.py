"""The page of studies stands alone, and says what was found, how, and what is missing."""

from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from matplotlib.axes import Axes
from studies.fake_study import Square, Squares
from studies.test_study_runs import studied

from proteus_cli.errors import ServerError
from proteus_cli.studies.pages.page import busy_notes, load_pictures, missing_text, page
from proteus_cli.studies.pages.section import Section, StudyTable
from proteus_cli.studies.study import MEASURES, Study, Telemetry


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
    own, others = 0.4 * study.machine.cores, 0.5 * study.machine.cores

    def with_load(used: float) -> Study:
        load = {"cpu_cores": own, "machine_cores": used}
        cells = [msgspec.structs.replace(cell, took_s=60.0, load=load) for cell in study.cells]
        return msgspec.structs.replace(study, cells=tuple(cells))

    assert busy_notes(with_load(own)) == []
    (note,) = busy_notes(with_load(own + others))
    assert f"up to {others:.1f} of" in note


def test_cells_too_short_to_tell_and_failed_ones_are_no_busy_machine(tmp_path: Path) -> None:
    study = studied(tmp_path, Squares().draft(1))
    busy = msgspec.structs.replace(study.cells[0], took_s=60.0, load={"cpu_cores": 0.0, "machine_cores": 10.9})
    (note,) = busy_notes(msgspec.structs.replace(study, cells=(busy,)))
    assert f"up to {study.machine.cores:.1f} of" in note
    short, failed = msgspec.structs.replace(busy, took_s=0.1), msgspec.structs.replace(busy, failed="no server")
    for cell in (short, failed):
        assert busy_notes(msgspec.structs.replace(study, cells=(cell,))) == []


def test_an_error_and_its_hint_are_two_sentences() -> None:
    assert ServerError("Connection refused.", hint="is it running?").sentences == "Connection refused. Is it running?"
    assert ServerError("Connection refused.").sentences == "Connection refused."


def test_only_some_missing_cells_are_named(tmp_path: Path) -> None:
    study = msgspec.structs.replace(studied(tmp_path, Squares().draft(1)), missing=tuple(f"c{n}" for n in range(11)))
    assert missing_text(study) == "c0; c1; c2; c3; c4; c5; c6; c7; and 3 more"


def test_the_load_is_drawn_with_what_the_system_says(tmp_path: Path) -> None:
    study = studied(tmp_path, Squares().draft(1))
    ran = Telemetry(
        study.cells[0].begun_unix_s - 1, 0.5, {"cpu_cores": (1.0, None, 0.5, 0.2), "gpu_power_w@gpu0": (1.0,) * 4}
    )
    drawn = load_pictures(msgspec.structs.replace(study, telemetry=(ran,)), "x")
    assert [(each.title, [label for _, label in each.keys]) for each in drawn] == [
        ("Cores in use", ["the study"]), ("GPU power", ["power of gpu0"])
    ]  # fmt: skip


def named(measure: str) -> str:
    """As a sample has it."""
    return f"{measure}@gpu0" if measure.startswith("gpu") else measure


def test_all_that_is_sampled_is_shown(tmp_path: Path) -> None:
    study = studied(tmp_path, Squares().draft(1))
    begun_unix_s = study.cells[0].begun_unix_s - 1
    drawn = [
        load_pictures(msgspec.structs.replace(study, telemetry=(Telemetry(begun_unix_s, 0.5, {of: (1.0,) * 4}),)), "x")
        for of in map(named, MEASURES)
    ]
    assert [len(pictures) for pictures in drawn] == [1] * len(MEASURES)


def test_the_table_of_cells_has_heat_and_gpus(tmp_path: Path) -> None:
    study = studied(tmp_path, Squares().draft(1))
    load = {"throttles": 0.25, "gpu_memory_bytes@gpu0": 3 * 2.0**20, "gpu_busy_frac@gpu0": 0.5, "mhz": 2000.0}
    (cell,) = (msgspec.structs.replace(cell, load=load) for cell in study.cells)
    html = page([msgspec.structs.replace(study, cells=(cell,), telemetry=())], {"squares": section})
    for text in (
        "slowed by heat (/s)",
        "gpu0 memory (MiB)",
        "gpu0 use (%)",
        "<td>0.25</td>",
        "<td>3</td>",
        "<td>50</td>",
    ):
        assert text in html


def test_earlier_runs_of_a_study_stay_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their cells, and without the time between the runs."""
    study = studied(tmp_path, Squares().draft(1, 2))
    cells = [
        msgspec.structs.replace(cell, begun_unix_s=at, took_s=1.0)
        for cell, at in zip(study.cells, (101.0, 5001.0), strict=True)
    ]
    runs = (Telemetry(100.0, 0.5, {"mhz": (1.0,) * 4}), Telemetry(5000.0, 0.5, {"cpu_cores": (1.0,) * 4}))
    drawn = load_pictures(msgspec.structs.replace(study, cells=tuple(cells), telemetry=runs), "x")
    assert [each.title for each in drawn] == ["Cores in use", "Clock of the cores"]
    assert all("Dashed: here the study went on" in each.about for each in drawn)
    spans, times_s = list[tuple[float, float]](), list[list[float]]()
    monkeypatch.setattr(Axes, "axvspan", lambda _axes, begun_s, ended_s, **_: spans.append((begun_s, ended_s)))
    monkeypatch.setattr(Axes, "plot", lambda _axes, at_s, _values, **_: times_s.append(at_s))
    load_pictures(msgspec.structs.replace(study, cells=tuple(cells), telemetry=runs), "x")
    assert set(spans) == {(1.0, 2.0)}, "every other cell is shaded"
    assert [each for each in times_s if each] == [[2.5, 3.0, 3.5, 4.0], [0.5, 1.0, 1.5, 2.0]]
