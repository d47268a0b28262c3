"""Model files are looked at each time that they are loaded: those that were measured are loaded, no others."""

import asyncio
import os
from pathlib import Path

import pytest
from builders import make_measured, make_profile
from msgspec.structs import replace
from tiny import keep_apart, mlp

from proteus_cli import store
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import EngineError
from proteus_cli.serving.fleet import model_files
from proteus_cli.serving.fleet.model_files import ModelFiles

KEY = VariantKey("f", "v")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = mlp(tmp_path / "v.onnx")
    keep_apart(path, "v.onnx.data")
    return path


def files_of(model: Path) -> ModelFiles:
    measured = replace(make_measured("f", "v", 0.9, {1: 0.01}), model_digest=store.model_digest(model))
    return ModelFiles({KEY: model}, {"cpu0": make_profile("cpu0", measured)})


def check(files: ModelFiles) -> store.ModelStamp:
    return asyncio.run(files.require_measured(KEY))


def test_files_that_look_as_they_did_are_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(model)
    monkeypatch.setattr(model_files, "model_digest", None)
    assert check(files)


def test_a_file_that_was_written_anew_with_the_same_content_is_the_same_and_read_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, content = files_of(model), model.read_bytes()
    model.unlink()
    model.write_bytes(content)
    os.utime(model, (0, 0))
    check(files)
    monkeypatch.setattr(model_files, "model_digest", None)
    check(files)


@pytest.mark.parametrize("part", ["v.onnx", "v.onnx.data"])
def test_other_content_is_refused_also_of_the_same_size_and_age(model: Path, part: str) -> None:
    files, path = files_of(model), model.with_name(part)
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(EngineError, match=r"v\.onnx` is not the file that was measured") as caught:
        check(files)
    assert "proteus profile" in caught.value.hint


def test_a_file_that_is_gone_is_refused_and_taken_again_once_it_is_back(model: Path) -> None:
    files = files_of(model)
    model.rename(model.with_suffix(".away"))
    with pytest.raises(EngineError, match="is gone"):
        check(files)
    model.with_suffix(".away").rename(model)
    check(files)


def test_so_is_one_whose_weights_are_gone(model: Path) -> None:
    files = files_of(model)
    weights = model.with_name("v.onnx.data")
    weights.rename(model.with_name("weights"))
    with pytest.raises(EngineError, match="is gone"):
        check(files)
    model.with_name("weights").rename(weights)
    check(files)


def test_a_change_while_it_is_loaded_is_noticed(model: Path) -> None:
    files = files_of(model)
    stamp = check(files)
    files.require_unchanged(KEY, stamp)
    model.write_bytes(model.read_bytes())
    with pytest.raises(EngineError, match="was changed while it was loaded"):
        files.require_unchanged(KEY, stamp)
