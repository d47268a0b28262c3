"""`proteus task retrain`, `list` and `show`: new versions beside earlier ones, and which of them are served."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import Ended, files, proteus
from labelled import blobs, save_rows
from spots import TRAIN, make_spots, write_catalog

from proteus_cli.domain.catalog import Family
from proteus_cli.store import Workspace
from proteus_cli.variants import judging as measuring
from proteus_cli.variants.training import processes

MOVED = 9.0
"""So far the centres of the classes move, so that what was learned before is of no use."""


@pytest.fixture(autouse=True)
def _measured_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast the models are is not what these tests are about, nor how training gives way to others."""
    monkeypatch.setattr(measuring, "CELL_S", 0.0)
    monkeypatch.setattr(processes, "GIVES_WAY", 0)


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    return make_spots(tmp_path / "ws")


def retrained(ws: Path, *arguments: str | Path) -> Ended:
    return proteus("task", "retrain", "spots", "--budget", "1h", *arguments, "-w", ws)


def family_of(ws: Path) -> Family:
    return Workspace(ws).catalog().family("spots")


def paths_of(ws: Path) -> list[str]:
    return [str(variant.onnx).removeprefix("models/spots/") for variant in family_of(ws).variants]


def refused(ws: Path, *arguments: str | Path, code: int = 2) -> str:
    """The message; nothing in the workspace has changed."""
    before = files(ws)
    ended = retrained(ws, *arguments)
    assert files(ws) == before
    assert ended.code == code, ended
    return ended.stderr


def test_rows_that_have_moved_are_learned_and_become_the_eval_split(ws: Path, tmp_path: Path) -> None:
    moved = save_rows(tmp_path / "moved.npz", *blobs(40, seed=3, moved_by=MOVED))
    made = retrained(ws, "--data", moved, "--json").document()
    assert [made[name] for name in ("train_rows", "eval", "eval_rows", "untrained")] == [
        96, "models/spots/eval-2.npz", 24, [],
    ]  # fmt: skip
    assert [(each["variant"], each["version"], each["passed"]) for each in made["versions"]] == [
        ("spots-l", 2, True), ("spots-s", 2, True),
    ]  # fmt: skip
    assert all(each["old_accuracy"] < 0.5 and each["accuracy"] > 0.9 for each in made["versions"])
    assert paths_of(ws) == ["spots-s/2/model.onnx", "spots-l/2/model.onnx"]
    family = family_of(ws)
    assert (family.eval, family.task is not None and family.task.data) == ("models/spots/eval-2.npz", str(moved))
    assert [each.accuracy for each in family.variants] == [
        made["versions"][1]["accuracy"],
        made["versions"][0]["accuracy"],
    ]
    text = (ws / "engines/catalog.toml").read_text()
    assert "# of all kinds" in text
    assert "# the small one" in text
    assert "estimated" not in text
    assert (ws / "engines/models/spots/spots-s/1/model.onnx").exists()
    with np.load(ws / "engines/models/spots/eval-2.npz") as split, np.load(moved) as rows:
        held = {row.tobytes() for row in split["x"]}
        assert held <= {row.tobytes() for row in rows["x"]}

    shown = proteus("task", "show", "spots", "-w", ws, "--json").document()
    assert [(each["version"], each["versions"]) for each in shown["variants"]] == [(2, [1, 2]), (2, [1, 2])]
    assert shown["retrain"].endswith("train.py {data} {out}")
    listed = proteus("task", "list", "-w", ws, "--json").document()
    assert listed == [shown]
    assert "spots-s" in proteus("task", "show", "spots", "-w", ws).stdout
    assert "spots" in proteus("task", "list", "-w", ws).stdout


