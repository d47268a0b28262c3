"""What a version has answered when it was measured is there once it is named: for shifts, and for cascades."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace
from tiny import SHAPES, Tiny, TinyFamily, add_profiles, make_workspace, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.serving.adaptation.catalog_reading import MeasurableDevices
from proteus_cli.serving.adaptation.rollout_requests import Candidate
from proteus_cli.serving.adaptation.shifts import References
from proteus_cli.serving.workspace import profiles as measuring_module
from proteus_cli.serving.workspace import versions as versions_module
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog
from proteus_cli.serving.workspace.naming import undo_namings
from proteus_cli.serving.workspace.versions import WorkspaceVersions
from proteus_cli.store import Workspace, write_json
from proteus_cli.store.answers import Answers, read_answers, write_answers

SMALL, PLAIN = VariantKey("shapes", "shapes-s"), VariantKey("shapes", "shapes-m")
EVAL, ROWS = "e" * 64, 400


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """Both variants were measured on an eval split, and what they answered is known."""
    made = make_workspace(tmp_path, (TinyFamily("shapes", SHAPES.variants[:2], eval=SHAPES.eval),))
    add_profiles(made, ("cpu0",))
    model, place = made.model("shapes-m"), made.place
    mlp(model.parent / "2" / model.name, hidden=8, seed=17)
    profile = place.profile("cpu0")
    assert [each.key for each in profile.variants] == [SMALL, PLAIN]
    named = tuple(replace(each, eval_digest=EVAL, engine_digest=f"{each.variant} 1") for each in profile.variants)
    write_json(place.profile_path("cpu0"), replace(profile, variants=named))
    write_answers(place.answers_path("cpu0"), {SMALL: answers("shapes-s 1", 0.2), PLAIN: answers("shapes-m 1", 0.0)})
    return made


def answers(engine: str, wrong: float) -> Answers:
    """Of the rows that it is least sure of, a part is wrong."""
    sure = np.linspace(0.0, 1.0, ROWS, dtype=np.float32)
    return Answers(engine, EVAL, "margin", sure, sure >= wrong, np.zeros(ROWS, np.int32))


def measured_version(made: Tiny, patch: pytest.MonkeyPatch) -> tuple[WorkspaceVersions, Candidate, VariantProfile]:
    """A version that is measured in a copy of the workspace, which is gone afterwards."""
    plans = SimpleNamespace(workspace=made.place, emulation=None)
    versions = WorkspaceVersions(WorkspaceCatalog(cast("Any", plans), 60.0))
    candidate = versions.candidate(PLAIN, "2")

    async def measured(root: Path, *_: Any, **_options: Any) -> bytes:
        copy = Workspace(root)
        small, known = copy.profile("cpu0").variants
        of_new = replace(known, model_digest=candidate.files.content.digest(PLAIN), engine_digest="shapes-m 2")
        write_json(copy.profile_path("cpu0"), replace(copy.profile("cpu0"), variants=(small, of_new)))
        found = read_answers(copy.answers_path("cpu0")) | {PLAIN: answers("shapes-m 2", 0.01)}
        write_answers(copy.answers_path("cpu0"), found)
        return b""

    cpu0 = made.place.profile("cpu0").device
    here, types = MeasurableDevices([cpu0], {}), {"cpu0": cpu0.type}
    with patch.context() as patched:
        patched.setattr(measuring_module, "measured", measured)
        found = asyncio.run(versions.measure(candidate, here, types, lambda _line: None))
    assert engines(made) == {SMALL: "shapes-s 1", PLAIN: "shapes-m 1"}
    return versions, candidate, found["cpu0"]


def engines(made: Tiny) -> dict[VariantKey, str]:
    """Whose answers are beside the profile."""
    return {key: each.engine_digest for key, each in read_answers(made.place.answers_path("cpu0")).items()}


def is_referred_to(made: Tiny) -> bool:
    """What comes can be compared with how sure the variant was."""
    return References(made.place).confidences(PLAIN, {"cpu0": made.place.profile("cpu0")}) is not None


def cascades(made: Tiny) -> list[tuple[str, str]]:
    return [(each.first, each.second) for each in made.place.profile("cpu0").cascades]


def test_a_version_that_is_named_has_its_answers_and_cascades_and_so_has_the_one_before_again(
    made: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, candidate, of_new = measured_version(made, monkeypatch)
    before = made.place.profile("cpu0")
    versions.write(candidate, {"cpu0": of_new})
    assert (engines(made), is_referred_to(made)) == ({SMALL: "shapes-s 1", PLAIN: "shapes-m 2"}, True)
    assert cascades(made) == [("shapes-s", "shapes-m")]
    versions.write_back(candidate)
    assert (engines(made), is_referred_to(made)) == ({SMALL: "shapes-s 1", PLAIN: "shapes-m 1"}, True)
    assert made.place.profile("cpu0") == before
    versions.write(candidate, {"cpu0": of_new})  # another roll-out of it
    assert engines(made) == {SMALL: "shapes-s 1", PLAIN: "shapes-m 2"}


def test_a_server_that_was_killed_has_the_answers_of_the_version_that_is_named(
    made: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, candidate, of_new = measured_version(made, monkeypatch)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    def killed_at(name: str, act: Callable[[], object]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(versions_module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                act()

    killed_at("use_answers", lambda: versions.write(candidate, {"cpu0": of_new}))
    undo_namings(made.place)
    assert (engines(made), is_referred_to(made)) == ({SMALL: "shapes-s 1", PLAIN: "shapes-m 1"}, True)
    versions.write(candidate, {"cpu0": of_new})
    versions.succeeded(candidate)
    undo_namings(made.place)
    assert (engines(made), is_referred_to(made)) == ({SMALL: "shapes-s 1", PLAIN: "shapes-m 2"}, True)
    killed_at("remove", lambda: versions.write_back(candidate))
    undo_namings(made.place)
    assert (engines(made), is_referred_to(made)) == ({SMALL: "shapes-s 1", PLAIN: "shapes-m 1"}, True)


def test_answers_that_cannot_be_read_keep_no_version_from_being_named(
    made: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    versions, candidate, of_new = measured_version(made, monkeypatch)
    made.place.answers_path("cpu0").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "proteus.rollouts"):
        versions.write(candidate, {"cpu0": of_new})
    assert made.place.profile("cpu0").of(*PLAIN) == of_new
    assert [each.message.split(":")[0] for each in caplog.records] == [
        "no cascades of `shapes-m` on cpu0", "cpu0 has no answers of `shapes-m`",
    ]  # fmt: skip
    assert made.place.answers_path("cpu0").read_bytes() == b"damaged"
