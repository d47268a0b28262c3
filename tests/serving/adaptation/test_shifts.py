"""Which requests are looked at, in virtual time, and what is told of them; and what they are compared with."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_measured, make_profile
from looping import loop_around
from msgspec.structs import replace
from one_device import AT_ONCE_S, World, run
from tiny import SHAPES, TinyFamily, make_workspace, save_eval

from proteus_cli.arrays import Floats
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.shifts import EVERY_S, References, RowSummary, Shifts
from proteus_cli.serving.telemetry.telemetry import Sources, Telemetry
from proteus_cli.store.answers import Answers, write_answers
from proteus_cli.store.eval_splits import labelled_rows, summaries_of_rows

KEY = VariantKey("f", "v")
REFERENCE = np.random.default_rng(0).random((500, 2)).astype(np.float32)


class Known(References):
    """References that are made up; it counts how often they are read."""

    def __init__(self, problem: bool = False) -> None:  # noqa: FBT001, FBT002 - of a test
        self.read: list[str | VariantKey] = []
        self.problem = problem

    def inputs(self, family: str, signature: Signature, summary: RowSummary) -> Floats | None:
        self.read.append(family)
        if self.problem:
            raise ArtefactError("It is gone.")
        return summary.of([REFERENCE])

    def confidences(self, key: VariantKey, profiles: Mapping[str, Profile]) -> Floats | None:
        self.read.append(key)
        outputs = 2 * REFERENCE
        return None if self.problem else np.abs(outputs[:, :1] - outputs[:, 1:]).astype(np.float64)


async def at_once(read: Callable[[], Floats | None]) -> Floats | None:
    return read()


class Watched:
    """A world whose requests are looked at."""

    def __init__(self, world: World, known: Known, served: ServedCatalog, shifts: Shifts) -> None:
        self.world, self.known, self.served, self.shifts = world, known, served, shifts
        self.rng = np.random.default_rng(1)

    async def ask(self, requests: int, *, spread: float = 1.0, rows: int = 1) -> None:
        for _ in range(requests):
            self.world.submit(*(spread * self.rng.random(2 * rows).astype(np.float32)).tolist())
            await asyncio.sleep(EVERY_S)
        assert len(self.world.results) == len(self.world.submitted)

    async def with_references(self) -> None:
        running = asyncio.create_task(self.shifts.run())
        await self.ask(1)
        running.cancel()


def played(story: Any, *, problem: bool = False) -> Known:
    content: Any = object()
    known, served = Known(problem), ServedCatalog(content)
    shifts = Shifts(ProfileStore({}), served, known, np.random.default_rng(0), at_once)

    async def play(world: World) -> None:
        await story(Watched(world, known, served, shifts))

    run(play, AT_ONCE_S, watch=shifts)
    return known


def test_a_shift_is_told_once_and_its_end_too_and_nothing_is_done(caplog: pytest.LogCaptureFixture) -> None:
    async def story(watched: Watched) -> None:
        caplog.set_level(logging.INFO, "proteus.shifts")
        shifts = watched.shifts
        await watched.with_references()
        await watched.ask(300, rows=2)
        assert not shifts.is_shifted("f")
        await watched.ask(150, spread=3.0)
        inputs, confidence = shifts.inputs["f"], shifts.confidence[KEY]
        assert inputs is not None
        assert confidence is not None
        assert (inputs.is_shifted, confidence.is_shifted, shifts.is_shifted("f")) == (True, True, True)
        plane = watched.world.plane
        shown = Telemetry(Sources(plane, loop_around(plane), shifts=shifts), plane.clock).state()
        assert shown.families["f"].shifted
        assert (inputs.rows, confidence.rows) == (450, 450)
        await watched.ask(1_100)
        assert not shifts.is_shifted("f")

    played(story)
    of_shifts = [each for each in caplog.records if each.name == "proteus.shifts"]
    said = [(each.levelname, each.getMessage().split(":")[0]) for each in of_shifts]
    assert sorted(said) == [
        ("INFO", "the confidence of v"), ("INFO", "the inputs of f"),
        ("WARNING", "the confidence of v"), ("WARNING", "the inputs of f"),
    ]  # fmt: skip


def test_however_many_come_as_few_are_looked_at() -> None:
    async def story(watched: Watched) -> None:
        await watched.with_references()
        for _ in range(200):
            watched.world.submit(0.1, 0.2)
            watched.world.submit(0.1, 0.2)
            await asyncio.sleep(EVERY_S / 20)
        inputs = watched.shifts.inputs["f"]
        assert inputs is not None
        assert 10 <= inputs.rows <= 12

    played(story)


def test_what_cannot_be_read_is_asked_for_once_and_watched_by_nobody() -> None:
    async def story(watched: Watched) -> None:
        await watched.with_references()
        await watched.ask(20)
        assert (watched.shifts.inputs, watched.shifts.confidence) == ({"f": None}, {KEY: None})
        assert not watched.shifts.is_shifted("f")

    assert played(story, problem=True).read == ["f", KEY]


def test_a_bug_while_a_reference_is_read_is_told_and_ends_no_other_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def inputs(*_: object) -> Floats | None:
        raise KeyError("nobody expects it")

    async def story(watched: Watched) -> None:
        monkeypatch.setattr(watched.known, "inputs", inputs)
        await watched.with_references()
        await watched.ask(20)
        assert watched.shifts.inputs == {"f": None}
        assert watched.shifts.confidence[KEY] is not None

    played(story)
    assert "a bug in Shifts.run" in caplog.text


def test_with_another_catalog_all_begin_anew() -> None:
    async def story(watched: Watched) -> None:
        await watched.with_references()
        await watched.ask(200, spread=3.0)
        assert watched.shifts.is_shifted("f")
        content: Any = object()
        watched.served.content = content
        assert not watched.shifts.is_shifted("f")
        await watched.ask(1)
        assert watched.shifts.inputs == {"f": None}

    played(story)


def test_a_reference_that_was_read_for_another_catalog_is_not_used() -> None:
    async def story(watched: Watched) -> None:
        async def meanwhile(read: Callable[[], Floats | None]) -> Floats | None:
            found = read()
            content: Any = object()
            watched.served.content = content
            return found

        watched.shifts._in_thread = meanwhile
        running = asyncio.create_task(watched.shifts.run())
        await watched.ask(1)
        assert watched.shifts.inputs == {}, "it is wanted once more by the next request"
        watched.shifts._in_thread = at_once
        await watched.ask(3)
        running.cancel()
        inputs = watched.shifts.inputs["f"]
        assert inputs is not None
        assert inputs.rows == 2

    assert played(story).read.count("f") == 2


# --- summaries and references

SPECS = (
    TensorSpec("x", np.dtype(np.float32), (4,)),
    TensorSpec("n", np.dtype(np.int64), ()),
    TensorSpec("large", np.dtype(np.uint8), (100, 90)),
)


def test_a_summary_is_the_same_row_by_row_and_has_a_name_for_each_number() -> None:
    rng = np.random.default_rng(2)
    rows = [spec.sample(6, rng) for spec in SPECS]
    summary = RowSummary(SPECS)
    whole = summary.of(rows)
    assert whole.shape == (6, len(summary.names))
    assert len(set(summary.names)) == len(summary.names)
    for place in range(6):
        assert np.allclose(RowSummary(SPECS).of([each[place : place + 1] for each in rows])[0], whole[place])


@pytest.mark.parametrize("most", [1, 7, 32, 1000])
def test_rows_of_an_eval_split_are_summarised_one_after_another(tmp_path: Path, most: int) -> None:
    path = save_eval(tmp_path / "eval.npz")
    all_rows, _ = labelled_rows(path, SPECS[:1])
    found = np.concatenate(summaries_of_rows(path, SPECS[:1], most, lambda row: row[0]))
    assert np.array_equal(found, all_rows["x"][:: -(-32 // most)])


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((3, 5), np.float32), "y": [0, 1, 2]},
        {"x": np.asfortranarray(np.zeros((3, 4), np.float32)), "y": [0, 1, 2]},
        {"x": np.zeros((3, 4), np.float32)},
        {"z": np.zeros((3, 4), np.float32), "y": [0, 1, 2]},
    ],
    ids=["another shape", "column by column", "no labels", "another input"],
)
def test_an_eval_split_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "eval.npz", **arrays)
    with pytest.raises(ArtefactError):
        summaries_of_rows(tmp_path / "eval.npz", SPECS[:1], 10, lambda row: row[0])


def test_references_are_the_eval_split_and_the_answers_that_were_profiled(tmp_path: Path) -> None:
    family = TinyFamily("shapes", SHAPES.variants[:2], eval="eval.npz")
    place = make_workspace(tmp_path, (family,)).place
    references, summary = References(place), RowSummary(SPECS[:1])
    signature = Signature(SPECS[:1], ())
    rows, _ = labelled_rows(tmp_path / "engines" / "eval.npz", SPECS[:1])
    found = references.inputs("shapes", signature, summary)
    assert found is not None
    assert np.allclose(found, summary.of([rows["x"]]))
    assert references.inputs("never", signature, summary) is None

    key = VariantKey("shapes", "shapes-s")
    measured = replace(make_measured(*key, 0.7, {1: 0.01}), engine_digest="e" * 64, eval_digest="d" * 64)
    confidences = np.linspace(0, 1, 40, dtype=np.float32)
    known = Answers("e" * 64, "d" * 64, "margin", confidences, np.ones(40, np.bool_), np.zeros(40, np.int64))
    write_answers(place.answers_path("cpu0"), {key: known})
    profiles = {"cpu0": make_profile("cpu0", measured)}
    of_variant = references.confidences(key, profiles)
    assert of_variant is not None
    assert np.allclose(of_variant[:, 0], confidences)
    other = {"cpu0": make_profile("cpu0", replace(measured, engine_digest="f" * 64))}
    assert references.confidences(key, other) is None
    assert references.confidences(VariantKey("shapes", "shapes-m"), profiles) is None