def test_of_the_same_rows_the_eval_split_stays_and_is_not_trained_on(ws: Path) -> None:
    with np.load(ws / "engines/models/spots/eval.npz") as split:
        x, y = blobs(40, seed=2)
        save_rows(ws.parent / "rows.npz", np.concatenate([x, split["x"]]), np.concatenate([y, split["y"]]))
    ended = retrained(ws)
    assert ended.code == 0, ended
    assert "trained on 120 rows" in ended.stderr
    assert family_of(ws).eval == "models/spots/eval.npz"
    assert paths_of(ws) == ["spots-s/2/model.onnx", "spots-l/2/model.onnx"]
    assert retrained(ws, "--keep-eval", "--json").document()["versions"][0]["version"] == 3


def test_rows_that_the_earlier_versions_were_trained_on_judge_nobody(ws: Path, tmp_path: Path) -> None:
    x, y = blobs(40, seed=2)
    new, labels = blobs(20, seed=4, moved_by=MOVED)
    more = save_rows(tmp_path / "more.npz", np.concatenate([x, new]), np.concatenate([y, labels]))
    made = retrained(ws, "--data", more, "--json", "--max-loss", "1").document()
    assert (made["eval_rows"], made["train_rows"]) == (12, 168)
    assert made["versions"][0]["old_accuracy"] < 0.5
    message = refused(ws, "--data", save_rows(tmp_path / "same.npz", new, labels))
    assert "has no row that the earlier versions were not trained on" in message


def test_versions_for_a_roll_out_are_not_trained_on_the_eval_split_that_stays(ws: Path, tmp_path: Path) -> None:
    """A server measures them on it."""
    with np.load(ws / "engines/models/spots/eval.npz") as split:
        x, y = split["x"], split["y"]
    new, labels = blobs(20, seed=4, moved_by=MOVED)
    more = save_rows(tmp_path / "more.npz", np.concatenate([x, new]), np.concatenate([y, labels]))
    options = ("--data", more, "--json", "--max-loss", "1")
    kept = retrained(ws, *options, "--keep-catalog").document()
    replaced = retrained(ws, *options).document()
    assert kept["eval_rows"] == replaced["eval_rows"]
    assert kept["train_rows"] < len(labels) < replaced["train_rows"]


def test_what_is_worse_is_written_but_not_served(ws: Path) -> None:
    """One variant is as good as before, the other one learns nothing: exit code 5."""
    (ws / "train.py").write_text(TRAIN.replace(
        "print(", 'save_centres(sys.argv[2] + "/spots-l.onnx", [[0, 0, 0, 0]] * 3)\nprint('))  # fmt: skip
    ended = retrained(ws)
    assert ended.code == 5
    assert "error: Not for the catalog: `spots-l@2`" in ended.stderr
    assert "no: it is less accurate" in ended.stdout
    assert paths_of(ws) == ["spots-s/2/model.onnx", "spots-l/1/model.onnx"]
    assert (ws / "engines/models/spots/spots-l/2/model.onnx").exists()
    assert retrained(ws, "--max-loss", "1").code == 0
    assert paths_of(ws) == ["spots-s/3/model.onnx", "spots-l/3/model.onnx"]


def test_where_all_are_worse_the_catalog_is_as_it_was(ws: Path, tmp_path: Path) -> None:
    (ws / "train.py").write_text(TRAIN.replace(".mean(0)", ".mean(0) * 0"))
    before = (ws / "engines/catalog.toml").read_text()
    other = save_rows(tmp_path / "other.npz", *blobs(40, seed=5))
    assert retrained(ws, "--data", other).code == 5
    assert (ws / "engines/catalog.toml").read_text() == before
    assert not (ws / "engines/models/spots/eval-2.npz").exists()


