"""Profiles come from CSV files and go into them; what was imported can be planned and simulated without models."""

import errno
import gzip
import io
import os
import sys
from pathlib import Path

import msgspec
import pytest
from builders import MADE_BY, make_placement, make_plan
from command_line import Ended, files, proteus, proteus_process
from tiny import DEVICES, Tiny, add_plan, change_json, mlp

from proteus_cli import store
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.profiling.csv_file import parse_rows
from proteus_cli.store import Workspace

HEADER = "device_type,family,variant,accuracy,batch,latency_ms,load_s"
ROWS = (
    "cpu,bert,bert-s,0.8,1,10,0.1",
    "cpu,bert,bert-s,0.8,8,40,0.1",
    "cpu,yolo,yolo-s,0.7,1,5,0.1",
    "v100,bert,bert-s,0.8,1,2,0.2",
    "v100,bert,bert-l,0.9,1,4,0.2",
    "v100,bert,bert-l,0.9,8,20,0.2",
    "v100,yolo,yolo-s,0.7,1,1,0.2",
)
CATALOG = """\
# Made by `proteus profile --from-csv`. docs/formats.md says what else may stand here.
format = 1

[[family]]
name = "bert"
slo = "300ms"

[[family.variant]]
name = "bert-s"
accuracy = 0.8

[[family.variant]]
name = "bert-l"
accuracy = 0.9

[[family]]
name = "yolo"
slo = "100ms"

[[family.variant]]
name = "yolo-s"
accuracy = 0.7
"""


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return a_file(tmp_path / "p.csv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that is no workspace yet."""
    path = tmp_path / "ws"
    path.mkdir()
    return path


@pytest.fixture
def imported(root: Path, csv: Path) -> Workspace:
    assert import_into(root, csv, "--slo", "bert=300ms,yolo=100ms").code == 0
    return Workspace(root)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty seconds of both families."""
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,family\n" + "".join(f"{at / 10},{('bert', 'yolo')[at % 2]}\n" for at in range(200)))
    return path


def a_file(path: Path, *rows: str) -> Path:
    path.write_text("\n".join((HEADER, *(rows or ROWS))) + "\n")
    return path


def import_into(root: Path, path: Path, *arguments: str) -> Ended:
    return proteus("profile", "--from-csv", path, *arguments, "-w", root)


def refused(root: Path, path: Path, *arguments: str) -> str:
    """The message of an import that is refused and writes nothing."""
    before = files(root)
    message = import_into(root, path, *arguments).refused()
    assert files(root) == before
    return message


def points(profile: Profile) -> dict[tuple[str, str], tuple[Point, ...]]:
    """By variant, as a file keeps them: without how many runs they are of."""
    return {
        (v.family, v.variant): tuple(msgspec.structs.replace(point, runs=1) for point in v.points)
        for v in profile.variants
    }


# --- from a file into a workspace


def test_an_import_makes_a_workspace_of_profiles_and_a_catalog(root: Path, csv: Path) -> None:
    ended = import_into(root, csv, "--slo", "bert=300ms,yolo=100ms")
    assert ended.code == 0
    assert f"imported v100 → {root / 'profiles' / 'v100.json'}" in ended.stderr
    assert "bert-l" in ended.stdout
    assert list(files(root)) == ["engines/catalog.toml", "profiles/cpu.json", "profiles/v100.json"]
    place = Workspace(root)
    assert place.catalog_path.read_text() == CATALOG
    assert {name: len(profile.variants) for name, profile in place.profiles().items()} == {"cpu": 2, "v100": 3}


def test_eighty_columns_show_every_name_and_number_whole(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 ms leave 150 ms for a batch: the second variant takes 304 ms and has no capacity, the first 8 / 0.1307."""
    names = "gtx1080ti-rev2", "prajjwal1_bert-medium"
    rows = f"{names[0]},bert,{names[1]},0.8,8,130.7,0.1205", f"{names[0]},bert,bert-xl,0.9,1,304,"
    monkeypatch.setenv("COLUMNS", "80")
    lines = import_into(root, a_file(tmp_path / "wide.csv", *rows), "--slo", "300ms").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines if line.startswith(names[0])] == [
        [*names, "0.8000", "–", "61", "8", "120.5", "ms"],
        [names[0], "bert-xl", "0.9000", "304.0", "ms", "–", "–", "–"],
    ]
    assert lines[-1].startswith("–: ")


