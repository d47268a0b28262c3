"""``proteus study``: a study is measured once, written, shown and joined with others; nonsense is refused."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from command_line import files, proteus
from ports import held_port
from tiny import Tiny, add_plan

from proteus_cli import store
from proteus_cli.cli.study import all_studies, concurrency, cost, peak, share, startup
from proteus_cli.studies.budget import Budget

PEAK = ("study", "peak", "--family=shapes", "--variant=shapes-l", "--mode=simulated", "--jitter=none")
NAME = "peak-shapes-cpu0-shapes-l-simulated"
QUICK = ("--max-violations=20%", "--percentile=p80", "--precision=20%")


def test_a_peak_is_measured_once_and_joined_in_a_page(tiny: Tiny) -> None:
    state = tiny.root / "state"
    there = ("-w", str(tiny.root), "--state", str(state))
    study = proteus(*PEAK, *QUICK, "--json", *there).document()
    (cell,) = study["cells"]
    assert cell["key"] == "shapes-l on cpu0, greedy"
    assert (cell["mode"], study["missing"], study["options"]["allowed_frac"]) == ("simulated", [], 0.2)
    assert cell["result"]["low_qps"] < cell["result"]["rate_qps"] < cell["result"]["high_qps"]
    written = sorted(path.name for path in (state / "studies").iterdir())
    assert written == [f"{NAME}.csv", f"{NAME}.html", f"{NAME}.json"]
    again = proteus(*PEAK, *QUICK, "--batching=greedy,greedy", *there)
    kept = json.loads((state / "studies" / f"{NAME}.json").read_text(encoding="utf-8"))
    assert kept["cells"] == [cell]  # not measured again
    assert "shapes-l on cpu0, greedy: " in again.stdout
    with (state / "studies" / f"{NAME}.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["rate_qps"]) == cell["result"]["rate_qps"]
    page = tiny.root / "page.html"
    assert proteus("study", "report", NAME, "-o", page, *there).code == 0
    assert "shapes-l on cpu0, greedy" in page.read_text(encoding="utf-8")
    assert "mathdefault" not in page.read_text(encoding="utf-8")  # as Matplotlib writes unlabelled ticks
    assert proteus("study", "report", "other", *there).refused().startswith("No study `other`")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((), "Which family"),
        (("--family=nobody",), "No family `nobody`"),
        (("--family=shapes", "--variant=shapes-x"), "`shapes-x` of `shapes` has no profile"),
        (("--family=shapes", "--variant=shapes-s,shapes-l"), "`shapes-s,shapes-l` is a list"),
        (("--family=shapes", "--device=cpu7"), "No profile of `cpu7`"),
        (("--family=shapes", "--device="), "No profile of ``"),
        (("--family=shapes", "--slo=5ms"), "`--slo` is for servers"),
        (("--family=shapes", "--url=http://127.0.0.1:9", "--device=cpu0"), "`--device` makes no sense with `--url`"),
        (("--family=shapes", "--batching=eager"), "No batching `eager`"),
        (("--family=shapes", "--batching=static-٣"), "No batching `static-٣`"),
        (("--family=shapes", "--jitter=p50"), "No jitter `p50`"),
        (("--family=shapes", "--jitter="), "No jitter ``"),
        (("--family=shapes", "--name=../x"), "`../x` is no name"),
        (("plan", "--device=cpu0"), "`--device` makes no sense with a plan"),
        (("plan", "--family=tones"), "The plan serves no `tones`"),
        (("--family=shapes", "--percentile=99"), "`99` is no percentile"),
        (("--family=shapes", "--percentile=p99.99999999999999"), "is no percentile"),
        (("--family=shapes", "--percentile=p1_0"), "`p1_0` is no percentile"),
        (("--family=shapes", "--percentile=p 99"), "`p 99` is no percentile"),
    ],
    ids=str,
)
def test_a_peak_that_makes_no_sense_is_refused(tiny: Tiny, given: tuple[str, ...], problem: str) -> None:
    add_plan(tiny, {"cpu0": "shapes-s"})
    before = files(tiny.root)
    assert problem in proteus("study", "peak", "--mode=simulated", *given, "-w", tiny.root).refused()
    assert files(tiny.root) == before


def test_a_variant_that_is_named_twice_is_the_same_study_as_named_once(tiny: Tiny) -> None:
    study = proteus(*PEAK, "--variant=shapes-l", *QUICK, "--json", "-w", tiny.root).document()
    assert study["name"] == NAME


def test_a_device_without_a_profile_is_told_which_have_one(tiny: Tiny) -> None:
    ended = proteus("study", "concurrency", "--device=cpu7", "-w", tiny.root)
    assert ended.refused() == f"No profile of `cpu7` in `{tiny.place.profiles_dir}`."
    assert "there are: cpu0, cpu1; `proteus profile --device ID` measures others" in ended.stderr


def test_a_server_that_is_not_there_costs_no_result(tiny: Tiny) -> None:
    """What an earlier run has found of the server stays."""
    before = files(tiny.root)
    with held_port() as port:
        url = f"http://127.0.0.1:{port}"
        for given in ((), ("--budget=1s",), ("--slo=50ms",)):
            refusal = proteus("study", "peak", "--family=shapes", "--url", url, *given, "-w", tiny.root).refused(1)
            assert refusal == f"Can't reach the server at `{url}`: Connection refused."
    assert files(tiny.root) == before


def test_no_answer_can_be_within_an_slo_of_no_time(tiny: Tiny) -> None:
    asked = ("study", "peak", "--family=shapes", "--url=http://127.0.0.1:9", "--slo=0s")
    assert proteus(*asked, "-w", tiny.root).refused() == "An SLO is longer than `--slo 0s`."


def test_there_is_nothing_to_report_before_anything_was_measured(tiny: Tiny) -> None:
    assert proteus("study", "report", "-w", tiny.root).refused().startswith("No studies in")


@pytest.mark.parametrize(
    "command",
    [
        partial(concurrency.concurrency, device="cpu0"),
        partial(cost.cost, traffic=Path("t.csv")),
        partial(peak.peak, None, percentile=0.99, precision=0.02),  # type: ignore[arg-type]
        partial(share.share, device="cpu0"),
        startup.startup,
        all_studies.all_studies,
    ],
)
def test_a_budget_begins_before_the_study_is_drafted(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the plans, devices and servers that a draft needs would come on top."""
    begun = list[float | None]()

    def reads_workspace(*_given: object) -> None:
        raise LookupError

    monkeypatch.setattr(Budget, "of", begun.append)
    monkeypatch.setattr(store, "Workspace", reads_workspace)
    with pytest.raises(LookupError):
        command(budget=60.0)
    assert begun == [60.0]
