"""`proteus catalog add`: families and variants made of models that a user brings."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import files, proteus
from networks import conv_net, mixing_rows
from onnx import TensorProto, helper
from PIL import Image
from tiny import Tiny, keep_apart, mlp, passing_on, save_eval, save_model, tensor

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.catalog import Variant
from proteus_cli.errors import ArtefactError
from proteus_cli.store import Workspace
from proteus_cli.variants import image_folders
from proteus_cli.variants.image_folders import split_of_folder

RIGHT, ROWS = 24, 32
FLOAT = np.dtype(np.float32)
IMAGES = Signature((TensorSpec("x", FLOAT, (3, 4, 6)),), (TensorSpec("scores", FLOAT, (3,)),))
FIRST_COUNTS_AS_RIGHT = "estimated: the first variant counts as always right"


def refused(root: Path, *arguments: str | Path, code: int = 2) -> str:
    """The message; nothing in the workspace has changed."""
    before = files(root)
    message = proteus("catalog", "add", *arguments, "-w", root).refused(code)
    assert files(root) == before
    return message


def added(root: Path, *arguments: str | Path) -> tuple[Variant, ...]:
    """The variants of the family as they are then in the catalog."""
    assert proteus("catalog", "add", *arguments, "-w", root).code == 0
    return Workspace(root).catalog().family(str(arguments[0])).variants


def two(directory: Path) -> tuple[Path, Path]:
    return mlp(directory / "small.onnx", hidden=4), mlp(directory / "large.onnx", hidden=8, seed=1)


# --- a workspace from nothing


def test_one_model_becomes_a_family_in_a_new_workspace(tmp_path: Path) -> None:
    model, labelled = passing_on(tmp_path / "thing.onnx"), save_eval(tmp_path / "labels.npz", rows=ROWS, right=RIGHT)
    ws = tmp_path / "ws"
    ended = proteus("catalog", "add", "things", model, "--slo", "200ms", "--eval", labelled, "-w", ws)
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.stderr.splitlines() == [
        "added thing to `things`: accuracy 0.7500, measured on the eval split",
        "`things` takes x (float32 [4]), and gives scores (float32 [4]); SLO 200ms",
        f"wrote {ws}/engines/catalog.toml; next: proteus profile, proteus plan",
    ]
    assert (ws / "engines" / "catalog.toml").read_text() == (
        "# Made by `proteus catalog add`. docs/formats.md says what else may stand here.\n"
        'format = 1\n\n[[family]]\nname = "things"\nslo = "200ms"\neval = "models/things/eval.npz"\n\n'
        '[[family.variant]]\nname = "thing"\nonnx = "models/things/thing.onnx"\naccuracy = 0.75\n'
    )
    assert sorted(files(ws)) == [
        f"engines/{name}" for name in ("catalog.toml", "models/things/eval.npz", "models/things/thing.onnx")
    ]
    assert (ws / "engines/models/things/thing.onnx").read_bytes() == model.read_bytes()


def test_what_it_makes_can_be_profiled_and_planned(tmp_path: Path) -> None:
    model, ws = conv_net(tmp_path / "thing.onnx", batch=1), tmp_path / "ws"
    assert proteus("catalog", "add", "things", model, "--slo", "200ms", "-w", ws).code == 0
    assert proteus("profile", "--device", "cpu0", "--max-batch", "2", "--budget", "0s", "-w", ws).code == 0
    assert proteus("plan", "--demand", "1qps", "-w", ws).code == 0
    profiled = Workspace(ws).profile("cpu0").of("things", "thing")
    assert profiled is not None
    assert profiled.estimated
    assert profiled.points


def test_an_estimate_is_marked_wherever_it_is_shown(tiny: Tiny) -> None:
    """In the tables of profiles and plans, in the plan and in reports; and no longer once it is measured."""
    text = tiny.place.catalog_path.read_text()
    tiny.place.catalog_path.write_text(text.replace("accuracy = 0.95", "accuracy = 0.95\nestimated = true"))
    assert "≈0.9500" in proteus("profile", "--device", "cpu0", "--budget", "0s", "-w", tiny.root).stdout
    plan = ("plan", "--demand", "shapes=1qps,tones=1qps", "-w", tiny.root)
    ended = proteus(*plan)
    assert "at effective accuracy ≈" in ended.stderr
    assert "≈: accuracies of tones are estimated, without labels" in ended.stderr
    assert tiny.place.plan(Path("plan")).estimated == ("tones",)
    assert "≈0.95" in proteus(*plan, "--explain").stdout
    swept = proteus(*plan, "--sweep", "1qps:2qps:1qps")
    assert swept.stdout.count("≈") == 4
    assert "≈: accuracies of tones are estimated, without labels" in swept.stderr
    assert "effective accuracy ≈" in proteus("plan", "diff", "plan", "plan", "-w", tiny.root).stderr
    (tiny.root / "t.csv").write_text("arrival_s,family\n0,shapes\n0.5,tones\n")
    replay = ("replay", tiny.root / "t.csv", "--plan", "plan", "-w", tiny.root)
    assert "≈ accuracies of tones are estimated, without labels" in proteus(*replay).stdout
    assert proteus(*replay, "--json").document()["estimated"] == ["tones"]
    tiny.place.catalog_path.write_text(text)
    assert proteus("profile", "--device", "cpu0", "--budget", "0s", "-w", tiny.root).code == 0
    assert proteus(*plan).code == 0
    assert "estimated" not in (tiny.root / "plans" / "plan.json").read_text()


def test_json_is_one_document(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "thing.onnx", batch=2)
    made = proteus("catalog", "add", "things", model, "--slo", "0.2 s", "--json", "-w", tmp_path / "ws").document()
    assert made == {
        "family": "things",
        "slo": "0.2s",
        "inputs": {"image": "float32 [3,8,8]"},
        "outputs": {"scores": "float32 [3]"},
        "variants": [
            {
                "variant": "thing",
                "onnx": "models/things/thing.onnx",
                "accuracy": 1.0,
                "estimated": True,
                "basis": FIRST_COUNTS_AS_RIGHT,
                "fixed_batch": 2,
            }
        ],
    }


# --- a workspace that is there


def test_a_family_gets_more_variants_and_the_catalog_keeps_its_comments(tiny: Tiny) -> None:
    text = tiny.place.catalog_path.read_text()
    commented = text.replace("format = 1\n", "# ours\nformat = 1\n")
    tiny.place.catalog_path.write_text(commented)
    variants = added(tiny.root, "shapes", mlp(tiny.root / "shapes-xl.onnx", hidden=32, seed=9))
    assert [variant.name for variant in variants] == ["shapes-s", "shapes-m", "shapes-l", "shapes-xl"]
    assert (variants[3].onnx, variants[3].estimated) == ("models/shapes/shapes-xl.onnx", False)
    changed = tiny.place.catalog_path.read_text()
    assert changed.startswith("# ours\n")
    kept = changed.replace(
        '[[family.variant]]\nname = "shapes-xl"\nonnx = "models/shapes/shapes-xl.onnx"\n'
        f"accuracy = {variants[3].accuracy}\n",
        "",
    )
    assert kept.split() == commented.split()


def test_a_new_family_comes_to_those_that_are_there(tiny: Tiny) -> None:
    before = tiny.place.catalog_path.read_text()
    assert [each.name for each in added(tiny.root, "things", mlp(tiny.root / "thing.onnx"), "--slo", "1s")] == ["thing"]
    assert tiny.place.catalog_path.read_text().startswith(before)


def test_a_model_below_engines_stays_where_it_is(tmp_path: Path) -> None:
    model = mlp(tmp_path / "engines" / "mine" / "thing.onnx")
    assert added(tmp_path, "things", model, "--slo", "1s")[0].onnx == "mine/thing.onnx"
    assert sorted(files(tmp_path)) == ["engines/catalog.toml", "engines/mine/thing.onnx"]


def test_one_below_engines_whose_batch_is_fixed_stays_as_it_is_beside_the_new_one(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "engines" / "mine" / "thing.onnx", batch=1)
    before = model.read_bytes()
    assert added(tmp_path, "things", model, "--slo", "1s")[0].onnx == "models/things/thing-any-batch.onnx"
    assert model.read_bytes() == before


def test_one_of_those_with_external_data_may_have_the_place_of_a_copy(tmp_path: Path) -> None:
    directory = tmp_path / "engines" / "models" / "things" / "thing"
    model = mlp(directory / "thing.onnx", batch=1)
    keep_apart(model, "weights.bin")
    before = files(tmp_path)
    onnx_name = added(tmp_path, "things", model, "--slo", "1s")[0].onnx
    assert onnx_name == "models/things/thing-any-batch/thing-any-batch.onnx"
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert "engines/models/things/thing-any-batch/weights.bin" in after


def test_a_catalog_with_families_in_an_inline_array_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """The eval split is broken, and nothing looks at it."""
    (tmp_path / "engines").mkdir()
    path = tmp_path / "engines" / "catalog.toml"
    path.write_text('format = 1\nfamily = [{name = "a", slo = "1s", variant = [{name = "a-s", accuracy = 0.5}]}]\n')
    model = mlp(tmp_path / "thing.onnx")
    labelled = tmp_path / "labels.npz"
    labelled.write_bytes(b"broken")
    message = refused(tmp_path, "things", model, "--slo", "1s", "--eval", labelled)
    assert message == f"Can't add to `{path}`, as it is written."
    assert [each.name for each in added(tmp_path, "a", model, "--accuracy", "0.9")] == ["a-s", "thing"]


@pytest.mark.parametrize("batch", ["n", 1])
def test_external_data_comes_along(tmp_path: Path, batch: int | str) -> None:
    models = []
    for place in ("a", "b"):  # both keep their weights under the same name
        model = mlp(tmp_path / place / f"{place}.onnx", batch=batch)
        keep_apart(model, "data/weights.bin")
        models.append(model)
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.random.default_rng(0).random((8, 4)).astype(np.float32))
    ws = tmp_path / "ws"
    variants = added(ws, "things", *models, "--slo", "1s", "--calibration", rows)
    assert [variant.onnx for variant in variants] == ["models/things/a/a.onnx", "models/things/b/b.onnx"]
    assert (ws / "engines/models/things/b/data/weights.bin").is_file()
    assert variants[1].accuracy == 1.0  # both are the same model


# --- accuracies


def test_accuracies_may_be_stated(tmp_path: Path) -> None:
    given = ("things", *two(tmp_path), "--slo", "1s", "--accuracy", "large=95.2%,small=0.9")
    assert [(v.name, v.accuracy, v.estimated) for v in added(tmp_path / "ws", *given)] == [
        ("small", 0.9, False),
        ("large", 0.952, False),
    ]


def test_without_labels_agreement_with_the_first_is_the_estimate(tmp_path: Path) -> None:
    """The second model answers otherwise where entry 0 is the largest, which is so in 3 of 4 rows."""
    first = passing_on(tmp_path / "first.onnx")
    less = save_model(
        tmp_path / "second.onnx",
        [helper.make_node("Sub", ["x", "less"], ["scores"])],
        inputs=[tensor("x", ["n", 4])],
        outputs=[tensor("scores", ["n", 4])],
        weights={"less": np.array([9, 0, 0, 0], np.float32)},
    )
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.eye(4, dtype=np.float32)[[0, 1, 0, 0]])
    ended = proteus(
        "catalog", "add", "things", first, less, "--slo", "1s", "--calibration", rows, "-w", tmp_path / "ws"
    )
    assert ended.stderr.splitlines()[:2] == [
        f"added first to `things`: accuracy 1.0000, {FIRST_COUNTS_AS_RIGHT}",
        "added second to `things`: accuracy 0.2500, estimated: agrees with first on 25.0 % of rows.npz",
    ]
    assert [v.estimated for v in Workspace(tmp_path / "ws").catalog().family("things").variants] == [True, True]


def test_a_later_variant_is_compared_with_the_familys_best(tiny: Tiny) -> None:
    """It agrees with itself everywhere, so it is as accurate as the best one is declared to be."""
    rows, copy = tiny.root / "rows.npz", tiny.root / "copy.onnx"
    np.savez(rows, x=np.random.default_rng(0).random((16, 4)))
    copy.write_bytes(tiny.model("tones-l").read_bytes())
    variant = added(tiny.root, "tones", copy, "--calibration", rows)[-1]
    assert (variant.name, variant.accuracy, variant.estimated) == ("copy", 0.95, True)


def test_nothing_tells_how_accurate_a_second_model_is(tmp_path: Path) -> None:
    message = refused(tmp_path, "things", *two(tmp_path), "--slo", "1s")
    assert message == "Nothing tells how accurate `large` is."


def test_a_model_that_is_not_there_is_told_before_its_accuracy_is_asked_for(tmp_path: Path) -> None:
    missing = tmp_path / "nope.onnx"
    assert refused(tmp_path, "things", two(tmp_path)[0], missing, "--slo", "1s") == f"No file `{missing}`."


def test_a_model_of_a_family_without_models_is_not_taken_to_be_always_right(tmp_path: Path) -> None:
    """Its declared variant may be better, and can't be compared with."""
    path = tmp_path / "engines" / "catalog.toml"
    path.parent.mkdir()
    path.write_text(
        'format = 1\n[[family]]\nname = "things"\nslo = "1s"\n[[family.variant]]\nname = "a"\naccuracy = 0.5\n'
    )
    model, rows = mlp(tmp_path / "thing.onnx"), tmp_path / "rows.npz"
    np.savez(rows, x=np.zeros((4, 4), np.float32))
    expected = "Nothing tells how accurate `thing` is: `things` has no model to compare it with."
    assert refused(tmp_path, "things", model) == expected
    assert refused(tmp_path, "things", model, "--calibration", rows) == expected
    assert added(tmp_path, "things", model, "--accuracy", "0.4")[-1].accuracy == 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--accuracy", "0.9"), "`--accuracy 0.9` doesn't say of which variant."),
        (("--accuracy", "small=0.9,huge=1"), "`--accuracy` names `huge`, which is not added."),
        (("--accuracy", "small=1.5,large=1"), "`1.5` is not an accuracy."),
        (("--accuracy", "small=,large=1"), "`` is not an accuracy."),
    ],
)
def test_accuracies_that_make_no_sense_are_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert refused(tmp_path, "things", *two(tmp_path), "--slo", "1s", *arguments) == message


