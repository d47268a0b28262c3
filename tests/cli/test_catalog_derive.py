"""`proteus catalog derive`: variants made of a variant, measured beside it, and kept if they are worth it."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import files, proteus
from networks import conv_net
from tiny import INPUTS, Tiny, mlp, passing_on, save_eval

from proteus_cli.store import Workspace

SIZE, SMALLER, LARGER = 64, 16, 256  # so far from each other that no noise of a machine makes up for it


@pytest.fixture(autouse=True)
def _in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models run in few and small batches."""
    monkeypatch.setattr("proteus_cli.variants.judging.CELL_S", 0.005)
    monkeypatch.setattr("proteus_cli.variants.judging.BATCHES", (1, 4))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A workspace with one variant, `thing`, that takes images, and calibration rows beside it."""
    model, ws = conv_net(tmp_path / "thing.onnx", size=SIZE, channels=16), tmp_path / "ws"
    assert proteus("catalog", "add", "things", model, "--slo", "1s", "-w", ws).code == 0
    np.savez(ws / "rows.npz", image=np.random.default_rng(0).random((8, 3, SIZE, SIZE)).astype(np.float32))
    return ws


def derive(root: Path, *arguments: str | Path) -> tuple[str | Path, ...]:
    return ("catalog", "derive", *arguments, "-w", root)


def refused(root: Path, *arguments: str | Path, code: int = 2) -> str:
    """The message; nothing in the workspace has changed."""
    before = files(root)
    message = proteus(*derive(root, *arguments)).refused(code)
    assert files(root) == before
    return message


# --- what is kept


def test_what_is_faster_is_kept_and_what_is_slower_is_not(images: Path) -> None:
    made = proteus(
        *derive(images, "thing", "--sizes", f"{SMALLER},{LARGER}", "--calibration", images / "rows.npz", "--json")
    ).document()
    smaller, larger = made["derived"]
    assert (made["variant"], smaller["variant"], larger["variant"]) == ("thing", "thing-16", "thing-256")
    assert (smaller["kept"], larger["kept"]) == (True, False)
    assert larger["why"].endswith("× the rate, and not more accurate")
    assert larger["devices"]["cpu0"]["qps"] < made["devices"]["cpu0"]["qps"] < smaller["devices"]["cpu0"]["qps"]
    variants = Workspace(images).catalog().family("things").variants
    assert [(v.name, v.onnx, v.estimated) for v in variants] == [
        ("thing", "models/things/thing.onnx", True),
        ("thing-16", "models/things/thing-16.onnx", True),
    ]
    assert variants[1].accuracy == smaller["devices"]["cpu0"]["accuracy"]
    assert {path for path in files(images) if path.endswith(".onnx")} == {
        "engines/models/things/thing.onnx",
        "engines/models/things/thing-16.onnx",
    }


def test_a_great_loss_of_accuracy_is_said_in_a_warning(images: Path) -> None:
    """A scale that is far too large makes all scores of the images in 8 bits alike."""
    rows = np.random.default_rng(0).random((8, 3, SIZE, SIZE)).astype(np.float32)
    rows[0] *= 1e6
    np.savez(images / "wild.npz", image=rows)
    ended = proteus(*derive(images, "thing", "--int8", "--calibration", images / "wild.npz", "--keep-all"))
    lost = 100 * (1 - Workspace(images).catalog().family("things").variant("thing-int8").accuracy)
    assert f"warning: thing-int8 is {lost:.1f} points less accurate than thing on cpu0: ≈" in ended.stderr
    assert "an eval split (`eval` in engines/catalog.toml) tells the true one" in ended.stderr
    quiet = proteus(*derive(images, "thing", "--fp16", "--calibration", images / "rows.npz", "--keep-all"))
    assert "points less accurate" not in quiet.stderr


def test_where_nothing_is_kept_nothing_changes_and_that_is_said(images: Path) -> None:
    before = files(images)
    ended = proteus(*derive(images, "thing", "--sizes", str(LARGER), "--calibration", images / "rows.npz"))
    assert ended.code == 0
    assert files(images) == before
    assert "dropped thing-256 (images of 256 × 256): 0." in ended.stderr
    assert "nothing was kept: the catalog is as it was" in ended.stderr
    assert "≈1.0000" in ended.stdout


def test_the_rate_is_0_where_no_batch_is_within_the_slo(images: Path) -> None:
    path = images / "engines" / "catalog.toml"
    path.write_text(path.read_text().replace('slo = "1s"', 'slo = "0.001ms"'))
    call = derive(images, "thing", "--sizes", str(SMALLER), "--calibration", images / "rows.npz", "--json")
    made = proteus(*call).document()
    (smaller,) = made["derived"]
    assert (made["devices"]["cpu0"]["qps"], smaller["devices"]["cpu0"]["qps"]) == (0.0, 0.0)
    assert (smaller["kept"], smaller["why"]) == (False, "too slow for the SLO")


def test_each_step_is_shown_with_how_much_is_done(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proteus_cli.cli.console.PLAIN_LINE_EVERY_S", 0.0)
    rows = images / "rows.npz"
    ended = proteus(*derive(images, "thing", "--int8", "--sizes", "16", "--calibration", rows, "--device", "cpu0"))
    shown = [line for line in ended.stderr.splitlines() if line.startswith("deriving from thing: ")]
    assert [line.split(": ")[1] for line in shown] == [
        "0% making thing-int8", "9% making thing-16",
        "18% accuracy of thing on cpu0", "27% rate of thing on cpu0",
        "36% accuracy of thing-int8 on cpu0", "45% rate of thing-int8 on cpu0",
        "55% accuracy of thing-16 on cpu0", "64% rate of thing-16 on cpu0",
        "73% rate of thing on cpu0", "82% rate of thing-int8 on cpu0", "91% rate of thing-16 on cpu0",
    ]  # fmt: skip


def test_all_is_kept_if_asked_for(images: Path) -> None:
    rows = images / "rows.npz"
    assert proteus(*derive(images, "thing", "--fp16", "--sizes", "256", "--calibration", rows, "--keep-all")).code == 0
    assert [v.name for v in Workspace(images).catalog().family("things").variants] == [
        "thing", "thing-fp16", "thing-256",
    ]  # fmt: skip


def test_what_is_derived_can_be_profiled_and_derived_from(images: Path) -> None:
    rows = images / "rows.npz"
    assert proteus(*derive(images, "thing", "--sizes", "16", "--calibration", rows)).code == 0
    assert proteus(*derive(images, "thing-16", "--int8", "--calibration", rows, "--keep-all")).code == 0
    assert proteus("profile", "--device", "cpu0", "--max-batch", "1", "--budget", "0s", "-w", images).code == 0
    measured = Workspace(images).profile("cpu0")
    assert [(each.variant, each.estimated) for each in measured.variants] == [
        ("thing", True), ("thing-16", True), ("thing-16-int8", True),
    ]  # fmt: skip


# --- how it is made


def operators(model: Path) -> set[str]:
    return {node.op_type for node in onnx.load(model).graph.node}


def test_convolutions_are_quantised_statically_on_calibration_rows(images: Path) -> None:
    rows = images / "rows.npz"
    made = proteus(*derive(images, "thing", "--int8", "--calibration", rows, "--keep-all", "--json")).document()
    assert made["derived"][0]["how"] == "INT8, static: activations by calibration rows"
    found = operators(images / "engines/models/things/thing-int8.onnx")
    assert {"Conv", "QuantizeLinear", "DequantizeLinear"} <= found
    assert made["derived"][0]["devices"]["cpu0"]["accuracy"] >= 0.75


def test_matrix_products_alone_are_quantised_dynamically(tiny: Tiny) -> None:
    big = mlp(tiny.model("shapes-m"), hidden=512, seed=3)
    made = proteus(*derive(tiny.root, "shapes-m", "--int8", "--keep-all", "--json")).document()
    (int8,) = made["derived"]
    assert int8["how"] == "INT8, dynamic: activations by batch"
    assert "MatMulInteger" in operators(big.with_name("shapes-m-int8.onnx"))
    assert int8["size_bytes"] < 0.6 * made["size_bytes"]


def test_half_precision_keeps_the_types_of_inputs_and_outputs(tiny: Tiny) -> None:
    big = mlp(tiny.model("shapes-m"), hidden=512, seed=3)
    made = proteus(*derive(tiny.root, "shapes/shapes-m", "--fp16", "--keep-all", "--json")).document()
    half = onnx.load(big.with_name("shapes-m-fp16.onnx"))
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    ends = (*half.graph.input, *half.graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}
    assert made["derived"][0]["size_bytes"] < 0.6 * made["size_bytes"]


def test_with_labels_accuracies_are_measured(tiny: Tiny) -> None:
    """The family's eval split has labels for a model whose scores are its inputs, for three rows of four."""
    passing_on(tiny.model("shapes-s"))
    mlp(tiny.model("shapes-m"), hidden=64)
    save_eval(tiny.root / "engines" / "models" / "shapes" / "eval.npz", rows=32, right=24)
    made = proteus(*derive(tiny.root, "shapes-m", "--fp16", "--keep-all", "--json")).document()
    (fp16,) = made["derived"]
    before, after = made["devices"]["cpu0"], fp16["devices"]["cpu0"]
    assert (before["basis"], after["basis"]) == ("measured on the eval split", "measured on the eval split")
    variant = tiny.place.catalog().family("shapes").variant("shapes-m-fp16")
    assert (variant.accuracy, variant.estimated) == (after["accuracy"], False)


