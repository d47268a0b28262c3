"""New files and the catalog: edits meanwhile are kept, and files stay on the file system of ``engines/``."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import files
from tiny import Tiny, mlp

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError
from proteus_cli.store import Workspace
from proteus_cli.variants.accuracy import Accuracy, Evidence
from proteus_cli.variants.adding import add
from proteus_cli.variants.conversions.recipes import Wanted
from proteus_cli.variants.deriving import derive, read_parent
from proteus_cli.variants.staging import staging

DEVICE = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
CPU = OnnxRuntime(DEVICE)


def add_to_tones(tiny: Tiny, meanwhile: Callable[[], object]) -> None:
    """``meanwhile`` is called while the model is measured."""
    evidence = Evidence(stated={"new": Accuracy(0.9, estimated=False, basis="as stated")})
    models = {"new": mlp(tiny.root / "new.onnx")}
    add(
        tiny.place, "tones", models, slo=None, evidence=evidence, backend=CPU, advance=lambda _now, _frac: meanwhile()
    )  # fmt: skip


def derive_from_tones(tiny: Tiny, meanwhile: Callable[[], object]) -> None:
    rows = tiny.root / "rows.npz"
    np.savez(rows, x=np.zeros((4, 4), np.float32))
    parent = read_parent(tiny.place, "tones-l", rows, CPU)
    recipes = parent.recipes(Wanted(fp16=True))
    derive(parent, recipes, [(DEVICE, CPU)], keep_all=True, advance=lambda _now, _frac: meanwhile())


@pytest.mark.parametrize("change", [add_to_tones, derive_from_tones])
def test_an_edit_of_the_catalog_while_models_are_measured_is_kept(
    tiny: Tiny, change: Callable[[Tiny, Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proteus_cli.variants.measuring.CELL_S", 0.01)
    path = tiny.place.catalog_path
    edited = f"# edited\n{path.read_text()}"
    models = {name for name in files(tiny.root) if name.startswith("engines/")}
    with pytest.raises(ArtefactError, match="was changed meanwhile") as caught:
        change(tiny, lambda: path.write_text(edited))
    assert "run it again" in str(caught.value.hint)
    assert path.read_text() == edited
    assert {name for name in files(tiny.root) if name.startswith("engines/")} == models


def test_a_catalog_that_another_made_meanwhile_is_kept(tmp_path: Path) -> None:
    place, models = Workspace(tmp_path), {"new": mlp(tmp_path / "new.onnx")}
    with pytest.raises(ArtefactError, match="was changed meanwhile"):
        add(
            place, "things", models, slo="1s", evidence=Evidence(), backend=CPU,
            advance=lambda _now, _frac: place.catalog_path.write_text("format = 1\n"),
        )  # fmt: skip
    assert place.catalog_path.read_text() == "format = 1\n"


def test_files_are_moved_within_engines_which_may_be_another_file_system(tiny: Tiny) -> None:
    found: list[Path] = []
    add_to_tones(tiny, lambda: found.extend(tiny.root.rglob(".adding-*")))
    assert [path.parent for path in found] == [tiny.root / "engines"]
    assert not list(tiny.root.rglob(".adding-*"))


STAGES = """
import signal, sys
from pathlib import Path
from proteus_cli.store import Workspace
from proteus_cli.variants.staging import staging

with staging(Workspace(Path(sys.argv[1]))):
    print("staged", flush=True)
    signal.pause()
"""


def ended_while_staging(place: Workspace, number: signal.Signals) -> int:
    """The exit code of a process that a signal ends while it stages."""
    call = ("env", "--default-signal", sys.executable, "-c", STAGES, str(place.root))
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        process.send_signal(number)
        return process.wait(60)


def directories(place: Workspace) -> list[Path]:
    return list(place.root.rglob(".adding-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_program_leaves_no_directory(tmp_path: Path, number: signal.Signals) -> None:
    place = Workspace(tmp_path)
    assert ended_while_staging(place, number) == 128 + number
    assert directories(place) == []


def test_the_directory_of_a_process_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    """Those that others still use are kept."""
    place = Workspace(tmp_path)
    assert ended_while_staging(place, signal.SIGKILL) == -signal.SIGKILL
    (left,) = directories(place)
    (left / "model.onnx").touch()
    with staging(place):
        (first,) = directories(place)
        assert first != left
        with staging(place):
            assert first in directories(place)
            assert len(directories(place)) == 2
    assert directories(place) == []
