import errno
import json
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import conv_net
from tiny import keep_apart, mlp

from proteus_cli import store
from proteus_cli.domain.catalog import Catalog, Family, ImageInput, Variant
from proteus_cli.domain.fleet import fleet_of, hypothetical_fleet, ids_by_type
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.input_files import TRACE, read_text, text_of
from proteus_cli.store import Workspace, model_digest, require_current_models

PLAN = make_plan(make_placement("cpu0", "a", "a-s"))
HINT = "make it again"


def disk_full(_file: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Crash(BaseException):
    """The process ends here."""


def crash_after(monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    left, replace = [renames], Path.replace

    def renamed(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", renamed)


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
    assert '\n  "format": 2,' in text


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_is_for_those_whom_the_umask_lets_read(mask: int, mode: int, tmp_path: Path) -> None:
    with umask(mask):
        store.write_json(tmp_path / "plan.json", PLAN)
        store.write_in_order({tmp_path / "profile.json": b"{}"})
        with store.writing(tmp_path / "private", 0o600) as file:
            file.write(b"rows")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"plan.json": mode, "profile.json": mode, "private": 0o600}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may read the new content before that, either."""
    path, modes = tmp_path / "plan.json", set[int]()
    path.write_text("old")
    path.chmod(mode)

    def fsync(file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):  # not the directory
            modes.add(os.fstat(file).st_mode & 0o777)

    monkeypatch.setattr(os, "fsync", fsync)
    with umask(0o022):
        store.write_bytes(path, b"new")
        store.write_in_order({path: b"newer"})
        store.write_bytes(tmp_path / "staged", b"newest")
        store.rename_in_order({tmp_path / "staged": path})
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("newest", mode)
    assert modes == {mode, 0o644}, "of the staged one, too"


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
    assert seen == [("old", ["new"]), ("new", [])], "the second one is of the directory"
    assert path.read_text() == "new"


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="Can't write"):
        store.write_bytes(tmp_path / "file" / "plan.json", b"")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ArtefactError, match="Can't write"):
        store.write_bytes(tmp_path / "directory", b"")
    assert names(tmp_path) == ["directory", "file"]


def test_a_new_file_replaces_none_and_is_whole_with_its_mode_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, modes = tmp_path / "key", list[int]()

    def fsync(file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):  # not the directory
            modes.extend(each.stat().st_mode & 0o777 for each in tmp_path.iterdir())

    with monkeypatch.context() as watched:
        watched.setattr(os, "fsync", fsync)
        store.write_new(path, b"secret", 0o600)
    assert modes == [0o600]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
    with pytest.raises(FileExistsError):
        store.write_new(path, b"another", 0o600)
    assert path.read_bytes() == b"secret"
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        store.write_new(tmp_path / "other", b"secret", 0o600)
    assert names(tmp_path) == ["key"]


def test_each_change_of_names_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names in a directory when it is brought to the disk."""
    seen = list[list[str]]()

    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            seen.append([name for name in names(tmp_path) if not name.endswith(".tmp")])

    monkeypatch.setattr(os, "fsync", fsync)
    store.write_new(tmp_path / "a", b"", 0o600)
    store.write_new(tmp_path / "b", b"", 0o600)
    store.rename_in_order({tmp_path / "a": tmp_path / "c", tmp_path / "b": tmp_path / "d"})
    store.remove(tmp_path / "c")
    store.remove(tmp_path / "none" / "such")
    assert seen == [["a"], ["a", "b"], ["b", "c"], ["c", "d"], ["d"]]


def test_files_that_are_written_together_are_all_there(tmp_path: Path) -> None:
    paths = [tmp_path / "profiles" / "a.json", tmp_path / "profiles" / "b.json", tmp_path / "catalog.toml"]
    paths[2].write_text("old")
    store.write_in_order({path: path.name.encode() for path in paths})
    assert [path.read_text() for path in paths] == ["a.json", "b.json", "catalog.toml"]
    assert names(tmp_path) == ["catalog.toml", "profiles"]
    assert names(tmp_path / "profiles") == ["a.json", "b.json"]


def test_files_that_are_written_together_are_none_there_where_one_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the last of them."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    paths[0].write_text("old")
    fsync, room = os.fsync, [2]

    def full_at_the_third(file: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            disk_full(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", full_at_the_third)
    with pytest.raises(ArtefactError, match="No space left on device") as caught:
        store.write_in_order(dict.fromkeys(paths, b"new"))
    assert str(paths[2]) in caught.value.message
    assert names(tmp_path) == ["a"]
    assert paths[0].read_text() == "old"


def test_a_crash_between_two_files_leaves_the_first_new_and_the_second_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("b", "a")]
    for path in paths:
        path.write_text("old")
    crash_after(monkeypatch, 1)
    with pytest.raises(Crash):
        store.write_in_order(dict.fromkeys(paths, b"new"))
    assert [path.read_text() for path in paths] == ["new", "old"]


@pytest.mark.parametrize("end", ["csv", "csv.gz"])
def test_text_is_packed_by_the_end_of_its_name_and_the_same_bytes_each_time(end: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"1.{end}", tmp_path / f"2.{end}"
    store.write_text(first, "größe\n" * 1000)
    store.write_text(second, "größe\n" * 1000)
    assert first.read_bytes() == second.read_bytes()
    assert (first.stat().st_size < 1000) == (end == "csv.gz")
    assert read_text(first, TRACE, hint=HINT) == "größe\n" * 1000


def test_text_that_is_none_is_named_with_its_line() -> None:
    with pytest.raises(ArtefactError, match="`stdin`, line 2: not UTF-8") as caught:
        text_of(b"a\n\xff\n", TRACE, "stdin", hint=HINT)
    assert caught.value.hint == HINT


# Reading


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"extra": 1}, "unknown field `extra`"),
        ({"format": 1}, "`format` is 1; this version reads 2"),
        ({"headroom": "high"}, "$.headroom"),
        ({"demand_qps": {"a": None}}, "$.demand_qps[...]"),
        ({"placements": [{"device": "cpu0"}]}, "$.placements[0]"),
        ({"solver": 3}, "$.solver"),
        ({"fleet": ["cpu0"]}, "$.fleet"),
        ({"headroom": 0.5}, "Expected `float` >= 1.0 - at `$.headroom`"),
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
    assert "is a directory" in refused(tmp_path)


# The workspace


def test_a_byte_order_mark_before_a_catalog_changes_nothing(tmp_path: Path) -> None:
    """Some editors write one. `read_text` leaves it out, too."""
    workspace, text = Workspace(tmp_path), "format = 1\n[[family]]\nname = 'a'\nslo = '1s'\n"
    text += "[[family.variant]]\nname = 'b'\naccuracy = 0.9\n"
    store.write_text(workspace.catalog_path, text)
    plain, inputs = workspace.catalog(), workspace.digests([workspace.catalog_path])
    workspace.catalog_path.write_text(text, encoding="utf-8-sig")
    assert workspace.catalog() == plain
    workspace.require_current(inputs)


def test_a_broken_catalog_names_the_file_and_the_field(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ArtefactError, match=r"No file .*catalog\.toml") as caught:
        workspace.catalog()
    assert "proteus init" in caught.value.hint
    workspace.catalog_path.parent.mkdir()
    workspace.catalog_path.write_text("format = 1\n[[family]]\nname = 'a'\nslo = 'soon'\nvariant = []\n")
    with pytest.raises(ArtefactError, match=r"catalog\.toml.*slo of `a`"):
        workspace.catalog()
    small = "variant = [{name = 's', accuracy = 0.5}]\n"
    workspace.catalog_path.write_text(f"format = 1\n[[family]]\nname = 'a'\nslo = '1s'\nattainment = 99.5\n{small}")
    with pytest.raises(ArtefactError, match=r"Expected `float` < 1.0 - at `\$\.family\[0\]\.attainment`") as caught:
        workspace.catalog()
    assert caught.value.hint == "docs/formats.md describes the catalog; `proteus init` writes an example"
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


# The profiles of a fleet that isn't here

FAST, SLOW = (make_measured("a", "s", 0.8, {1: latency_s}) for latency_s in (0.01, 0.02))


def with_profiles(root: Path, *profiles: Profile) -> Workspace:
    workspace = Workspace(root)
    for profile in profiles:
        store.write_json(workspace.profile_path(profile.device.id), profile)
    return workspace


def plan_for(**fleet: tuple[str, ...]) -> Plan:
    return msgspec.structs.replace(PLAN, fleet=fleet, placements=())


def test_the_profiles_of_a_plan_are_those_of_its_devices(tmp_path: Path) -> None:
    workspace = with_profiles(tmp_path, make_profile("cpu0", FAST), make_profile("cpu1", SLOW))
    workspace.profile_path("cpu2").write_text("broken, and no device of the plan")
    profiles = workspace.profiles_of(plan_for(cpu=("cpu1", "cpu0")))
    assert profiles == {"cpu1": workspace.profile("cpu1"), "cpu0": workspace.profile("cpu0")}


@pytest.mark.parametrize("name", ["cpu", "cpu1"])
def test_made_up_devices_of_a_plan_have_the_profile_that_they_were_made_from(name: str, tmp_path: Path) -> None:
    """By type, where a fleet is of that type; by device, where it is like that device."""
    others = (make_profile("v100", SLOW, device_type="v100"),)
    workspace = with_profiles(tmp_path, make_profile("cpu0", FAST), make_profile("cpu1", FAST), *others)
    fleet = hypothetical_fleet({name: 3, "v100": 2}, workspace.profiles())
    plan = plan_for(cpu=tuple(fleet)[:3], v100=tuple(fleet)[3:])
    assert workspace.profiles_of(plan) == fleet


def test_made_up_devices_on_hosts_have_the_profiles_that_they_were_made_from(tmp_path: Path) -> None:
    differing = make_profile("cpu0", FAST), make_profile("b/cpu0", SLOW)
    workspace = with_profiles(tmp_path, *differing, make_profile("v100", SLOW, device_type="v100"))
    fleet = fleet_of(workspace.profiles(), "a=cpu0:2,v100:1;b=cpu0:1,v100:1")
    assert workspace.profiles_of(plan_for(**ids_by_type(fleet))) == fleet
    assert fleet["b/cpu0-0"].variants == (SLOW,)
    paths = [workspace.profile_path(name) for name in ("cpu0", "v100", "b/cpu0")]
    assert workspace.profile_paths(fleet) == paths


def test_a_device_is_told_apart_from_the_profiles_of_another_type_by_its_type(tmp_path: Path) -> None:
    """Of two imported types `t` and `t-0`, the first device of the first has the name of the second."""
    types = [make_profile(name, measured, device_type=name) for name, measured in (("t", FAST), ("t-0", SLOW))]
    workspace = with_profiles(tmp_path, *types)
    fleet = hypothetical_fleet({"t": 1, "t-0": 1}, workspace.profiles())
    assert list(fleet) == ["t-0", "t-0-0"]
    assert workspace.profiles_of(plan_for(t=("t-0",)))["t-0"].variants == (FAST,)
    assert workspace.profile_paths(fleet) == [workspace.profile_path("t"), workspace.profile_path("t-0")]


def test_a_made_up_device_of_a_type_whose_profiles_differ_is_refused(tmp_path: Path) -> None:
    workspace = with_profiles(tmp_path, make_profile("cpu0", FAST), make_profile("cpu1", SLOW))
    with pytest.raises(UsageError, match="type `cpu` have different profiles"):
        workspace.profiles_of(plan_for(cpu=("cpu-0",)))


def test_a_device_without_a_profile_of_its_type_is_refused(tmp_path: Path) -> None:
    workspace = with_profiles(tmp_path, make_profile("cpu0", FAST))
    with pytest.raises(ArtefactError, match="No profile of `gpu0`, nor of any `v100`") as caught:
        workspace.profiles_of(plan_for(v100=("gpu0",)))
    assert "proteus profile --device gpu0" in caught.value.hint


def test_the_files_of_a_large_fleet_are_few(tmp_path: Path) -> None:
    workspace = with_profiles(
        tmp_path, make_profile("cpu0", FAST), make_profile("cpu1", FAST), make_profile("v100", SLOW, device_type="v100")
    )
    profiles = workspace.profiles()
    large = hypothetical_fleet({"v100": 10_000, "cpu": 10_000, "cpu1": 10_000}, profiles)
    assert workspace.profile_paths(large) == [workspace.profile_path(name) for name in ("v100", "cpu0", "cpu1")]
    assert workspace.sources(large) == [profiles[name] for name in ("v100", "cpu0", "cpu1")]
    assert workspace.profile_paths(profiles) == [workspace.profile_path(name) for name in profiles]


# What it was made from


def test_comments_layout_and_the_order_of_keys_make_no_input_another(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    profile = workspace.profile_path("cpu0")
    store.write_text(workspace.catalog_path, 'format = 1\n[[family]]\nname = "a"\nslo = "1s"\n')
    store.write_text(profile, '{"slots": 1, "points": [1, 2.5]}')
    inputs = workspace.digests([workspace.catalog_path, profile])
    store.write_text(workspace.catalog_path, "# of families\nformat=1\n[[family]]\nslo = '1s' # fast\nname = 'a'\n")
    store.write_text(profile, '{"points": [1,2.5],\n "slots":1}\n')
    workspace.require_current(inputs)
    store.write_text(workspace.catalog_path, 'format = 1\n[[family]]\nname = "a"\nslo = "2s"\n')
    with pytest.raises(ArtefactError, match=r"`engines/catalog\.toml` has changed"):
        workspace.require_current(inputs)


def test_an_input_that_can_not_be_parsed_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    store.write_text(workspace.catalog_path, "format = ")
    with pytest.raises(ArtefactError, match=r"Can't parse `.*catalog\.toml`"):
        workspace.digests([workspace.catalog_path])


def test_the_digest_of_a_profile_is_that_of_its_file(tmp_path: Path) -> None:
    profile = make_profile("cpu0", make_measured("a", "a-s", 0.8, {1: 0.01, 2: 1e-7 / 3}, power_w=1e22))
    store.write_json(tmp_path / "cpu0.json", profile)
    assert store.digest_of(profile) == store.content_digest(tmp_path / "cpu0.json")


def test_an_input_that_changed_or_is_gone_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = workspace.profile_path("cpu0")
    store.write_bytes(path, b'{"as it": "was"}')
    inputs = workspace.digests([path])
    store.write_bytes(path, b'{"as it": "is!"}')
    with pytest.raises(ArtefactError, match=r"`profiles/cpu0\.json` has changed") as caught:
        workspace.require_current(inputs)
    assert "proteus plan" in caught.value.hint
    path.unlink()
    with pytest.raises(ArtefactError, match=r"`profiles/cpu0\.json`, which is gone"):
        workspace.require_current(inputs)


@pytest.mark.parametrize("location", ["m.onnx.data", "m[1].onnx_data", "weights.bin", "weights/m.bin"])
def test_the_digest_of_a_model_covers_its_external_data(location: str, tmp_path: Path) -> None:
    model, data = mlp(tmp_path / "m.onnx"), tmp_path / location
    alone = model_digest(model)
    keep_apart(model, location)
    first, weights = model_digest(model), data.read_bytes()
    data.write_bytes(weights[::-1])
    assert len({alone, first, model_digest(model)}) == 3
    data.write_bytes(weights)
    assert model_digest(model) == first


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


def test_models_with_an_input_of_their_family_are_compared_without_a_file_and_loaded_from_the_state(
    tmp_path: Path,
) -> None:
    """So that the workspace may be read-only."""
    image = ImageInput(size=(8, 8))
    family = msgspec.structs.replace(make_family("a", {"a-s": 0.8}), input=image)
    read_only = Workspace(tmp_path / "ws")
    model = conv_net(read_only.model_path("a-s.onnx"), size=8)
    before = sorted(read_only.root.rglob("*"))
    served = Workspace(read_only.root, tmp_path / "state")
    loaded = served.loaded_path(family, model)
    assert loaded.parent == tmp_path / "state" / "engines" / "prepared"
    measured = msgspec.structs.replace(make_measured("a", "a-s", 0.8, {1: 0.01}), model_digest=model_digest(loaded))
    for place in (read_only, served):
        require_current_models(make_catalog(family), make_profile("cpu0", measured), place)
    assert sorted(read_only.root.rglob("*")) == before


@pytest.mark.parametrize("families", [("a", "other"), ("other", "a-s")])
def test_what_the_catalog_no_longer_offers_need_not_be_current(families: tuple[str, str], tmp_path: Path) -> None:
    profile = make_profile("cpu0", make_measured("a", "a-s", 0.8, {1: 0.01}))
    with pytest.raises(ArtefactError, match=r"No file .*a-s\.onnx"):  # where it is offered
        require_current_models(make_catalog(make_family("a", {"a-s": 0.8})), profile, Workspace(tmp_path))
    family, variant = families
    require_current_models(make_catalog(make_family(family, {variant: 0.8})), profile, Workspace(tmp_path))


# Where there is no model to compare


def imported(accuracy: float) -> VariantProfile:
    return msgspec.structs.replace(make_measured("a", "s", accuracy, {1: 0.01}), model_digest=None)


def catalog_of(accuracy: float, *, onnx: str | None = None, split: str | None = None) -> Catalog:
    return make_catalog(Family("a", "100ms", (Variant("s", accuracy, onnx),), eval=split))


def test_a_variant_without_a_model_is_current_while_its_accuracy_is(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for measured in (imported(0.8), make_measured("a", "s", 0.8, {1: 0.01})):
        require_current_models(catalog_of(0.8), make_profile("cpu0", measured), workspace)
        with pytest.raises(ArtefactError, match=r"The accuracy of `a/s` in the profile of `cpu0`"):
            require_current_models(catalog_of(0.81), make_profile("cpu0", measured), workspace)


def test_an_imported_profile_needs_no_model_that_the_catalog_names(tmp_path: Path) -> None:
    workspace, profile = Workspace(tmp_path), make_profile("v100", imported(0.8))
    require_current_models(catalog_of(0.8, onnx="gone.onnx"), profile, workspace)
    with pytest.raises(ArtefactError, match=r"is 0\.8; the catalog declares 0\.9") as caught:
        require_current_models(catalog_of(0.9, onnx="gone.onnx"), profile, workspace)
    assert "--from-csv" in caught.value.hint


def test_an_imported_accuracy_is_near_the_declared_one_where_accuracies_are_measured(tmp_path: Path) -> None:
    """It was measured elsewhere, to more digits than people write into a catalog."""
    workspace, profile = Workspace(tmp_path), make_profile("v100", imported(0.8129629))
    require_current_models(catalog_of(0.813, split="no.npz"), profile, workspace)
    for catalog in (catalog_of(0.83, split="no.npz"), catalog_of(0.813)):
        with pytest.raises(ArtefactError, match="the catalog declares"):
            require_current_models(catalog, profile, workspace)


def test_an_interrupt_while_a_file_is_written_comes_after_that_and_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def interrupted(path: Path, flags: int, mode: int) -> int:
        handle = open_file(path, flags, mode)
        signal.raise_signal(signal.SIGINT)
        return handle

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write_json(tmp_path / "new.json", {"a": 1})

    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]
    assert json.loads((tmp_path / "new.json").read_text()) == {"a": 1}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_new_name_is_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = list[str](), os.fsync

    def recording(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recording)
    store.write_text(tmp_path / "a.json", "{}")
    assert synced[-1] == str(tmp_path)
