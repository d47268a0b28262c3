"""New files and the catalog: edits meanwhile are kept, and files stay on the file system of ``engines/``."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

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
from proteus_cli.variants.staging import Staging, staging

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
    monkeypatch.setattr("proteus_cli.variants.judging.CELL_S", 0.01)
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


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as directory:
        if Path(directory).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("temporary files are in /dev/shm themselves")
        yield Path(directory)


def test_what_leads_to_another_file_system_is_staged_there(tiny: Tiny, other_file_system: Path) -> None:
    """Links to directories and to the catalog are followed, and an absolute name is taken as it is."""
    (tiny.root / "engines/far").symlink_to(other_file_system)
    path = tiny.place.catalog_path
    before = path.read_text()
    path.rename(tiny.root / "catalog.toml")
    (other_file_system / "catalog.toml").write_text(before)
    path.symlink_to(other_file_system / "catalog.toml")
    with staging(tiny.place) as staged:
        staged.write("far/new/a.onnx", b"a")
        staged.write(str(other_file_system / "b.onnx"), b"b")
        assert staged.path("far/new/a.onnx").stat().st_dev == other_file_system.stat().st_dev
        assert [each.name for each in other_file_system.iterdir() if each.name[0] != "."] == ["catalog.toml"]
        staged.commit(f"# more\n{before}", before=before)
    assert path.is_symlink()
    assert files(other_file_system) == {
        "new/a.onnx": b"a", "b.onnx": b"b", "catalog.toml": f"# more\n{before}".encode(),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["/OUTSIDE/new.onnx", "../../outside/new.onnx", "models/../../../outside/new.onnx"])
def test_a_place_outside_of_engines_is_left_alone_until_all_is_committed(tmp_path: Path, name: str) -> None:
    place, outside = Workspace(tmp_path / "ws"), tmp_path / "outside"
    outside.mkdir()
    name = name.replace("/OUTSIDE", str(outside))
    with staging(place) as staged:
        staged.write(name, b"new")
        assert staged.path(name).read_bytes() == b"new"
        assert staged.is_taken(str(outside / "new.onnx"))
        assert files(outside) == {}
    assert files(tmp_path) == {}
    with staging(place) as staged:
        staged.write(name, b"new")
        staged.commit("format = 1\n", before=None)
    assert files(tmp_path) == {"outside/new.onnx": b"new", "ws/engines/catalog.toml": b"format = 1\n"}


def test_links_that_lead_nowhere_are_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/models").symlink_to("models")
    with staging(Workspace(tmp_path)) as staged:
        staged.write("models/new.onnx", b"new")
        with pytest.raises(ArtefactError, match="Can't write"):
            staged.commit("format = 1\n", before=None)
    assert not (tmp_path / "engines/catalog.toml").exists()


def test_a_file_that_another_wrote_meanwhile_is_kept(tiny: Tiny) -> None:
    """Also where both leave the catalog as it is, as for versions that are to be rolled out."""
    text, name = tiny.place.catalog_path.read_text(), "models/tones/2/new.onnx"
    with staging(tiny.place) as first, staging(tiny.place) as second:
        for staged, content in ((first, b"first"), (second, b"second")):
            staged.write(name, content)
            staged.write(f"models/tones/{content.decode()}.onnx", content)
        first.commit(text, before=text)
        with pytest.raises(ArtefactError, match=r"2/new.onnx` was written meanwhile, so nothing was added") as caught:
            second.commit(text, before=text)
    assert "run it again" in str(caught.value.hint)
    assert tiny.place.model_path(name).read_bytes() == b"first"
    assert not tiny.place.model_path("models/tones/second.onnx").exists()


def test_a_commit_that_fails_leaves_all_as_before(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, replace = tiny.place.catalog_path, Path.replace
    before = catalog.read_text()

    def full(path: Path, target: Path) -> Path:
        if target == catalog.resolve():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    with staging(tiny.place) as staged:
        staged.write("models/new.onnx", b"new")
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(ArtefactError, match="No space left"):
            staged.commit(f"# more\n{before}", before=before)
    assert catalog.read_text() == before
    assert not tiny.place.model_path("models/new.onnx").exists()


def test_of_several_that_commit_at_once_one_adds_to_the_catalog(tmp_path: Path) -> None:
    place, names = Workspace(tmp_path), [f"family-{number}" for number in range(8)]
    at_once = threading.Barrier(len(names))
    with ExitStack() as stack, ThreadPoolExecutor(len(names)) as pool:
        stagings = {name: stack.enter_context(staging(place)) for name in names}

        def problem_of(name: str, staged: Staging) -> str | None:
            staged.write(f"models/{name}.onnx", b"model")
            at_once.wait()
            try:
                staged.commit(f"# {name}\n", before=None)
            except ArtefactError as error:
                return error.message
            return None

        problems = dict(zip(names, pool.map(problem_of, stagings, stagings.values()), strict=True))
    (winner,) = (name for name, problem in problems.items() if problem is None)
    told = f"`{place.catalog_path}` was changed meanwhile, so nothing was added to it."
    assert set(problems.values()) == {None, told}
    assert files(tmp_path) == {
        "engines/catalog.toml": f"# {winner}\n".encode(), f"engines/models/{winner}.onnx": b"model",
    }  # fmt: skip


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
