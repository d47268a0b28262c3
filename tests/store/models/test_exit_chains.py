"""Chain files: made once, named by what they are made of, the same bytes for the same chain."""

from pathlib import Path

import onnx
import pytest
from exit_nets import exit_stages, exits_toml
from short_forms import parse_condition
from tiny import SHAPES, Tiny, TinyFamily, keep_apart, make_workspace

from proteus_cli.domain.catalog import Variant, VariantKey
from proteus_cli.errors import ArtefactError
from proteus_cli.store import Workspace, model_digest
from proteus_cli.store.models.exit_chains import ExitChain, chain_digest, chain_file, is_chain_file, unpacked
from proteus_cli.store.models.prepared_models import NO_PREPARATION


def made_of(stages: list[Path], stop_when: str = "exit >= 2", confidence: str = "margin") -> ExitChain:
    return ExitChain.of(
        Variant("a", 0.5, exits=tuple(map(str, stages)), stop_when=parse_condition(stop_when)),
        stages,
        confidence,
        NO_PREPARATION,
    )


def test_a_chain_file_has_the_stages_and_the_condition(tmp_path: Path) -> None:
    stages = exit_stages(tmp_path)
    packed = chain_file(made_of(stages, "confidence>=.5 or exit >= 2"), tmp_path / "made")
    assert is_chain_file(packed)
    assert not is_chain_file(stages[0])
    with unpacked(packed) as content:
        assert [path.read_bytes() for path in content.stages] == [path.read_bytes() for path in stages]
        assert str(content.stop_when) == "confidence >= 0.5 or exit >= 2"
        assert content.confidence == "margin"
    assert not content.stages[0].exists()


def test_what_it_is_made_of_decides_name_and_digest(tmp_path: Path) -> None:
    stages = exit_stages(tmp_path / "a")
    one = made_of(stages, "exit >= 2")
    same = [made_of(exit_stages(tmp_path / "b"), "exit>=2"), made_of(stages, "exit >= 2.0")]
    others = [
        made_of(stages, "exit >= 3"),
        made_of(stages, confidence="output:scores"),
        made_of(exit_stages(tmp_path / "c", seed=1)),
        made_of([stages[0], stages[2], stages[1]]),
    ]
    assert {each.name for each in same} == {one.name}
    assert len({each.name for each in [one, *others]}) == 1 + len(others)
    digest = chain_digest(one, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    assert model_digest(chain_file(one, tmp_path / "made")) == digest == chain_digest(same[0], tmp_path / "made")


def test_a_chain_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    chain = made_of(exit_stages(tmp_path))
    packed = chain_file(chain, tmp_path / "first")
    assert chain_file(chain, tmp_path / "first", tmp_path / "second") == packed
    assert not (tmp_path / "second").exists()


def test_external_data_becomes_part_of_it(tmp_path: Path) -> None:
    stages = exit_stages(tmp_path)
    whole = onnx.load(stages[0])
    keep_apart(stages[0], "weights.bin")
    with unpacked(chain_file(made_of(stages), tmp_path / "made")) as content:
        (tmp_path / "weights.bin").unlink()
        assert onnx.load(content.stages[0]).graph.initializer[0].raw_data == whole.graph.initializer[0].raw_data


# --- in a workspace


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    made = make_workspace(tmp_path, (TinyFamily("shapes", SHAPES.variants[:1]),))
    exit_stages(tmp_path / "engines" / "stages")
    files = [f"stages/stage.{place}.onnx" for place in (1, 2, 3)]
    catalog = made.place.catalog_path
    added = exits_toml("fast", files, "confidence >= 1") + exits_toml("slow", files, "exit >= 3")
    catalog.write_text(catalog.read_text() + added)
    return made


def test_a_workspace_loads_chain_files_and_removes_those_of_no_variant(made: Tiny) -> None:
    loaded = made.place.loaded_paths()
    fast, slow = (loaded[VariantKey("shapes", name)] for name in ("fast", "slow"))
    assert fast != slow
    assert is_chain_file(fast)
    assert made.place.unused_prepared() == []
    catalog = made.place.catalog_path
    catalog.write_text(catalog.read_text().replace("value = 3.0", "value = 2.0"))
    assert made.place.unused_prepared() == [slow]


def test_digests_need_no_chain_file(made: Tiny) -> None:
    family = made.place.catalog().family("shapes")
    digest = made.place.loaded_digest(family, family.variant("fast"))
    assert not made.place.prepared_dirs[0].exists()
    assert model_digest(made.place.loaded_paths()[VariantKey("shapes", "fast")]) == digest


def test_a_missing_stage_is_named(made: Tiny) -> None:
    missing = made.root / "engines" / "stages" / "stage.2.onnx"
    missing.unlink()
    family = made.place.catalog().family("shapes")
    assert made.place.loaded_paths()[VariantKey("shapes", "fast")] == missing
    for ask in (made.place.loaded_model_of, made.place.model_of):
        with pytest.raises(ArtefactError, match=r"No model `.*stage\.2\.onnx`"):
            ask(family, family.variant("fast"), to="run")


def test_a_multi_exit_model_is_no_single_file(made: Tiny) -> None:
    family = made.place.catalog().family("shapes")
    with pytest.raises(ArtefactError, match="`shapes/fast` is a multi-exit model, of 3 ONNX files"):
        Workspace(made.root).model_of(family, family.variant("fast"), to="derive from")
