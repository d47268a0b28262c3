"""Profiles as CSV: what was written is read back to the last digit, and what makes no sense names its line."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Literal

import msgspec
import pytest
from builders import MADE_BY, make_measured, make_profile, near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.base import LARGEST_BATCH
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.profiling.csv_file import NEEDED, ProfileRow, parse_rows, profiles_from, to_csv
from proteus_cli.profiling.importing import new_catalog, parse_slos
from proteus_cli.serving.devices.remote.measuring import reached_over
from proteus_cli.store.catalog_text import new_text

HEADER = ",".join(NEEDED)
ROW = "v100,bert,bert-s,0.8,1,2"
NETWORK = "network_round_trip_ms,network_bytes_per_s,network_row_bytes"


def read(text: str) -> dict[str, Profile]:
    return profiles_from(parse_rows(text, "p.csv"), MADE_BY)


def refused(text: str) -> str:
    with pytest.raises(ArtefactError) as caught:
        parse_rows(text, "p.csv")
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value.message


def only(profile: Profile) -> VariantProfile:
    (measured,) = profile.variants
    return measured


# --- reading


def test_a_row_is_a_point_whose_percentiles_are_its_latency_unless_given() -> None:
    profile = read(f"{HEADER},p95_ms,p50_ms\nv100,bert,bert-s,0.8,4,20,25.5,\n")["v100"]
    assert only(profile).points == (Point(4, 1, 0.02, 0.02, 0.02, 0.0255, 0.02, 200.0),)
    assert (only(profile).family, only(profile).variant, only(profile).accuracy) == ("bert", "bert-s", 0.8)


@pytest.mark.parametrize(
    ("device_type", "kind"), [("cpu", "cpu"), ("CPU-8c", "cpu"), ("v100", "gpu"), ("my-cpu", "gpu")]
)
def test_a_type_that_starts_with_cpu_is_one(device_type: str, kind: str) -> None:
    assert read(f"{HEADER}\n{device_type},bert,bert-s,0.8,1,2\n")[device_type].device.kind == kind


def test_a_row_may_say_what_a_type_is() -> None:
    profiles = read(f"{HEADER},device_kind\nxeon,a,s,0.8,1,2,\nxeon,a,s,0.8,2,3,cpu\nt4,a,s,0.8,1,2,\n")
    assert {device_type: profile.device.kind for device_type, profile in profiles.items()} == {
        "xeon": "cpu",
        "t4": "gpu",
    }


def test_of_several_load_times_memories_or_powers_the_largest_counts() -> None:
    extra = "load_s,memory_bytes,power_w,device_memory_bytes"
    rows = ("v100,a,s,0.8,1,2,0.5,100,,4000", "v100,a,s,0.8,2,3,,300,70.5,", "v100,a,s,0.8,4,5,0.4,200,60,4000")
    profile = read("\n".join((f"{HEADER},{extra}", *rows)))["v100"]
    measured = only(profile)
    assert (measured.load_s, measured.memory_bytes, measured.power_w) == (0.5, 300, 70.5)
    assert profile.device.memory_bytes == 4000


def test_columns_may_come_in_any_order_with_quotes_blanks_and_foreign_line_ends() -> None:
    text = '"batch", latency_ms ,variant,family,accuracy,device_type\r\n1, 2.5,"s",a,0.8,v100\r\n\r\n'
    assert parse_rows(text, "p.csv") == (ProfileRow("v100", "a", "s", 0.8, 1, Decimal("2.5")),)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "it is empty"),
        ("\n", 1, "it is empty"),
        (f"{HEADER}\n", 1, "it has no rows"),
        ("device_type,family\n", 1, "the header lacks variant, accuracy, batch, latency_ms"),
        (f"{HEADER},colour\n", 1, "unknown column `colour`"),
        (f"{HEADER},batch\n", 1, "names a column twice"),
        (f"{HEADER}\n{ROW},7\n", 2, "7 cells where the header has 6"),
        (f"{HEADER}\n{ROW}\nv100\n", 3, "1 cell where the header has 6"),
        (f'{HEADER}\n"{ROW}\n', 2, "unexpected end of data"),
        (f"{HEADER}\n../v100,a,s,0.8,1,2\n", 2, "device_type `../v100` must be letters"),
        (f"{HEADER}\nv100.sharing,a,s,0.8,1,2\n", 2, "device_type `v100.sharing` ends in `.sharing`"),
        (f"{HEADER}\n.v100,a,s,0.8,1,2\n", 2, "device_type `.v100`"),
        (f"{HEADER}\n,a,s,0.8,1,2\n", 2, "missing required field `device_type`"),
        (f"{HEADER}\nv100,a b,s,0.8,1,2\n", 2, "family `a b` must be letters"),
        (f"{HEADER}\nv100,a,s/2,0.8,1,2\n", 2, "variant `s/2` must be letters"),
        (f"{HEADER}\nv100,a,{'s' * 101},0.8,1,2\n", 2, "variant `sss"),
        (f"{HEADER}\nv100,a,s,93,1,2\n", 2, "accuracy `93`: Expected"),
        (f"{HEADER}\nv100,a,s,nan,1,2\n", 2, "accuracy `nan`"),
        (f"{HEADER}\nv100,a,s,-0.1,1,2\n", 2, "accuracy `-0.1`"),
        (f"{HEADER}\nv100,a,s,,1,2\n", 2, "missing required field `accuracy`"),
        (f"{HEADER},network_row_bytes\n{ROW},7\n", 2, "a network has a network_round_trip_ms"),
        (f"{HEADER},network_round_trip_ms\n{ROW},1\n", 2, "a network has a network_round_trip_ms"),
        (f"{HEADER},{NETWORK}\n{ROW},-1,1,1\n", 2, "a network has a network_round_trip_ms from 0 up"),
        (f"{HEADER},{NETWORK}\n{ROW},1,0,1\n", 2, "network_bytes_per_s `0`: Expected"),
        (f"{HEADER},{NETWORK}\n{ROW},1,1,1.5\n", 2, "network_row_bytes `1.5`: Expected"),
        (f"{HEADER},{NETWORK}\n{ROW},1,9,1\nv100,a,s,0.8,1,2,2,9,\n", 3, "is 1 in line 2 and 2 in line 3"),
        (f"{HEADER},{NETWORK}\n{ROW},1,9,1\nv100,bert,m,0.8,1,2,1,9,2\n", 3, "is 1 in line 2 and 2 in line 3"),
        (f"{HEADER}\nv100,a,s,0.8,0,2\n", 2, "batch `0`: Expected"),
        (f"{HEADER}\nv100,a,s,0.8,{LARGEST_BATCH + 1},2\n", 2, "Expected `int` <= 65536"),
        (f"{HEADER}\nv100,a,s,0.8,1.5,2\n", 2, "batch `1.5`: Expected"),
        (f"{HEADER}\nv100,a,s,0.8,{'9' * 5000},2\n", 2, "Integer value out of range"),
        (f"{HEADER}\nv100,a,s,0.8,1,0\n", 2, "latency_ms `0` is not from 1e-09 to 1e+07 s"),
        (f"{HEADER}\nv100,a,s,0.8,1,1e-999\n", 2, "latency_ms `1E-999` is not from"),
        (f"{HEADER}\nv100,a,s,0.8,1,\n", 2, "missing required field `latency_ms`"),
        (f"{HEADER}\nv100,a,s,0.8,1,inf\n", 2, "latency_ms `Infinity`"),
        (f"{HEADER}\nv100,a,s,0.8,1,5e-320\n", 2, "latency_ms `5E-320` is not from 1e-09 to 1e+07 s"),
        (f"{HEADER},p99_ms\n{ROW},slow\n", 2, "p99_ms `slow`"),
        (f"{HEADER},p50_ms\n{ROW},0\n", 2, "p50_ms `0` is not from"),
        (f"{HEADER},load_s\n{ROW},-1\n", 2, "load_s `-1`"),
        (f"{HEADER},memory_bytes\n{ROW},4GiB\n", 2, "memory_bytes `4GiB`: Expected"),
        (f"{HEADER},power_w\n{ROW},inf\n", 2, "power_w `inf`"),
        (f"{HEADER},device_kind\n{ROW},tpu\n", 2, "device_kind `tpu`: Invalid"),
        (
            f"{HEADER},device_kind\n{ROW},gpu\nv100,a,s,0.5,1,2,cpu\n",
            3,
            "device_kind of `v100` is gpu in line 2 and cpu in line 3",
        ),
        (f"{HEADER}\n{ROW}\n{ROW}\n", 3, "batch 1 of `bert/bert-s` on `v100` stands on line 2 already"),
        (
            f"{HEADER}\n{ROW}\nv100,bert,bert-s,0.81,2,9\n",
            3,
            "accuracy of `v100/bert/bert-s` is 0.8 in line 2 and 0.81 in line 3",
        ),
        (
            f"{HEADER},device_memory_bytes\n{ROW},100\nv100,a,s,0.5,1,2,\nv100,a,s,0.5,2,2,200\n",
            4,
            "device_memory_bytes of `v100` is 100 in line 2 and 200 in line 4",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    message = refused(text)
    assert message.startswith(f"`p.csv`, line {line}: ")
    assert problem in message


@given(st.text(max_size=200))
def test_garbage_is_refused_and_never_crashes(text: str) -> None:
    assert refused(text)


CELLS = st.sampled_from(["", "0", "1", "-1", "2.5", "1e400", "1e-400", "nan", "x", "9" * 30, " ", "0.5", '"', "é"])


@given(st.lists(st.lists(CELLS, min_size=14, max_size=14), min_size=1, max_size=4))
def test_rows_of_garbage_are_refused_or_make_profiles(rows: list[list[str]]) -> None:
    header = to_csv([make_profile("cpu0", make_measured("a", "s", 0.5, {1: 0.1}))]).splitlines()[0]
    try:
        profiles = read("\n".join((header, *(",".join(row) for row in rows))))
    except ArtefactError:
        return
    assert msgspec.json.decode(msgspec.json.encode(profiles), type=dict[str, Profile]) == profiles


# --- writing

SECONDS = st.floats(1e-7, 1e4)
NAMES = st.text("abcXYZ019", min_size=1, max_size=3)
ACCURACIES = st.fixed_dictionaries({}, optional={(f, v): st.floats(0, 1) for f in "ab" for v in ("s", "m", "l")})
BYTES = st.integers(0, 2**50)
KINDS: st.SearchStrategy[Literal["cpu", "gpu"]] = st.sampled_from(["cpu", "gpu"])


@st.composite
def points(draw: st.DrawFn) -> tuple[Point, ...]:
    batches = sorted(draw(st.sets(st.integers(1, LARGEST_BATCH), min_size=1, max_size=4)))
    return tuple(_point(batch, *(draw(SECONDS) for _ in range(5))) for batch in batches)


def _point(batch: int, *latencies_s: float) -> Point:
    mean_s, p50_s, p90_s, p95_s, p99_s = latencies_s
    return Point(batch, 1, mean_s, p50_s, p90_s, p95_s, p99_s, batch / mean_s)


@st.composite
def workspaces(draw: st.DrawFn) -> list[Profile]:
    """Profiles of some types, as they are once imported."""
    accuracies = draw(ACCURACIES.filter(bool))
    return [
        msgspec.structs.replace(
            _as_imported(make_profile(name, device_type=name, memory_bytes=draw(BYTES)), draw(KINDS)),
            variants=tuple(
                VariantProfile(
                    *(*key, accuracies[key], None, "", None, 0.0),
                    load_s=draw(st.one_of(st.just(0.0), SECONDS)),
                    memory_bytes=draw(BYTES),
                    points=draw(points()),
                    power_w=draw(st.one_of(st.none(), st.floats(0, 1e4))),
                )
                for key in draw(st.permutations(sorted(accuracies)))
            ),
        )
        for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    ]


def _as_imported(profile: Profile, kind: Literal["cpu", "gpu"]) -> Profile:
    """What a file can say of it: no backend, no runs, no models."""
    device = msgspec.structs.replace(profile.device, name=profile.device.id, kind=kind, cores=())
    return msgspec.structs.replace(
        profile, device=device, backend=msgspec.structs.replace(profile.backend, name="imported")
    )


@given(workspaces())
def test_an_export_that_is_imported_gives_the_same_profiles_and_these_the_same_export(profiles: list[Profile]) -> None:
    text = to_csv(profiles)
    imported = list(read(text).values())
    assert imported == profiles
    assert to_csv(imported) == text


def test_the_network_to_a_host_is_written_and_read_back() -> None:
    one, two = make_measured("a", "s", 0.8, {1: 0.01}), make_measured("b", "t", 0.8, {1: 0.01, 2: 0.02})
    network = Network(0.00032, 1.3e8, {"a": 4096})
    far, here = make_profile("b/gpu0", one, two, device_type="far"), make_profile("gpu0", one, device_type="here")
    sent = reached_over(network, far)
    text = to_csv([sent, here])
    assert [line.split(",")[-3:] for line in text.splitlines()] == [
        ["network_round_trip_ms", "network_bytes_per_s", "network_row_bytes"],
        ["0.32", "130000000.0", "4096"],
        ["0.32", "130000000.0", ""],
        ["0.32", "130000000.0", ""],
        ["", "", ""],
    ]
    imported = read(text)
    assert (imported["far"].network, imported["here"].network) == (network, None)
    latencies_s = [[point.mean_s for each in of.variants for point in each.points] for of in (imported["far"], sent)]
    assert latencies_s[0] == latencies_s[1], "the transfer is in there once"
    assert to_csv(imported.values()) == text


def test_devices_of_hosts_that_measured_otherwise_stand_under_names_that_can_be_imported() -> None:
    measured = make_measured("a", "s", 0.8, {1: 0.01})
    profiles = [
        reached_over(Network(round_trip_s, 1e9, {}), make_profile(f"{host}/cpu0", measured))
        for host, round_trip_s in (("a", 0.0), ("b", 0.002))
    ]
    assert {name: each.network for name, each in read(to_csv(profiles)).items()} == {
        "a-cpu0": Network(0.0, 1e9, {}),
        "b-cpu0": Network(0.002, 1e9, {}),
    }
    with pytest.raises(UsageError, match="`a-b-c` would name devices of two types"):
        to_csv([make_profile("a/b-c", measured), make_profile("a-b/c", make_measured("a", "s", 0.8, {1: 0.02}))])


def test_a_file_reads_like_this() -> None:
    small = make_measured("a", "s", 0.8, {1: 0.0025, 2: 0.004}, load_s=0.5, memory_bytes=0, power_w=70.0)
    large = make_measured("a", "l", 0.95, {1: 12.0}, load_s=0.0, memory_bytes=3000)
    profile = _as_imported(make_profile("v100", small, large, device_type="v100", memory_bytes=8000), "gpu")
    assert to_csv([profile]) == (
        "device_type,family,variant,accuracy,batch,latency_ms,p50_ms,p90_ms,p95_ms,p99_ms,"
        "load_s,memory_bytes,power_w,device_memory_bytes,model_digest\n"
        "v100,a,s,0.8,1,2.5,2.5,2.5,2.5,2.5,0.5,,70.0,8000,m\n"
        "v100,a,s,0.8,2,4,4,4,4,4,0.5,,70.0,8000,m\n"
        "v100,a,l,0.95,1,12000,12000,12000,12000,12000,,3000,,8000,m\n"
    )


def test_a_noisy_cell_keeps_its_mark_and_others_have_none() -> None:
    measured = make_measured("a", "s", 0.8, {1: 0.01, 2: 0.02})
    one, two = measured.points
    noisy = msgspec.structs.replace(measured, points=(one, msgspec.structs.replace(two, noise_frac=0.25)))
    text = to_csv([make_profile("cpu0", noisy)])
    assert [line.split(",")[-2] for line in text.splitlines()] == ["noise_frac", "", "0.25"]
    (profile,) = read(text).values()
    assert [point.noise_frac for point in profile.variants[0].points] == [0.0, 0.25]


def types_in(profiles: Iterable[Profile]) -> list[str]:
    return list(dict.fromkeys(line.partition(",")[0] for line in to_csv(profiles).splitlines()[1:]))


def test_devices_of_a_type_that_measured_the_same_are_one_set_of_rows() -> None:
    measured = make_measured("a", "s", 0.8, {1: 0.01})
    assert types_in(make_profile(name, measured) for name in ("cpu0", "cpu1")) == ["cpu"]


def test_an_id_that_is_the_name_of_another_type_can_not_be_exported() -> None:
    slow, fast = (make_measured("a", "s", 0.8, {1: latency_s}) for latency_s in (0.02, 0.01))
    mixed = [make_profile("cpu0", slow), make_profile("gpu", fast), make_profile("v100", fast, device_type="gpu")]
    with pytest.raises(UsageError, match="`gpu` would name devices of two types"):
        to_csv(mixed)


def test_profiles_without_a_point_can_not_be_exported() -> None:
    with pytest.raises(UsageError, match="no measurements"):
        to_csv([make_profile("cpu0", make_measured("a", "s", 0.8, {}))])


# --- the catalog of an import


def test_a_new_catalog_has_families_and_variants_in_order_of_first_appearance() -> None:
    rows = parse_rows(f"{HEADER}\ncpu,b,l,0.9,1,9\ncpu,a,s,0.8,1,9\nv100,b,l,0.9,1,2\nv100,b,s,0.7,1,1\n", "p.csv")
    catalog = new_catalog(rows, parse_slos("a=50ms, b = 0.3 s"))
    assert [(f.name, f.slo, [(v.name, v.accuracy, v.onnx) for v in f.variants]) for f in catalog.families] == [
        ("b", "0.3s", [("l", 0.9, None), ("s", 0.7, None)]),
        ("a", "50ms", [("s", 0.8, None)]),
    ]


def test_accuracies_that_differ_by_type_are_imported_and_no_new_catalog_declares_them() -> None:
    rows = parse_rows(f"{HEADER}\n{ROW}\ncpu,bert,bert-s,0.81,1,9\n", "p.csv")
    made = profiles_from(rows, MADE_BY)
    assert {name: only(profile).accuracy for name, profile in made.items()} == {"v100": 0.8, "cpu": 0.81}
    with pytest.raises(ArtefactError, match=r"`bert/bert-s` is 0\.81 on `cpu` and 0\.8 elsewhere"):
        new_catalog(rows, "300ms")


@given(ACCURACIES.filter(bool), st.sampled_from(["300ms", "1.5 s", "200\tµs", "1e-3s", "2\nmin"]))
def test_a_catalog_is_written_exactly(accuracies: dict[tuple[str, str], float], slo: str) -> None:
    rows = [
        ProfileRow("cpu", family, variant, accuracy, 1, Decimal(10))
        for (family, variant), accuracy in accuracies.items()
    ]
    catalog = new_catalog(rows, parse_slos(slo))
    assert msgspec.toml.decode(new_text(catalog, made_by="a test"), type=Catalog) == catalog


@pytest.mark.parametrize(
    ("slo", "problem"),
    [
        ("", "`` is not a duration"),
        ("300", "has no unit"),
        ("0ms", "`0ms` is not above zero"),
        ("a=50ms,a=60ms", "names `a` twice"),
        ("a=50ms,b=", "`` is not a duration"),
        ("a=50ms", "no latency target for `b`"),
        ("a=50ms,b=60ms,c=70ms", "names `c`, which the file doesn't have"),
        ("=50ms", "no latency target for `a, b`"),
    ],
)
def test_latency_targets_that_make_no_sense_are_refused(slo: str, problem: str) -> None:
    rows = [ProfileRow("cpu", family, "s", 0.5, 1, Decimal(10)) for family in "ab"]
    with pytest.raises(UsageError) as caught:
        new_catalog(rows, parse_slos(slo))
    assert problem in caught.value.message
    assert caught.value.hint


# --- several batches at once


GPU = (
    "device_type,family,variant,accuracy,batch,latency_ms,slots,slot_bytes,device_slots\n"
    "t4,a,a-s,0.8,1,10,1,300,2\nt4,a,a-s,0.8,1,15,2,,2\nt4,a,a-s,0.8,4,40,,,2\nt4,a,a-s,0.8,4,60,2,,2\n"
)


def test_rows_with_slots_are_of_several_batches_at_once() -> None:
    profile = profiles_from(parse_rows(GPU, "f"), MADE_BY)["t4"]
    (measured,) = profile.variants
    assert (profile.slots, measured.slot_bytes) == (2, 300)
    assert [(p.batch, p.slots, p.mean_s) for p in measured.points] == [(1, 1, 0.010), (4, 1, 0.040)]
    assert [(p.batch, p.slots, p.qps) for p in measured.concurrent] == [(1, 2, near(133.3333)), (4, 2, near(133.3333))]


def test_what_is_exported_with_slots_comes_back_the_same() -> None:
    profile = profiles_from(parse_rows(GPU, "f"), MADE_BY)["t4"]
    assert profiles_from(parse_rows(to_csv([profile]), "f"), MADE_BY)["t4"] == profile


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("15,2,,2", "15,2,,3", "device_slots of `t4` is 2 in line 2 and 3 in line 3"),
        ("10,1,300,2", "10,0,300,2", "slots `0`: Expected"),
        ("15,2,,2", "15,1,,2", "stands on line 2 already"),
        (",2\n", ",3\n", "`t4` is served with 3 slots, and none"),
    ],
)
def test_slots_that_make_no_sense_are_refused(old: str, new: str, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        parse_rows(GPU.replace(old, new), "f")
