"""A workspace from the sample zoo, and what `doctor` and `devices` say of it."""

import errno
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, files, proteus
from tiny import Tiny, add_plan, change_json, mlp

from proteus_cli.cli import doctor
from proteus_cli.store import Workspace
from proteus_cli.variants.zoo import zoo_files


def test_init_makes_a_workspace_that_is_the_sample_zoo(tmp_path: Path) -> None:
    ended = proteus("init", tmp_path / "ws")
    assert (ended.code, ended.stdout) == (0, "")
    assert files(tmp_path / "ws") == {name: path.read_bytes() for name, path in zoo_files().items()}


def test_init_that_failed_midway_can_be_run_again(tmp_path: Path) -> None:
    in_the_way = tmp_path / "traces"
    in_the_way.touch()
    assert "Can't write" in proteus("init", tmp_path).refused()
    assert files(tmp_path) == {"traces": b""}
    in_the_way.unlink()
    assert proteus("init", tmp_path).code == 0


def test_the_sample_zoo_is_whole(tmp_path: Path) -> None:
    assert proteus("init", tmp_path).code == 0
    place = Workspace(tmp_path)
    catalog = place.catalog()
    assert len(catalog.families) == 2
    for family in catalog.families:
        split = place.eval_path(family)
        assert split is not None
        assert split.is_file()
        assert len(family.variants) > 1
        assert all(variant.onnx and place.model_path(variant.onnx).is_file() for variant in family.variants)
    assert (tmp_path / "traces" / "burst.csv").is_file()


def test_init_adds_a_family_of_a_model_with_exits_that_stop_at_three_confidences(tmp_path: Path) -> None:
    """The catalog has the other families as they were."""
    ended = proteus("init", tmp_path / "ws", "--exits")
    assert ended.code == 0, ended.stderr
    assert "digits-exits-balanced" in ended.stderr
    place = Workspace(tmp_path / "ws")
    text = place.catalog_path.read_text()
    assert text.startswith(zoo_files()["engines/catalog.toml"].read_text())
    family = place.catalog().family("digits-exits")
    assert (family.slo_s, family.eval) == (0.1, place.catalog().family("digits").eval)
    thresholds = [float(str(each.stop_when).split()[-1]) for each in family.variants]
    assert len(set(thresholds)) == 3
    assert all(0.8 < each.accuracy < 1 and len(each.exits) == 4 for each in family.variants)
    before = files(place.root)
    assert proteus("init", place.root, "--exits", "--force").code == 0
    assert files(place.root) == before


def test_init_with_exits_makes_nothing_where_the_package_for_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    ended = proteus("init", tmp_path / "ws", "--exits")
    assert "`onnx` is needed to cut a model into stages" in ended.refused(4)
    assert "pip install onnx" in ended.stderr
    assert not (tmp_path / "ws").exists()


def test_init_makes_the_workspace_here_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert proteus("init").code == 0
    assert (tmp_path / "engines" / "catalog.toml").is_file()


def test_init_leaves_a_workspace_that_is_there_alone(tiny: Tiny) -> None:
    before = files(tiny.root)
    ended = proteus("init", tiny.root)
    assert "exists already" in ended.refused()
    assert "--force" in ended.stderr
    assert files(tiny.root) == before


def test_init_by_force_overwrites_the_files_of_the_zoo_only(tiny: Tiny) -> None:
    before = files(tiny.root)
    assert proteus("init", tiny.root, "--force").code == 0
    zoo = {name: path.read_bytes() for name, path in zoo_files().items()}
    assert files(tiny.root) == before | zoo


@pytest.mark.parametrize("name", ["file", "file/below", "a" * 300])
def test_init_where_no_directory_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    assert "Can't write" in proteus("init", name).refused()
    assert files(tmp_path) == {"file": b"in the way"}


# --- doctor


def states(ended: Ended) -> dict[str, str]:
    return {finding["what"]: finding["state"] for finding in ended.document()}


