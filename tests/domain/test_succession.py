"""What is known of a device when the catalog changes."""

import msgspec
from builders import make_measured, make_profile

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import LiveAccuracyRecord, Profile, Recorded, VariantProfile
from proteus_cli.domain.profile_changes import (
    as_recorded,
    in_catalog_names,
    succeeding_profile,
    with_missing,
    without_variants,
)
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile

POINT = CascadePoint(0.5, 0.5, 0.85, 0.8, 0.9, 0.9, 0.5, 0.8)


def measured(name: str, seconds: float = 0.01, engine: str = "e") -> VariantProfile:
    return msgspec.structs.replace(make_measured("a", name, 0.8, {1: seconds}), engine_digest=engine)


def profile(*variants: VariantProfile, cascades: tuple[tuple[str, str], ...] = ()) -> Profile:
    made = make_profile("cpu0", *variants)
    found = tuple(CascadeProfile("a", first, second, "d", (POINT,)) for first, second in cascades)
    return msgspec.structs.replace(made, cascades=found)


def names(**served: str) -> dict[VariantKey, str]:
    return {VariantKey("a", plain): name for plain, name in served.items()}


def mean_s(of: Profile, name: str) -> float:
    found = of.of("a", name)
    assert found is not None
    return found.points[0].mean_s


def test_what_was_measured_anew_has_its_name_here_and_what_retires_stays() -> None:
    before = profile(measured("s"), measured("m", 0.02), cascades=(("s", "m"),))
    now = profile(measured("s", 0.011), measured("m", 0.03, "f"), cascades=(("s", "m"),))
    after = succeeding_profile(before, now, names(s="s", m="m@2"))
    assert [each.variant for each in after.variants] == ["s", "m@2", "m"]
    assert [(each.first, each.second) for each in after.cascades] == [("s", "m@2"), ("s", "m")]
    assert (mean_s(after, "s"), mean_s(after, "m@2"), mean_s(after, "m")) == (0.011, 0.03, 0.02)
    assert without_variants(after, {VariantKey("a", "m")}) == msgspec.structs.replace(
        after, variants=after.variants[:2], cascades=after.cascades[:1]
    )


def test_a_variant_that_was_not_measured_anew_is_not_known_by_its_new_name() -> None:
    after = succeeding_profile(profile(measured("s"), measured("m")), profile(measured("s")), names(s="s", m="m@2"))
    assert [each.variant for each in after.variants] == ["s", "m"]


def test_a_file_gets_what_it_did_not_tell_and_keeps_what_was_measured_of_the_same_models() -> None:
    file = profile(measured("s"), measured("m"), measured("old"), cascades=(("s", "m"), ("s", "old")))
    now = profile(measured("s", 0.5), measured("m", 0.03, "f"), measured("l"), cascades=(("s", "m"), ("m", "l")))
    after = with_missing(file, now)
    assert {each.variant: mean_s(after, each.variant) for each in after.variants} == {
        "s": 0.01, "m": 0.03, "l": 0.01, "old": 0.01,
    }  # fmt: skip
    assert {(each.first, each.second) for each in after.cascades} == {("s", "m"), ("m", "l"), ("s", "old")}
    assert after.of("a", "m") == now.of("a", "m")
    assert with_missing(after, now) == after


def test_a_file_gets_the_times_of_a_variant_that_there_was_no_time_for_before() -> None:
    """It was loaded then, and no batch was measured."""
    now = profile(measured("s"), measured("m", 0.03))
    file = profile(measured("s"), msgspec.structs.replace(measured("m", 0.03), points=()))
    assert with_missing(file, now) == now


def test_the_network_knows_the_rows_of_new_families() -> None:
    before = msgspec.structs.replace(profile(measured("s")), network=Network(0.01, 1e9, {"a": 4}))
    now = msgspec.structs.replace(before, network=Network(0.01, 1e9, {"a": 4, "b": 8}))
    assert succeeding_profile(before, now, names(s="s")).network == with_missing(before, now).network == now.network
    without = msgspec.structs.replace(before, network=None)
    assert succeeding_profile(before, without, names(s="s")).network == with_missing(before, without).network
    assert with_missing(before, without).network == before.network


def test_plans_count_on_the_last_accuracy_that_any_profile_has_of_a_variant() -> None:
    def live(accuracy: float, day: int) -> LiveAccuracyRecord:
        return LiveAccuracyRecord(f"2026-01-0{day}T00:00:00+00:00", 100, accuracy, accuracy, accuracy)

    old = profile(msgspec.structs.replace(measured("s"), live=live(0.5, 1)), measured("m"), cascades=(("s", "m"),))
    new = profile(msgspec.structs.replace(measured("s"), live=live(0.6, 2)))
    found = as_recorded({"cpu0": old, "cpu1": new, "cpu2": profile(measured("m"))})
    accuracies = {device: [each.accuracy for each in made.variants] for device, made in found.items()}
    assert accuracies == {"cpu0": [0.6, 0.8], "cpu1": [0.6], "cpu2": [0.8]}
    assert found["cpu0"].cascades == (), "nobody knows what they are worth"
    assert as_recorded({"cpu0": profile(measured("s"))}) == {"cpu0": profile(measured("s"))}
    assert b"live" not in msgspec.json.encode(profile(measured("s")))


def test_corrections_that_were_made_while_serving_stay_with_the_engine() -> None:
    corrected = msgspec.structs.replace(measured("s", 0.02), recorded=Recorded("2026-01-01T00:00:00+00:00", "0"))
    better = msgspec.structs.replace(measured("s", 0.01), accuracy=0.85)
    after = succeeding_profile(profile(corrected), profile(better), names(s="s"))
    assert mean_s(after, "s") == 0.02
    assert after.variants[0].accuracy == 0.85
    other = succeeding_profile(profile(corrected), profile(measured("s", 0.01, "f")), names(s="s"))
    assert mean_s(other, "s") == 0.01


def test_a_file_has_the_names_of_the_catalog_and_nothing_that_retires() -> None:
    now = profile(measured("s"), measured("m", 0.03, "f"), cascades=(("s", "m"),))
    served = succeeding_profile(profile(measured("s"), measured("m", 0.02)), now, names(s="s", m="m@2"))
    assert in_catalog_names(served, names(s="s", m="m@2")) == now


def test_what_serves_stays_known_where_only_its_accuracy_is_to_be_measured_anew() -> None:
    """As where the eval split has changed: no name changes, and the plan in force has it yet."""
    before = profile(measured("s"), measured("m"), cascades=(("s", "m"),))
    assert succeeding_profile(before, profile(measured("s")), names(s="s", m="m")) == before
    assert succeeding_profile(before, profile(), names(s="s", m="m")) == before
