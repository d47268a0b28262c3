"""The file of what sharing costs: found beside a profile, read strictly, stale where models have changed."""

from pathlib import Path

import pytest
from builders import MADE_BY, make_measured, make_profile
from msgspec.structs import replace

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.fleet import as_device
from proteus_cli.domain.interference import (
    SHARING_FORMAT,
    CostPoint,
    Interference,
    MeasuredVariant,
    SharingCost,
    VariantName,
)
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError
from proteus_cli.store import Workspace, write_json
from proteus_cli.store.sharing import read_sharing, sharing_digest, sharing_gaps, with_sharing, write_sharing

SMALL, LARGE = (replace(make_measured("f", name, 0.9, {1: 0.01}), engine_digest=name) for name in ("small", "large"))
PROFILE = make_profile("cpu0", SMALL, LARGE)
COST = SharingCost("f", "small", (VariantName("f", "large"),), (CostPoint(1, 9, 0.01, 1.2, 1.1, 1.3),))


def interference(*, emulated: bool = False) -> Interference:
    variants = tuple(MeasuredVariant(*each.key, sharing_digest(each)) for each in (SMALL, LARGE))
    return Interference(SHARING_FORMAT, MADE_BY, "cpu", "cpu0", emulated, variants, (COST,))


def test_what_was_written_is_read_for_the_device_and_for_those_that_are_like_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert read_sharing(workspace, PROFILE) is None
    write_json(workspace.profile_path("cpu0"), PROFILE)
    assert write_sharing(workspace, "cpu0", interference()) == tmp_path / "profiles" / "cpu0.sharing.json"
    for device in ("cpu0", "cpu1", "cpu0-3"):
        found = read_sharing(workspace, as_device(PROFILE, device))
        assert found is not None
        assert found.interference == interference()
        assert not found.stale
        assert found.model.factor(SMALL.key, [LARGE.key]) == 1.2
    assert list(workspace.profiles()) == ["cpu0"], "it is no profile of a device of that name"


def test_variants_that_changed_are_stale_and_nothing_of_them_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_sharing(workspace, "cpu0", interference())
    found = read_sharing(workspace, make_profile("cpu0", SMALL, replace(LARGE, engine_digest="another")))
    assert found is not None
    assert found.stale == (VariantKey("f", "large"),)
    assert found.interference.costs == ()
    gone = read_sharing(workspace, make_profile("cpu0", SMALL))
    assert gone is not None
    assert gone.stale == found.stale


def test_of_an_imported_profile_the_times_tell_whether_it_changed() -> None:
    imported = replace(SMALL, engine_digest="")
    assert sharing_digest(imported) == sharing_digest(imported)
    slower = replace(imported, points=make_measured("f", "small", 0.9, {1: 0.02}).points)
    assert sharing_digest(imported) != sharing_digest(slower)


def test_what_is_of_another_type_or_damaged_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = write_sharing(workspace, "cpu0", replace(interference(), device_type="v100"))
    with pytest.raises(ArtefactError, match="of type `v100`") as refused:
        read_sharing(workspace, PROFILE)
    assert "proteus study share --device cpu0" in refused.value.hint
    path.write_text('{"format": 1}')
    with pytest.raises(ArtefactError, match="not a valid"):
        read_sharing(workspace, PROFILE)


