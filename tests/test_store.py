import errno
import json
import os
from pathlib import Path

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile
from hypothesis import given, settings
from hypothesis import strategies as st

from proteus_cli import store
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError
from proteus_cli.store import Workspace, model_digest, require_current_models

PLAN = make_plan(make_placement("cpu0", "a", "a-s"))
HINT = "make it again"


def disk_full(_file: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def written(path: Path, **fields: object) -> Path:
    """A plan with some fields changed."""
    document = msgspec.to_builtins(PLAN) | fields
    path.write_text(json.dumps(document))
    return path


def refused(path: Path) -> str:
    with pytest.raises(ArtefactError) as caught:
        store.read_json(path, Plan, hint=HINT)
    assert caught.value.exit_code == 2
    assert caught.value.hint == HINT
    assert str(path) in caught.value.message
    return caught.value.message


# Writing


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "plan.json"
    store.write_json(path, PLAN)
    assert store.read_json(path, Plan, hint=HINT) == PLAN
    text = path.read_text()
    assert text.endswith("}\n")
    assert '\n  "format": 1,' in text
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "fdopen"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("the old plan")
    real = os.fdopen

    def closed_at_once(handle: int, mode: str) -> object:
        real(handle, mode).close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, disk_full if step == "fsync" else closed_at_once)
    with pytest.raises(ArtefactError, match="No space left on device") as caught:
        store.write_json(path, PLAN)
    assert str(path) in caught.value.message
    assert "free some space" in caught.value.hint
    assert path.read_text() == "the old plan"
    assert names(tmp_path) == ["plan.json"]


