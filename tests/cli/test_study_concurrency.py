"""`proteus study concurrency` from the command line: on an emulated device, and what it refuses."""

import pytest
from command_line import proteus
from tiny import Tiny

from proteus_cli.studies import concurrency as measuring

CALL = ("study", "concurrency", "--device", "cpu0", "--emulate")


def test_a_study_finds_the_knee_and_keeps_what_it_has_measured(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (measuring, "SAMPLE_S", 0.002), (measuring, "BATCHES", 1), (measuring, "USUAL_ROUNDS", 2),
        (measuring, "FEWEST_ENDS", 2),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    call = (*CALL, "--variants", "shapes-s", "--batch", "1", "-w", tiny.root)
    study = proteus(*call, "--json").document()
    (cell,) = study["cells"]
    assert (study["kind"], study["missing"], cell["mode"]) == ("concurrency", [], "emulated")
    result = cell["result"]
    assert [level["in_flight"] for level in result["knee"]["levels"]] == [1, 2, 3]
    assert len(result["samples"]) == 3 * measuring.USUAL_ROUNDS
    assert study["conclusion"] == {"slots": 1}
    files = sorted(path.suffix for path in (tiny.root / "studies").glob("concurrency-cpu0-emulated.*"))
    assert files == [".csv", ".html", ".json"]
    page = (tiny.root / "studies" / "concurrency-cpu0-emulated.html").read_text()
    assert "Emulated: devices waited" in page
    assert "Slots to use: 1 (a CPU device has one)." in page
    assert proteus(*call, "--json").document()["cells"] == study["cells"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--variants", "shapes-x"), "No variant `shapes-x`"),
        (("--device", "cpu7"), "cpu7"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny: Tiny, options: tuple[str, ...], problem: str) -> None:
    assert problem in proteus(*CALL, *options, "-w", tiny.root).refused()


def test_in_flight_is_a_number_from_two_on(tiny: Tiny) -> None:
    assert "--in-flight" in proteus(*CALL, "--in-flight", "1", "-w", tiny.root).misused()
