"""What a server reads of the catalog, the models and the profiles of its workspace, and what it has measured there."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tiny import SHAPES, Tiny, TinyFamily, add_profiles, catalog_toml, make_workspace, mlp, save_eval

from proteus_cli import store
from proteus_cli.control.policies import live_policy_named
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import succession
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, MeasurableDevices
from proteus_cli.serving.measuring_process import measured
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog, model_digests
from proteus_cli.serving.workspace.plans import Emulation, WorkspacePlans

FAMILY = TinyFamily("shapes", SHAPES.variants[:2], slo="10s", eval=SHAPES.eval)
TYPES = {"cpu0": "cpu-1c"}


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    found = make_workspace(tmp_path, (FAMILY,))
    add_profiles(found, ("cpu0",))
    return found


def source(
    made: Tiny, budget_s: float = 60.0, *, state: Path | None = None, emulates: bool = False
) -> WorkspaceCatalog:
    workspace = store.Workspace(made.root, state)
    emulation = Emulation() if emulates else None
    planner = planner_settings(workspace, live_policy_named("proteus"), 1.2, profiles={})
    plans = WorkspacePlans(workspace, Path("plan"), cast("Any", None), emulation, planner)
    return WorkspaceCatalog(plans, budget_s)


def known(catalog: WorkspaceCatalog, files: CatalogFiles | None = None) -> list[str]:
    """The variants of which the profile is current."""
    found = catalog.measurements(files or catalog.read(), TYPES).profiles["cpu0"]
    return [each.variant for each in found.variants]


def test_models_have_the_digests_that_profiles_know(made: Tiny) -> None:
    files, profiles = source(made).read(), {"cpu0": made.place.profile("cpu0")}
    assert files.content.digests == model_digests(made.place, made.place.catalog(), profiles)
    assert files.content.digest(VariantKey("shapes", "shapes-s")) == store.model_digest(made.model("shapes-s"))
    assert files.models[VariantKey("shapes", "shapes-s")] == made.model("shapes-s")


def test_only_what_was_measured_of_the_present_files_counts(made: Tiny) -> None:
    catalog = source(made)
    assert known(catalog) == ["shapes-s", "shapes-m"]
    mlp(made.model("shapes-m"), hidden=8, seed=17)
    assert known(catalog) == ["shapes-s"]
    save_eval(made.root / "engines" / str(SHAPES.eval), right=16)
    assert known(catalog) == []


def test_a_declared_accuracy_counts_as_declared(tmp_path: Path) -> None:
    family = TinyFamily("shapes", SHAPES.variants[:2])
    made = make_workspace(tmp_path, (family,))
    add_profiles(made, ("cpu0",))
    catalog, path = source(made), tmp_path / "engines" / "catalog.toml"
    path.write_text(catalog_toml([family]).replace("accuracy = 0.8", "accuracy = 0.82"))
    assert known(catalog) == ["shapes-s"]


def test_what_plans_are_made_of_is_what_the_files_say_now(made: Tiny) -> None:
    catalog = source(made)
    inputs = catalog.measurements(catalog.read(), TYPES).inputs
    assert sorted(inputs) == ["engines/catalog.toml", "profiles/cpu0.json"]
    made.place.require_current(inputs)


def test_a_model_that_is_missing_is_an_error_where_it_is_run(made: Tiny) -> None:
    made.model("shapes-m").unlink()
    with pytest.raises(ArtefactError, match="No model"):
        source(made).read()
    assert list(source(made, emulates=True).read().models) == [VariantKey("shapes", "shapes-s")]


def test_stamps_change_with_the_catalog_its_models_and_its_splits(made: Tiny) -> None:
    catalog = source(made)
    seen = [catalog.stamp()]
    assert catalog.stamp() == seen[0]
    mlp(made.model("shapes-m"), hidden=9, seed=17)
    seen.append(catalog.stamp())
    save_eval(made.root / "engines" / str(SHAPES.eval), rows=40)
    seen.append(catalog.stamp())
    (made.root / "engines" / "catalog.toml").write_text("nothing")
    seen.append(catalog.stamp())
    assert all(seen[i] != seen[j] for i in range(4) for j in range(i))


def test_what_may_not_be_written_or_is_emulated_is_not_measured(made: Tiny, tmp_path: Path) -> None:
    assert source(made).measures
    assert not source(made, 0.0).measures
    assert not source(made, emulates=True).measures
    assert not source(made, state=tmp_path / "state").measures


def test_what_is_new_is_measured_on_the_devices_that_lack_it(made: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `proteus profile` itself; at the usual priority here, so as to end on a busy machine."""
    usual = partial(measured, leaves_time=False)
    monkeypatch.setattr(
        "proteus_cli.serving.workspace.profiles.measured",
        lambda *given, leaves_time: usual(*given) if leaves_time else None,
    )
    mlp(made.model("shapes-m"), hidden=8, seed=17)
    catalog, said = source(made, 60.0), list[str]()
    asyncio.run(catalog.measure(MeasurableDevices([made.place.profile("cpu0").device], {}), said.append))
    assert known(catalog) == ["shapes-s", "shapes-m"]
    found = made.place.profile("cpu0").of("shapes", "shapes-m")
    assert found is not None
    assert found.model_digest == store.model_digest(made.model("shapes-m"))
    assert any("measured" in line for line in said), said


def test_what_cannot_be_measured_says_why(made: Tiny) -> None:
    catalog = source(made)
    profile = msgspec.json.decode(made.place.profile_path("cpu0").read_bytes())
    profile["format"] = 99
    made.place.profile_path("cpu0").write_bytes(msgspec.json.encode(profile))
    with pytest.raises(ArtefactError):
        catalog.measurements(catalog.read(), TYPES)
    (made.root / "engines" / "catalog.toml").write_text("format = 1\n")
    with pytest.raises(EngineError, match="`proteus profile` can't measure: "):
        asyncio.run(measured(made.root, ["--device=cpu0"], print, leaves_time=False))


def test_what_was_written_since_profiles_were_read_is_what_plans_are_made_from(made: Tiny) -> None:
    catalog, profile = source(made), made.place.profile("cpu0")
    catalog.plans.write_profile(msgspec.structs.replace(profile, measured_on="cpu1"))
    files = catalog.read()
    inputs = catalog.measurements(files, TYPES).inputs
    made.place.profile_path("cpu0").write_text(made.place.profile_path("cpu0").read_text() + "\n")  # by another program
    following = succession(files.content, files.content, {})
    catalog.use(following, inputs)
    assert catalog.plans.inputs() == inputs
    catalog.measurements(files, TYPES)
    catalog.plans.write_profile(msgspec.structs.replace(profile, measured_on="cpu2"))
    catalog.use(following, inputs)
    made.place.require_current(catalog.plans.inputs())
