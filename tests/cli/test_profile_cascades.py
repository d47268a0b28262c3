"""`proteus profile` says what cascades are worth, with real models."""

from pathlib import Path

import numpy as np
import pytest
from command_line import files, proteus
from onnx import helper
from tiny import INPUTS, Tiny, TinyFamily, TinyVariant, make_workspace, save_model, tensor

QUICK = ("profile", "--device", "cpu0", "--max-batch", "1", "--accept-noise")
WIDE = 1024
FAMILY = TinyFamily(
    "coins",
    (TinyVariant("coins-s", 0.9, hidden=4), TinyVariant("coins-l", 1.0, hidden=4)),
    slo="10s",
    eval="models/coins/eval.npz",
)


def scores_of(path: Path, first: int, *, is_slow: bool) -> None:
    """A model whose two scores are two of its inputs; a slow one also multiplies large matrices, for nothing."""
    weights = {"starts": np.array([first]), "ends": np.array([first + 2]), "axes": np.array([1])}
    nodes = [helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["found"])]
    if is_slow:
        rng = np.random.default_rng(0)
        weights |= {
            "up": rng.random((INPUTS, WIDE)).astype(np.float32),
            "across": rng.random((WIDE, WIDE)).astype(np.float32),
            "down": np.zeros((WIDE, 2), np.float32),
        }
        names = ["x", "up", "across", "down"]
        for place, name in enumerate(names[1:]):
            nodes.append(helper.make_node("MatMul", [f"h{place}" if place else "x", name], [f"h{place + 1}"]))
        nodes.append(helper.make_node("Add", ["found", "h3"], ["scores"]))
    else:
        nodes.append(helper.make_node("Identity", ["found"], ["scores"]))
    ends = [tensor("x", ["n", INPUTS])], [tensor("scores", ["n", 2])]
    save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights=weights)


def save_split(made: Tiny, rows: int) -> None:
    """The first two inputs are scores that err where they are close to each other; the last two never err."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, rows)
    right, wrong = np.ones(rows), np.zeros(rows)
    doubt = rng.random(rows)
    lead = np.where(doubt < 0.17, rng.choice([-0.1, 0.1], rows) * (1 - doubt), doubt)
    by_label = np.stack([wrong, right], axis=1)
    fast = np.stack([np.where(y == 1, 0, lead), np.where(y == 1, lead, 0)], axis=1)
    x = np.concatenate([fast, np.where(y[:, None] == 1, by_label, by_label[:, ::-1])], axis=1)
    np.savez(made.root / "engines" / "models" / "coins" / "eval.npz", x=x.astype(np.float32), y=y)


@pytest.fixture
def coins(tmp_path: Path) -> Tiny:
    made = make_workspace(tmp_path / "coins", (FAMILY,))
    scores_of(made.model("coins-s"), 0, is_slow=False)
    scores_of(made.model("coins-l"), 2, is_slow=True)
    save_split(made, rows=800)
    return made


def test_a_cascade_is_told_in_a_line_a_table_and_the_document(coins: Tiny) -> None:
    """A sixth of the rows are close, of which half are wrong: deferring a fifth makes all of them right."""
    ended = proteus(*QUICK, "-w", coins.root)
    assert ended.code == 0, ended
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("coins: ")]
    assert line.startswith("coins: cascade coins-s → coins-l defers 20 % and reaches 1.0000 (0.995 to 1.000) at ")
    assert "; coins-l alone has 1.0000 at " in line
    assert line.endswith("; 1 cascade in all")
    assert "With cascades" in ended.stdout
    assert "by a variant or by a cascade\nfirst → second: a cascade" in ended.stdout
    assert "coins-s → coins-l" in ended.stdout

    before = files(coins.root)
    (profile,) = proteus(*QUICK, "--json", "-w", coins.root).document()
    assert files(coins.root) == before
    (cascade,) = profile["cascades"]
    assert (cascade["first"], cascade["second"]) == ("coins-s", "coins-l")
    assert cascade["points"][-1]["deferred_frac"] == 0.2
    assert cascade["points"][-1]["unsure_accuracy"] == pytest.approx(0.6, abs=0.06)


def test_why_there_is_no_cascade_is_told(coins: Tiny) -> None:
    save_split(coins, rows=100)
    ended = proteus(*QUICK, "-w", coins.root)
    assert "coins: no cascade; the eval split has 100 rows, and it takes 200" in ended.stderr.splitlines()
    assert "With cascades" not in ended.stdout


def test_a_confidence_that_no_variant_has_is_refused(coins: Tiny) -> None:
    path = coins.place.catalog_path
    path.write_text(path.read_text().replace('slo = "10s"', 'slo = "10s"\nconfidence = "output:sure"'))
    ended = proteus(*QUICK, "-w", coins.root)
    assert ended.refused(1) == (
        '`confidence = "output:sure"` of family `coins` in engines/catalog.toml: no variant has an output `sure`.'
    )


def test_a_discriminator_tells_which_answers_to_defer(coins: Tiny) -> None:
    """It knows better than the margin: an answer is wrong where its score is 0, so it defers no right ones."""
    path = coins.place.catalog_path
    sure = coins.root / "engines" / "models" / "sure.onnx"
    nodes = [helper.make_node("ReduceMax", ["scores"], ["sure"], axes=[1], keepdims=1)]
    save_model(sure, nodes, inputs=[tensor("scores", ["n", 2])], outputs=[tensor("sure", ["n", 1])])
    text = path.read_text()
    path.write_text(text.replace('slo = "10s"', 'slo = "10s"\nconfidence = "discriminator:models/sure.onnx"'))
    ended = proteus(*QUICK, "-w", coins.root)
    assert ended.code == 0, ended
    assert "coins: cascade coins-s → coins-l defers 9 % and reaches 1.0000 " in ended.stderr
