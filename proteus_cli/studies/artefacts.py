"""The files of a study: ``studies/NAME.json``, with a CSV file and a page beside it."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.domain.catalog import is_name
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import Workspace, read_json, write_json, write_text
from proteus_cli.studies.study import Study

_FIRST = ("cell", "mode", "begun_unix_s", "took_s", "failed")
_LONGEST_LIST = 9
"""Maximum length of a list whose values have columns of their own in a CSV file."""
_SCALAR = (str, float, int, bool, type(None))


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """The files of a study in the workspace or its state directory. Raises `UsageError` if the name is invalid."""

    workspace: Workspace
    name: str

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise UsageError(
                f"`{self.name}` is no name for a study.", hint="use letters, digits, `.`, `_` and `-`, as in `peak-2`"
            )

    @property
    def json(self) -> Path:
        return self.workspace.studies_dir / f"{self.name}.json"

    @property
    def csv(self) -> Path:
        return self.json.with_suffix(".csv")

    @property
    def page(self) -> Path:
        return self.json.with_suffix(".html")

    def read(self) -> Study | None:
        """The study, finished or not; None where there is none. Raises `ArtefactError`."""
        return read_study(self.json) if self.json.exists() else None

    def write(self, study: Study) -> None:
        """Write the JSON file. Raises `ArtefactError`."""
        write_json(self.json, study)

    def write_beside(self, study: Study, page: Callable[[Sequence[Study]], str]) -> None:
        """Write the CSV file and the page. Raises `ArtefactError`."""
        write_text(self.csv, to_csv(study))
        write_text(self.page, page((study,)))


def read_study(path: Path) -> Study:
    """Read a study. Raises `ArtefactError`."""
    return read_json(path, Study, hint="`proteus study` with `--force` measures it anew")


def named_studies(workspace: Workspace, names: Sequence[str] | None) -> list[Study]:
    """The named studies; None: all, in the order of their beginnings. Raises `ArtefactError`."""
    paths = sorted(workspace.studies_dir.glob("*.json"))
    hint = "`proteus study all` measures what makes sense for the workspace"
    if names:
        files = [StudyFiles(workspace, name) for name in names]
        if missing := [each.name for each in files if not each.json.exists()]:
            there = ", ".join(path.stem for path in paths)
            raise ArtefactError(
                f"No study `{missing[0]}` in `{workspace.studies_dir}`.", hint=f"there are: {there}" if there else hint
            )
        return [read_study(each.json) for each in files]
    if not paths:
        raise ArtefactError(f"No studies in `{workspace.studies_dir}`.", hint=hint)
    return sorted(map(read_study, paths), key=lambda study: (study.made_by.time, study.name))


def to_csv(study: Study) -> str:
    """A row for each cell: the numbers and texts of its result, and its load. Long lists are left out."""
    results = [_flat(cell.result) for cell in study.cells]
    loads: list[dict[str, object]] = [
        {f"load.{name}": load for name, load in cell.load.items()} for cell in study.cells
    ]
    columns = dict.fromkeys(name for row in (*results, *loads) for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIRST, *columns], restval="", lineterminator="\n")
    writer.writeheader()
    for cell, result, load in zip(study.cells, results, loads, strict=True):
        first = zip(_FIRST, (cell.key, cell.mode, cell.begun_unix_s, cell.took_s, cell.failed), strict=True)
        writer.writerow({**dict(first), **result, **load})
    return text.getvalue()


def _flat(result: dict[str, object], before: str = "") -> dict[str, object]:
    """Scalars by name. Names of nested values are joined by a dot; those in a short list are its places."""
    found: dict[str, object] = {}
    for name, value in result.items():
        if isinstance(value, list) and len(value) <= _LONGEST_LIST:
            value = {str(place + 1): each for place, each in enumerate(value)}  # noqa: PLW2901 - as a value by place
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, _SCALAR):
            found[f"{before}{name}"] = value
    return found
