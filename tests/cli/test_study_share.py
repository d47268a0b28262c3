"""`proteus study share` from the command line: on an emulated device, and what it refuses."""

import time

import pytest
from command_line import proteus
from tiny import Tiny

from proteus_cli.cli.study.share import parse_loads

SHARE = ("study", "share", "--device", "cpu0", "--emulate")


def test_a_study_is_one_document_and_three_files(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    call = (*SHARE, "--variants", "shapes-s,tones-l", "--load", "100%", "-w", tiny.root)
    study = proteus(*call, "--json").document()
    assert study["kind"] == "share"
    assert {cell["mode"] for cell in study["cells"]} == {"emulated"}
    assert study["missing"] == []
    assert sorted(path.suffix for path in (tiny.root / "studies").glob("share-cpu0-emulated.*")) == [
        ".csv", ".html", ".json"
    ]  # fmt: skip
    rows = (tiny.root / "studies" / "share-cpu0-emulated.csv").read_text().splitlines()
    assert "members.1.ratio" in rows[0]
    assert len(rows) == 1 + len(study["cells"])
    again = proteus(*call, "--json").document()
    assert again["cells"] == study["cells"], "finished cells are kept"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--variants", "shapes-s"), "2 to 24 variants"),
        (("--variants", "shapes-s,shapes-x"), "No variant `shapes-x`"),
        (("--variants", "shapes-s,shapes-l", "--sets", "shapes-s+shapes-l+tones-l"), "`--sets` names `tones-l`"),
        (("--variants", "shapes-s,shapes-l", "--sets", ""), "No variant ``"),
        (("--variants", "shapes-s,shapes-l,tones-l", "--sets", "shapes-s+shapes-l+tones-l,"), "No variant ``"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny: Tiny, options: tuple[str, ...], problem: str) -> None:
    assert problem in proteus(*SHARE, *options, "-w", tiny.root).refused()


def test_a_load_is_a_share(tiny: Tiny) -> None:
    assert "`120%`" in proteus(*SHARE, "--load", "50%,120%", "-w", tiny.root).misused()


@pytest.mark.parametrize("text", ["1", "1.0", "100%", "100.0%"])
def test_a_full_load_is_a_share_however_it_is_written(text: str) -> None:
    assert parse_loads(f"0.5, {text}") == {0.5, 1.0}


def test_a_device_that_was_not_profiled_is_refused(tiny: Tiny) -> None:
    assert "cpu7" in proteus("study", "share", "--device", "cpu7", "-w", tiny.root).refused()
