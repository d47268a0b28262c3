"""The files of a study: ``studies/NAME.json``, with a CSV file and a page beside it."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.domain.catalog import is_name
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import Workspace, read_json, write_json, write_text
from proteus_cli.studies.study import Cell, Scalar, Study

_FIRST = ("cell", "mode", "begun_unix_s", "took_s", "failed")
_LOAD = "load."
_LONGEST_LIST = 9
"""In a CSV file, where each of its values has columns of its own."""
_SCALAR = (str, float, int, bool, type(None))


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """Where a study is, in the workspace or its state directory. Raises `UsageError` where the name is none."""

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
        """The study as far as it got; None where there is none. Raises `ArtefactError`."""
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
    """The studies of these names; None: all, the one that was begun first before the others. Raises `ArtefactError`."""
    hint = "`proteus study all` measures what makes sense for the workspace"
    if not names:
        paths = sorted(workspace.studies_dir.glob("*.json"))
        if not paths:
            raise ArtefactError(f"No studies in `{workspace.studies_dir}`.", hint=hint)
        return sorted(map(read_study, paths), key=lambda study: (study.made_by.time, study.name))
    files = [StudyFiles(workspace, name) for name in names]
    for each in files:
        if not each.json.exists():
            there = ", ".join(path.stem for path in sorted(workspace.studies_dir.glob("*.json")))
            raise ArtefactError(
                f"No study `{each.name}` in `{workspace.studies_dir}`.", hint=f"there are: {there}" if there else hint
            )
    return [read_study(each.json) for each in files]


def to_csv(study: Study) -> str:
    """A row for each cell: what each number and text of its result is, and its load. Long lists have no place here."""
    results = [_flat(cell.result) for cell in study.cells]
    columns = list(dict.fromkeys(name for result in results for name in result))
    loads = list(dict.fromkeys(name for cell in study.cells for name in cell.load))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIRST, *columns, *(f"{_LOAD}{name}" for name in loads)])
    for cell, result in zip(study.cells, results, strict=True):
        writer.writerow(
            [
                *_of_cell(cell),
                *(result.get(name, "") for name in columns),
                *(cell.load.get(name, "") for name in loads),
            ]
        )
    return text.getvalue()


def _of_cell(cell: Cell) -> tuple[Scalar, ...]:
    return cell.key, cell.mode, cell.begun_unix_s, cell.took_s, cell.failed


def _flat(result: dict[str, object], before: str = "") -> dict[str, object]:
    """Scalars by name; of a value within the value, with the names joined by a dot; of a short list, by place."""
    found: dict[str, object] = {}
    for name, value in result.items():
        if isinstance(value, list) and len(value) <= _LONGEST_LIST:
            value = {str(place + 1): each for place, each in enumerate(value)}  # noqa: PLW2901 - as a value by place
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, _SCALAR):
            found[f"{before}{name}"] = "" if value is None else value
    return found
