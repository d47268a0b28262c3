"""`proteus study share` from the command line: one document, three files, and what it refuses."""

import pytest
from command_line import proteus
from tiny import Tiny

from proteus_cli.studies import sharing_bench

SHARE = ("study", "share", "--device", "cpu0")


def test_a_study_is_one_document_and_three_files(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FEWEST_ROUNDS", 2), ("MAX_ROUNDS", 2), ("SHORTEST_SLICE_S", 0.01)):
        monkeypatch.setattr(sharing_bench, name, value)
    call = (*SHARE, "--variants", "shapes-s,tones-l", "-w", tiny.root)
    study = proteus(*call, "--json").document()
    assert (study["kind"], study["missing"], len(study["cells"])) == ("share", [], 2)
    assert {cell["mode"] for cell in study["cells"]} == {"measured"}
    assert sorted(path.suffix for path in (tiny.root / "studies").glob("share-cpu0.*")) == [".csv", ".html", ".json"]
    rows = (tiny.root / "studies" / "share-cpu0.csv").read_text().splitlines()
    assert "members.1.ratio" in rows[0]
    assert len(rows) == 1 + len(study["cells"])
    assert proteus(*call, "--json").document()["cells"] == study["cells"], "finished cells are kept"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--variants", "shapes-s"), "2 to 24 variants"),
        (("--variants", "shapes-s,shapes-x"), "No variant `shapes-x`"),
        (("--variants", "shapes-s,shapes-l", "--sets", "shapes-s+shapes-l+tones-l"), "`--sets` names `tones-l`"),
        (("--variants", "shapes-s,shapes-l", "--sets", ""), "No variant ``"),
        (("--variants", "shapes-s,shapes-l,tones-l", "--sets", "shapes-s+shapes-l+tones-l,"), "No variant ``"),
        (("--device", "cpu7"), "cpu7"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny: Tiny, options: tuple[str, ...], problem: str) -> None:
    assert problem in proteus(*SHARE, *options, "-w", tiny.root).refused()
