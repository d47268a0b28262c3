"""A study of sharing, from the question to the file that plans read: emulated, so that the answer is known."""

import math
import time

import msgspec
import pytest
from builders import MADE_BY
from studies.test_study_page import _Tags
from studies.test_study_runs import studied
from tiny import Tiny

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.interference import (
    CostPoint,
    Interference,
    MeasuredVariant,
    SharingCost,
    SharingModel,
    VariantName,
    Where,
)
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import Workspace, write_json
from proteus_cli.store.sharing import read_sharing, sharing_digest, sharing_gaps, with_sharing, write_sharing
from proteus_cli.studies.frame import StudyDraft
from proteus_cli.studies.pages.page import page
from proteus_cli.studies.pages.sharing import section
from proteus_cli.studies.results import Served, SharingConclusion, SharingMember, SharingResult
from proteus_cli.studies.sharing.cells import SharingQuestion
from proteus_cli.studies.sharing.drafting import share_draft, workspace_draft
from proteus_cli.studies.study import Cell, Study

SMALL, MIDDLE, LARGE = (VariantKey("shapes", f"shapes-{size}") for size in "sml")
OF_ALL = (SMALL, MIDDLE, LARGE)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated devices wait for as long as a slice is."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


def cost(of: VariantKey, *beside: VariantKey, ratio: float) -> SharingCost:
    point = CostPoint(1, 9, 0.01, ratio, ratio, ratio)
    return SharingCost(*of, "device", tuple(VariantName(*each) for each in beside), (point,))


def write_costs(workspace: Workspace, *costs: SharingCost, emulated: bool = True) -> None:
    profile = workspace.profile("cpu0")
    measured = [each for each in profile.variants if each.key in OF_ALL]
    variants = tuple(MeasuredVariant(*each.key, sharing_digest(each)) for each in measured)
    found = Interference(1, MADE_BY, profile.device.type, "cpu0", emulated, variants, costs)
    write_sharing(workspace, "cpu0", found)


def draft(tiny: Tiny, *variants: VariantKey, loads: tuple[float, ...] = (1.0,)) -> StudyDraft:
    return share_draft(tiny.place, SharingQuestion("cpu0", variants, loads, emulated=True))


def results(study: Study) -> dict[str, SharingResult]:
    return {cell.key: cell.read(SharingResult) for cell in study.good}


def model(workspace: Workspace) -> SharingModel:
    found = read_sharing(workspace, workspace.profile("cpu0"))
    assert found is not None
    return found.model


def test_an_emulated_study_finds_the_costs_that_its_devices_were_told(tiny: Tiny) -> None:
    write_costs(tiny.place, cost(SMALL, LARGE, ratio=1.5), cost(SMALL, MIDDLE, ratio=1.2))
    study = studied(tiny.root, draft(tiny, *OF_ALL))
    assert {cell.mode for cell in study.cells} == {"emulated"}
    found = model(tiny.place)
    assert found.factor(SMALL, [LARGE]) == pytest.approx(1.5)
    assert found.factor(SMALL, [MIDDLE, LARGE]) == pytest.approx(1.5)
    assert found.factor(LARGE, [SMALL]) == found.factor(SMALL, [SMALL], where="neighbour") == 1
    checks = msgspec.convert(study.conclusion, SharingConclusion).checks
    assert [check.error_frac for check in checks] == pytest.approx([0.0] * 2)


def test_below_full_load_latencies_have_the_waiting_and_nothing_is_written(tiny: Tiny) -> None:
    study = studied(tiny.root, draft(tiny, SMALL, LARGE, loads=(0.9,)))
    assert study.conclusion["sharing_file"] == ""
    assert not tiny.place.sharing_path("cpu0").exists()
    (on_device,) = (found for found in results(study).values() if found.where == "device")
    alone, together = on_device.members[0].alone, on_device.members[0].together
    assert alone.p99_s > on_device.members[0].batch_s
    assert together.p99_s > alone.p99_s, "a short batch waits for long ones"