def test_a_write_that_is_interrupted_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("the old plan")

    def interrupted(_file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write_json(path, PLAN)
    assert path.read_text() == "the old plan"
    assert names(tmp_path) == ["plan.json"]


def test_the_content_is_on_disk_before_the_name_points_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the fsync the old file still stands and the new content lies beside it."""
    path = tmp_path / "plan.json"
    path.write_text("old")
    seen: list[tuple[str, list[str]]] = []

    def fsync(_file: int) -> None:
        beside = [p.read_text() for p in tmp_path.iterdir() if p != path]
        seen.append((path.read_text(), beside))

    monkeypatch.setattr(os, "fsync", fsync)
    store.write_bytes(path, b"new")
    assert seen == [("old", ["new"])]
    assert path.read_text() == "new"


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="Can't write"):
        store.write_bytes(tmp_path / "file" / "plan.json", b"")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ArtefactError, match="Can't write"):
        store.write_bytes(tmp_path / "directory", b"")
    assert names(tmp_path) == ["directory", "file"]


# Reading


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    assert "unknown field `extra`" in refused(written(tmp_path / "p.json", extra=1))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"format": 1}')
    assert "missing required field `made_by`" in refused(path)


def test_another_format_number_is_refused(tmp_path: Path) -> None:
    assert "`format` is 2; this version reads 1" in refused(written(tmp_path / "p.json", format=2))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"headroom": "high"}, "$.headroom"),
        ({"demand_qps": {"a": None}}, "$.demand_qps[...]"),
        ({"placements": [{"device": "cpu0"}]}, "$.placements[0]"),
        ({"solver": 3}, "$.solver"),
        ({"fleet": ["cpu0"]}, "$.fleet"),
        ({"headroom": 0.5}, "headroom must be at least 1"),
    ],
)
def test_a_wrong_type_or_value_is_named_with_its_place(fields: dict[str, object], where: str, tmp_path: Path) -> None:
    assert where in refused(written(tmp_path / "p.json", **fields))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{} {}", b'{"format": NaN}', b"\xff\xfe{}", b'{"policy": "\xff"}', b"[" * 100_000],
    ids=["empty", "open", "list", "null", "two", "nan", "bom", "not-utf8", "deep"],
)
def test_what_is_not_a_plan_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    assert "is not a valid plan" in refused(path)


@given(content=st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_garbage_never_crashes_a_reader(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("garbage")
    workspace = Workspace(root)
    for path in (workspace.catalog_path, workspace.profile_path("cpu0"), workspace.plans_dir / "plan.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    for read in (workspace.catalog, workspace.profiles, lambda: workspace.plan(Path("plan"))):
        with pytest.raises(ArtefactError, match="is not a valid"):
            read()


def test_a_file_that_is_not_there_or_a_directory_is_refused_with_the_hint(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.json").startswith("No file")
    assert "Is a directory" in refused(tmp_path)


# The workspace


def test_a_broken_catalog_names_the_file_and_the_field(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ArtefactError, match=r"No file .*catalog\.toml") as caught:
        workspace.catalog()
    assert "proteus init" in caught.value.hint
    workspace.catalog_path.parent.mkdir()
    workspace.catalog_path.write_text("format = 1\n[[family]]\nname = 'a'\nslo = 'soon'\nvariant = []\n")
    with pytest.raises(ArtefactError, match=r"catalog\.toml.*slo of `a`"):
        workspace.catalog()
    workspace.catalog_path.write_bytes(b"format = 1 # \xff")
    with pytest.raises(ArtefactError, match="is not a valid catalog"):
        workspace.catalog()


def test_profiles_come_in_natural_order(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for device in ("cpu10", "cpu2", "cpu0"):
        store.write_json(workspace.profile_path(device), make_profile(device, make_measured("a", "s", 0.8, {1: 0.01})))
    assert list(workspace.profiles()) == ["cpu0", "cpu2", "cpu10"]
    assert isinstance(workspace.profile("cpu2"), Profile)


def test_a_workspace_without_profiles_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="No profiles in") as caught:
        Workspace(tmp_path).profiles()
    assert "proteus profile" in caught.value.hint


def test_a_profile_under_the_name_of_another_device_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    store.write_json(workspace.profile_path("cpu1"), make_profile("cpu0"))
    with pytest.raises(ArtefactError, match="is the profile of `cpu0`") as caught:
        workspace.profile("cpu1")
    assert "cpu0.json" in caught.value.hint


def test_a_plan_is_looked_for_here_then_in_the_workspace_then_among_its_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing the one that is found uncovers the next; at each place the name as given comes before `.json`."""
    here, root = tmp_path / "here", tmp_path / "workspace"
    here.mkdir()
    monkeypatch.chdir(here)
    places = [place / name for place in (here, root, root / "plans") for name in ("p", "p.json")]
    for place in places:
        store.write_json(place, msgspec.structs.replace(PLAN, policy=str(place)))
    workspace = Workspace(root)
    for place in places:
        assert workspace.plan(Path("p")).policy == str(place)
        place.unlink()
    with pytest.raises(ArtefactError, match="No file `p`") as caught:
        workspace.plan(Path("p"))
    assert "proteus plan" in caught.value.hint


@pytest.mark.parametrize("name", [".", "/", "..", "plans"])
def test_a_directory_is_no_plan(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError):
        Workspace(tmp_path).plan(Path(name))


def test_a_name_with_a_dot_keeps_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    store.write_json(workspace.plans_dir / "v1.2.json", PLAN)
    assert workspace.plan(Path("v1.2")) == PLAN


# What it was made from


def test_inputs_that_are_as_they_were_are_current(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.profile_path("cpu0")
    store.write_bytes(path, b"as it was")
    inputs = workspace.digests([path])
    assert list(inputs) == ["profiles/cpu0.json"]
    workspace.require_current(inputs)


def test_an_input_that_changed_or_is_gone_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.profile_path("cpu0")
    store.write_bytes(path, b"as it was")
    inputs = workspace.digests([path])
    store.write_bytes(path, b"as it is!")
    with pytest.raises(ArtefactError, match=r"`profiles/cpu0\.json` has changed") as caught:
        workspace.require_current(inputs)
    assert "proteus plan" in caught.value.hint
    path.unlink()
    with pytest.raises(ArtefactError, match=r"`profiles/cpu0\.json`, which is gone"):
        workspace.require_current(inputs)


@pytest.mark.parametrize("name", ["m.onnx", "m[1].onnx", "m*.onnx"])
@pytest.mark.parametrize("end", [".data", "_data", ".weights.bin"])
def test_the_digest_of_a_model_covers_its_external_data(name: str, end: str, tmp_path: Path) -> None:
    model, data = tmp_path / name, tmp_path / f"{name}{end}"
    model.write_bytes(b"graph")
    alone = model_digest(model)
    data.write_bytes(b"weights")
    first = model_digest(model)
    data.write_bytes(b"WEIGHTS")
    assert len({alone, first, model_digest(model)}) == 3
    data.write_bytes(b"weights")
    assert model_digest(model) == first


def test_the_digest_of_a_model_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"graph")
    before = model_digest(model)
    (tmp_path / "m2.onnx").write_bytes(b"another")
    (tmp_path / "m.onnx2").write_bytes(b"another")
    (tmp_path / "xm.onnx.data").write_bytes(b"another")
    assert model_digest(model) == before


def test_a_model_that_is_gone_is_an_error_that_names_the_catalog(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"m\.onnx") as caught:
        model_digest(tmp_path / "m.onnx")
    assert "catalog" in caught.value.hint


def test_profiled_models_are_current_until_the_file_changes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    catalog = make_catalog(make_family("a", {"a-s": 0.8}))
    model = workspace.model_path("a-s.onnx")
    store.write_bytes(model, b"graph")
    measured = msgspec.structs.replace(make_measured("a", "a-s", 0.8, {1: 0.01}), model_digest=model_digest(model))
    profile = make_profile("cpu0", measured)
    require_current_models(catalog, profile, workspace)
    store.write_bytes(model, b"another graph")
    with pytest.raises(ArtefactError, match=r"`a/a-s` in the profile of `cpu0`.*a-s\.onnx") as caught:
        require_current_models(catalog, profile, workspace)
    assert "proteus profile --device cpu0" in caught.value.hint


@pytest.mark.parametrize("families", [("a", "other"), ("other", "a-s")])
def test_what_the_catalog_no_longer_offers_need_not_be_current(families: tuple[str, str], tmp_path: Path) -> None:
    family, variant = families
    catalog = make_catalog(make_family(family, {variant: 0.8}))
    profile = make_profile("cpu0", make_measured("a", "a-s", 0.8, {1: 0.01}))
    require_current_models(catalog, profile, Workspace(tmp_path))
