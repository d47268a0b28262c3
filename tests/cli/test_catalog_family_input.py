"""Adding and deriving in a family with an input of its own: models are compared and measured as they are loaded."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import files, proteus
from networks import conv_net
from onnx import numpy_helper
from tiny import mlp

from proteus_cli.store import Workspace

CATALOG = """
format = 1

[[family]]
name = "things"
slo = "1s"

[family.input]
size = [10, 10]
scale = 0.00392156862745098

[[family.variant]]
name = "thing"
onnx = "thing.onnx"
accuracy = 0.9
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A variant for images of 8 × 8, and calibration rows as clients send them: 10 × 10 pixels."""
    monkeypatch.setattr("proteus_cli.variants.judging.CELL_S", 0.01)
    conv_net(tmp_path / "engines" / "thing.onnx", size=8)
    (tmp_path / "engines" / "catalog.toml").write_text(CATALOG)
    np.savez(tmp_path / "rows.npz", image=np.random.default_rng(0).integers(0, 256, (16, 10, 10, 3), np.uint8))
    return tmp_path


def test_a_model_of_another_size_is_added(root: Path) -> None:
    larger = conv_net(root / "larger.onnx", size=12, batch=1)
    call = ("catalog", "add", "things", larger, "--calibration", root / "rows.npz", "-w", root)
    made = proteus(*call, "--json").document()
    assert made["inputs"] == {"image": "uint8 [10,10,3]"}
    assert made["variants"][0]["fixed_batch"] == 1
    added = Workspace(root).catalog().family("things").variant("larger")
    assert (added.onnx, added.estimated) == ("models/things/larger.onnx", True)
    assert 0 < added.accuracy <= 0.9
    assert [
        dim.dim_value for dim in onnx.load(root / "engines" / str(added.onnx)).graph.input[0].type.tensor_type.shape.dim
    ] == [0, 3, 12, 12]


def test_engines_are_listed_without_a_file_and_prepared_models_that_are_no_longer_used_are_removed(root: Path) -> None:
    place = Workspace(root)
    (directory,) = place.prepared_dirs
    assert proteus("engines", "ls", "-w", root).code == 0
    assert not directory.exists()
    old, current = place.loaded_paths(), root / "engines" / "catalog.toml"
    mine = directory / "mine.onnx"
    mine.write_bytes(b"kept")
    current.write_text(CATALOG.replace("10, 10", "12, 12"))
    used = place.loaded_paths()
    before = sorted(directory.iterdir())
    assert "would remove 1 prepared model" in proteus("engines", "prune", "--dry-run", "-w", root).stderr
    assert sorted(directory.iterdir()) == before
    assert "removed 1 prepared model" in proteus("engines", "prune", "-w", root).stderr
    assert sorted(directory.iterdir()) == sorted([mine, *used.values()])
    assert not set(old.values()) & set(used.values())


def test_what_a_server_prepared_in_its_state_is_removed_there(root: Path, tmp_path: Path) -> None:
    state, catalog = tmp_path / "state", root / "engines" / "catalog.toml"
    (old,) = Workspace(root, state).loaded_paths().values()
    assert old.is_relative_to(state)
    catalog.write_text(CATALOG.replace("10, 10", "12, 12"))
    assert "prepared" not in proteus("engines", "prune", "-w", root).stderr
    assert "removed 1 prepared model" in proteus("engines", "prune", "--state", state, "-w", root).stderr
    assert not old.exists()


def test_dry_runs_leave_no_prepared_model(root: Path) -> None:
    before = files(root)
    assert proteus("profile", "--dry-run", "--max-batch", "1", "-w", root).code == 0
    call = ("catalog", "derive", "thing", "--int8", "--calibration", root / "rows.npz", "--dry-run", "-w", root)
    assert "would make thing-int8" in proteus(*call).stderr
    assert files(root) == before


def test_a_model_that_cannot_take_the_familys_input_is_refused(root: Path) -> None:
    model = mlp(root / "rows.onnx")
    message = proteus("catalog", "add", "things", model, "--accuracy", "0.5", "-w", root).refused()
    assert message.startswith(f"`{model}` can't take its family's input")
    assert (root / "engines" / "catalog.toml").read_text() == CATALOG


def test_int8_is_calibrated_on_what_the_model_itself_takes(root: Path) -> None:
    """Pixels are scaled to 0 … 1 before the model sees them, so a step of its quantised input is about 1/255."""
    call = ("catalog", "derive", "thing", "--int8", "--calibration", root / "rows.npz", "--keep-all", "-w", root)
    made = proteus(*call, "--json").document()
    assert made["derived"][0]["devices"]["cpu0"]["accuracy"] >= 0.7
    graph = onnx.load(root / "engines" / "thing-int8.onnx").graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    step = next(numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == first.input[1])
    assert 0.9 / 255 < step <= 1.05 / 127
    assert Workspace(root).catalog().family("things").variant("thing-int8").estimated