def test_what_was_measured_is_not_replaced_by_an_emulated_study(tiny: Tiny) -> None:
    write_costs(tiny.place, cost(SMALL, LARGE, ratio=1.5), emulated=False)
    before = tiny.place.sharing_path("cpu0").read_bytes()
    study = studied(tiny.root, draft(tiny, SMALL, LARGE))
    assert study.conclusion["sharing_file"] == ""
    assert tiny.place.sharing_path("cpu0").read_bytes() == before


def measured_cell(where: Where, ratio: float, high: float | None = None) -> Cell:
    """What a study might find of devices that are here."""
    served = Served(10, 100.0, 0.01, 0.01, 0.01, 0.01)
    interval = (ratio, ratio, high or ratio)
    members = tuple(SharingMember(*key, "cpu0", 1, 0.01, served, served, *interval) for key in (SMALL, LARGE))
    result = msgspec.to_builtins(SharingResult(where, 1.0, 8, False, members))
    return Cell(where, "measured", 0.0, 1.0, result)


def test_a_measured_study_keeps_what_was_found_of_others_and_since(tiny: Tiny) -> None:
    write_costs(tiny.place, cost(SMALL, MIDDLE, ratio=1.2), emulated=False)
    drafted = share_draft(tiny.place, SharingQuestion("cpu0", (SMALL, LARGE), (1.0,)))
    old = measured_cell("device", 1.3)
    drafted.keep({old.key: old}, old)
    assert model(tiny.place).factor(SMALL, [MIDDLE]) == 1.2
    assert model(tiny.place).factor(SMALL, [LARGE]) == 1.3
    write_costs(tiny.place, cost(SMALL, LARGE, ratio=1.7), emulated=False)
    before = tiny.place.sharing_path("cpu0").read_bytes()
    conclusion = drafted.conclude({old.key: old})
    assert isinstance(conclusion, SharingConclusion)
    assert conclusion.sharing_file == "profiles/cpu0.sharing.json"
    assert tiny.place.sharing_path("cpu0").read_bytes() == before, "an estimate writes nothing"
    new = measured_cell("neighbour", 1.1)
    drafted.keep({old.key: old, new.key: new}, new)
    assert model(tiny.place).factor(SMALL, [LARGE]) == 1.7, "it is newer than the cell of an earlier run"
    assert model(tiny.place).factor(LARGE, [SMALL]) == 1.3, "nobody has measured it since"
    assert model(tiny.place).factor(SMALL, [LARGE], where="neighbour") == 1.1


def test_an_emulated_study_writes_nothing_of_which_nothing_was_known(tiny: Tiny) -> None:
    studied(tiny.root, draft(tiny, SMALL, LARGE))
    assert not tiny.place.sharing_path("cpu0").exists()
    profiles = with_sharing(tiny.place, tiny.place.profiles())
    assert list(sharing_gaps(tiny.place, profiles, {"cpu0": [SMALL, LARGE]}))


def test_emulated_cells_are_emulated_anew_with_another_profile_or_other_costs(tiny: Tiny) -> None:
    inputs = [draft(tiny, SMALL, LARGE).inputs]
    write_costs(tiny.place, cost(SMALL, LARGE, ratio=1.5))
    inputs.append(draft(tiny, SMALL, LARGE).inputs)
    profile = tiny.place.profile("cpu0")
    write_json(tiny.place.profile_path("cpu0"), msgspec.structs.replace(profile, variants=profile.variants[:3]))
    inputs += [draft(tiny, SMALL, LARGE).inputs] * 2
    assert [inputs[1] == inputs[0], inputs[2] == inputs[1], inputs[3] == inputs[2]] == [False, False, True]


def test_the_page_says_what_is_costly_and_stands_alone(tiny: Tiny) -> None:
    write_costs(tiny.place, cost(SMALL, LARGE, ratio=1.5))
    study = studied(tiny.root, draft(tiny, SMALL, LARGE, loads=(0.5, 1.0)))
    found = section(study)
    assert "shapes-s ×1 takes 1.50 times as long beside shapes-l ×1" in found.findings[0]
    assert "no cost is proven" in found.findings[1]
    assert found.pictures[0].title == "Sharing one device, small batches"
    html = page([study], {"share": lambda _study: found})
    tags = _Tags()
    tags.feed(html)
    assert (tags.open, tags.fetched) == ([], [])