def test_one_latency_target_is_that_of_all_families(root: Path, csv: Path) -> None:
    assert import_into(root, csv, "--slo", "300 ms").code == 0
    assert [family.slo for family in Workspace(root).catalog().families] == ["300ms", "300ms"]


def test_json_prints_the_profiles_that_were_written(root: Path, csv: Path) -> None:
    printed = import_into(root, csv, "--slo", "300ms", "--json").document()
    assert msgspec.convert(printed, list[Profile]) == list(Workspace(root).profiles().values())


def test_without_a_catalog_a_latency_target_is_needed(root: Path, csv: Path) -> None:
    assert "There is no catalog yet" in refused(root, csv)
    assert "`--slo bert=300ms,yolo=300ms`" in import_into(root, csv).stderr
    assert "no latency target for `yolo`" in refused(root, csv, "--slo", "bert=300ms")


def test_beside_a_catalog_a_latency_target_is_refused(imported: Workspace, csv: Path) -> None:
    assert "has the SLOs already" in refused(imported.root, csv, "--slo", "300ms")
    assert "change `slo` in the catalog" in import_into(imported.root, csv, "--slo", "300ms").stderr


def test_what_the_catalog_does_not_have_is_named(imported: Workspace, tmp_path: Path) -> None:
    strange = ("cpu,bert,bert-xl,0.95,1,90,", "cpu,t5,t5-s,0.5,1,9,", "cpu,t5,t5-l,0.6,1,9,")
    message = refused(imported.root, a_file(tmp_path / "more.csv", *ROWS, *strange))
    assert message.endswith("doesn't have: variant `bert/bert-xl`, family `t5`.")


def test_an_accuracy_that_is_not_the_catalogs_is_refused(imported: Workspace, tmp_path: Path) -> None:
    other = a_file(tmp_path / "other.csv", "a100,bert,bert-s,0.81,1,1,")
    message = refused(imported.root, other)
    assert "accuracy of `bert/bert-s` is 0.81; the catalog declares 0.8" in message


def test_more_types_may_be_imported_later(imported: Workspace, tmp_path: Path) -> None:
    before = files(imported.root)
    assert import_into(imported.root, a_file(tmp_path / "more.csv", "a100,bert,bert-s,0.8,1,1,")).code == 0
    after = files(imported.root)
    assert after.keys() - before.keys() == {"profiles/a100.json"}
    assert {name: after[name] for name in before} == before


def test_importing_the_same_again_changes_no_byte(imported: Workspace, csv: Path) -> None:
    for device in ("cpu", "v100"):  # as if made long ago
        change_json(imported.profile_path(device), made_by=msgspec.to_builtins(MADE_BY))
    before = files(imported.root)
    assert import_into(imported.root, csv).code == 0
    assert files(imported.root) == before


def test_importing_other_numbers_replaces_what_was_imported(imported: Workspace, tmp_path: Path) -> None:
    before = files(imported.root)
    assert import_into(imported.root, a_file(tmp_path / "new.csv", *ROWS[:3], "v100,bert,bert-s,0.8,1,3,")).code == 0
    after = files(imported.root)
    assert {name for name in before if after[name] != before[name]} == {"profiles/v100.json"}
    assert len(imported.profile("v100").variants) == 1


def test_a_packed_file_is_read_as_it_is(root: Path, csv: Path) -> None:
    packed = csv.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(csv.read_bytes()))
    assert import_into(root, packed, "--slo", "300ms").code == 0
    assert list(Workspace(root).profiles()) == ["cpu", "v100"]


def test_a_dash_is_stdin(root: Path, csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(csv.read_bytes())))
    assert import_into(root, Path("-"), "--slo", "300ms").code == 0
    assert list(Workspace(root).profiles()) == ["cpu", "v100"]


