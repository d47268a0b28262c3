"""Chain files: a multi-exit model in one file, with the ONNX files of its stages and what stops queries at an exit.

A chain file is measured, digested, sent to agents and loaded like an ONNX file. It is a zip of `chain.json` and the
stages `1.onnx`, `2.onnx`, …, which hold their weights. The same stages and condition make the same bytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec

from proteus_cli.domain.base import FORMAT, Value, is_count, require
from proteus_cli.domain.catalog import Variant
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.stages.cascade import output_of
from proteus_cli.domain.stages.exits import MAX_EXITS
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.input_files import MODEL, open_input, read_bytes
from proteus_cli.store.digests import digest_of, model_digest, model_parts, single_file_digest
from proteus_cli.store.files import write_bytes
from proteus_cli.store.models.onnx_files import content_of, onnx_package, read_graph
from proteus_cli.store.models.prepared_models import NO_PREPARATION, Preparation, prepared_content
from proteus_cli.units import format_size

SUFFIX = ".exits"
_RECIPE = 2
"""Goes up whenever other bytes are made of the same chain."""
_MAGIC = b"PK\x03\x04"
_INDEX = "chain.json"
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_HINT = "remove it; it is made again of the files that the catalog names"


@dataclass(frozen=True, slots=True)
class ExitChain:
    """The content of a chain file, with the ``confidence`` and the ``preparation`` of the family."""

    stages: tuple[Path, ...]
    stop_when: Condition
    confidence: str
    preparation: Preparation = NO_PREPARATION

    @classmethod
    def of(cls, variant: Variant, stages: Sequence[Path], confidence: str, preparation: Preparation) -> "ExitChain":
        """The chain of a multi-exit variant. Raises `ValueError` for another one."""
        if variant.stop_when is None:
            raise ValueError(f"`{variant.name}` has no exits")
        return cls(tuple(stages), variant.stop_when, confidence, preparation)

    @property
    def name(self) -> str:
        """The name of its file, by content. Raises `ArtefactError` without a stage."""
        digests = [model_digest(stage) for stage in self.stages]
        return digest_of((_RECIPE, digests, str(self.stop_when), self.confidence, *self.preparation.key))[:32] + SUFFIX

    def preparation_of(self, place: int) -> Preparation:
        """The preparation of the stage at a place, from 1. All give a confidence; the first also takes images."""
        return self.preparation if place == 1 else Preparation(discriminator=self.preparation.discriminator)


class _ChainIndex(Value, frozen=True):
    format: int
    stages: int
    stop_when: Condition
    confidence: str

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
        require(is_count(self.stages, 2, MAX_EXITS), f"it must have 2 to {MAX_EXITS} stages")
        output_of(self.confidence)


@dataclass(frozen=True, slots=True)
class UnpackedChain:
    """The stages as ONNX files, when queries stop, and what their confidence is."""

    stages: tuple[Path, ...]
    stop_when: Condition
    confidence: str


def chain_file(chain: ExitChain, *directories: Path) -> Path:
    """The file of a chain: in one of ``directories``, or else made in the last of them.

    Raises `ArtefactError`; `BackendUnavailable` where the package `onnx` is needed.
    """
    name = chain.name
    found = _found(name, directories)
    if found is None:
        found = directories[-1] / name
        write_bytes(found, _packed(chain, directories))
    return found


def chain_digest(chain: ExitChain, *directories: Path) -> str:
    """The digest of the `chain_file`, which is not written. Raises as that does."""
    found = _found(chain.name, directories)
    return model_digest(found) if found is not None else single_file_digest(_packed(chain, directories))


def stage_digests(chain: ExitChain, *directories: Path) -> list[str]:
    """The digests of the stages as the `chain_file` has them, which is not written. Raises as that does."""
    found = _found(chain.name, directories)
    if found is not None:
        with unpacked(found) as content:
            return [model_digest(stage) for stage in content.stages]
    contents = (
        _content(stage, chain.preparation_of(place), directories) for place, stage in enumerate(chain.stages, start=1)
    )
    return [single_file_digest(content) for content in contents]


def is_chain_file(model: Path) -> bool:
    """Whether a model is a chain file, whatever its name is; not where it can't be read, which loading it reports."""
    try:
        with open_input(model, None, hint="") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except ArtefactError:
        return False


@contextmanager
def unpacked(model: Path) -> Iterator[UnpackedChain]:
    """The content of a chain file, until left. Raises `EngineError` where it is none."""
    with TemporaryDirectory(prefix="proteus-exits-") as directory:
        try:
            with open_input(model, MODEL, hint=_HINT) as file, ZipFile(file) as content:
                found = _unpacked(content, Path(directory))
        except (BadZipFile, LookupError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
            raise EngineError(f"`{model}` is not a valid chain file: {error}", hint=_HINT) from error
        yield found


def _unpacked(content: ZipFile, directory: Path) -> UnpackedChain:
    index = msgspec.json.decode(content.read(_INDEX), type=_ChainIndex)
    stages = []
    for place in range(1, index.stages + 1):
        member = content.getinfo(_stage(place))
        require(member.file_size == member.compress_size, f"{member.filename} is compressed")
        stages.append(Path(content.extract(member, directory)))
    return UnpackedChain(tuple(stages), index.stop_when, index.confidence)


def _packed(chain: ExitChain, directories: Sequence[Path]) -> bytes:
    size_bytes = sum(part.stat().st_size for stage in chain.stages for part in model_parts(stage))
    if size_bytes >= MODEL.max_bytes:
        raise ArtefactError(
            f"The stages {', '.join(f'`{stage}`' for stage in chain.stages)} have {format_size(size_bytes)} together.",
            hint=f"a multi-exit model may have less than {format_size(MODEL.max_bytes)}",
        )
    index = _ChainIndex(FORMAT, len(chain.stages), chain.stop_when, chain.confidence)
    packed = BytesIO()
    with ZipFile(packed, "w", ZIP_STORED) as file:
        file.writestr(ZipInfo(_INDEX, _NO_TIME), msgspec.json.encode(index))
        for place, stage in enumerate(chain.stages, start=1):
            content = _content(stage, chain.preparation_of(place), directories)
            file.writestr(ZipInfo(_stage(place), _NO_TIME), content)
    return packed.getvalue()


def _content(stage: Path, preparation: Preparation, directories: Sequence[Path]) -> bytes:
    """An ONNX file that holds its weights, and is prepared."""
    if preparation:
        return prepared_content(stage, preparation, *directories)
    if len(model_parts(stage)) == 1:
        return read_bytes(stage, MODEL, hint="the catalog names it")
    onnx = onnx_package(f"put `{stage}` and its weights into one file")
    return content_of(read_graph(onnx, stage, with_weights=True), stage)


def _stage(place: int) -> str:
    return f"{place}.onnx"


def _found(name: str, directories: Sequence[Path]) -> Path | None:
    return next((path for directory in directories if (path := directory / name).is_file()), None)
