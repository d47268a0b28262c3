"""A server is killed while the catalog is made to name another version: the files that the next one finds fit."""

import logging
from collections.abc import Callable
from dataclasses import replace as with_state
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from tiny import SHAPES, Tiny, TinyFamily, add_plan, add_profiles, make_workspace, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.serving.adaptation.rollout_requests import Candidate
from proteus_cli.serving.workspace import naming
from proteus_cli.serving.workspace import versions as versions_module
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog
from proteus_cli.serving.workspace.deployment import deployment_of
from proteus_cli.serving.workspace.naming import undo_namings
from proteus_cli.serving.workspace.versions import WorkspaceVersions
from proteus_cli.store import write_json

PLAIN = VariantKey("shapes", "shapes-m")


class Killed(BaseException):
    """Nothing that was to come after it comes."""


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    made = make_workspace(tmp_path, (TinyFamily("shapes", SHAPES.variants[:2], eval=SHAPES.eval),))
    add_profiles(made, ("cpu0", "cpu1"))
    add_plan(made, {"cpu0": "shapes-m", "cpu1": "shapes-m"})
    model = made.model("shapes-m")
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    return made


def rolled_out(made: Tiny) -> tuple[WorkspaceVersions, Candidate, dict[str, VariantProfile]]:
    """The source of versions of a server, a version, and what was measured of it."""
    plans = SimpleNamespace(workspace=made.place, emulation=None)
    versions = WorkspaceVersions(WorkspaceCatalog(cast("Any", plans), 60.0))
    candidate = versions.candidate(PLAIN, "2")
    before = {device: made.place.profile(device).of(*PLAIN) for device in ("cpu0", "cpu1")}
    digest = candidate.files.content.digest(PLAIN)
    return (
        versions,
        candidate,
        {d: replace(each, model_digest=digest, load_s=9.0) for d, each in before.items() if each},
    )


def killed(
    patch: pytest.MonkeyPatch, act: Callable[[], object], *, at: str, after: int = 0, module: Any = versions_module
) -> None:
    """Do something in a process that is killed at a call of that name, ``after`` so many of them."""
    calls, real = 0, getattr(module, at)

    def call(*args: Any) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return real(*args)

    with patch.context() as patched:
        patched.setattr(module, at, call)
        with pytest.raises(Killed):
            act()


def texts(made: Tiny) -> list[str]:
    """What catalog and profiles say."""
    return [path.read_text() for path in (made.place.catalog_path, *map(made.place.profile_path, ("cpu0", "cpu1")))]


def left(made: Tiny) -> list[Path]:
    return list(made.place.namings_dir.iterdir())


@pytest.mark.parametrize("written", [1, 2, 3], ids=["no profile", "one profile", "all profiles"])
def test_before_the_catalog_names_the_version_all_is_undone_and_the_plan_is_current(
    written: int, made: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    versions, candidate, measured = rolled_out(made)
    before = texts(made)
    at, after = ("write_json", written) if written < 3 else ("have_named", 0)
    killed(monkeypatch, lambda: versions.write(candidate, measured), at=at, after=after)
    assert (texts(made) == before) is (written == 1)
    with caplog.at_level(logging.WARNING, "proteus.rollouts"):
        deployment = deployment_of(Path("plan"), made.place)
    assert deployment.plan.placements
    assert (texts(made), left(made)) == (before, [])
    (line,) = [each.message for each in caplog.records if each.name == "proteus.rollouts"]
    assert line == (
        "a server ended while the catalog was to name another version: it names `models/shapes/shapes-m.onnx`, "
        "and profiles say so again"
    )


@pytest.mark.parametrize("is_killed", [False, True], ids=["the server stops", "it is killed while it undoes that"])
def test_until_the_version_serves_all_is_undone_and_the_plan_is_current(
    made: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_killed: bool
) -> None:
    versions, candidate, measured = rolled_out(made)
    before = texts(made)
    versions.write(candidate, measured)
    assert made.place.profile("cpu0").of(*PLAIN) == measured["cpu0"]
    if is_killed:
        killed(monkeypatch, lambda: undo_namings(made.place), at="have_named", module=naming)
    with caplog.at_level(logging.WARNING, "proteus.rollouts"):
        assert deployment_of(Path("plan"), made.place).plan.placements
    assert (texts(made), left(made)) == (before, [])
    (line,) = [each.message for each in caplog.records if each.name == "proteus.rollouts"]
    assert line == (
        "a server ended while the catalog was to name another version: it names `models/shapes/shapes-m.onnx` again, "
        "and profiles say so again"
    )


def test_once_the_version_serves_nothing_is_undone(made: Tiny) -> None:
    versions, candidate, measured = rolled_out(made)
    versions.write(candidate, measured)
    named = texts(made)
    versions.succeeded(candidate)
    undo_namings(made.place)
    assert (texts(made), left(made)) == (named, [])


@pytest.mark.parametrize("at", ["have_named", "remove"])
def test_on_the_way_back_all_is_completed(made: Tiny, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    versions, candidate, measured = rolled_out(made)
    before = texts(made)
    versions.write(candidate, measured)
    versions.succeeded(candidate)
    killed(monkeypatch, lambda: versions.write_back(candidate), at=at)
    undo_namings(made.place)
    assert (texts(made), left(made)) == (before, [])


def test_what_was_measured_anew_or_named_by_hand_meanwhile_stays(made: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, candidate, measured = rolled_out(made)
    catalog = made.place.catalog_path.read_text()
    known = made.place.profile("cpu0")
    killed(monkeypatch, lambda: versions.write(candidate, measured), at="have_named")
    anew = replace(known, variants=tuple(replace(each, load_s=7.0) for each in known.variants))
    write_json(made.place.profile_path("cpu0"), anew)
    undo_namings(made.place)
    assert made.place.profile("cpu0") == anew
    killed(monkeypatch, lambda: versions.write(candidate, measured), at="have_named")
    model = made.model("shapes-m")
    mlp(model.parent / "3" / model.name, hidden=8, seed=18)
    made.place.catalog_path.write_text(catalog.replace("shapes/shapes-m.onnx", "shapes/3/shapes-m.onnx"))
    by_hand = texts(made)
    undo_namings(made.place)
    assert (texts(made), left(made)) == (by_hand, [])


def test_a_workspace_that_is_only_read_stays_as_it_is(
    made: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    versions, candidate, measured = rolled_out(made)
    killed(monkeypatch, lambda: versions.write(candidate, measured), at="have_named")
    halves = texts(made)
    undo_namings(with_state(made.place, state=tmp_path / "state"))
    assert (texts(made), len(left(made))) == (halves, 1)
    assert "start one without `--set state`" in caplog.text
