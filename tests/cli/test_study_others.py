"""`proteus study all`, `cost` and `startup` from the command line, with little to measure."""

from functools import partial
from pathlib import Path

import pytest
from command_line import proteus
from tiny import Tiny

from proteus_cli.studies import kinds
from proteus_cli.studies.results import ProcessStart
from proteus_cli.studies.startup import starts as startup_starts
from proteus_cli.studies.startup.starts import startup

TRAFFIC = "arrival_s,family\n" + "".join(f"{n / 10:.2f},{'shapes' if n % 2 else 'tones'}\n" for n in range(100))
PRICE = "--price=cpu-1c=0.1/h"


@pytest.fixture
def traffic(tiny: Tiny) -> Path:
    path = tiny.root / "t.csv"
    path.write_text(TRAFFIC)
    return path


def test_costs_are_found_for_dedicated_and_shared_devices(tiny: Tiny, traffic: Path) -> None:
    call = ("study", "cost", "--traffic", traffic, PRICE, "--fleet=cpu-1c:3", "-w", tiny.root)
    study = proteus(*call, "--json").document()
    assert [cell["key"] for cell in study["cells"]] == ["cpu-1c, dedicated", "cpu-1c, shared"]
    assert {cell["mode"] for cell in study["cells"]} == {"simulated"}
    dedicated, shared = (cell["result"]["cost_per_million"] for cell in study["cells"])
    assert shared < dedicated
    assert proteus(*call, "--json").document()["cells"] == study["cells"], "finished cells are kept"


def test_costs_need_prices_and_a_jitter_that_there_is(tiny: Tiny, traffic: Path) -> None:
    call = ("study", "cost", "--traffic", traffic, "-w", tiny.root)
    assert "No price per hour is known of `cpu-1c`" in proteus(*call).refused()
    assert "No jitter `p50`" in proteus(*call, PRICE, "--jitter=p50").refused()


def test_devices_that_take_forever_are_no_headroom(tiny: Tiny, traffic: Path) -> None:
    said = proteus("study", "cost", "--traffic", traffic, PRICE, "--headroom=inf", "-w", tiny.root).misused()
    assert "Invalid value for '--headroom'" in said


def test_starts_are_told_with_their_distribution(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes half a second here, without a process."""
    measured = partial(startup, once=lambda _subject: ProcessStart(0.1, 0.2, 0.3, 0.5), evicting=None)
    monkeypatch.setattr(startup_starts, "startup", measured)
    call = ("study", "startup", "--variant=shapes-s", "--device=cpu0", "--runs=3", "-w", tiny.root)
    (cell,) = proteus(*call, "--json").document()["cells"]
    assert cell["key"] == "shapes-s on cpu0"
    assert (cell["result"]["warm"]["p50_s"], cell["result"]["cold"]) == (0.5, None)
    assert "shapes-s on cpu0" in proteus(*call).stdout
    assert "No variant `shapes-x`" in proteus("study", "startup", "--variant=shapes-x", "-w", tiny.root).refused()
    for option in ("--variant=shapes-s,shapes-l", "--family=shapes,tones"):
        said = proteus("study", "startup", option, "-w", tiny.root).refused()
        assert said == f"`{option.partition('=')[2]}` is a list, and this option takes one name."


@pytest.fixture
def only_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`proteus study all` knows no other kind of study."""
    monkeypatch.setattr(kinds, "KINDS", tuple(kind for kind in kinds.KINDS if kind.name == "cost"))


@pytest.mark.usefixtures("only_costs")
def test_all_studies_have_costs_where_the_traffic_is_given(tiny: Tiny, traffic: Path) -> None:
    page, given = tiny.root / "all.html", ("--traffic", traffic, PRICE)
    (study,) = proteus("study", "all", *given, "-o", page, "--json", "-w", tiny.root).document()
    assert study["kind"] == "cost"
    assert study["missing"] == []
    assert '<span class="whole">cpu-1c</span>, dedicated' in page.read_text(encoding="utf-8")
    alone = proteus("study", "cost", *given, "--json", "-w", tiny.root).document()
    assert alone["cells"] == study["cells"], "it is the same study, so that nothing is measured again"


@pytest.mark.usefixtures("only_costs")
def test_without_a_traffic_costs_are_left_out_and_prices_make_no_sense(tiny: Tiny, traffic: Path) -> None:
    alone = proteus("study", "all", "-w", tiny.root)
    assert "cost is left out: which traffic is to be served is not known" in alone.stderr
    assert (alone.code, "error: No study makes sense here." in alone.stderr) == (2, True)
    assert "`--price` is for the costs" in proteus("study", "all", PRICE, "-w", tiny.root).refused()
    no_price = proteus("study", "all", "--traffic", traffic, "-w", tiny.root)
    assert no_price.refused().startswith("No price per hour is known of `cpu-1c`")


@pytest.mark.usefixtures("only_costs")
def test_nothing_is_measured_for_a_page_that_cannot_be_one(tiny: Tiny, traffic: Path) -> None:
    given = ("--traffic", traffic, PRICE, "-w", tiny.root)
    assert "is a directory" in proteus("study", "all", *given, "-o", tiny.root).misused()
    assert proteus("study", "report", "-w", tiny.root).refused().startswith("No studies in")
