"""Convolutional nets that `proteus task` trains, by PyTorch itself: `make test-torch`."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command_line import proteus
from labelled import save_rows

from proteus_cli.arrays import Ints, Singles
from proteus_cli.store import Workspace
from proteus_cli.variants import measuring

pytestmark = [pytest.mark.torch, pytest.mark.extended]

SIDE = 12


@pytest.fixture(autouse=True)
def _measured_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast the models are is not what these tests are about."""
    monkeypatch.setattr(measuring, "CELL_S", 0.0)


def marked(count: int, seed: int = 0) -> tuple[Singles, Ints]:
    """Noisy pictures with a small mark anywhere, of one of two kinds, which no single value tells."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = 0.3 * rng.standard_normal((count, SIDE, SIDE))
    marks = np.array([[[1, 1, 1], [-1, -1, -1], [1, 1, 1]], [[1, -1, 1], [1, -1, 1], [1, -1, 1]]])
    for picture, kind, row, column in zip(x, y, *rng.integers(0, SIDE - 3, (2, count)), strict=True):
        picture[row : row + 3, column : column + 3] += marks[kind]
    return x.astype(np.float32), y


def scores(model: bytes, x: Singles) -> Any:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(["scores"], {"pixels": x})
    return found


@pytest.mark.parametrize(
    "shaped",
    [
        lambda x: x,
        lambda x: x[:, None],
        lambda x: np.stack([x, -x], axis=-1),
        lambda x: x.reshape(len(x), -1),
        lambda x: np.stack([x.reshape(len(x), -1)] * 2, axis=1),
    ],
    ids=["picture", "channels first", "channels last", "signal", "signal of two channels"],
)
def test_a_net_takes_rows_as_they_come_and_gives_a_probability_of_each_class(shaped: Any) -> None:
    from proteus_cli.variants.training.convnets import trained  # noqa: PLC0415 - needs torch

    x, y = marked(64)
    model = trained("pixels", np.ascontiguousarray(shaped(x)), y, 0, 8)
    for count in (1, 5):
        assert scores(model, shaped(x[:count])) == pytest.approx(scores(model, shaped(x[:5]))[:count], abs=1e-5)
    assert scores(model, shaped(x)).sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_a_net_learns_what_the_place_of_must_not_matter_and_the_same_each_time() -> None:
    from proteus_cli.variants.training.convnets import trained  # noqa: PLC0415 - needs torch

    x, y = marked(600)
    model = trained("pixels", x, y, 0, 8)
    new_x, new_y = marked(400, seed=1)
    assert (scores(model, new_x).argmax(axis=1) == new_y).mean() > 0.95
    assert trained("pixels", x, y, 0, 8) == model


def test_rows_that_are_no_pictures_are_an_error() -> None:
    from proteus_cli.variants.training.convnets import trained  # noqa: PLC0415 - needs torch

    with pytest.raises(ValueError, match="neither pictures nor signals"):
        trained("pixels", np.zeros((10, 5), np.float32), np.arange(10) % 2, 0, 8)


def test_a_task_of_pictures_has_nets_among_its_variants_and_trains_them_anew(tmp_path: Path) -> None:
    x, y = marked(400)
    data = save_rows(tmp_path / "rows.npz", x, y)
    limits, place = ("--budget", "1h"), ("--workspace", tmp_path)
    made = proteus(
        "task", "add", "marks", "--data", data, "--slo", "10s", "--models", "linear,cnn-8", *limits, "--json", *place
    ).document()
    accuracy = {each["variant"]: each["accuracy"] for each in made["variants"]}
    assert accuracy["marks-cnn-8"] > 0.9
    assert accuracy["marks-linear"] < 0.8
    assert [each.name for each in Workspace(tmp_path).catalog().family("marks").variants][-1] == "marks-cnn-8"
    new = save_rows(tmp_path / "new.npz", *marked(400, seed=2))
    again = proteus(
        "task", "retrain", "marks", "--data", new, "--max-loss", "0.1", *limits, "--json", *place
    ).document()
    assert {each["variant"] for each in again["versions"]} >= {"marks-cnn-8"}
    assert all(each["passed"] for each in again["versions"])