def test_doctor_finds_a_sound_workspace_sound(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-l"})
    found = states(proteus("doctor", "--json", "-w", tiny.root))
    for what in ("proteus", "numpy", "onnxruntime", "cpu0", "cpu1", "catalog", "profiles", "plan.json"):
        assert found[what] == "ok"
    assert "missing" not in found.values()


def test_doctor_shows_a_table_to_people(tiny: Tiny) -> None:
    ended = proteus("doctor", "-w", tiny.root)
    assert ended.code == 0
    assert "onnxruntime" in ended.stdout
    assert ended.stderr == ""


def test_doctor_says_how_to_begin_where_there_is_nothing(tmp_path: Path) -> None:
    ended = proteus("doctor", "--json", "-w", tmp_path)
    assert states(ended)["workspace"] == "optional"
    assert "proteus init" in ended.stdout


def test_doctor_names_the_plan_that_is_stale(tiny: Tiny) -> None:
    add_plan(tiny, {"cpu0": "shapes-l"}, name="old")
    change_json(tiny.place.profile_path("cpu0"), slots=2)
    add_plan(tiny, {"cpu0": "shapes-l"}, name="new")
    (tiny.place.plans_dir / "broken.json").write_text("{")
    found = states(proteus("doctor", "--json", "-w", tiny.root))
    assert (found["old.json"], found["new.json"], found["broken.json"]) == ("optional", "ok", "optional")


def measure_elsewhere(tiny: Tiny) -> None:
    """Make cpu0's profile that of another make of CPU."""
    path = tiny.place.profile_path("cpu0")
    measured = json.loads(path.read_text())["device"]
    change_json(path, device=measured | {"name": "Another CPU"})


def test_doctor_says_that_a_profile_is_of_other_hardware_as_serve_does(tiny: Tiny) -> None:
    measure_elsewhere(tiny)
    path = add_plan(tiny, {"cpu0": "shapes-l"})
    add_plan(tiny, {"cpu1": "shapes-l"}, name="sound")
    found = {each["what"]: each for each in json.loads(proteus("doctor", "--json", "-w", tiny.root).stdout)}
    assert [found[what]["state"] for what in ("profiles", "plan.json", "sound.json")] == ["optional", "optional", "ok"]
    refused = proteus("serve", path, "-w", tiny.root).refused(4)
    assert "The profile of `cpu0` is of a cpu-1c, Another CPU; here it is a " in refused
    assert found["profiles"]["found"] == found["plan.json"]["found"] == refused
    assert "`proteus profile --device cpu0`" in found["profiles"]["hint"]
    assert "`proteus plan`" in found["plan.json"]["hint"]


def test_doctor_has_nothing_against_profiles_of_devices_that_are_elsewhere(tiny: Tiny) -> None:
    """As those that were imported to plan for."""
    path = tiny.place.profile_path("cpu0")
    document = json.loads(path.read_text())
    other = document["device"] | {"id": "v100", "type": "v100", "name": "v100"}
    tiny.place.profile_path("v100").write_text(json.dumps(document | {"device": other}))
    assert states(proteus("doctor", "--json", "-w", tiny.root))["profiles"] == "ok"


def test_doctor_names_the_model_that_changed(tiny: Tiny) -> None:
    mlp(tiny.model("shapes-m"), hidden=5)
    assert "shapes-m" in proteus("doctor", "--json", "-w", tiny.root).stdout


def models(ended: Ended) -> tuple[int, list[tuple[str, str]]]:
    """The exit code, and state and text of each finding about models."""
    found = [(each["state"], each["found"]) for each in json.loads(ended.stdout) if each["what"] == "models"]
    return ended.code, found


def test_doctor_fails_if_a_model_file_is_missing(tiny: Tiny) -> None:
    path = tiny.model("shapes-m")
    path.unlink()
    code, [(state, found)] = models(proteus("doctor", "--json", "-w", tiny.root))
    assert (code, state) == (1, "missing")
    assert str(path) in found


def test_doctor_still_finds_a_changed_model_beside_a_missing_one(tiny: Tiny) -> None:
    tiny.model("shapes-m").unlink()
    mlp(tiny.model("tones-s"), hidden=5)
    found = {each["what"]: each for each in json.loads(proteus("doctor", "--json", "-w", tiny.root).stdout)}
    assert found["profiles"]["state"] == "optional"
    assert "tones-s" in found["profiles"]["found"]


def test_doctor_passes_if_the_variant_of_a_missing_model_was_only_imported(tiny: Tiny, tmp_path: Path) -> None:
    csv = tmp_path / "profiles.csv"
    assert proteus("profile", "--to-csv", csv, "-w", tiny.root).code == 0
    for path in tiny.place.profiles_dir.iterdir():
        path.unlink()
    assert proteus("profile", "--from-csv", csv, "-w", tiny.root).code == 0
    tiny.model("shapes-m").unlink()
    code, [(state, found)] = models(proteus("doctor", "--json", "-w", tiny.root))
    assert (code, state) == (0, "optional")
    assert "shapes-m" in found


def test_names_in_brackets_are_printed_as_they_are(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the name of a package, `ray[client]`."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["no-such-package[client]>=2.40; extra == 'ray'"])
    assert "no-such-package[client]" in proteus("doctor", "-w", tiny.root).stdout


@pytest.mark.parametrize(
    ("closed", "found"),
    [
        ("engines/models/shapes", {"models", "profiles"}),
        ("profiles", {"profiles", "plan.json"}),
        ("plans", {"plans"}),
    ],
)
def test_doctor_goes_on_where_a_directory_may_not_be_searched(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, closed: str, found: set[str]
) -> None:
    add_plan(tiny, {"cpu0": "shapes-s"})

    def guarded(method: Callable[[Path], Any]) -> Callable[[Path], Any]:
        """Root may search everywhere, so that a test can't have a directory which may not be searched."""

        def looks(path: Path) -> Any:
            if tiny.root / closed in (path, *path.parents):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return method(path)

        return looks

    for name in ("is_file", "iterdir"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    ended = proteus("doctor", "--json", "-w", tiny.root)
    assert ended.code == (1 if "models" in found else 0), ended
    findings = json.loads(ended.stdout)
    about = {each["what"] for each in findings if each["found"].startswith(f"Can't look at `{tiny.root / closed}")}
    assert about == found
    assert {"catalog", "profiles"} <= {each["what"] for each in findings}


def test_doctor_fails_where_something_that_is_needed_is_missing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["numpy>=1.26", "no-such-package"])
    ended = proteus("doctor", "-w", tiny.root)
    assert ended.code == 1
    assert "MISSING" in ended.stdout
    assert "pip install no-such-package" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_doctor_says_whether_models_can_be_changed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package `onnx` is what the extras `derive` and `images` install."""

    def onnx() -> dict[str, str]:
        return next(each for each in proteus("doctor", "--json", "-w", tiny.root).document() if each["what"] == "onnx")

    assert onnx()["state"] == "ok"
    monkeypatch.setattr(doctor, "_version", lambda package: "" if package == "onnx" else "1.0")
    assert onnx()["state"] == "optional"
    assert onnx()["hint"] == "only to derive variants and for `[family.input]`: pip install 'onnx>=1.17'"


def test_doctor_checks_each_package_that_the_distribution_requires(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=;]", each)[0] for each in project["dependencies"]}
    monkeypatch.setattr(doctor, "_version", lambda package: "")
    found = {each["what"]: each["state"] for each in json.loads(proteus("doctor", "--json", "-w", tiny.root).stdout)}
    assert {name for name, state in found.items() if state == "missing"} == needed
    assert "uvloop" in needed
    extras = {re.split(r"[<>=;]", each)[0] for extra in project["optional-dependencies"].values() for each in extra}
    assert {found[name] for name in extras} == {"optional"}
    assert set(project["optional-dependencies"]) == set(doctor.PURPOSES)


def test_where_there_is_no_catalog_both_ways_to_one_are_named(tmp_path: Path) -> None:
    ended = proteus("plan", "--demand", "1qps", "-w", tmp_path)
    assert "`proteus catalog add FAMILY MODEL.onnx`" in ended.stderr
    assert "`proteus init`" in ended.stderr


# --- devices


def test_devices_are_shown_with_whether_they_are_profiled(tiny: Tiny) -> None:
    tiny.place.profile_path("cpu1").unlink()
    head, _, *lines = proteus("devices", "-w", tiny.root).stdout.splitlines()
    assert head.split() == ["device", "type", "core", "ids", "memory", "profiled", "name"]
    assert ["yes" in line.split() for line in lines] == [True, False]


def test_devices_whose_profile_is_of_other_hardware_or_damaged_are_told_apart(tiny: Tiny) -> None:
    measure_elsewhere(tiny)
    tiny.place.profile_path("cpu1").write_text("{")
    other, damaged = [
        line for line in proteus("devices", "-w", tiny.root).stdout.splitlines() if line.startswith("cpu")
    ]
    assert "on other hardware" in other
    assert "unreadable" in damaged


def test_devices_need_no_workspace(tmp_path: Path) -> None:
    found = proteus("devices", "--json", "-w", tmp_path / "nowhere").document()
    assert found[0]["id"] == "cpu0"
    assert found[0]["kind"] == "cpu"