def test_estimates_are_explained_only_where_there_are_some(tiny: Tiny) -> None:
    mlp(tiny.model("shapes-m"), hidden=64)
    save_eval(tiny.root / "engines" / "models" / "shapes" / "eval.npz", rows=32, right=24)
    assert "≈" not in proteus(*derive(tiny.root, "shapes-m", "--fp16", "--keep-all")).stdout


def test_a_dry_run_only_says_what_would_be_made(images: Path) -> None:
    before = files(images)
    call = derive(images, "thing", "--int8", "--sizes", "16", "--calibration", images / "rows.npz", "--dry-run")
    assert proteus(*call).stderr.splitlines() == [
        "would make thing-int8 (INT8, static: activations by calibration rows) as models/things/thing-int8.onnx",
        "would make thing-16 (images of 16 × 16) as models/things/thing-16.onnx",
    ]
    assert [each["variant"] for each in proteus(*call, "--json").document()] == ["thing-int8", "thing-16"]
    assert files(images) == before


# --- what is refused


def test_without_labels_and_rows_nothing_tells_the_accuracy(images: Path) -> None:
    message = refused(images, "thing", "--fp16")
    assert message == "Nothing tells how accurate variants of `thing` are: `things` has no eval split."


def test_convolutions_need_rows_to_calibrate_on(tmp_path: Path) -> None:
    model, labelled = conv_net(tmp_path / "thing.onnx"), tmp_path / "labels.npz"
    rows = np.random.default_rng(0).random((8, 3, 8, 8)).astype(np.float32)
    np.savez(labelled, x=rows, y=np.zeros(8, np.int64))
    ws = tmp_path / "ws"
    assert proteus("catalog", "add", "things", model, "--slo", "1s", "--eval", labelled, "-w", ws).code == 0
    path = ws / "engines" / "models" / "things" / "thing.onnx"
    assert refused(ws, "thing", "--int8") == f"`{path}` has convolutions, so INT8 needs rows to calibrate on."
    shared = tmp_path / "rows.npz"
    np.savez(shared, x=np.concatenate([rows[:3], rows[:5] + 1]))
    message = refused(ws, "thing", "--int8", "--calibration", shared)
    assert message == f"`{shared}` shares 3 rows with the eval split."


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        (
            {"picture": np.zeros((8, 3, SIZE, SIZE)), "y": np.zeros(8)},
            "it has no array `image`, but `picture`, `y`.",
        ),
        ({f"a{place}": np.zeros(1) for place in range(10)}, "but `a0`, `a1`, `a2`, `a3`, `a4`, `a5`, `a6`, `a7` and 2"),
        ({"image": np.zeros((8, 3, 9, 9))}, "it has shape (8, 3, 9, 9) for `image`; the model takes (8, 3, 64, 64)"),
    ],
)
def test_calibration_rows_must_fit_the_model(images: Path, arrays: dict[str, np.ndarray], problem: str) -> None:
    rows = images / "other.npz"
    np.savez(rows, **arrays)  # type: ignore[arg-type]
    message = refused(images, "thing", "--int8", "--calibration", rows)
    assert message.startswith(f"Can't use the inputs in `{rows}`: ")
    assert problem in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Nothing to derive."),
        (("--sizes", "16,16"), "`16,16` is not a list of image sizes."),
        (("--sizes", "0"), "`0` is not a list of image sizes."),
        (("--sizes", "999999"), "`999999` is not a list of image sizes."),
        (("--sizes", "big"), "`big` is not a list of image sizes."),
        (("--sizes", "64"), "`{model}` takes images of that size already: `image` is [3, 64, 64]."),
    ],
)
def test_wishes_that_make_no_sense_are_refused(images: Path, arguments: tuple[str, ...], message: str) -> None:
    model = images / "engines" / "models" / "things" / "thing.onnx"
    found = refused(images, "thing", *arguments, "--calibration", images / "rows.npz")
    assert found == message.format(model=model)


