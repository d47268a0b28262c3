"""What a server says its plans are made from: files as the workspace has them, so that the next server can resume."""

import logging
import os
from pathlib import Path

import msgspec
import pytest
from tiny import Tiny, add_plan, add_profiles, make_workspace, mlp

from proteus_cli.control.devices.slowness import Correction, Estimate
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.adaptation.plan_inputs import PlanSource, ProfileStore
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.workspace.deployment import deployment_of
from proteus_cli.store import write_json

CORRECTIONS = (Correction("cpu0", "shapes", "shapes-s", (Estimate(1, 0.5, 30),)),)


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    tiny = make_workspace(tmp_path / "ws")
    add_profiles(tiny, ("cpu0",))
    add_plan(tiny, {"cpu0": "shapes-s"})
    return tiny


def opened(made: Tiny) -> tuple[PlanSource, ProfileStore]:
    deployment = deployment_of(Path("plan"), made.place)
    return deployment.source, ProfileStore(deployment.profiles)


def test_a_profile_that_is_corrected_and_not_written_is_no_input(made: Tiny) -> None:
    source, profiles = opened(made)
    before = source.inputs()
    profiles.correct("cpu0", CORRECTIONS)
    assert source.inputs() == before
    made.place.require_current(source.inputs())


def test_a_profile_that_is_written_back_is_the_input_from_then_on(made: Tiny) -> None:
    source, profiles = opened(made)
    before = source.inputs()
    source.write_profile(profiles.correct("cpu0", CORRECTIONS))
    assert source.inputs()["profiles/cpu0.json"] != before["profiles/cpu0.json"]
    made.place.require_current(source.inputs())


def test_what_was_measured_anew_meanwhile_stays_in_the_file(made: Tiny) -> None:
    """As by `proteus profile` for the catalog that the server is to read next."""
    source, profiles = opened(made)
    file = made.place.profile("cpu0")
    small, *others = file.variants
    others[0] = msgspec.structs.replace(others[0], model_digest="another", load_s=7.0)
    added = msgspec.structs.replace(small, variant="shapes-xs")
    write_json(made.place.profile_path("cpu0"), msgspec.structs.replace(file, variants=(small, *others, added)))
    corrected = profiles.correct("cpu0", CORRECTIONS)
    source.write_profile(corrected)
    assert made.place.profile("cpu0").variants == (corrected.variants[0], *others, added)


def test_a_server_says_once_what_its_plan_takes_sharing_to_cost(made: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proteus.server")
    opened(made)
    assert "sharing" not in caplog.text, "a device has one variant"
    path = made.place.plans_dir / "plan.json"
    plan = made.place.plan(path)
    beside = [msgspec.structs.replace(each, variant="shapes-m", share=0.0, rate_qps=0.0) for each in plan.placements]
    write_json(path, msgspec.structs.replace(plan, placements=(*plan.placements, *beside)))
    opened(made)
    assert caplog.text.count("sharing: shapes-m, shapes-s on a cpu-1c: taken to cost each other no time") == 1


@pytest.mark.parametrize(("overwritten", "hosted"), [("shapes-m", {"shapes-s"}), ("shapes-s", {"shapes-l"})])
def test_a_server_starts_without_a_variant_whose_model_was_overwritten(
    made: Tiny, caplog: pytest.LogCaptureFixture, overwritten: str, hosted: set[str]
) -> None:
    """If the plan hosts the variant, another plan is made for the same demand."""
    mlp(made.model(overwritten), hidden=5)
    deployment = deployment_of(Path("plan"), made.place)
    (profile,) = deployment.profiles.values()
    assert overwritten not in {each.variant for each in profile.variants}
    assert {each.variant for each in deployment.plan.placements} == hosted
    assert f"is not the one that was measured: shapes/{overwritten}. `proteus profile` measures" in caplog.text


def test_a_server_starts_without_a_variant_whose_model_is_no_regular_file(made: Tiny) -> None:
    made.model("shapes-s").unlink()
    os.mkfifo(made.model("shapes-s"))
    deployment = deployment_of(Path("plan"), made.place)
    assert {each.variant for each in deployment.plan.placements} == {"shapes-l"}
    assert all(profile.of("shapes", "shapes-s") is None for profile in deployment.profiles.values())


def test_a_strict_server_does_not_start_with_a_model_that_was_overwritten(made: Tiny) -> None:
    mlp(made.model("shapes-m"), hidden=5)
    with pytest.raises(ArtefactError, match=r"`shapes/shapes-m` in the profile of `cpu0` was measured with another"):
        deployment_of(Path("plan"), made.place, ServeSettings(strict=True))
