"""Answers and cascades come with the accuracy, stay while they are current, and are measured anew once they are not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_backend import FakeBackend, fake_time
from tiny import CLASSES, INPUTS, Tiny, device, mlp

from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError
from proteus_cli.profiling.answers import EVAL_BATCH
from proteus_cli.profiling.jobs import measurement_jobs
from proteus_cli.profiling.sweep import Sweep, share
from proteus_cli.store.answers import read_answers, write_answers

SHAPES = ("shapes-s", "shapes-m", "shapes-l")
ROWS = 640  # ten batches
SEED = 3


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """Three variants of one family: each is sure where rows are easy, and wrong from some hardness on, mostly."""
    made = FakeBackend(fake_time(monkeypatch))
    made.row_s = {"shapes-s": 0.0001, "shapes-m": 0.001, "shapes-l": 0.01}
    made.scores = {name: scores_until(limit) for name, limit in zip(SHAPES, (0.6, 0.8, 1.0), strict=True)}
    return made


def scores_until(limit: float) -> Any:
    """Right on rows no harder than ``limit``, and the surer the easier; a row is (label, hardness, …)."""

    def scores(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        label, hardness = x[:, 0].astype(int), x[:, 1]
        answer = np.where(hardness <= limit, label, (label + 1) % CLASSES)
        found = np.zeros((len(x), CLASSES), np.float32)
        found[np.arange(len(x)), answer] = 1 - hardness
        return found

    return scores


def save_split(made: Tiny, seed: int = SEED, rows: int = ROWS) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((rows, INPUTS)).astype(np.float32)
    x[:, 0] = rng.integers(0, CLASSES, rows)
    np.savez(made.root / "engines" / "models" / "shapes" / "eval.npz", x=x, y=x[:, 0].astype(np.int64))


@pytest.fixture
def bare(tiny: Tiny) -> Tiny:
    """The workspace without profiles, and with a split of enough rows."""
    for path in tiny.place.profiles_dir.iterdir():
        path.unlink()
    save_split(tiny)
    return tiny


def swept(
    made: Tiny, backend: FakeBackend, name: str = "cpu0", *, budget_s: float | None = None, force: bool = False
) -> Sweep:
    """A sweep that is done; what it ran is all that ``backend.runs`` has."""
    backend.runs.clear()
    on = device(made, name)
    jobs = measurement_jobs(made.place, made.place.catalog(), on, backend, 2, force=force)
    done = Sweep(made.place, on, backend, jobs, budget_s)
    for _ in done.run():
        pass
    return done


def evaluated(backend: FakeBackend) -> dict[str, int]:
    """By variant the batches of the eval split that it ran; all other batches are smaller."""
    return dict(Counter(name for name, rows in backend.runs if rows == EVAL_BATCH))


def pairs(profile: Profile) -> list[tuple[str, str]]:
    return [(cascade.first, cascade.second) for cascade in profile.cascades]


def answered(made: Tiny, name: str = "cpu0") -> Sequence[str]:
    return [key.variant for key in read_answers(made.place.answers_path(name))]


def test_cascades_come_with_the_accuracy_in_one_pass_over_the_split(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    assert evaluated(backend) == dict.fromkeys(SHAPES, ROWS // EVAL_BATCH)
    profile = bare.place.profile("cpu0")
    assert pairs(profile) == [("shapes-s", "shapes-m"), ("shapes-s", "shapes-l"), ("shapes-m", "shapes-l")]
    small = profile.of("shapes", "shapes-s")
    assert small is not None
    (_, cascade, _) = profile.cascades
    assert cascade.eval_digest == small.eval_digest
    best = cascade.points[-1]  # more than the two fifths that the small one gets wrong
    assert (best.deferred_frac, best.accuracy) == (0.5, 1.0)
    assert answered(bare) == list(SHAPES)


def test_a_second_sweep_measures_nothing_and_changes_no_byte(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    paths = [bare.place.profile_path("cpu0"), bare.place.answers_path("cpu0")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    swept(bare, backend)
    assert backend.runs == []
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths] == before


def test_answers_to_fewer_rows_than_are_kept_are_measured_once(bare: Tiny, backend: FakeBackend) -> None:
    """As a version that keeps fewer has left them."""
    swept(bare, backend)
    path = bare.place.answers_path("cpu0")
    few = {
        key: replace(each, correct=each.correct[:9], confidences=each.confidences[:9], classes=each.classes[:9])
        for key, each in read_answers(path).items()
    }
    write_answers(path, few)
    swept(bare, backend)
    assert evaluated(backend) == dict.fromkeys(SHAPES, ROWS // EVAL_BATCH)
    assert [len(each.correct) for each in read_answers(path).values()] == [ROWS] * len(SHAPES)
    swept(bare, backend)
    assert backend.runs == []


def test_only_what_changed_is_answered_anew(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    mlp(bare.model("shapes-m"), hidden=5)
    backend.scores["shapes-m"] = scores_until(0.9)
    swept(bare, backend)
    assert list(evaluated(backend)) == ["shapes-m"]
    medium = bare.place.profile("cpu0").cascades[0].points[-1]
    assert medium.accuracy == pytest.approx(0.9, abs=0.03)


def test_another_eval_split_is_answered_by_all(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    before = bare.place.profile("cpu0")
    save_split(bare, seed=SEED + 1)
    swept(bare, backend)
    assert evaluated(backend) == dict.fromkeys(SHAPES, ROWS // EVAL_BATCH)
    after = bare.place.profile("cpu0")
    assert {each.eval_digest for each in after.cascades}.isdisjoint(each.eval_digest for each in before.cascades)


def test_by_force_all_is_answered_anew_also_beside_a_damaged_file(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    bare.place.answers_path("cpu0").write_bytes(b"damaged")
    swept(bare, backend, force=True)
    assert evaluated(backend) == dict.fromkeys(SHAPES, ROWS // EVAL_BATCH)
    assert answered(bare) == list(SHAPES)


def test_a_variant_that_left_the_catalog_leaves_answers_and_cascades(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    path = bare.place.catalog_path
    first, medium, rest = path.read_text().partition('[[family.variant]]\nname = "shapes-m"')
    path.write_text(first + rest[rest.index("[[family.variant]]") :])
    assert medium
    swept(bare, backend)
    assert backend.runs == []
    assert pairs(bare.place.profile("cpu0")) == [("shapes-s", "shapes-l")]
    assert answered(bare) == ["shapes-s", "shapes-l"]


def test_without_an_eval_split_neither_answers_nor_cascades_stay(bare: Tiny, backend: FakeBackend) -> None:
    swept(bare, backend)
    path = bare.place.catalog_path
    path.write_text(path.read_text().replace('eval = "models/shapes/eval.npz"\n', ""))
    swept(bare, backend)
    assert bare.place.profile("cpu0").cascades == ()
    assert not bare.place.answers_path("cpu0").exists()


def test_a_device_that_shares_a_profile_shares_its_answers(bare: Tiny, backend: FakeBackend) -> None:
    made = swept(bare, backend).results.profile
    like = device(bare, "cpu0")
    share(
        bare.place, made, like.__class__("cpu7", like.type, like.kind, like.name, like.memory_bytes, cores=like.cores)
    )
    on = bare.place.profile("cpu7").device
    backend.runs.clear()
    jobs = measurement_jobs(bare.place, bare.place.catalog(), on, backend, 2)
    assert not any(job.cells or job.lacks_answers for job in jobs)
    for _ in Sweep(bare.place, on, backend, jobs).run():
        pass
    assert backend.runs == []
    assert bare.place.profile("cpu7").cascades == made.cascades
    assert not bare.place.answers_path("cpu7").exists()


def test_what_a_budget_leaves_out_is_said_and_measured_next(bare: Tiny, backend: FakeBackend) -> None:
    backend.row_s["shapes-l"] = 0.05  # 32 s for the split
    done = swept(bare, backend, budget_s=5.0)
    assert done.results.cascades["shapes"].why_not == ("answers are still to be measured of shapes-l",)
    assert done.results.lacks_answers
    assert pairs(bare.place.profile("cpu0")) == [("shapes-s", "shapes-m")]
    assert not swept(bare, backend).results.lacks_answers
    assert list(evaluated(backend)) == ["shapes-l"]
    assert len(bare.place.profile("cpu0").cascades) == 3


# --- a named output as confidence


def with_confidence(made: Tiny, text: str) -> None:
    path = made.place.catalog_path
    path.write_text(path.read_text().replace('name = "shapes"\n', f'name = "shapes"\nconfidence = "{text}"\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [("output:sure", "no variant has an output `sure`"), ("output:scores", r"`scores` has float32 of shape \[3\]")],
)
def test_an_output_that_tells_no_confidence_is_refused(
    bare: Tiny, backend: FakeBackend, text: str, message: str
) -> None:
    with_confidence(bare, text)
    with pytest.raises(EngineError, match=message) as refused:
        swept(bare, backend)
    assert refused.value.hint
    assert backend.runs == []