def test_a_ratio_above_1_by_rounding_is_a_cost_neither_on_the_page_nor_in_the_file(tiny: Tiny) -> None:
    drafted = share_draft(tiny.place, SharingQuestion("cpu0", (SMALL, LARGE), (1.0,)))
    ratio = math.nextafter(1.0, 2.0)
    cell = measured_cell("device", ratio, high=math.nextafter(ratio, 2.0))
    drafted.keep({cell.key: cell}, cell)
    assert model(tiny.place).is_free([SMALL, LARGE])
    study = msgspec.structs.replace(studied(tiny.root, draft(tiny, SMALL, LARGE)), cells=(cell,))
    assert section(study).findings[0] == "On the same device, no cost is proven in 2 cases."


def test_a_question_without_sense_is_refused(tiny: Tiny) -> None:
    for variants, sets, problem in (
        ((SMALL,), (), "2 to 24 variants"),
        ((SMALL, SMALL), (), "named twice"),
        ((SMALL, LARGE), ((SMALL, MIDDLE, LARGE),), "`--sets` names `shapes-m`"),
    ):
        with pytest.raises(UsageError, match=problem):
            SharingQuestion("cpu0", variants, (1.0,), sets)
    with pytest.raises(ArtefactError, match="has no times in the profile"):
        draft(tiny, SMALL, VariantKey("shapes", "shapes-xl"))


def test_of_a_whole_workspace_the_fastest_the_slowest_and_one_between_are_studied(tiny: Tiny) -> None:
    drafted = workspace_draft(tiny.place)
    assert isinstance(drafted, StudyDraft)
    assert str(drafted.options["variants"]).count(",") == 2
    assert drafted.name == "share-cpu0"


def test_a_model_that_was_not_profiled_is_not_measured(tiny: Tiny) -> None:
    tiny.model("shapes-s").write_bytes(tiny.model("shapes-l").read_bytes())
    with pytest.raises(ArtefactError, match="another"):
        share_draft(tiny.place, SharingQuestion("cpu0", (SMALL, LARGE), (1.0,)))


def test_a_damaged_file_is_replaced_by_what_is_measured(tiny: Tiny) -> None:
    drafted = share_draft(tiny.place, SharingQuestion("cpu0", (SMALL, LARGE), (1.0,)))
    tiny.place.sharing_path("cpu0").write_text("{}")
    found = measured_cell("device", 1.3)
    drafted.keep({found.key: found}, found)
    assert model(tiny.place).factor(SMALL, [LARGE]) == 1.3
    assert drafted.name == "share-cpu0"


def test_many_variants_are_studied_where_plans_count_with_it(tiny: Tiny) -> None:
    keys = (*OF_ALL, VariantKey("tones", "tones-s"), VariantKey("tones", "tones-l"))
    drafted = share_draft(tiny.place, SharingQuestion("cpu0", keys, (1.0,), where=("device",), emulated=True))
    assert len({job.key for job in drafted.jobs}) == len(drafted.jobs)
    assert all(job.key.startswith("device") and job.key.count("+") == 1 for job in drafted.jobs), "pairs only"


@pytest.mark.parametrize("is_damaged", [True, False], ids=["damaged", "of another type"])
def test_that_a_file_is_replaced_which_cannot_be_used_is_said_before(tiny: Tiny, *, is_damaged: bool) -> None:
    question, path = SharingQuestion("cpu0", (SMALL, LARGE), (1.0,)), tiny.place.sharing_path("cpu0")
    assert share_draft(tiny.place, question).notes == ()
    write_costs(tiny.place, cost(SMALL, MIDDLE, ratio=1.2), emulated=False)
    assert share_draft(tiny.place, question).notes == ()
    text = path.read_text().replace('"device_type": "cpu-1c"', '"device_type": "v100"')
    path.write_text("{" if is_damaged else text)
    (note,) = share_draft(tiny.place, question).notes
    assert note.startswith(f"`{path}`")
    assert note.endswith("What is measured now replaces it, and what it knew of other variants is lost.")
    measured = measured_cell("device", 1.3)
    share_draft(tiny.place, question).keep({measured.key: measured}, measured)
    assert share_draft(tiny.place, question).notes == ()
