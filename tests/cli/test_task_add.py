"""`proteus task add`: families that are trained on labelled rows."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import files, proteus
from labelled import blobs, save_blobs, save_rows
from tiny import Tiny

from proteus_cli.backends.base import BuildContext
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import FamilyPolicy, Task
from proteus_cli.settings import Settings
from proteus_cli.store import Workspace
from proteus_cli.variants import judging as measuring
from proteus_cli.variants.training import processes

pytestmark = pytest.mark.skipif(find_spec("skl2onnx") is None, reason="trains, which needs skl2onnx")

CENTRES_APART = 0.8  # of the rows, at least, are told apart by what learns anything
LIMITS = ("--budget", "1h", "--slo", "10s")


@pytest.fixture(autouse=True)
def _measured_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast the models are is not what these tests are about, nor how training gives way to others."""
    monkeypatch.setattr(measuring, "CELL_S", 0.0)
    monkeypatch.setattr(processes, "GIVES_WAY", 0)


def refused(root: Path, *arguments: str | Path, code: int = 2) -> str:
    """The message; nothing in the workspace has changed."""
    before = files(root)
    message = proteus("task", "add", *LIMITS, *arguments, "-w", root).refused(code)
    assert files(root) == before
    return message


def test_a_task_becomes_a_family_of_variants_that_can_be_profiled(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    data, path = save_blobs(tmp_path / "rows.npz", 40), tiny.place.catalog_path
    path.write_text(f"{path.read_text()}\n# the last line\n")
    before, models = tiny.place.catalog(), ("--models", "mlp-16,linear,forest-8")
    ended = proteus(
        "task", "add", "spots", "--data", tmp_path / "a" / ".." / data.name, *models, "--policy", "latency",
        "--seed", "7", *LIMITS, "--json", "-w", tiny.root,
    )  # fmt: skip
    made = ended.document()
    assert [made[name] for name in ("family", "slo", "train_rows", "eval_rows", "untrained")] == [
        "spots", "10s", 96, 24, [],
    ]  # fmt: skip
    assert {each["variant"] for each in made["variants"]} == {"spots-linear", "spots-forest-8", "spots-mlp-16"}
    assert all(each["accuracy"] > CENTRES_APART and each["qps"] > 0 for each in made["variants"])

    catalog = tiny.place.catalog()
    assert catalog.families[:-1] == before.families
    assert "# the last line" in path.read_text()
    family = catalog.family("spots")
    assert (family.policy, family.task) == (FamilyPolicy("latency"), Task(str(data), seed=7, rows=100_000))
    kept = [each for each in made["variants"] if each["kept"]]
    assert [(each.name, each.onnx, each.accuracy) for each in family.variants] == [
        (each["variant"], f"models/spots/{each['variant']}/1/model.onnx", each["accuracy"]) for each in kept
    ]
    there = {name for name in files(tiny.root) if name.startswith("engines/models/spots/")}
    assert there == {f"engines/{each['onnx']}" for each in kept} | {"engines/models/spots/eval.npz"}

    device = next(each for each in discover(Settings().devices) if each.kind == "cpu")
    backend = open_backend(device, BuildContext(tiny.place.built_dir, say=print))
    with backend.runner(tiny.place.model_path(str(family.variants[0].onnx))) as runner:
        assert [(each.name, str(each.dtype), each.shape) for each in runner.signature.inputs] == [
            ("x", "float32", (4,))
        ]
        assert [(each.name, str(each.dtype), each.shape) for each in runner.signature.outputs] == [
            ("scores", "float32", (3,))
        ]
    profile = ("profile", "--device", device.id, "--budget", "0s", "-w", tiny.root)
    assert proteus(*profile).code == 0
    profiled = tiny.place.profile(device.id).of("spots", family.variants[0].name)
    assert profiled is not None
    assert profiled.accuracy == pytest.approx(family.variants[0].accuracy, abs=1e-4)


def test_rows_of_several_axes_keep_their_shape(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2, 3)).astype(np.float32)
    y = (x.sum(axis=(1, 2)) > 0).astype(np.int64)
    data, ws = save_rows(tmp_path / "rows.npz", x, y, "pixels"), tmp_path / "ws"
    ended = proteus("task", "add", "signs", "--data", data, "--models", "linear", *LIMITS, "-w", ws)
    assert ended.code == 0
    assert [line for line in ended.stderr.splitlines() if not line.startswith("training ")] == [  # how far, if slow
        "added `signs` with 1 variant",
        f"wrote {ws}/engines/catalog.toml; next: proteus profile, proteus plan",
    ]
    assert "signs-linear" in ended.stdout
    assert (ws / "engines" / "catalog.toml").read_text().startswith("# Made by `proteus task add`.")
    with np.load(ws / "engines/models/signs/eval.npz") as split:
        assert (split["pixels"].shape[1:], sorted(split.files)) == ((2, 3), ["pixels", "y"])

    ended = proteus("task", "retrain", "signs", "--budget", "1h", "-w", ws)  # of the same rows
    assert ended.code == 0
    first, second = (ws / f"engines/models/signs/signs-linear/{version}/model.onnx" for version in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    (again,) = Workspace(ws).catalog().family("signs").variants
    assert again.onnx == "models/signs/signs-linear/2/model.onnx"


def test_what_is_there_is_not_replaced(tiny: Tiny, tmp_path: Path) -> None:
    data = save_blobs(tmp_path / "rows.npz", 10)
    assert refused(tiny.root, "shapes", "--data", data) == "There is a family `shapes` already."
    (tiny.root / "engines/models/spots").mkdir(parents=True)
    (tiny.root / "engines/models/spots/eval.npz").write_bytes(b"of somebody else")
    message = refused(tiny.root, "spots", "--data", data, "--models", "linear")
    assert message == f"`{tiny.root}/engines/models/spots/eval.npz` is there already."


def test_what_makes_no_sense_is_refused_before_anything_is_trained(tiny: Tiny, tmp_path: Path) -> None:
    data = save_blobs(tmp_path / "rows.npz", 3)
    assert "class 0 has 3 rows" in refused(tiny.root, "spots", "--data", data)
    named = save_rows(tmp_path / "named.npz", *blobs(10), "scores")
    assert "are named `scores`, as the output of the models is" in refused(tiny.root, "spots", "--data", named)
    assert refused(tiny.root, "spots", "--data", data, "--models", "svm") == "There is no kind of model `svm`."
    assert refused(tiny.root, "a b", "--data", data) == "`a b` is no name for a family."
    endless = proteus("task", "add", "spots", "--data", data, "--slo=1ms", f"--rows={10**20}", "-w", tiny.root)
    assert "Invalid value for '--rows'" in endless.misused()
    assert "No file" in refused(tiny.root, "spots", "--data", tmp_path / "gone.npz")
    assert refused(tiny.root, "spots", "--data", data, "--device", "gpu9", code=4) == "No device `gpu9` here."


def test_without_time_or_memory_nothing_is_added(tiny: Tiny, tmp_path: Path) -> None:
    data = save_blobs(tmp_path / "rows.npz", 10)
    message = refused(tiny.root, "spots", "--data", data, "--budget", "0s", code=1)
    assert message == "The training took more than 0 µs, and was ended."
    message = refused(tiny.root, "spots", "--data", data, "--memory", "1MiB", code=1)
    assert message.startswith("The training ")


def test_copies_of_one_row_teach_nothing(tiny: Tiny, tmp_path: Path) -> None:
    x, y = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0), np.repeat([0, 1], 10)
    message = refused(tiny.root, "spots", "--data", save_rows(tmp_path / "rows.npz", x, y))
    assert message == "A class has no rows left to train on: all of them are in the eval split, too."
