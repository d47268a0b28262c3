"""`proteus engines`: which built engines there are, what is wrong with them, and removing those that are of no use."""

import re
from pathlib import Path

import msgspec
import pytest
from builders import make_key
from command_line import files, proteus
from exit_nets import exit_stages, exits_toml
from tiny import SHAPES, Tiny, mlp

from proteus_cli import store
from proteus_cli.backends.tensorrt.cache import EngineFiles, EngineRequest, files_of, find_or_build, stage_name

TYPE = "tesla-t4"
CURRENT, OTHER = "shapes-s", "shapes-m"


def add_engine(tiny: Tiny, variant: str = CURRENT, *, family: str = "shapes", device_type: str = TYPE) -> EngineFiles:
    """A plan that isn't one, with a record as it would have."""
    known = {each.name for each in SHAPES.variants}
    model = tiny.model(variant if variant in known else CURRENT)
    wanted = EngineRequest(device_type, family, variant, make_key(store.model_digest(model)))
    find_or_build(tiny.place.built_dir, wanted, lambda _: variant.encode(), lambda _: None)
    return files_of(tiny.place.built_dir, device_type, family, variant)


def states(tiny: Tiny) -> dict[str, str]:
    """State and reason by engine."""
    found = proteus("engines", "ls", "--json", "-w", tiny.root).document()
    return {engine["name"]: f"{engine['state']}: {engine['why']}".removesuffix(": ") for engine in found}


# --- ls


def test_engines_are_listed_with_what_they_were_built_from(tiny: Tiny) -> None:
    add_engine(tiny)
    (engine,) = proteus("engines", "ls", "--json", "-w", tiny.root).document()
    assert engine["directory"] == "engines/built/tesla-t4/shapes__shapes-s"
    assert (engine["device_type"], engine["name"], engine["state"]) == (TYPE, "shapes/shapes-s", "current")
    assert engine["record"]["key"]["tensorrt"] == "10.13.3.9"


def test_engines_of_a_servers_state_are_named_by_their_place_there(tiny: Tiny, tmp_path: Path) -> None:
    wanted = EngineRequest(TYPE, "shapes", CURRENT, make_key(store.model_digest(tiny.model(CURRENT))))
    find_or_build(store.Workspace(tiny.root, tmp_path).built_dir, wanted, lambda _: b"plan", lambda _: None)
    assert states(tiny) == {}
    (engine,) = proteus("engines", "ls", "--json", "--state", tmp_path, "-w", tiny.root).document()
    assert engine["directory"] == "engines/built/tesla-t4/shapes__shapes-s"
    assert proteus("engines", "verify", "--state", tmp_path, "-w", tiny.root).code == 0
    mlp(tiny.model(CURRENT), hidden=5)
    assert "removed 1 engine" in proteus("engines", "prune", "--state", tmp_path, "-w", tiny.root).stderr