def test_versions_for_a_roll_out_are_written_and_the_catalog_is_as_it_was(ws: Path, tmp_path: Path) -> None:
    """Also beside models that are in no directory of a version."""
    (ws / "engines/models/spots/spots-s.onnx").write_bytes(
        (ws / "engines/models/spots/spots-s/1/model.onnx").read_bytes()
    )
    path = ws / "engines/catalog.toml"
    path.write_text(path.read_text().replace("spots/spots-s/1/model.onnx", "spots/spots-s.onnx"))
    before = path.read_text()
    moved = save_rows(tmp_path / "moved.npz", *blobs(40, seed=3, moved_by=MOVED))
    ended = retrained(ws, "--data", moved, "--keep-catalog")
    assert ended.code == 0, ended
    assert path.read_text() == before
    assert "eval-2" not in ended.stdout  # as it is not there
    assert (ws / "engines/models/spots/2/spots-s.onnx").exists()
    assert (ws / "engines/models/spots/spots-l/2/model.onnx").exists()
    assert not (ws / "engines/models/spots/eval-2.npz").exists()
    assert ended.stderr.splitlines()[-3:] == [
        "the catalog is as it was; to roll a version out by steps:",
        "  proteus rollout start spots spots-l@2 --auto",
        "  proteus rollout start spots spots-s@2 --auto",
    ]


def named(ws: Path, small: str, large: str) -> None:
    """Give the models other places in the catalog, below ``models/spots/``."""
    path = ws / "engines/catalog.toml"
    for variant, name in (("spots-s", small), ("spots-l", large)):
        model = f"models/spots/{variant}/1/model.onnx"
        (ws / "engines/models/spots" / name).write_bytes((ws / "engines" / model).read_bytes())
        path.write_text(path.read_text().replace(model, f"models/spots/{name}"))


KEEPS_APART = """
import onnx
from pathlib import Path
for path in sorted(map(str, Path(sys.argv[2]).glob("*.onnx"))):
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
"""


def test_external_data_comes_along(ws: Path) -> None:
    """Both models keep their weights in one file, so they get versions of different numbers."""
    named(ws, "spots-s.onnx", "spots-l.onnx")
    (ws / "train.py").write_text(TRAIN + KEEPS_APART)
    ended = retrained(ws)
    assert ended.code == 0, ended
    assert paths_of(ws) == ["3/spots-s.onnx", "2/spots-l.onnx"]
    assert (ws / "engines/models/spots/2/weights.bin").is_file()
    assert (ws / "engines/models/spots/3/weights.bin").is_file()
    assert retrained(ws).code == 0
    assert paths_of(ws) == ["5/spots-s.onnx", "4/spots-l.onnx"]


def test_variants_that_share_a_file_get_versions_of_different_numbers(ws: Path) -> None:
    named(ws, "both.onnx", "both.onnx")
    versions = retrained(ws, "--json").document()["versions"]
    assert [(each["variant"], each["version"]) for each in versions] == [("spots-l", 2), ("spots-s", 3)]
    assert paths_of(ws) == ["3/both.onnx", "2/both.onnx"]
    assert retrained(ws, "--keep-catalog").code == 0
    assert retrained(ws).code == 0
    assert paths_of(ws) == ["7/both.onnx", "6/both.onnx"]


def test_versions_are_counted_whatever_the_name_of_the_file(ws: Path) -> None:
    """Some names are patterns of other names."""
    named(ws, "spots[1].onnx", "spots-l.onnx")
    assert retrained(ws, "--keep-catalog").code == 0
    (ws / "engines/models/spots/2").rename(ws / "engines/models/spots/5")
    assert retrained(ws).code == 0
    assert paths_of(ws) == ["6/spots[1].onnx", "6/spots-l.onnx"]
    shown = proteus("task", "show", "spots", "-w", ws, "--json").document()
    assert [each["versions"] for each in shown["variants"]] == [[5, 6], [5, 6]]


