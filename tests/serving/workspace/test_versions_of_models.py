"""Versions of models in a workspace: which files they are, and that the catalog names them, and the old ones again."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from tiny import SHAPES, Tiny, TinyFamily, add_profiles, make_workspace, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.adaptation.catalog_reading import MeasurableDevices
from proteus_cli.serving.workspace import profiles as measuring_module
from proteus_cli.serving.workspace import versions as versions_module
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog
from proteus_cli.serving.workspace.versions import WorkspaceVersions
from proteus_cli.store import Workspace, model_digest

PLAIN = VariantKey("shapes", "shapes-m")


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    made = make_workspace(tmp_path, (TinyFamily("shapes", SHAPES.variants[:2], eval=SHAPES.eval),))
    add_profiles(made, ("cpu0",))
    return made


def versions_of(made: Tiny, *, budget_s: float = 60.0, state: Path | None = None) -> WorkspaceVersions:
    plans = SimpleNamespace(workspace=Workspace(made.root, state), emulation=None)
    return WorkspaceVersions(WorkspaceCatalog(cast("Any", plans), budget_s))


def test_a_version_is_in_the_directory_beside_that_of_the_one_before(made: Tiny) -> None:
    versions, model = versions_of(made), made.model("shapes-m")
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    second = versions.candidate(PLAIN, "2")
    assert second.after.onnx == "models/shapes/2/shapes-m.onnx"
    assert second.files.content.digest(PLAIN) == model_digest(model.parent / "2" / model.name)
    assert second.files.models[PLAIN] == model.parent / "2" / model.name
    versions.write(second, {})
    mlp(model.parent / "3" / model.name, hidden=8, seed=18)
    assert versions.candidate(PLAIN, "3").after.onnx == "models/shapes/3/shapes-m.onnx"


def test_a_version_that_is_not_there_is_named(made: Tiny) -> None:
    with pytest.raises(ArtefactError, match="No model"):
        versions_of(made).candidate(PLAIN, "2")


def test_the_catalog_and_the_profiles_name_a_version_and_then_the_one_before_as_they_did(made: Tiny) -> None:
    versions, model = versions_of(made), made.model("shapes-m")
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    path, profile = made.place.catalog_path, made.place.profile_path("cpu0")
    path.write_text("# what we serve\n" + path.read_text())
    catalog, known = path.read_text(), made.place.profile("cpu0")
    candidate = versions.candidate(PLAIN, "2")
    of_old = known.of(*PLAIN)
    assert of_old is not None
    of_new = replace(of_old, model_digest=candidate.files.content.digest(PLAIN), load_s=9.0)
    versions.write(candidate, {"cpu0": of_new})
    assert path.read_text() == catalog.replace("models/shapes/shapes-m.onnx", "models/shapes/2/shapes-m.onnx")
    assert made.place.profile("cpu0").of(*PLAIN) == of_new
    assert versions.write_back(candidate)
    assert path.read_text() == catalog
    after = made.place.profile("cpu0")
    assert {each.key: each for each in after.variants} == {each.key: each for each in known.variants}
    assert profile.is_file()


def test_what_a_person_has_made_of_the_catalog_stays(made: Tiny) -> None:
    versions, model, path = versions_of(made), made.model("shapes-m"), made.place.catalog_path
    for number in (2, 3):
        mlp(model.parent / str(number) / model.name, hidden=8, seed=17 + number)
    candidate, profile = versions.candidate(PLAIN, "2"), made.place.profile("cpu0")
    of_old = profile.of(*PLAIN)
    assert of_old is not None
    before = path.read_text()
    by_hand = before.replace("models/shapes/shapes-m.onnx", "models/shapes/3/shapes-m.onnx")
    path.write_text(by_hand)
    with pytest.raises(ArtefactError, match="names another model of `shapes/shapes-m` now"):
        versions.write(candidate, {"cpu0": replace(of_old, load_s=9.0)})
    assert (path.read_text(), made.place.profile("cpu0"), versions.write_back(candidate)) == (by_hand, profile, False)
    path.write_text(before)
    versions.write(candidate, {"cpu0": replace(of_old, load_s=9.0)})
    path.write_text(by_hand)
    assert (versions.write_back(candidate), path.read_text()) == (False, by_hand)


def test_a_version_that_a_person_had_named_is_not_taken_back(made: Tiny) -> None:
    versions, model, path = versions_of(made), made.model("shapes-m"), made.place.catalog_path
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    candidate = versions.candidate(PLAIN, "2")
    by_hand = path.read_text().replace("models/shapes/shapes-m.onnx", "models/shapes/2/shapes-m.onnx")
    path.write_text(by_hand)
    with pytest.raises(ArtefactError, match="names another model of `shapes/shapes-m` now"):
        versions.write(candidate, {})
    assert (versions.write_back(candidate), path.read_text()) == (False, by_hand)


def test_a_version_is_measured_in_a_copy_that_has_what_lies_beside_the_workspace(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    root.mkdir()
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants[:2], eval=SHAPES.eval),))
    (root / "engines" / "models").rename(tmp_path / "models")
    path = made.place.catalog_path
    path.write_text(path.read_text().replace('"models/', '"../../models/'))
    mlp(tmp_path / "models" / "shapes" / "2" / "shapes-m.onnx", hidden=8, seed=17)
    versions = versions_of(made)
    copy = versions._copied(versions.candidate(PLAIN, "2"))
    try:
        files = [file for _, variant in copy.catalog().variants for file in copy.files_of(variant)]
        assert [file.is_file() for file in files] == [True, True]
        assert files[1].samefile(tmp_path / "models" / "shapes" / "2" / "shapes-m.onnx")
    finally:
        shutil.rmtree(copy.root)


@pytest.mark.parametrize("fails", ["write", "write_back"])
def test_where_a_profile_cannot_be_written_all_are_as_before_in_the_end(fails: str, made: Tiny) -> None:
    add_profiles(made, ("cpu0", "cpu1"))
    versions, model = versions_of(made), made.model("shapes-m")
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    candidate, broken = versions.candidate(PLAIN, "2"), made.place.profile_path("cpu1")
    before = {device: made.place.profile(device).of(*PLAIN) for device in ("cpu0", "cpu1")}
    after = {device: replace(known, load_s=9.0) for device, known in before.items() if known is not None}
    if fails == "write_back":
        versions.write(candidate, after)
    content = broken.read_text()
    broken.write_text("{")
    with pytest.raises(ArtefactError):
        getattr(versions, fails)(candidate, *([after] if fails == "write" else []))
    broken.write_text(content)
    versions.write_back(candidate)
    assert {device: made.place.profile(device).of(*PLAIN) for device in before} == before


def here(made: Tiny) -> MeasurableDevices:
    return MeasurableDevices([made.place.profile("cpu0").device], {})


def types_of(made: Tiny) -> dict[str, str]:
    return {"cpu0": made.place.profile("cpu0").device.type}


@dataclass
class Measuring:
    """Takes the place of `proteus profile` in a copy of the workspace, and says which threads have touched the copy."""

    patch: pytest.MonkeyPatch
    lasts: bool = False
    copies: list[Path] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    threads: dict[str, set[bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for module, name in ((versions_module, "_link_all"), (shutil, "copytree"), (shutil, "rmtree")):
            self.patch.setattr(module, name, partial(self._called, name, getattr(module, name)))
        self.patch.setattr(measuring_module, "measured", self._measured)

    def _called(self, name: str, real: Any, *args: Any, **options: Any) -> object:
        self.threads.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
        return real(*args, **options)

    async def _measured(self, root: Path, options: Any, say: Any, *, leaves_time: bool) -> bytes:
        assert leaves_time
        self.copies.append(root)
        self.begun.set()
        assert (root / "engines" / "catalog.toml").read_text().count("/2/") == 1
        if self.lasts:
            await asyncio.Event().wait()
        return b""


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["measured", "aborted"])
def test_the_copy_to_measure_in_is_made_and_removed_while_requests_are_served(
    made: Tiny, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    versions, model = versions_of(made), made.model("shapes-m")
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    candidate, measuring = versions.candidate(PLAIN, "2"), Measuring(monkeypatch, lasts=is_cancelled)

    async def measure() -> Mapping[str, VariantProfile]:
        task = asyncio.create_task(versions.measure(candidate, here(made), types_of(made), lambda _line: None))
        if not is_cancelled:
            return await task
        await measuring.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return {}

    assert asyncio.run(measure()) == {}
    (copy,) = measuring.copies
    assert not copy.exists()
    assert measuring.threads == {name: {False} for name in ("_link_all", "copytree", "rmtree")}


def test_a_copy_that_nobody_wants_any_more_is_removed_once_it_is_made(
    made: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    versions, model = versions_of(made), made.model("shapes-m")
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    candidate, before = versions.candidate(PLAIN, "2"), set(tmp_path.iterdir())
    begun, goes_on, copytree = threading.Event(), threading.Event(), shutil.copytree

    def slow(*args: Any) -> object:
        begun.set()
        assert goes_on.wait(60.0)
        return copytree(*args)

    monkeypatch.setattr(shutil, "copytree", slow)

    async def measure() -> None:
        task = asyncio.create_task(versions.measure(candidate, here(made), types_of(made), lambda _line: None))
        assert await asyncio.to_thread(begun.wait, 60.0)
        task.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(measure())
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("why", ["state", "budget"])
def test_where_nothing_can_be_measured_or_written_nothing_is_rolled_out(why: str, made: Tiny, tmp_path: Path) -> None:
    how: dict[str, Any] = {"state": tmp_path / "state"} if why == "state" else {"budget_s": 0.0}
    with pytest.raises(ArtefactError, match="measures no new versions"):
        versions_of(made, **how).require_writable()
    versions_of(made).require_writable()