def test_the_bound_of_sizes_is_named(images: Path) -> None:
    ended = proteus(*derive(images, "thing", "--sizes", "8193", "--calibration", images / "rows.npz"))
    assert "each size once, from 1 to 8192" in ended.stderr


def test_only_images_can_be_resized(tiny: Tiny) -> None:
    message = refused(tiny.root, "shapes-m", "--sizes", "16")
    assert message == f"`{tiny.model('shapes-m')}` takes no images of 1, 3 or 4 channels: `x` is [{INPUTS}]."


def test_a_model_that_works_for_one_size_alone_is_refused(tmp_path: Path) -> None:
    """Its last layer takes as many values as the image of 8 × 8 has."""
    model = conv_net(tmp_path / "thing.onnx")
    loaded = onnx.load(model)
    pool = next(node for node in loaded.graph.node if node.op_type == "GlobalAveragePool")
    pool.op_type = "MaxPool"
    pool.attribute.append(onnx.helper.make_attribute("kernel_shape", [8, 8]))
    model.write_bytes(loaded.SerializeToString())
    rows, ws = tmp_path / "rows.npz", tmp_path / "ws"
    np.savez(rows, x=np.random.default_rng(0).random((8, 3, 8, 8)).astype(np.float32))
    assert proteus("catalog", "add", "things", model, "--slo", "1s", "-w", ws).code == 0
    message = refused(ws, "thing", "--sizes", "4", "--calibration", rows)
    assert message.startswith("`thing-4` can't replace `thing`: ")
    assert ".adding" not in message