def test_people_see_a_table(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    add_engine(tiny)
    add_engine(tiny, OTHER).record.write_text("{")
    ended = proteus("engines", "ls", "-w", tiny.root)
    rows = [re.split(r"\s{2,}", line.strip()) for line in ended.stdout.splitlines() if TYPE in line]
    assert rows == [
        [TYPE, "shapes__shapes-m", "–", "–", "–", "stale: its record can't be read"],
        [TYPE, "shapes/shapes-s", "1–32, best 8", "8 B", "10.13.3.9", "current"],
    ]
    assert ended.stderr == ""


def test_where_nothing_is_built_nothing_is_listed(tiny: Tiny) -> None:
    assert proteus("engines", "ls", "--json", "-w", tiny.root).document() == []
    ended = proteus("engines", "ls", "-w", tiny.root)
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.stderr.startswith("no engines are built")


def test_an_engine_is_stale_once_its_model_has_changed(tiny: Tiny) -> None:
    add_engine(tiny)
    mlp(tiny.model(CURRENT), hidden=5)
    assert states(tiny) == {"shapes/shapes-s": "stale: another model"}


def test_an_engine_is_stale_once_its_plan_or_record_is_another(tiny: Tiny) -> None:
    engine = add_engine(tiny)
    engine.plan.write_bytes(b"shapes-S")
    assert states(tiny) == {"shapes/shapes-s": "stale: the plan is not the one that was built"}
    engine.plan.unlink()
    assert states(tiny) == {"shapes/shapes-s": "stale: the plan is missing"}
    engine.plan.write_bytes(b"shapes-s")
    assert states(tiny) == {"shapes/shapes-s": "current"}
    engine.record.unlink()
    assert states(tiny) == {"shapes__shapes-s": "stale: its record is missing"}


def test_an_engine_that_was_moved_is_stale(tiny: Tiny) -> None:
    engine = add_engine(tiny)
    (tiny.place.built_dir / "a100").mkdir()
    engine.directory.rename(tiny.place.built_dir / "a100" / "shapes__shapes-s")
    assert states(tiny) == {"shapes/shapes-s": "stale: it was built for tesla-t4"}


def test_an_engine_is_an_orphan_where_the_catalog_has_no_model_for_it(tiny: Tiny) -> None:
    add_engine(tiny, "shapes-xxl")
    add_engine(tiny, "gone", family="gone")
    catalog = tiny.place.catalog_path
    catalog.write_text(catalog.read_text().replace('onnx = "models/shapes/shapes-l.onnx"\n', ""))
    add_engine(tiny, "shapes-l")
    assert states(tiny) == dict.fromkeys(
        ["gone/gone", "shapes/shapes-l", "shapes/shapes-xxl"], "orphan: not in the catalog"
    )


def test_without_a_catalog_no_engine_can_be_judged(tmp_path: Path) -> None:
    for command in ("ls", "verify", "prune"):
        assert "catalog.toml" in proteus("engines", command, "-w", tmp_path).refused()


def test_without_the_model_of_an_engine_it_cannot_be_judged_and_is_kept(tiny: Tiny) -> None:
    engine = add_engine(tiny)
    tiny.model(CURRENT).unlink()
    for command in ("ls", "verify", "prune"):
        assert "shapes-s.onnx" in proteus("engines", command, "-w", tiny.root).refused()
    assert engine.plan.exists()


# --- verify


def test_engines_that_are_sound_are_verified(tiny: Tiny) -> None:
    add_engine(tiny)
    add_engine(tiny, OTHER)
    ended = proteus("engines", "verify", "-w", tiny.root)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "2 engines, none stale\n")


def test_verifying_fails_where_one_is_stale_and_says_which_and_why(tiny: Tiny) -> None:
    add_engine(tiny)
    add_engine(tiny, OTHER).plan.write_bytes(b"")
    ended = proteus("engines", "verify", "--json", "-w", tiny.root)
    assert ended.code == 1
    assert "1 of 2 engines stale: shapes/shapes-m for tesla-t4: the plan is not the one" in ended.stderr
    assert "hint: " in ended.stderr
    (wrong,) = msgspec.json.decode(ended.stdout)
    assert (wrong["name"], wrong["state"]) == ("shapes/shapes-m", "stale")


def test_an_orphan_is_shown_but_nothing_is_wrong_with_it(tiny: Tiny) -> None:
    add_engine(tiny, "gone", family="gone")
    ended = proteus("engines", "verify", "-w", tiny.root)
    assert ended.code == 0
    assert "orphan" in ended.stdout


# --- prune


def test_stale_engines_and_orphans_are_removed_and_nothing_else(tiny: Tiny) -> None:
    current = add_engine(tiny)
    before = files(tiny.root)
    add_engine(tiny, OTHER).record.write_text("{")
    add_engine(tiny, "gone", family="gone")
    ended = proteus("engines", "prune", "--json", "-w", tiny.root)
    assert {engine["name"] for engine in ended.document()} == {"shapes__shapes-m", "gone/gone"}
    assert ended.stderr == "removed 2 engines, 4 B\n"
    assert files(tiny.root) == before
    assert [path.name for path in current.directory.parent.iterdir() if path.is_dir()] == ["shapes__shapes-s"]
    assert proteus("engines", "prune", "--json", "-w", tiny.root).document() == []


def test_a_dry_run_removes_nothing(tiny: Tiny) -> None:
    add_engine(tiny, "gone", family="gone")
    before = files(tiny.root)
    ended = proteus("engines", "prune", "--dry-run", "-w", tiny.root)
    assert ended.code == 0
    assert "would remove 1 engine" in ended.stderr
    assert files(tiny.root) == before