@pytest.mark.parametrize("option", ["--accuracy", "--calibration"])
def test_with_an_eval_split_accuracies_are_measured(tiny: Tiny, option: str) -> None:
    model, value = mlp(tiny.root / "new.onnx"), "0.9" if option == "--accuracy" else "rows.npz"
    assert refused(tiny.root, "shapes", model, option, value) == "The accuracies are measured on the eval split."


# --- images in folders


COLOURS = {"0-red": (250, 10, 30), "1-green": (20, 200, 40), "2-blue": (10, 20, 240)}


def colour_net(path: Path, shape: tuple[int | str, ...] = ("n", 3, 4, 6)) -> Path:
    """Scores are the mean of each channel."""
    mean = helper.make_node("ReduceMean", ["x"], ["scores"], axes=[2, 3] if shape[1] == 3 else [1, 2], keepdims=0)
    return save_model(path, [mean], inputs=[tensor("x", shape)], outputs=[tensor("scores", ["n", 3])])


def photos(folder: Path) -> Path:
    """A JPEG and a PNG of each class, and one in a wrong folder."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        image = Image.new("RGB", (12, 8), colour)
        image.save(folder / name / "b.jpg")
        image.save(folder / name / "a.PNG")
    Image.new("RGB", (5, 5), COLOURS["2-blue"]).save(folder / "0-red" / "wrong.jpeg")
    (folder / "0-red" / "notes.txt").write_text("none")
    (folder / ".hidden").mkdir()
    return folder


@pytest.mark.parametrize("shape", [("n", 3, 4, 6), ("n", 4, 6, 3)], ids=["NCHW", "NHWC"])
def test_a_folder_of_images_by_class_becomes_an_eval_split(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    ws, model = tmp_path / "ws", colour_net(tmp_path / "net.onnx", shape)
    (variant,) = added(ws, "colours", model, "--slo", "1s", "--eval", photos(tmp_path / "photos"))
    assert (variant.accuracy, variant.estimated) == (round(6 / 7, 4), False)
    split = np.load(ws / "engines" / "models" / "colours" / "eval.npz")
    assert (split["x"].dtype, split["x"].shape) == (np.uint8, (7, *shape[1:]))
    assert split["y"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert Workspace(ws).catalog().family("colours").eval == "models/colours/eval.npz"


def test_an_empty_folder_is_a_class_without_images(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    for path in (folder / "1-green").iterdir():
        path.unlink()
    ws = tmp_path / "ws"
    added(ws, "colours", colour_net(tmp_path / "net.onnx"), "--slo", "1s", "--eval", folder)
    assert np.load(ws / "engines" / "models" / "colours" / "eval.npz")["y"].tolist() == [0, 0, 0, 2, 2]


def misplace(folder: Path) -> None:
    (folder / "0-red" / "b.jpg").rename(folder / "b.jpg")


def damage(folder: Path) -> None:
    (folder / "1-green" / "b.jpg").write_bytes(b"hello")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def put_a_directory(folder: Path) -> None:
    (folder / "1-green" / "c.jpg").mkdir()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (shutil.rmtree, "No file `{folder}`."),
        (empty, "`{folder}` has no folders with images."),
        (misplace, "`{folder}/b.jpg` is in no folder of a class."),
        (damage, "`{folder}/1-green/b.jpg` is neither JPEG nor PNG."),
        (put_a_directory, "`{folder}/1-green/c.jpg` is a directory, and must be a regular file."),
        (lambda folder: (folder / "3").mkdir(), "`{folder}` has 4 folders of classes; the models have 3 scores."),
    ],
)
def test_a_folder_that_is_no_eval_split_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(folder := photos(tmp_path / "photos"))
    net = colour_net(tmp_path / "net.onnx")
    assert refused(tmp_path, "colours", net, "--slo", "1s", "--eval", folder) == problem.format(folder=folder)


def test_images_of_which_there_are_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folders, "MAX_PIXEL_BYTES", 6 * 4 * 6 * 3)
    with pytest.raises(ArtefactError, match="has 7 images; 6 of this size fit"):
        split_of_folder(photos(tmp_path / "photos"), IMAGES)


def test_images_for_models_without_pixels_are_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    message = refused(tmp_path, "things", *two(tmp_path), "--slo", "1s", "--eval", folder)
    assert message == f"Images in `{folder}` don't fit the models: these take [4]."


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"z": np.zeros((8, 4))}, "it has no array `x`, but `z`."),
        ({"x": np.zeros((8, 5))}, "it has shape (8, 5) for `x`; the model takes (8, 4)"),
        ({"x": np.zeros((0, 4))}, "it has no rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], problem: str) -> None:
    rows = tmp_path / "rows.npz"
    np.savez(rows, **arrays)  # type: ignore[arg-type]
    message = refused(tmp_path, "things", *two(tmp_path), "--slo", "1s", "--calibration", rows)
    assert message.startswith(f"Can't use the inputs in `{rows}`: ")
    assert problem in message


def test_agreement_of_single_numbers_says_nothing(tmp_path: Path) -> None:
    models = []
    for name in ("a", "b"):
        ends = [tensor("x", ["n", 1])], [tensor("y", ["n", 1])]
        node = helper.make_node("Identity", ["x"], ["y"])
        models.append(save_model(tmp_path / f"{name}.onnx", [node], inputs=ends[0], outputs=ends[1]))
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.zeros((8, 1), np.float32))
    message = refused(tmp_path, "things", *models, "--slo", "1s", "--calibration", rows)
    assert message == "`a` answers with a single number, `y`, so agreement with it says nothing."


# --- names


def test_files_of_one_name_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    models = mlp(tmp_path / "small" / "model.onnx"), mlp(tmp_path / "large v2" / "model.onnx")
    given = ("things", *models, "--slo", "1s", "--accuracy", "small-model=0.8,large-v2-model=0.9")
    assert [v.name for v in added(tmp_path / "ws", *given)] == ["small-model", "large-v2-model"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("a b.onnx", "a-b.onnx"), "a-b.onnx` would be named `a-b` as `{directory}/a b.onnx` is."),
        (("_.onnx", "c.onnx"), "_.onnx` gives no name."),
    ],
)
def test_files_that_give_no_names_are_refused(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    models = [mlp(tmp_path / name) for name in names]
    assert refused(tmp_path, "things", *models, "--slo", "1s").endswith(problem.format(directory=tmp_path))


# --- models that don't fit


def test_sizes_that_differ_are_told_exactly(tmp_path: Path) -> None:
    models = conv_net(tmp_path / "b0.onnx", size=224), conv_net(tmp_path / "b1.onnx", size=240)
    call = (tmp_path, "things", *models, "--slo", "1s", "--accuracy", "b0=0.8,b1=0.9")
    assert "`[family.input]`" in proteus("catalog", "add", *call[1:], "-w", tmp_path).stderr
    message = refused(*call)
    assert message == "`b1` takes or gives other tensors than `b0`: `image` has [3,240,240] against [3,224,224]."


def test_a_model_is_compared_with_those_of_its_family_before_anything_is_measured(tiny: Tiny) -> None:
    """The eval split of the family is broken, and nothing looks at it."""
    (tiny.root / "engines" / "models" / "shapes" / "eval.npz").write_bytes(b"broken")
    message = refused(tiny.root, "shapes", mlp(tiny.root / "wide.onnx", inputs=9))
    assert message == "`wide` takes or gives other tensors than `shapes-l`: `x` has [9] against [4]."


@pytest.mark.parametrize(
    ("ends", "difference"),
    [
        ((tensor("x", ["n", 4], TensorProto.UINT8), tensor("y", ["n", 4], TensorProto.UINT8)),
         "`x` has uint8 against float32; `y` has uint8 against float32"),
        ((tensor("z", ["n", 4]), tensor("y", ["n", 4])), "inputs `z` against `x`"),
    ],
)  # fmt: skip
def test_other_types_and_names_are_told(tmp_path: Path, ends: tuple[onnx.ValueInfoProto, ...], difference: str) -> None:
    models = []
    for name, (x, y) in (("a", (tensor("x", ["n", 4]), tensor("y", ["n", 4]))), ("b", ends)):
        node = helper.make_node("Identity", [x.name], [y.name])
        models.append(save_model(tmp_path / f"{name}.onnx", [node], inputs=[x], outputs=[y]))
    message = refused(tmp_path, "things", *models, "--slo", "1s", "--accuracy", "a=0.8,b=0.9")
    assert message == f"`b` takes or gives other tensors than `a`: {difference}."


def test_where_a_size_of_the_best_variant_varies_all_are_compared(tiny: Tiny) -> None:
    save_model(
        tiny.model("tones-l"),
        [helper.make_node("Compress", ["x", "some"], ["scores"], axis=1)],
        inputs=[tensor("x", ["n", 4])],
        outputs=[tensor("scores", ["n", "classes"])],
        weights={"some": np.array([True, True, True, False])},
    )
    message = refused(tiny.root, "tones", passing_on(tiny.root / "new.onnx"), "--accuracy", "0.9")
    assert message == "`new` takes or gives other tensors than `tones-s`: `scores` has [4] against [3]."


def test_a_batch_that_cannot_be_made_dynamic_is_refused(tmp_path: Path) -> None:
    model = mixing_rows(tmp_path / "thing.onnx", batch=2)
    message = refused(tmp_path, "things", model, "--slo", "1s")
    assert message == (
        f"`{model}` takes just 2 at a time, and can't be made to take more: "
        "`scores` of a row would depend on the other rows."
    )


def test_a_second_dynamic_axis_is_refused_by_the_name_of_the_users_file(tmp_path: Path) -> None:
    ends = [tensor("x", [1, "length"])], [tensor("y", [1, "length"])]
    model = save_model(
        tmp_path / "thing.onnx", [helper.make_node("Identity", ["x"], ["y"])], inputs=ends[0], outputs=ends[1]
    )
    message = refused(tmp_path, "things", model, "--slo", "1s")
    assert f"`x` of `{model}` has a dynamic axis besides the batch" in message


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "thing.onnx"
    model.write_bytes(b"PK\x03\x04 something else")
    assert f"can't load `{model}`" in refused(tmp_path, "things", model, "--slo", "1s")
    assert refused(tmp_path, "things", tmp_path / "none.onnx", "--slo", "1s") == f"No file `{tmp_path}/none.onnx`."


# --- what is there already


def test_a_new_family_needs_a_latency_target(tmp_path: Path) -> None:
    model = mlp(tmp_path / "thing.onnx")
    assert refused(tmp_path, "things", model) == "Family `things` is new, and needs a latency target."
    assert refused(tmp_path, "things", model, "--slo", "0ms") == "The SLO `0ms` is not above zero."
    assert refused(tmp_path, "my things", model, "--slo", "1s") == "`my things` is no name for a family."


def test_what_the_catalog_says_of_a_family_is_changed_there(tiny: Tiny) -> None:
    model, labelled = mlp(tiny.root / "new.onnx"), save_eval(tiny.root / "new.npz")
    assert refused(tiny.root, "shapes", model, "--slo", "1s") == "Family `shapes` has the SLO 200ms already."
    assert refused(tiny.root, "tones", model, "--eval", labelled) == "Family `tones` is in the catalog already."


def test_a_variant_is_not_added_twice(tiny: Tiny) -> None:
    """That is said first, whatever else is wrong: a command is often just run again."""
    model, labelled = mlp(tiny.root / "shapes-s.onnx"), save_eval(tiny.root / "new.npz")
    for more in ((), ("--slo", "1s"), ("--slo", "1s", "--eval", labelled), ("--accuracy", "0.5")):
        message = refused(tiny.root, "shapes", model, *more)
        assert message == "Family `shapes` has a variant `shapes-s` already."


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    taken = tmp_path / "engines" / "models" / "things" / "thing.onnx"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"mine")
    assert refused(tmp_path, "things", mlp(tmp_path / "thing.onnx"), "--slo", "1s") == f"`{taken}` is there already."