def test_what_an_emulated_device_was_told_never_replaces_what_was_measured(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_sharing(workspace, "cpu0", interference(emulated=True))
    path = write_sharing(workspace, "cpu0", interference())
    before = path.read_bytes()
    with pytest.raises(ArtefactError, match="measured on hardware"):
        write_sharing(workspace, "cpu0", interference(emulated=True))
    assert path.read_bytes() == before


def test_profiles_get_what_is_known_of_their_own_device_or_of_the_one_they_are_like(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    profiles = {device: as_device(PROFILE, device) for device in ("cpu0", "cpu1", "cpu2")}
    assert all(profile.sharing == () for profile in with_sharing(workspace, profiles).values())
    write_sharing(workspace, "cpu0", interference())
    write_sharing(workspace, "cpu1", replace(interference(), costs=()))
    found = with_sharing(workspace, profiles)
    assert [found[device].sharing for device in profiles] == [(COST,), (), (COST,)]
    assert found["cpu0"].sharing is not profiles["cpu0"].sharing


def test_what_a_plan_takes_to_be_free_is_said_with_the_command_that_measures_it(tmp_path: Path) -> None:
    workspace, both = Workspace(tmp_path), frozenset({SMALL.key, LARGE.key})

    def gaps(profile: Profile, hosted: frozenset[VariantKey] = both) -> list[str]:
        profiles = with_sharing(workspace, {device: as_device(profile, device) for device in ("cpu0", "cpu1")})
        return list(sharing_gaps(workspace, profiles, dict.fromkeys(profiles, hosted)))

    (unknown,) = gaps(PROFILE)
    assert unknown.startswith("large, small on a cpu: taken to cost each other no time")
    assert unknown.endswith("; measure it with `proteus study share --device cpu0 --variants large,small`")
    assert gaps(PROFILE, frozenset({SMALL.key})) == []
    assert gaps(PROFILE, frozenset({VariantKey("f", "small@2"), SMALL.key})) == [], "two versions of one variant"
    write_sharing(workspace, "cpu0", interference())
    assert len(gaps(PROFILE)) == 1, "what large costs beside small is not known"
    other = replace(COST, variant="large", beside=(VariantName("f", "small"),))
    write_sharing(workspace, "cpu0", replace(interference(), costs=(COST, other)))
    assert gaps(PROFILE) == []
    (stale,) = gaps(make_profile("cpu0", SMALL, replace(LARGE, engine_digest="another")))
    assert "not all of it was measured of the models that there are now" in stale


def test_costs_of_an_emulated_device_are_told_to_be_no_measurement(tmp_path: Path) -> None:
    workspace, other = Workspace(tmp_path), replace(COST, variant="large", beside=(VariantName("f", "small"),))
    write_sharing(workspace, "cpu0", replace(interference(emulated=True), costs=(COST, other)))
    profiles = with_sharing(workspace, {"cpu0": PROFILE})
    (made_up,) = sharing_gaps(workspace, profiles, {"cpu0": {SMALL.key, LARGE.key}})
    assert (
        "that of an emulated device, and was not measured; measure it with `proteus study share --device cpu0"
        in made_up
    )
    assert list(sharing_gaps(workspace, profiles, {"cpu0": {SMALL.key}})) == []


def test_a_set_is_free_by_measurement_only_where_it_was_measured_itself(tmp_path: Path) -> None:
    """That no two of three cost each other time does not tell that all three do not."""
    workspace, names = Workspace(tmp_path), ("small", "mid", "large")
    measured = [make_measured("f", name, 0.9, {1: 0.01}) for name in names]
    three = frozenset(each.key for each in measured)

    def cost(of: str, *others: str, ratio: float = 1.0) -> SharingCost:
        point = CostPoint(1, 10, 0.01, ratio, ratio, ratio)
        return SharingCost("f", of, tuple(VariantName("f", each) for each in others), (point,))

    def gaps(*costs: SharingCost) -> list[str]:
        variants = tuple(MeasuredVariant(*each.key, sharing_digest(each)) for each in measured)
        write_sharing(workspace, "cpu0", replace(interference(), variants=variants, costs=costs))
        profiles = with_sharing(workspace, {"cpu0": make_profile("cpu0", *measured)})
        return list(sharing_gaps(workspace, profiles, {"cpu0": three}))

    pairs = [cost(one, other) for one in names for other in names if one != other]
    (free,) = gaps(*pairs)
    assert "as no part of them does, and all together were not measured" in free
    assert " --variants large,mid,small --sets large+mid+small`" in free
    assert gaps(cost("small", "mid", ratio=1.5), *pairs[1:]) == [], "what all three cost follows from that"
    assert gaps(cost("small", "mid", "large"), cost("mid", "small", "large"), cost("large", "small", "mid")) == []


def test_what_several_plans_take_to_be_free_is_one_line_for_each_kind_of_device(tmp_path: Path) -> None:
    third = make_measured("f", "third", 0.9, {1: 0.01})
    profiles = with_sharing(Workspace(tmp_path), {"cpu0": make_profile("cpu0", SMALL, LARGE, third)})
    plans = [{"cpu0": {SMALL.key, LARGE.key}}, {"cpu0": {SMALL.key}}, {"cpu0": {SMALL.key, third.key}}]
    (line,) = sharing_gaps(Workspace(tmp_path), profiles, *plans)
    assert line.startswith("large, small, third on a cpu: ")
