"""Models on their way into a family: their names, their files, and whether their tensors fit the family."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from proteus_cli import store
from proteus_cli.backends.base import Backend, Runner, Signature
from proteus_cli.domain.catalog import LONGEST_NAME, is_name
from proteus_cli.errors import ArtefactError, EngineError, UsageError
from proteus_cli.input_files import MODEL, read_bytes
from proteus_cli.store.models.external_data import external_files
from proteus_cli.variants.conversions.batch_axis import fixed_batch, require_same_answers, with_dynamic_batch
from proteus_cli.variants.staging import Staging

IMAGE_AXES = 3  # of a row: height, width and channels
_IMAGES = (
    ". Models for images of different sizes and layouts make one family where the catalog says what clients send: "
    "`[family.input]` (docs/models.md)"
)


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model to add: what the catalog will call its file (``onnx``), and the ``file`` that can be run until then.

    ``rows``: the batch that it was exported for, where that was fixed.
    """

    variant: str
    source: Path
    onnx: str
    file: Path
    rows: int | None

    @contextmanager
    def runner(self, backend: Backend) -> Iterator[Runner]:
        """Load it. Raises `ArtefactError`, which names ``source``, where the model can't be loaded, or fails."""
        with unusable(self.file, str(self.source)), backend.runner(self.file) as runner:
            yield runner


@contextmanager
def unusable(file: Path, name: str) -> Iterator[None]:
    """Make `EngineError` of a model an `ArtefactError` that calls its file by ``name``: it is the user's to mend."""
    try:
        yield
    except EngineError as error:
        raise ArtefactError(error.message.replace(str(file), name), hint=error.hint) from error


def variant_names(models: Sequence[Path]) -> dict[str, Path]:
    """Models by the names of their variants: the names of the files, with their directories if files are named alike.

    Raises `UsageError` where two have the same name, or one has none.
    """
    stems = Counter(path.stem for path in models)
    named: dict[str, Path] = {}
    for path in models:
        directory = f"{path.absolute().parent.name}-" if stems[path.stem] > 1 else ""
        name = _as_name(f"{directory}{path.stem}")
        if name in named or not is_name(name):
            problem = f"would be named `{name}` as `{named[name]}` is" if name in named else "gives no name"
            raise UsageError(f"`{path}` {problem}.", hint="rename the file: a variant has the name of its file")
        named[name] = path
    return named


def _as_name(text: str) -> str:
    """With a dash for each character that a name may not have."""
    return "".join(c if is_name(f"a{c}") else "-" for c in text).lstrip("._-")[:LONGEST_NAME]


def stage_model(
    staged: Staging, place: store.Workspace, family: str, variant: str, source: Path, backend: Backend
) -> NewModel:
    """Make axis 0 of a model dynamic where it isn't, and stage the files that are not in the workspace yet.

    A file below ``engines/`` stays where it is. A copy has the name of its variant, with its external data in a
    directory of its own. Raises `ArtefactError`; `BackendUnavailable` where `with_dynamic_batch` does.
    """
    content = read_bytes(source, MODEL, hint="name the ONNX files to add")
    with unusable(source, str(source)):
        rows = fixed_batch(source)
    there = name_in(place, source)
    if there is not None and rows is None:
        return NewModel(variant, source, there, source, None)
    parts = external_files(source, content)
    stem = variant if there is None else f"{variant}-any-batch"  # the file itself may have the place of a copy
    directory = f"models/{family}/{stem}" if parts else f"models/{family}"
    onnx = f"{directory}/{stem}.onnx"
    staged.write(onnx, content if rows is None else with_dynamic_batch(source, rows))
    for part in parts:
        staged.copy(part, f"{directory}/{part.relative_to(source.parent).as_posix()}")
    if rows is not None:
        require_same_answers(source, rows, staged.path(onnx), backend)
    return NewModel(variant, source, onnx, source if rows is None else staged.path(onnx), rows)


def name_in(place: store.Workspace, file: Path) -> str | None:
    """How the catalog names a file below its directory; None for another one, or where TOML has no such name."""
    directory = place.catalog_path.parent.resolve()
    path = file.resolve()
    inside = path.is_relative_to(directory) and path.is_file()
    name = path.relative_to(directory).as_posix() if inside else ""
    return name if name.isprintable() and name else None


def require_same_tensors(models: Sequence[tuple[str, Signature]]) -> Signature:
    """The signature of the first model (name, signature). Raises `ArtefactError` where two of them differ, and where.

    Each is compared with each: `[3]` and `[5]` differ, though both fit `[?]`.
    """
    for (first, expected), (name, signature) in combinations(models, 2):
        if different := signature.differences(expected):
            images = all(len(spec.shape) == IMAGE_AXES for each in (expected, signature) for spec in each.inputs)
            raise ArtefactError(
                f"`{name}` takes or gives other tensors than `{first}`: {'; '.join(different)}.",
                hint="variants of a family answer the same queries: export it alike, or make it another family"
                + (_IMAGES if images else ""),
            )
    return models[0][1]