def test_a_model_outside_of_engines_that_cannot_be_used_leaves_nothing_there(ws: Path, tmp_path: Path) -> None:
    path, outside = ws / "engines/catalog.toml", tmp_path / "outside"
    path.write_text(path.read_text().replace("models/spots/spots-s/1/model.onnx", "../../outside/s.onnx"))
    (ws / "engines/models/spots/spots-s").rename(outside)
    (outside / "1/model.onnx").rename(outside / "s.onnx")
    before = files(outside)
    (ws / "train.py").write_text(TRAIN.replace("range(3)", "range(2)"))
    assert "`scores` has [2] against [3]" in refused(ws)
    assert files(outside) == before
    (ws / "train.py").write_text(TRAIN)
    assert retrained(ws).code == 0
    assert (outside / "2/s.onnx").is_file()


def test_a_server_that_is_not_there_is_told_before_anything_is_trained(ws: Path) -> None:
    assert "Can't reach the server at `http://127.0.0.1:9`" in refused(ws, "--url", "http://127.0.0.1:9", code=1)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--canary=0%", "--keep-catalog"), "`0%` is not a share"),
        (("--canary=50%,10%", "--keep-catalog"), "each canary step must be larger than the last"),
        (
            ('--guard=[{"metric": "speed"}]', "--url=http://127.0.0.1:9"),
            "is no guard: Invalid enum value 'speed'",
        ),
        (("--auto",), "There is no roll-out that these options could be about."),
    ],
)
def test_a_roll_out_that_makes_no_sense_is_refused_before_anything_is_trained(
    ws: Path, options: tuple[str, ...], problem: str
) -> None:
    assert problem in refused(ws, *options)


GUARD = '[{"metric": "errors", "value": 0.01}]'


def test_the_command_that_rolls_a_version_out_has_the_options_that_were_given(ws: Path) -> None:
    ended = retrained(ws, "--keep-catalog", "--canary=5%,50%", "--guard", GUARD, "--most-queries=500")
    assert ended.code == 0, ended
    options = f"--canary 5%,50% --guard '{GUARD}' --auto --most-queries 500"
    assert ended.stderr.splitlines()[-1] == f"  proteus rollout start spots spots-s@2 {options}"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 3", "`sh` ended with exit code 3."),
        ("true", "`sh` wrote no model."),
        ("touch $2/other.onnx", "`sh` wrote `other.onnx`, and `spots` has no variant of that name."),
        ("sleep 1000", "`sh` took more than 1.0 s, and was ended."),
    ],
)
def test_a_command_that_fails_changes_nothing(ws: Path, script: str, problem: str) -> None:
    write_catalog(ws, f"sh -c {shlex.quote(script)} sh {{data}} {{out}}")
    limit = ("--budget", "1s") if "sleep" in script else ()
    assert f"error: {problem}" in refused(ws, *limit, code=1)


def test_a_model_with_other_tensors_changes_nothing(ws: Path) -> None:
    (ws / "train.py").write_text(TRAIN.replace("range(3)", "range(2)"))
    assert "`scores` has [2] against [3]" in refused(ws)


def test_what_is_no_task_is_refused(ws: Path, tmp_path: Path) -> None:
    text = (ws / "engines/catalog.toml").read_text()
    (ws / "engines/catalog.toml").write_text(text.replace('eval = "models/spots/eval.npz"\n', ""))
    assert "Family `spots` is no task: it has no eval split." in refused(ws)
    without = text[: text.index("[family.task]")] + text[text.index("[[family.variant]]") :]
    (ws / "engines/catalog.toml").write_text(without)
    assert "Family `spots` is no task: it has no [family.task]." in refused(ws)
    assert "is no task" in proteus("task", "show", "spots", "-w", ws).refused()
    said = "there are no tasks; `proteus task add` trains a family of variants\n"
    assert proteus("task", "list", "-w", ws).stderr == said
    (ws / "engines/catalog.toml").write_text(text)
    other = save_rows(tmp_path / "other.npz", np.zeros((20, 5), np.float32), np.repeat([0, 1], 10))
    assert "clients send the same tensors as before" in refused(ws, "--data", other)