def test_what_is_there_already_is_not_made_again(tiny: Tiny) -> None:
    assert proteus(*derive(tiny.root, "shapes-m", "--fp16", "--keep-all")).code == 0
    message = refused(tiny.root, "shapes-m", "--fp16")
    assert message == "Family `shapes` has a variant `shapes-m-fp16` already."
    assert "holds no weights in FP32" in refused(tiny.root, "shapes-m-fp16", "--fp16")


def test_a_quantised_model_is_not_quantised_again(tiny: Tiny) -> None:
    assert proteus(*derive(tiny.root, "shapes-m", "--int8", "--keep-all")).code == 0
    assert "is quantised already" in refused(tiny.root, "shapes-m-int8", "--int8")


def test_a_model_without_anything_to_quantise_is_refused(tiny: Tiny) -> None:
    passing_on(tiny.model("shapes-s"))
    assert "so there is nothing to quantise" in refused(tiny.root, "shapes-s", "--int8")


def test_a_file_that_stands_in_the_way_is_left_alone(tiny: Tiny) -> None:
    tiny.model("shapes-m").with_name("shapes-m-fp16.onnx").write_bytes(b"mine")
    assert "is there already" in refused(tiny.root, "shapes-m", "--fp16")


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(tiny: Tiny) -> None:
    ended = proteus(*derive(tiny.root, "shapes-xl", "--fp16"))
    assert ended.refused() == "No variant `shapes-xl` in the catalog."
    assert "shapes-s, shapes-m, shapes-l" in ended.stderr


def test_a_broken_model_is_refused(tiny: Tiny) -> None:
    tiny.model("shapes-m").write_bytes(b"\x08\x01not a model")
    assert "shapes-m.onnx`" in refused(tiny.root, "shapes-m", "--fp16")


def test_without_the_package_onnx_it_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    ended = proteus(*derive(tiny.root, "shapes-m", "--fp16"))
    assert "`onnx` is needed to derive variants from" in ended.refused(4)
    assert "pip install onnx" in ended.stderr
