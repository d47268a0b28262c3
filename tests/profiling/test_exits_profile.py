"""What a profile says of a multi-exit model is what its runner does with the rows of the eval split."""

from contextlib import nullcontext
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np
import pytest
from exit_nets import exit_stages, exits_toml
from tiny import SHAPES, Tiny, TinyFamily, device, make_workspace

from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.exits.runner import EXIT_NOTE, ExitRunner
from proteus_cli.backends.registry import open_backend
from proteus_cli.cli.profile_tables import exit_lines
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.profiling import cells
from proteus_cli.profiling.exits import batches_of, stage_points, stages_s, unjudged, with_points
from proteus_cli.profiling.jobs import measurement_jobs
from proteus_cli.profiling.noise import Waiting, noise_frac
from proteus_cli.profiling.sweep import Sweep
from proteus_cli.store.eval_splits import labelled_rows

EXITS = VariantKey("shapes", "exits")
FILES = [f"stages/stage.{place}.onnx" for place in (1, 2, 3)]


def workspace(root: Path, *, eval: str | None = SHAPES.eval) -> Tiny:  # noqa: A002 - the name of the field
    """One variant, a multi-exit model of three stages."""
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants[:1], eval=eval),))
    exit_stages(root / "engines" / "stages")
    split = f'eval = "{eval}"\n' if eval is not None else ""
    family = f'format = 1\n[[family]]\nname = "shapes"\nslo = "200ms"\n{split}'
    made.place.catalog_path.write_text(family + exits_toml("exits", FILES, "confidence >= 1"))
    return made


def swept(made: Tiny, monkeypatch: pytest.MonkeyPatch, max_batch: int = 2) -> Sweep:
    monkeypatch.setattr(cells, "CELL_S", 0.05)
    on = device(made, "cpu0")
    backend = open_backend(on)
    done = Sweep(made.place, on, backend, measurement_jobs(made.place, made.place.catalog(), on, backend, max_batch))
    for _ in done.run():
        pass
    return done


def measured(done: Sweep) -> VariantProfile:
    found = done.results.profile.of("shapes", "exits")
    assert found is not None
    return found


def test_shares_and_accuracies_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = workspace(tmp_path)
    found = measured(swept(made, monkeypatch))
    with open_backend(device(made, "cpu0")).runner(made.place.loaded_paths()[EXITS]) as runner:
        assert isinstance(runner, ExitRunner)
        inputs, labels = labelled_rows(tmp_path / "engines" / str(SHAPES.eval), runner.signature.inputs)
        exits = runner.infer(inputs)[EXIT_NOTE]
        answers = np.array([each.outputs["scores"].argmax(axis=1) for each in runner.passed(inputs)])
    for place, each in enumerate(found.exits, start=1):
        right = answers[place - 1] == labels
        assert each.share == np.mean(exits == place)
        assert each.accuracy == pytest.approx(np.mean(right[exits == place]))
        assert each.cut_accuracy == (pytest.approx(np.mean(right[exits > place])) if place < 3 else None)
    parts = [(each.share or 0.0) * (each.accuracy or 0.0) for each in found.exits]
    assert found.accuracy == pytest.approx(sum(parts))
    assert len({each.share for each in found.exits} - {0.0}) > 1


def test_each_stage_is_measured_at_each_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(swept(workspace(tmp_path), monkeypatch, max_batch=4))
    assert [point.batch for point in found.points] == [1, 2, 4]
    for each in found.exits:
        assert [point.batch for point in each.points] == [1, 2, 4]
        assert all(point.p99_s is not None and point.p995_s is not None for point in each.points)


def test_the_times_of_stages_are_those_of_the_whole_chain(tmp_path: Path) -> None:
    """From the start of a batch to the end of each stage, and to its answers: no moment is missing."""
    made = workspace(tmp_path)
    with open_backend(device(made, "cpu0")).runner(made.place.loaded_paths()[EXITS]) as runner:
        assert isinstance(runner, ExitRunner)
        batches = batches_of(runner.signature, None, 2)
        before_s = monotonic()
        taken_s = stages_s(runner, batches[0], 2)
        around_s = monotonic() - before_s
        points = stage_points(runner, batches, budget_s=0.05)
    assert len(taken_s) == 3 + 1
    assert all(each >= 0 for each in taken_s)
    assert sum(taken_s) <= around_s
    assert [point.batch for point in points] == [2, 2, 2]


