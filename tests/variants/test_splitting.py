"""`proteus catalog split`: stages that compute what the whole model does, and operating points no label has chosen."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from exit_nets import exit_stages, whole_exit_net
from short_forms import parse_condition
from tiny import SHAPES, Tiny, TinyFamily, make_workspace, mlp, save_eval

from proteus_cli.arrays import Singles
from proteus_cli.backends.exits.runner import EXIT_NOTE
from proteus_cli.backends.onnxruntime import open_session
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import parse_catalog
from proteus_cli.variants.cutting import parse_cuts
from proteus_cli.variants.splitting import STOPPING, SplitModel, proposed, split

CUTS = "features1,features2"
DEVICE = Device("cpu0", "cpu", "cpu", "a CPU", memory_bytes=0, cores=(0,))
ROWS = 200


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    return make_workspace(tmp_path / "workspace", (TinyFamily("tones", SHAPES.variants[:1]),))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return whole_exit_net(tmp_path / "net.onnx")


def splits(
    made: Tiny, model: Path, cuts: str = CUTS, *, family: str = "nets", stop_when: Condition | None = None
) -> SplitModel:
    rows = save_eval(made.root / "rows.npz", rows=ROWS, right=150)
    known = family in made.place.catalog().names
    return split(
        made.place, family, model, parse_cuts(cuts), slo=None if known else "100ms", eval_path=None if known else rows,
        stop_when=stop_when, backend=open_backend(DEVICE), advance=lambda _now, _done: None,
    )  # fmt: skip


def catalog_of(made: Tiny) -> Catalog:
    return parse_catalog(made.place.catalog_path.read_bytes(), made.place.catalog_path)


def test_stages_are_those_of_the_model(made: Tiny, model: Path, tmp_path: Path) -> None:
    found = splits(made, model)
    own = [open_session(made.root / "engines" / name) for name in found.stages]
    stages = [open_session(path) for path in exit_stages(tmp_path / "stages")]
    given = {"x": np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)}
    for place, (one, other) in enumerate(zip(own, stages, strict=True), start=1):
        names = [value.name for value in other.get_outputs()]
        assert [value.name for value in one.get_outputs()] == names
        outputs = dict(zip(names, one.run(names, given), strict=True))
        for values, expected in zip(outputs.values(), other.run(names, given), strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-5)
        given = {f"features{place}": outputs.get(f"features{place}", given[next(iter(given))])}


def test_the_catalog_has_three_operating_points_of_one_chain(made: Tiny, model: Path) -> None:
    before = catalog_of(made)
    found = splits(made, model)
    family = catalog_of(made).family("nets")
    assert catalog_of(made).families[:-1] == before.families
    assert (family.slo, family.eval) == ("100ms", "models/nets/eval.npz")
    assert [variant.name for variant in family.variants] == ["net-fast", "net-balanced", "net-accurate"]
    assert {variant.exits for variant in family.variants} == {found.stages}
    for variant, point, stops in zip(family.variants, found.variants, STOPPING.values(), strict=True):
        assert (variant.stop_when, variant.accuracy) == (point.stop_when, point.accuracy)
        assert point.exits[0].share == pytest.approx(stops, abs=2 / ROWS)
        packed = made.place.loaded_paths()[VariantKey("nets", variant.name)]
        with (
            open_backend(DEVICE).runner(packed) as runner,
            np.load(made.root / "engines" / str(family.eval)) as rows,
        ):
            outputs = runner.infer({"x": rows["x"]})
            right = outputs["scores"].argmax(axis=1) == rows["y"]
        assert [each.share for each in point.exits] == [float(np.mean(outputs[EXIT_NOTE] == n)) for n in (1, 2, 3)]
        assert point.accuracy == pytest.approx(np.mean(right), abs=1e-4)


def test_labels_have_no_part_in_the_thresholds(made: Tiny, model: Path, tmp_path: Path) -> None:
    """Whatever rows are right, the same conditions are made."""
    rows = save_eval(tmp_path / "other.npz", rows=ROWS, right=0)
    conditions = []
    for family, split_path in (("one", save_eval(tmp_path / "a.npz", rows=ROWS, right=ROWS)), ("two", rows)):
        found = split(
            made.place, family, model, parse_cuts(CUTS), slo="100ms", eval_path=split_path, stop_when=None,
            backend=open_backend(DEVICE), advance=lambda _now, _done: None,
        )  # fmt: skip
        conditions.append([point.stop_when for point in found.variants])
    assert conditions[0] == conditions[1]


def test_a_condition_makes_one_variant_of_a_known_family(made: Tiny, model: Path) -> None:
    rows = save_eval(made.root / "engines" / "rows.npz", rows=ROWS)
    catalog = made.place.catalog_path
    catalog.write_text(catalog.read_text().replace('slo = "200ms"', f'slo = "200ms"\neval = "{rows.name}"'))
    found = splits(made, model, family="tones", stop_when=parse_condition("exit >= 2"))
    family = catalog_of(made).family("tones")
    assert [(each.name, each.stop_when) for each in family.variants] == [
        ("shapes-s", None),
        ("net", parse_condition("exit >= 2")),
    ]
    assert [each.share for each in found.variants[0].exits] == [0.0, 1.0, 0.0]
    with pytest.raises(UsageError, match="`tones` has a variant `net` already"):
        splits(made, model, family="tones", stop_when=parse_condition("exit >= 3"))


def test_a_tensor_beside_the_cut_can_be_named_too(made: Tiny, tmp_path: Path) -> None:
    """A shortcut past a cut is refused, and said; no stage takes what the one before does not give."""
    with pytest.raises(ArtefactError, match=r"Stage 3 of .* also takes"):
        splits(made, whole_exit_net(tmp_path / "short.onnx", has_shortcut=True), "features1,features2")
    assert not list((made.root / "engines" / "models").glob("nets*"))


def test_what_cannot_be_cut_leaves_all_as_it_was(made: Tiny, model: Path, tmp_path: Path) -> None:
    before = sorted(path for path in made.root.rglob("*") if path.is_file() and path.name != "rows.npz")
    text = made.place.catalog_path.read_text()
    for given, cuts, problem in (
        (model, "nowhere,features2", "has no tensor `nowhere`"),
        (model, "features1", r"has 3 outputs \(`scores1`, `scores2`, `scores`\), which do not divide among 2 exits"),
        (mlp(tmp_path / "one.onnx"), "h", "which do not divide among 2 exits"),
        (model, "features2,features1", "Stage 2 of"),
    ):
        with pytest.raises(ArtefactError, match=problem):
            splits(made, given, cuts)
    fixed = whole_exit_net(tmp_path / "fixed.onnx", rows=1)
    with pytest.raises(ArtefactError, match=f"`x` of `{re.escape(str(fixed))}` has no dynamic batch axis"):
        splits(made, fixed)
    with pytest.raises(UsageError, match=r"stop_when of `net` compares `latency`"):
        splits(made, model, stop_when=parse_condition("latency > 1"))
    with pytest.raises(UsageError, match="Family `tones` has no labelled rows"):
        splits(made, model, family="tones")
    assert sorted(path for path in made.root.rglob("*") if path.is_file() and path.name != "rows.npz") == before
    assert made.place.catalog_path.read_text() == text


@pytest.mark.parametrize("text", ["", "a,,b", "a,a", "a,b+a", ",".join(map(str, range(16)))])
def test_cuts_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="different tensors"):
        parse_cuts(text)
    assert parse_cuts("a, b+c") == (("a",), ("b", "c"))


def test_conditions_are_quantiles_and_each_comes_once() -> None:
    rising = np.arange(100, dtype=np.float32)
    assert [each.value for each in proposed(rising)] == [30.0, 60.0, 90.0]
    assert proposed(np.full(9, 0.5, np.float32)) == [parse_condition("confidence >= 0.5")]
    with pytest.raises(UsageError, match="no confidence in any row"):
        proposed(np.full(9, np.nan, np.float32))


def test_a_split_is_told_in_json_and_lines(made: Tiny, model: Path) -> None:
    from proteus_cli.cli.catalog import split_lines  # noqa: PLC0415 - of this test only

    found = splits(made, model)
    document = msgspec.to_builtins(found)
    assert document["stages"] == tuple(f"models/nets/net.{place}.onnx" for place in (1, 2, 3))
    first, *others = split_lines(found)
    assert first.endswith("together they compute what the model does")
    assert [line.split(" to ")[0] for line in others] == ["added net-fast", "added net-balanced", "added net-accurate"]


@pytest.mark.parametrize(
    "confidences",
    [
        np.repeat(np.array([0.1, 2 / 3], np.float32), [30, 70]),  # many rows are as sure as the quantile
        np.tanh(np.linspace(0, 9, 200)).astype(np.float32),  # sure ones are close together
        np.array([0.2000007, 1.0000007, 100.00057], np.float32),
    ],
    ids=["ties", "saturated", "three rows"],
)
def test_the_rows_that_a_quantile_names_stop(confidences: Singles) -> None:
    """All digits of a threshold count: rounded up, it is more than the confidence that it was."""
    thresholds = [condition.value for condition in proposed(confidences)]
    stopping = [int(np.sum(confidences.astype(float) >= threshold)) for threshold in thresholds]
    wanted = [sum(confidences >= np.quantile(confidences, 1 - part, method="higher")) for part in STOPPING.values()]
    assert stopping == list(dict.fromkeys(wanted))
