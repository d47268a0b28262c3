"""The rules make of what pybind11 writes what the bindings mean, and fail where they no longer fit."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.api import standins, stubs

RAW = '''\
"""A module."""
bool: DataType  # value = <DataType.BOOL: 4>
class Dims:
    def __len__(self) -> int: ...
class IHostMemory:
    """Memory."""
class Builder:
    def get_error(self, index: typing.SupportsInt) -> ...: ...
    def create_execution_context(self, config: Config = None) -> Context: ...
    def plug(self, in: int, out: bool = True, shape: Dims) -> bool: ...
'''


def _body(text: str, name: str) -> str:
    (line,) = (line for line in stubs.patched(text).splitlines() if f"def {name}(" in line)
    return line.strip()


def test_parameters_are_made_readable() -> None:
    assert _body(RAW, "plug") == "def plug(self, in_: int, out: _bool=True, shape: _DimsLike=...) -> _bool:"


def test_null_pointers_are_none() -> None:
    assert _body(RAW, "create_execution_context").endswith("config: Config | None=None) -> Context | None:")


def test_names_from_cpp_are_put_right() -> None:
    assert _body(RAW, "get_error") == "def get_error(self, index: int) -> ParserError:"


def test_a_rule_that_finds_nothing_is_an_error() -> None:
    with pytest.raises(LookupError, match="null pointers"):
        stubs.patched(RAW.replace("create_execution_context", "make_context"))


def test_a_rule_that_finds_something_unexpected_is_an_error() -> None:
    with pytest.raises(LookupError, match="whole numbers"):
        stubs.patched(RAW, frozenset({stubs.WHOLE_NUMBERS}))


def test_a_missing_library_has_a_stand_in(tmp_path: Path) -> None:
    """What is loaded on a stand-in works; what calls it dies and says so."""
    near, stand_ins = _on_a_missing_library(tmp_path), tmp_path / "standins"

    assert standins.make(near, stand_ins) == standins.Wanted(("libfar.so.3",), ("far_away",))

    assert _call(near, "here", stand_ins).stdout == "1\n"
    died = _call(near, "there", stand_ins)
    assert died.returncode < 0
    assert "stand-in for far_away" in died.stderr


def test_a_stand_in_is_there_while_it_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test process makes the stand-ins; one that is in the middle of it takes none from those that load them."""
    near, stand_ins = _on_a_missing_library(tmp_path), tmp_path / "standins"
    standins.make(near, stand_ins)
    run, answers = subprocess.run, []

    def linker_in_the_middle(command: list[Any], **options: Any) -> subprocess.CompletedProcess[Any]:
        if command[0] == "gcc":
            Path(command[command.index("-o") + 1]).write_bytes(b"half a library")
            answers.append(_call(near, "here", stand_ins, run).stdout)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", linker_in_the_middle)
    standins.make(near, stand_ins)
    assert answers == ["1\n"]


def _on_a_missing_library(place: Path) -> Path:
    """A library that was linked to another one, which isn't where the loader looks."""
    real, near = place / "real", place / "near.so"
    real.mkdir()
    (place / "far.c").write_text("int far_away(void) { return 7; }")
    (place / "near.c").write_text(
        "int far_away(void); int here(void) { return 1; } int there(void) { return far_away(); }"
    )
    _compile(place / "far.c", "-Wl,-soname,libfar.so.3", "-o", real / "libfar.so.3")
    _compile(place / "near.c", "-o", near, real / "libfar.so.3")
    return near


def _compile(source: Path, *arguments: str | Path) -> None:
    subprocess.run(["gcc", "-shared", "-fPIC", source, *arguments], check=True)


def _call(
    library: Path, function: str, search: Path, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
) -> subprocess.CompletedProcess[str]:
    ask = f"import ctypes; print(ctypes.CDLL({str(library)!r}).{function}())"
    env = {"LD_LIBRARY_PATH": str(search)}
    return run([sys.executable, "-c", ask], check=False, env=env, capture_output=True, text=True)
