"""mypy over sources, with the stubs of one release of the bindings in front of everything."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypy import build
from mypy.main import process_options
from mypy.modulefinder import BuildSource
from mypy.options import Options

ROOT = Path(__file__).parents[3]
BINDINGS = ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "pycuda")
HAND_WRITTEN = Path(__file__).parent / "hand_written"


@dataclass(frozen=True, slots=True)
class Source:
    """A module to check. ``name`` is what others import it by; the text counts, not what the file holds."""

    name: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Complaint:
    """One error of mypy's."""

    path: str
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message} [{self.code}]"


@dataclass(frozen=True, slots=True)
class Checked:
    """What mypy found: errors by path, the tree of each module by its name, and the type of each expression."""

    complaints: Mapping[str, tuple[Complaint, ...]]
    trees: Mapping[str, Any]
    types: Mapping[Any, Any]

    @property
    def all_complaints(self) -> list[str]:
        return [str(complaint) for found in self.complaints.values() for complaint in found]


def check(sources: Iterable[Source], stubs: Path, cache: Path, *, keep_trees: bool = True) -> Checked:
    """`mypy --strict` as the project sets it up, plus the stubs.

    Trees and types are kept where they are asked for; they take a while to be freed. Raises mypy's `CompileError`
    where a source isn't Python.
    """
    options = _options(stubs, cache)
    options.export_types = options.preserve_asts = keep_trees
    built = build.build([BuildSource(s.path, s.name, s.text) for s in sources], options)
    complaints: dict[str, list[Complaint]] = defaultdict(list)
    for line in built.errors:
        said = json.loads(line)
        if said["severity"] == "error":
            complaints[said["file"]].append(Complaint(said["file"], said["line"], said["code"], said["message"]))
    return Checked({path: tuple(found) for path, found in complaints.items()}, built.files, built.types)


def _options(stubs: Path, cache: Path) -> Options:
    """Without stubs some casts and ignores are needed that are too much with them; so they aren't complained of."""
    flags = ["--output=json", "--no-warn-unused-ignores", "--no-warn-redundant-casts", f"--cache-dir={cache}"]
    _, options = process_options([f"--config-file={ROOT / 'pyproject.toml'}", *flags], require_targets=False)
    for module in [name for name in options.per_module_options if name.split(".")[0] in BINDINGS]:
        del options.per_module_options[module]  # elsewhere they have no stubs, and so no types
    options.mypy_path = [str(stubs), str(HAND_WRITTEN), str(ROOT)]
    return options