def test_nothing_on_stdin_is_an_empty_file(root: Path) -> None:
    ended = proteus_process("profile", "--from-csv", "-", "--slo", "300ms", "-w", root)
    assert ended.refused() == "`stdin`, line 1: it is empty."
    assert files(root) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1: it is empty"),
        (b"device_type,family\n", "line 1: the header lacks variant"),
        (f"{HEADER}\ncpu,bert,bert-s,0.8,1,\xe9,\n".encode("latin-1"), "line 2: not UTF-8"),
        (f"{HEADER}\ncpu,bert,bert-s,0.8,1,10,\n../x,bert,bert-s,0.8,1,10,\n".encode(), "line 3: device_type `../x`"),
        (b"\x1f\x8bcut", "not whole gzip data"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_as_a_whole(
    root: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert problem in refused(root, path, "--slo", "300ms")


def test_a_file_that_is_not_there_is_refused(root: Path) -> None:
    assert "No file `no.csv`" in refused(root, Path("no.csv"), "--slo", "300ms")


def test_a_full_disk_leaves_all_or_nothing(root: Path, csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is full at the third of three files."""
    fsync, room = os.fsync, [2]

    def full(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused(root, csv, "--slo", "300ms")


def test_a_broken_profile_is_replaced_by_force_only(imported: Workspace, csv: Path) -> None:
    imported.profile_path("cpu").write_text("{")
    assert "not a valid profile" in refused(imported.root, csv)
    assert import_into(imported.root, csv, "--force").code == 0
    assert imported.profile("cpu").backend.name == "imported"


# --- beside what was measured


def test_a_measured_profile_is_overwritten_by_force_only(tiny: Tiny, tmp_path: Path) -> None:
    path = a_file(tmp_path / "p.csv", "cpu0,tones,tones-s,0.6,1,4,", "a100,tones,tones-s,0.6,1,1,")
    assert "cpu0.json` was measured on that device" in refused(tiny.root, path)
    assert "--force" in import_into(tiny.root, path).stderr
    assert import_into(tiny.root, path, "--force").code == 0
    assert tiny.place.profile("cpu0").backend.name == "imported"
    assert tiny.place.profile("cpu1").backend.name != "imported"


def test_measuring_a_variant_without_a_model_is_refused(imported: Workspace) -> None:
    before = files(imported.root)
    for dry_run in ((), ("--dry-run",)):
        ended = proteus("profile", *dry_run, "-w", imported.root)
        assert "names no ONNX file of `bert/bert-s`, so there is nothing to measure" in ended.refused()
        assert "--from-csv" in ended.stderr
    assert files(imported.root) == before


def test_doctor_tells_which_variants_have_no_model(imported: Workspace) -> None:
    findings = {finding["what"]: finding for finding in proteus("doctor", "--json", "-w", imported.root).document()}
    assert findings["models"]["found"] == "no ONNX file of 3 variants: bert-s, bert-l, yolo-s"
    assert findings["profiles"]["found"] == "cpu, v100"


# --- from a workspace into a file


def test_an_export_that_is_imported_elsewhere_is_the_same_workspace(imported: Workspace, tmp_path: Path) -> None:
    exported, other = tmp_path / "out.csv", tmp_path / "other"
    ended = proteus("profile", "--to-csv", exported, "-w", imported.root)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", f"wrote {exported}\n")
    assert import_into(other, exported, "--slo", "bert=300ms,yolo=100ms").code == 0
    assert Workspace(other).catalog_path.read_bytes() == imported.catalog_path.read_bytes()
    for name, profile in imported.profiles().items():
        assert msgspec.structs.replace(Workspace(other).profile(name), made_by=profile.made_by) == profile


def test_what_was_measured_can_be_planned_elsewhere(tiny: Tiny, tmp_path: Path) -> None:
    exported, other = tmp_path / "out.csv.gz", tmp_path / "other"
    assert proteus("profile", "--to-csv", exported, "-w", tiny.root).code == 0
    assert import_into(other, exported, "--slo", "200ms").code == 0
    measured = tiny.place.profile("cpu0")
    (here,) = Workspace(other).profiles().values()
    assert here.device.id == measured.device.type
    assert here.device.memory_bytes == measured.device.memory_bytes
    assert points(here) == points(measured)


def test_what_was_measured_can_be_imported_beside_the_same_models(tiny: Tiny, tmp_path: Path) -> None:
    """Where there is an eval split too, as long as the accuracies are about those of the catalog."""
    exported = tmp_path / "out.csv"
    assert proteus("profile", "--to-csv", exported, "-w", tiny.root).code == 0
    for device in DEVICES:
        tiny.place.profile_path(device).unlink()
    assert import_into(tiny.root, exported).code == 0
    assert proteus("plan", "--demand", "20qps", "-w", tiny.root).code == 0


def test_a_dash_is_stdout_and_nothing_else_is_on_it(imported: Workspace) -> None:
    ended = proteus("profile", "--to-csv", "-", "-w", imported.root)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1:3] == [
        "cpu,bert,bert-s,0.8,1,10,10,10,10,10,0.1,,,",
        "cpu,bert,bert-s,0.8,8,40,40,40,40,40,0.1,,,",
    ]
    assert len(ended.stdout.splitlines()) == 1 + len(ROWS)


def test_accuracies_that_were_measured_to_differ_are_exported_and_can_be_read(tiny: Tiny) -> None:
    path = tiny.place.profile_path("cpu1")
    path.write_text(path.read_text().replace('"accuracy": 0.95', '"accuracy": 0.94'))
    ended = proteus("profile", "--to-csv", "-", "-w", tiny.root)
    assert (ended.code, ended.stderr) == (0, "")
    rows = parse_rows(ended.stdout, "stdout")
    found = {(row.device_type, row.accuracy) for row in rows if row.variant == "tones-l"}
    assert found == {("cpu0", 0.95), ("cpu1", 0.94)}


def test_a_workspace_without_profiles_has_nothing_to_export(root: Path) -> None:
    assert "No profiles in" in proteus("profile", "--to-csv", "-", "-w", root).refused()


# --- one task at a time


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--from-csv", "p.csv", "--to-csv", "-"), "Give one of `--from-csv` and `--to-csv`"),
        (("--from-csv", "p.csv", "--device", "cpu0"), "`--device` makes no sense with `--from-csv`"),
        (("--from-csv", "p.csv", "--budget", "5s"), "`--budget` makes no sense with `--from-csv`"),
        (("--from-csv", "p.csv", "--dry-run"), "`--dry-run` makes no sense with `--from-csv`"),
        (("--to-csv", "-", "--max-batch", "8"), "`--max-batch` makes no sense with `--to-csv`"),
        (("--to-csv", "-", "--slo", "300ms"), "`--slo` makes no sense with `--to-csv`"),
        (("--to-csv", "-", "--json"), "`--json` makes no sense with `--to-csv`"),
        (("--slo", "300ms"), "`--slo` makes no sense without `--from-csv`"),
        (("--to-csv", "-", "--force"), "`--force` makes no sense with `--to-csv`"),
    ],
)
def test_options_of_different_tasks_are_refused(imported: Workspace, arguments: tuple[str, ...], problem: str) -> None:
    before = files(imported.root)
    assert problem in proteus("profile", *arguments, "-w", imported.root).refused()
    assert files(imported.root) == before


def test_defaults_of_other_tasks_are_no_matter(root: Path, csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the workspace nor those of the shell."""
    (root / "proteus.toml").write_text("[profile]\nmax_batch = 8\nslo = '300ms'\n")
    monkeypatch.setenv("PROTEUS_BUDGET", "5s")
    for _ in ("a catalog is made", "it is there"):
        assert import_into(root, csv).code == 0
    assert proteus("profile", "--to-csv", "-", "-w", root).code == 0
    assert [family.slo for family in Workspace(root).catalog().families] == ["300ms", "300ms"]


# --- planning and simulating without models


def test_a_plan_of_imported_profiles_stays_current_when_they_are_imported_again(
    imported: Workspace, csv: Path, trace: Path
) -> None:
    there = ("-w", imported.root)
    assert proteus("plan", "--demand", "bert=50qps,yolo=20qps", *there).code == 0
    assert import_into(imported.root, csv).code == 0
    report = proteus("replay", trace, "--plan", "plan", "--json", *there).document()
    assert (report["requests"], report["served"]) == (200, 200)


def test_a_replay_tells_of_every_device_in_json_on_a_page_and_in_pictures(imported: Workspace, trace: Path) -> None:
    page, pictures = imported.root / "out.html", imported.root / "png"
    call = ("replay", trace, "--fleet", "cpu:2,v100:3", "--policy", "proteus,most-accurate", "-w", imported.root)
    reports = proteus(*call, "--json", "--report", page, "--png", pictures).document()
    for report in reports:
        assert list(report["devices"]) == ["cpu-0", "cpu-1", "v100-0", "v100-1", "v100-2"]
        answers = sum(device["answers"] for device in report["devices"].values())
        assert answers == report["served"] + report["late"] > 0
        assert report["latency_quantiles_s"][-1] == report["latency_s"]["max"]
    assert "3 × v100" in page.read_text(encoding="utf-8")
    assert {"latency.png", "devices.png", "family-violations.png"} <= {path.name for path in pictures.iterdir()}


def test_a_replay_is_simulated_on_a_fleet_that_is_not_here(imported: Workspace, trace: Path) -> None:
    """One v100 hosts one family; two of them serve both, as accurately as can be."""
    call = ("replay", trace, "--json", "-w", imported.root)
    alone = proteus(*call, "--fleet", "v100:1").document()
    many = proteus(*call, "--fleet", "cpu:3,v100:2").document()
    assert alone["served"] < 200
    assert (many["served"], many["relative_accuracy"]) == (200, pytest.approx(1.0))
    assert files(imported.root).keys() == {"engines/catalog.toml", "profiles/cpu.json", "profiles/v100.json"}


def what_if_plan(place: Workspace) -> Plan:
    """For three devices of which none is here."""
    plan = make_plan(
        make_placement("v100-0", "bert", "bert-l", max_batch=8),
        make_placement("v100-1", "yolo", "yolo-s", max_batch=1),
    )
    inputs = place.digests([place.catalog_path, place.profile_path("cpu"), place.profile_path("v100")])
    fleet = {"v100": ("v100-0", "v100-1"), "cpu": ("cpu-0",)}
    return msgspec.structs.replace(plan, fleet=fleet, inputs=inputs)


def test_a_plan_for_a_fleet_that_is_not_here_can_be_simulated(imported: Workspace, trace: Path) -> None:
    store.write_json(imported.plans_dir / "plan.json", what_if_plan(imported))
    report = proteus("replay", trace, "--plan", "plan", "--json", "-w", imported.root).document()
    assert (report["requests"], report["served"]) == (200, 200)


def test_a_plan_for_a_fleet_that_is_not_here_can_not_be_served(imported: Workspace) -> None:
    store.write_json(imported.plans_dir / "plan.json", what_if_plan(imported))
    ended = proteus("serve", "plan", "--port", "0", "-w", imported.root)
    assert "The plan uses `v100-0`, which is not on this machine" in ended.refused(4)
    assert "simulation" in ended.stderr


def test_a_plan_of_a_variant_whose_model_is_no_longer_named_can_not_be_served(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-l"})
    path = tiny.place.catalog_path
    path.write_text(path.read_text().replace('onnx = "models/shapes/shapes-l.onnx"\n', ""))
    change_json(tiny.place.plans_dir / "plan.json", inputs={})
    message = proteus("serve", "plan", "--port", "0", "-w", tiny.root).refused()
    assert "names no ONNX file of `shapes/shapes-l`, so there is nothing to run" in message


@pytest.mark.parametrize(
    ("fleet", "problem"),
    [
        ("v100", "`v100` in the fleet is no type with a count"),
        ("v100:0", "`0` is no count of `v100` devices"),
        ("v100:1,v100:2", "names `v100` twice"),
        ("v100:100001", "more than 100,000 devices"),
        ("tpu:1", "No profile of any `tpu`"),
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(imported: Workspace, trace: Path, fleet: str, problem: str) -> None:
    ended = proteus("replay", trace, "--fleet", fleet, "-w", imported.root)
    assert problem in ended.refused()


@pytest.mark.parametrize("target", ["--url=http://127.0.0.1:1", "--serve=plan", "--plan=plan"])
def test_a_fleet_goes_only_with_a_simulation_that_plans_for_itself(
    imported: Workspace, trace: Path, target: str
) -> None:
    ended = proteus("replay", trace, target, "--fleet", "cpu:2", "-w", imported.root)
    assert "`--fleet` makes no sense with" in ended.refused()


def test_a_fleet_in_the_settings_is_for_simulations_that_have_no_other(imported: Workspace, trace: Path) -> None:
    (imported.root / "proteus.toml").write_text("[replay]\nfleet = 'v100:1'\n")
    store.write_json(imported.plans_dir / "plan.json", what_if_plan(imported))
    call = ("replay", trace, "--json", "-w", imported.root)
    assert proteus(*call).document()["served"] < 200
    assert proteus(*call, "--plan", "plan").document()["served"] == 200


# --- estimates


def test_an_accuracy_that_the_catalog_estimates_is_an_estimate_when_it_is_imported(
    imported: Workspace, csv: Path
) -> None:
    text = imported.catalog_path.read_text()
    imported.catalog_path.write_text(text.replace("accuracy = 0.9\n", "accuracy = 0.9\nestimated = true\n"))
    assert import_into(imported.root, csv).code == 0
    marked = {(v.variant, v.estimated) for profile in imported.profiles().values() for v in profile.variants}
    assert marked == {("bert-s", False), ("bert-l", True), ("yolo-s", False)}


# --- machines of one make


def test_a_type_that_was_named_stays_where_no_device_is_named(tiny: Tiny) -> None:
    """Also where other devices of the same hardware have no such name, and are measured before."""
    quick = ("profile", "--budget", "0s", "--max-batch", "1", "--accept-noise", "-w", tiny.root)
    assert proteus(*quick, "--device", "cpu1", "--as-type", "small").code == 0
    before = tiny.place.profile("cpu1")
    ended = proteus(*quick)
    assert "measured 0 cells on cpu1" in ended.stderr
    after = tiny.place.profile("cpu1")  # where time was short, an accuracy is measured only now
    assert (after.device, after.measured_on) == (before.device, before.measured_on)
    assert [each.points for each in after.variants] == [each.points for each in before.variants]
    assert tiny.place.profile("cpu0").device.type != "small"


def test_two_machines_of_one_make_are_planned_together(tiny: Tiny, tmp_path: Path) -> None:
    """Each is measured under the type that they share; a third machine reads both files."""
    files = []
    for name in ("one", "other"):
        quick = ("profile", "--budget", "0s", "--max-batch", "1", "--accept-noise", "-w", tiny.root)
        assert proteus(*quick, "--as-type", "edge").code == 0
        assert {tiny.place.profile(device).device.type for device in DEVICES} == {"edge"}
        files.append(tmp_path / f"{name}.csv")
        assert proteus("profile", "--to-csv", files[-1], "-w", tiny.root).code == 0
    assert "device_kind" in files[0].read_text()
    there = tmp_path / "there"
    call = ("profile", "--from-csv", files[0], "--from-csv", files[1], "--slo", "200ms", "-w", there)
    imported = proteus(*call)
    assert imported.code == 0, imported
    assert "more than one file has 5 cells" in imported.stderr
    assert Workspace(there).profile("edge").device.kind == "cpu"
    assert proteus("plan", "--demand", "10qps", "--fleet", "edge:2", "-w", there).code == 0


def test_the_type_that_was_given_stays_and_measures_nothing_anew(tiny: Tiny) -> None:
    quick = ("profile", "--budget", "0s", "--max-batch", "1", "--accept-noise", "-w", tiny.root)
    proteus(*quick, "--as-type", "edge")
    again = proteus(*quick)
    assert "measured 0 cells on cpu0" in again.stderr
    assert tiny.place.profile("cpu0").device.type == "edge"
    renamed = proteus(*quick, "--as-type", "box")
    assert "measured 0 cells on cpu0" in renamed.stderr
    assert {tiny.place.profile(device).device.type for device in DEVICES} == {"box"}


def test_a_type_needs_a_name(tiny: Tiny) -> None:
    assert proteus("profile", "--as-type", "../edge", "-w", tiny.root).refused() == "`../edge` is no name of a type."


def test_a_file_that_was_measured_with_another_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    assert proteus("profile", "--to-csv", path, "-w", tiny.root).code == 0
    mlp(tiny.model("tones-l"), hidden=5)
    ended = proteus("profile", "--from-csv", path, "--force", "-w", tiny.root)
    assert "`tones/tones-l`" in ended.refused()
    assert "was measured with another" in ended.refused()