@pytest.mark.parametrize(
    ("waited", "counts"), [([0.0, 0.5, 0.5], 0), ([0.5, 0.2, 0.3], 1), ([0.5, 0.0, 0.3], 1), ([0.4, 0.3, 0.2], 2)]
)
def test_the_least_disturbed_measurement_of_the_stages_counts(
    waited: list[float], counts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are measured again, up to twice, while other programs have the core for more than a tenth of the time."""
    made = workspace(tmp_path)
    on = device(made, "cpu0")
    backend = open_backend(on)
    (job,) = measurement_jobs(made.place, made.place.catalog(), on, backend, 1)
    disturbed, measured_s = iter(waited), iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(cells, "observing", lambda _: nullcontext(Waiting(next(disturbed))))
    monkeypatch.setattr(cells, "stage_points", lambda *_: (StagePoint(1, s := next(measured_s), s),) * 3)
    with backend.runner(made.place.loaded_paths()[EXITS]) as runner:
        assert isinstance(runner, ExitRunner)
        found = cells.CellMeter(on, backend).exits(job, runner, (), 1)
    assert [each.points[0].mean_s for each in found] == [counts + 1.0] * 3
    assert len(list(measured_s)) == (2 if waited[0] == 0.0 else 1 if waited[1] == 0.0 else 0)


def test_what_is_known_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = workspace(tmp_path)
    monkeypatch.setattr(cells, "noise_frac", lambda *_, **__: 0.0)
    first = measured(swept(made, monkeypatch))
    again = swept(made, monkeypatch)
    assert again.measured == 0
    assert measured(again) == first
    catalog = made.place.catalog_path
    text = catalog.read_text()
    assert text.count("value = 1.0") == 1
    catalog.write_text(text.replace("value = 1.0", "value = 3.0"))
    other = measured(swept(made, monkeypatch))
    assert other.model_digest != first.model_digest
    assert [each.share for each in other.exits] != [each.share for each in first.exits]


def test_without_an_eval_split_only_times_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = workspace(tmp_path, eval=None)
    done = swept(made, monkeypatch)
    assert all(each == unjudged(each) and each.points for each in measured(done).exits)
    (line,) = exit_lines(done.results.profile, made.place.catalog())
    assert "exits 1 to 3, measured with random rows, as there is no eval split" in line


def test_batches_are_rows_of_the_split_and_the_same_each_time(tmp_path: Path) -> None:
    made = workspace(tmp_path)
    with open_backend(device(made, "cpu0")).runner(made.place.loaded_paths()[EXITS]) as runner:
        signature = runner.signature
    rows = {"x": np.arange(40, dtype=np.float32).reshape(10, 4)}
    batches, again = batches_of(signature, rows, 3), batches_of(signature, rows, 3)
    assert {tuple(row) for batch in batches for row in batch["x"]} == {tuple(row) for row in rows["x"]}
    assert all(batch["x"].shape == (3, 4) for batch in batches)
    np.testing.assert_array_equal([batch["x"] for batch in batches], [batch["x"] for batch in again])
    (alone,) = batches_of(signature, None, 3)
    assert alone["x"].shape == (3, 4)


def test_a_batch_size_that_is_measured_again_takes_the_place_of_the_old_one() -> None:
    known = with_points((), [StagePoint(2, 1.0, 1.0), StagePoint(2, 2.0, 2.0)])
    larger = with_points(known, [StagePoint(1, 0.5, 0.5), StagePoint(1, 1.0, 1.0)])
    assert [[point.batch for point in each.points] for each in larger] == [[1, 2], [1, 2]]
    again = with_points(larger, [StagePoint(2, 9.0, 9.0), StagePoint(2, 8.0, 8.0)])
    assert [each.points[1].mean_s for each in again] == [9.0, 8.0]
    assert unjudged(ExitProfile(1.0, 0.5, None, again[0].points)) == again[0]


def test_scatter_of_runs_that_differ_is_no_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def noise(point: object, waiting_frac: float, *, runs_are_alike: bool) -> float:
        asked.append(runs_are_alike)
        return 0.0

    monkeypatch.setattr(cells, "noise_frac", noise)
    done = swept(workspace(tmp_path), monkeypatch, max_batch=1)
    assert set(asked) == {False}
    (point,) = measured(done).points
    mean_twice = type(point)(1, 20, 2.0, 1.0, 2.0, 2.0, 2.0, 0.5)
    assert noise_frac(mean_twice, 0.0) == 0.5
    assert noise_frac(mean_twice, 0.0, runs_are_alike=False) == 0.0


def test_several_batches_at_once_are_of_different_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows a batch has decides how long it takes, also where others run beside it."""
    made = workspace(tmp_path)
    on = device(made, "cpu0")
    backend = open_backend(on)
    (job,) = measurement_jobs(made.place, made.place.catalog(), on, backend, 2)
    seen: set[bytes] = set()
    with backend.runner(job.model) as runner:
        run = runner.infer

        def noting(inputs: NamedArrays) -> NamedArrays:
            seen.add(inputs["x"].tobytes())
            return run(inputs)

        monkeypatch.setattr(runner, "infer", noting)
        meter = cells.CellMeter(on, backend)
        point = meter.point(job, runner, 2, slots=2, stop_s=perf_counter() + 0.1, cells_left=1)
    assert point.slots == 2
    assert len(seen) > 1
