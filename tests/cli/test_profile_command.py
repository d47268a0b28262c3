"""`proteus profile` measures what is not current, keeps what is, and can be interrupted."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from command_line import WITHIN_S, Ended, command, files, proteus
from tiny import (
    DEVICES,
    MADE_BY,
    SHAPES,
    SLO,
    Tiny,
    TinyFamily,
    TinyVariant,
    add_plan,
    change_json,
    make_workspace,
    mlp,
    passing_on,
    save_eval,
)

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.domain.profile import Profile

# A budget that all cells fit, also where the machine stalls: to measure tiny models until they are stable takes little.
QUICK = ("profile", "--budget", "1h", "--max-batch", "4", "--accept-noise")
CELLS = 5 * 3  # five variants, batches 1, 2 and 4
POLL_S = 0.02


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """With an SLO that no stall of a busy machine exceeds: sizes that exceed it would not be measured."""
    catalog = tiny.place.catalog_path
    catalog.write_text(catalog.read_text().replace(f'slo = "{SLO}"', 'slo = "10s"'))
    return tiny


def profiled(tiny: Tiny, *arguments: str) -> Ended:
    ended = proteus(*QUICK, *arguments, "-w", tiny.root)
    assert ended.code == 0, ended
    return ended


def measured_cells(stderr: str) -> int:
    """How many cells the command says that it measured."""
    match = re.search(r"measured (\d+) cells?", stderr)
    assert match is not None, stderr
    return int(match[1])


def batches(profile: Profile) -> dict[str, list[int]]:
    return {variant.variant: [point.batch for point in variant.points] for variant in profile.variants}


def test_a_second_run_measures_nothing_and_changes_no_byte(tiny: Tiny) -> None:
    assert measured_cells(profiled(tiny).stderr) == CELLS
    for device in DEVICES:  # as if made long ago
        change_json(tiny.place.profile_path(device), made_by=msgspec.to_builtins(MADE_BY))
    before = files(tiny.root)
    assert measured_cells(profiled(tiny).stderr) == 0
    assert files(tiny.root) == before


def test_a_plan_stays_current_when_profiling_finds_nothing_to_do(tiny: Tiny) -> None:
    profiled(tiny)
    add_plan(tiny, {"cpu0": "shapes-l"})
    profiled(tiny)
    inputs = tiny.place.plan(Path("plan")).inputs
    assert tiny.place.digests(tiny.root / name for name in inputs) == inputs


def test_a_larger_batch_is_measured_beside_those_that_are_known(tiny: Tiny) -> None:
    profiled(tiny, "--max-batch", "2")
    before = tiny.place.profile("cpu0")
    assert measured_cells(profiled(tiny, "--max-batch", "4").stderr) == 5
    after = tiny.place.profile("cpu0")
    assert batches(after)["tones-l"] == [1, 2, 4]
    assert [v.points[:2] for v in after.variants] == [v.points for v in before.variants]


def test_only_the_model_that_changed_is_measured_anew(tiny: Tiny) -> None:
    profiled(tiny)
    before = tiny.place.profile("cpu0")
    mlp(tiny.model("shapes-m"), hidden=5)
    assert measured_cells(profiled(tiny).stderr) == 3
    after = tiny.place.profile("cpu0")
    for old, new in zip(before.variants, after.variants, strict=True):
        assert (old == new) == (old.variant != "shapes-m")


def test_by_force_everything_is_measured_again(tiny: Tiny) -> None:
    """Also what a server has recorded, which docs/formats.md describes."""
    profiled(tiny)
    path = tiny.place.profile_path("cpu0")
    recorded = {"time": "2026-11-26T00:00:00Z", "replaces": "0" * 64, "points": []}
    profile = json.loads(path.read_text(encoding="utf-8"))
    profile["variants"][0]["recorded"] = recorded
    path.write_text(json.dumps(profile), encoding="utf-8")
    assert measured_cells(profiled(tiny).stderr) == 0
    assert tiny.place.profile("cpu0").variants[0].recorded is not msgspec.UNSET

    ended = profiled(tiny, "--force")

    assert measured_cells(ended.stderr) == CELLS
    assert all(variant.recorded is msgspec.UNSET for variant in tiny.place.profile("cpu0").variants)
    planned = proteus(*QUICK, "--force", "--dry-run", "--json", "-w", tiny.root).document()
    assert {len(each["cells"]) for each in planned} == {CELLS}


def test_a_variant_that_left_the_catalog_leaves_the_profile(tiny: Tiny) -> None:
    profiled(tiny)
    path = tiny.place.catalog_path
    path.write_text(path.read_text().rpartition("[[family.variant]]")[0])
    assert measured_cells(profiled(tiny).stderr) == 0
    assert tiny.place.profile("cpu0").of("tones", "tones-l") is None


def test_devices_of_one_type_share_one_measurement(tiny: Tiny) -> None:
    ended = profiled(tiny)
    first, second = tiny.place.profile("cpu0"), tiny.place.profile("cpu1")
    assert "cpu1 is of the same type and shares this profile" in ended.stderr
    assert first.variants == second.variants
    assert (first.measured_on, second.measured_on) == ("cpu0", "cpu0")
    assert first.device.cores != second.device.cores


def test_devices_of_one_type_that_are_named_share_one_measurement_too(tiny: Tiny) -> None:
    ended = profiled(tiny, "--device", "cpu1,cpu0")
    assert len(re.findall(r"measured 15 cells", ended.stderr)) == 1
    assert {tiny.place.profile(device).measured_on for device in DEVICES} == {"cpu1"}


def test_a_budget_is_for_all_types_of_devices_together(tiny: Tiny) -> None:
    profiled(tiny, "--device", "cpu1", "--as-type", "other", "--max-batch", "1")
    cells = proteus("profile", "--force", "--dry-run", "--json", "--budget", "1s", "-w", tiny.root).document()
    assert [each["device"] for each in cells] == list(DEVICES)
    assert sum(each["estimate_s"] for each in cells) <= 1.0


def test_a_dry_run_lists_the_cells_and_measures_nothing(tiny: Tiny) -> None:
    before = files(tiny.root)
    ended = profiled(tiny, "--dry-run")
    assert f"at most {CELLS} cells" in ended.stderr
    assert "shapes-m" in ended.stdout
    assert "1 4 2" in ended.stdout
    assert files(tiny.root) == before


def test_a_dry_run_after_profiling_has_nothing_to_list(tiny: Tiny) -> None:
    profiled(tiny)
    (planned,) = proteus(*QUICK, "--dry-run", "--json", "-w", tiny.root).document()
    assert planned["cells"] == []


def test_who_accepts_noise_is_not_told_to_measure_marked_cells_again(tiny: Tiny) -> None:
    """The marks stay: nobody has shown that the cells can be trusted."""
    profiled(tiny)
    path = tiny.place.profile_path("cpu0")
    profile = json.loads(path.read_text(encoding="utf-8"))
    profile["variants"][0]["points"][0]["noise_frac"] = 0.5
    path.write_text(json.dumps(profile), encoding="utf-8")
    ended = profiled(tiny)
    assert measured_cells(ended.stderr) == 0
    assert "noisy" not in ended.stderr
    assert tiny.place.profile("cpu0").variants[0].points[0].noise_frac == 0.5


# --- accuracy


@pytest.fixture
def known(tmp_path: Path) -> Tiny:
    """One family whose model is right on 24 of 32 rows; the catalog declares something else for one variant."""
    family = TinyFamily(
        "shapes",
        (TinyVariant("honest", 0.75, hidden=4), TinyVariant("boasting", 0.99, hidden=4)),
        eval="models/shapes/eval.npz",
    )
    made = make_workspace(tmp_path / "known", (family,))
    for variant in family.variants:
        passing_on(made.model(variant.name))
    save_eval(made.root / "engines" / "models" / "shapes" / "eval.npz", rows=32, right=24)
    return made


def test_accuracy_is_measured_on_the_eval_split_and_a_wrong_claim_is_told(known: Tiny) -> None:
    ended = profiled(known)
    assert [variant.accuracy for variant in known.place.profile("cpu0").variants] == [0.75, 0.75]
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("warning:")]
    assert warnings == ["warning: boasting: the catalog declares accuracy 0.9900, measured is 0.7500"]


def test_a_new_eval_split_is_measured_without_measuring_latencies_again(known: Tiny) -> None:
    profiled(known)
    before = known.place.profile("cpu0")
    save_eval(known.root / "engines" / "models" / "shapes" / "eval.npz", rows=32, right=16)
    assert measured_cells(profiled(known).stderr) == 0
    after = known.place.profile("cpu0")
    assert [variant.accuracy for variant in after.variants] == [0.5, 0.5]
    assert [variant.points for variant in after.variants] == [variant.points for variant in before.variants]


@pytest.fixture
def guessed(tmp_path: Path) -> Tiny:
    """Two families of which each has a variant `small`, as `catalog add` leaves them: accuracies of 1, estimated."""
    families = [TinyFamily(name, (TinyVariant("small", 1.0, hidden=4),)) for name in ("cats", "dogs")]
    made = make_workspace(tmp_path / "guessed", families)
    for family in families:
        passing_on(made.root / "engines" / "models" / family.name / "small.onnx")
    path = made.place.catalog_path
    path.write_text(path.read_text().replace("accuracy = 1.0", "accuracy = 1.0\nestimated = true"))
    return made


def add_eval(made: Tiny, family: str, *, rows: int) -> None:
    """As a user does it, later."""
    save_eval(made.root / "engines" / "eval.npz", rows=rows, right=rows // 2)
    path, name = made.place.catalog_path, f'name = "{family}"'
    path.write_text(path.read_text().replace(name, f'{name}\neval = "eval.npz"'))


def test_a_measured_accuracy_replaces_an_estimate_and_that_is_said_once(guessed: Tiny) -> None:
    profiled(guessed)
    add_eval(guessed, "dogs", rows=32)
    ended = profiled(guessed)
    found = {each.family: (each.accuracy, each.estimated) for each in guessed.place.profile("cpu0").variants}
    assert found == {"cats": (1.0, True), "dogs": (0.5, False)}
    said = "accuracies that were measured in place of the catalog's estimates: dogs/small 0.5000"
    assert said in ended.stderr.splitlines()
    assert "declares" not in ended.stderr
    assert "in place of" not in profiled(guessed).stderr


def test_a_measured_accuracy_is_imported_in_place_of_an_estimate(guessed: Tiny, tmp_path: Path) -> None:
    """As on another machine with the same catalog."""
    add_eval(guessed, "dogs", rows=32)
    profiled(guessed)
    table = tmp_path / "profiles.csv"
    assert "will refuse" not in proteus("profile", "--to-csv", table, "-w", guessed.root).stderr
    for path in guessed.place.profiles_dir.iterdir():
        path.unlink()
    assert proteus("profile", "--from-csv", table, "-w", guessed.root).code == 0
    (imported,) = guessed.place.profiles().values()
    found = {(each.family, each.accuracy, each.estimated) for each in imported.variants}
    assert found == {("cats", 1.0, True), ("dogs", 0.5, False)}
    assert proteus("plan", "--demand", "1qps", "-w", guessed.root).code == 0


def test_an_accuracy_that_is_still_the_catalogs_is_called_that(guessed: Tiny) -> None:
    """There is no time to measure it: `add` may have estimated it, or measured it.

    That takes half a minute, as what takes less than the load is measured all the same, and a load may be held up.
    """
    mlp(guessed.root / "engines" / "models" / "dogs" / "small.onnx", hidden=2**16)
    add_eval(guessed, "dogs", rows=200_000)
    ended = profiled(guessed, "--budget", "0s", "--max-batch", "1")
    said = "accuracies that are still the catalog's, and are to be measured on cpu0: dogs/small ≈1.0000"
    assert said in ended.stderr.splitlines()
    assert guessed.place.profile("cpu0").of("dogs", "small").estimated  # type: ignore[union-attr]


def test_variants_of_one_name_are_told_apart_by_their_families(guessed: Tiny) -> None:
    """The profile of one device stands for those of its type."""
    ended = profiled(guessed)
    assert re.findall(r"\w+/small", ended.stdout) == ["cats/small", "dogs/small"]


def test_without_an_eval_split_the_catalog_is_believed(tiny: Tiny) -> None:
    profiled(tiny)
    measured = tiny.place.profile("cpu0").of("tones", "tones-l")
    assert measured is not None
    assert (measured.accuracy, measured.eval_digest) == (0.95, None)


def test_an_accuracy_declared_anew_is_taken_over(tiny: Tiny) -> None:
    profiled(tiny)
    path = tiny.place.catalog_path
    path.write_text(path.read_text().replace("accuracy = 0.95", "accuracy = 0.5"))
    assert measured_cells(profiled(tiny).stderr) == 0
    measured = tiny.place.profile("cpu0").of("tones", "tones-l")
    assert measured is not None
    assert measured.accuracy == 0.5


# --- interruption


@pytest.fixture
def long(tmp_path: Path) -> Tiny:
    """Enough cells, each slow enough, that a sweep takes some seconds."""
    variants = tuple(TinyVariant(f"v{number}", 0.5, hidden=64) for number in range(30))
    made = make_workspace(tmp_path / "long", (TinyFamily(SHAPES.name, variants, slo="10s"),))
    for variant in variants:
        mlp(made.model(variant.name), hidden=4096)
    return made


def test_an_interrupted_run_leaves_a_valid_profile_and_the_next_one_goes_on_there(long: Tiny) -> None:
    process = subprocess.Popen(
        command("profile", "--device", "cpu0", "--accept-noise", "-w", long.root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        path, stop_s = long.place.profile_path("cpu0"), time.monotonic() + WITHIN_S
        while not path.is_file() and time.monotonic() < stop_s:
            time.sleep(POLL_S)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert stdout == ""
    assert "still to be measured (variant, batch sizes): v" in stderr
    assert "run `proteus profile` again to go on there" in stderr
    assert "Traceback" not in stderr
    assert not [name for name in files(long.root) if name.endswith(".tmp")]

    kept = long.place.profile("cpu0")
    known = sum(len(variant.points) for variant in kept.variants)
    assert measured_cells(stderr) == known
    assert 0 < known < 30 * 7

    ended = proteus("profile", "--device", "cpu0", "--budget", "0s", "--accept-noise", "-w", long.root)
    assert ended.code == 0
    whole = long.place.profile("cpu0")
    assert measured_cells(ended.stderr) == sum(len(variant.points) for variant in whole.variants) - known
    assert len(whole.variants) == 30
    for variant in kept.variants:
        after = whole.of(variant.family, variant.variant)
        assert after is not None
        assert set(variant.points) <= set(after.points)


def test_profiling_runs_on_the_cores_of_the_device_and_gives_them_back(tiny: Tiny) -> None:
    before = usable_cores()
    profiled(tiny, "--device", "cpu1")
    assert usable_cores() == before