def test_what_an_interrupted_build_left_is_removed(tiny: Tiny) -> None:
    engine = add_engine(tiny)
    before = files(tiny.root)
    for leftover in (engine.version / ".model.plan.ab12.tmp", engine.version / ".model.json.ab12.tmp"):
        leftover.write_bytes(b"half")
    never = tiny.place.built_dir / TYPE / "shapes__shapes-l" / "1"
    never.mkdir(parents=True)
    (never / ".model.plan.cd34.tmp").write_bytes(b"half")
    assert proteus("engines", "prune", "--json", "-w", tiny.root).document() == []
    assert files(tiny.root) == before
    assert not never.parent.exists()


def test_files_of_others_stay(tiny: Tiny) -> None:
    """Such as a configuration for Triton, written by hand."""
    engine = add_engine(tiny, "gone", family="gone")
    config, timings = engine.directory / "config.pbtxt", engine.directory.parent / "timing-10.13.3.9.cache"
    config.write_text("max_batch_size: 8")
    timings.write_text("timings")
    assert proteus("engines", "prune", "-w", tiny.root).code == 0
    assert not engine.version.exists()
    assert config.exists()
    assert timings.exists()


@pytest.mark.parametrize("level", ["type", "engine", "version"])
def test_what_a_link_leads_to_stays(tiny: Tiny, tmp_path: Path, level: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    inner = add_engine(tiny, "gone", family="gone")
    moved = {"type": inner.directory.parent, "engine": inner.directory, "version": inner.version}[level]
    moved.rename(elsewhere)
    moved.symlink_to(elsewhere)
    before = files(elsewhere)
    assert proteus("engines", "prune", "--json", "-w", tiny.root).document() == []
    assert files(elsewhere) == before
    assert moved.is_symlink()


# --- stages of multi-exit models


def add_stages(tiny: Tiny) -> list[str]:
    """Two variants with the same three stages in the catalog, and the engines of these; their names."""
    paths = exit_stages(tiny.root / "engines" / "models" / "shapes")
    listed = [path.relative_to(tiny.place.catalog_path.parent).as_posix() for path in paths]
    text = tiny.place.catalog_path.read_text()
    first, *others = text.split("[[family]]\n")
    variants = "".join(
        exits_toml(name, listed, stop_when)
        for name, stop_when in (("quick", "confidence >= 1"), ("careful", "confidence >= 2"))
    )
    family, *more = others
    tiny.place.catalog_path.write_text("[[family]]\n".join([first, f"{family}\n{variants}\n", *more]))
    digests = [store.model_digest(path) for path in paths]
    names = [stage_name(place, digest) for place, digest in enumerate(digests, start=1)]
    for name, digest in zip(names, digests, strict=True):
        wanted = EngineRequest(TYPE, "shapes", name, make_key(digest))
        find_or_build(tiny.place.built_dir, wanted, lambda _: b"plan", lambda _: None)
    return names


def test_engines_of_stages_are_current_while_a_variant_has_these_stages(tiny: Tiny) -> None:
    names = add_stages(tiny)
    assert states(tiny) == {f"shapes/{name}": "current" for name in names}
    assert proteus("engines", "verify", "-w", tiny.root).code == 0
    files_of(tiny.place.built_dir, TYPE, "shapes", names[1]).plan.write_bytes(b"other")
    assert states(tiny)[f"shapes/{names[1]}"] == "stale: the plan is not the one that was built"
    assert proteus("engines", "verify", "-w", tiny.root).code == 1


def test_engines_of_stages_that_no_variant_has_any_more_are_removed(tiny: Tiny) -> None:
    names = add_stages(tiny)
    tiny.place.loaded_paths()  # also where the chain file is there
    assert set(states(tiny).values()) == {"current"}
    exit_stages(tiny.root / "engines" / "models" / "shapes", seed=1)
    assert set(states(tiny).values()) == {"orphan: not in the catalog"}
    assert "removed 3 engines" in proteus("engines", "prune", "-w", tiny.root).stderr
    assert not any(files_of(tiny.place.built_dir, TYPE, "shapes", name).plan.exists() for name in names)
