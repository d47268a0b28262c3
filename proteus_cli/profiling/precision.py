"""Converts a variant to FP16, as a variant of its own.

TensorRT 11 is always strongly typed, so the precision of an engine is that of its ONNX file. The converter of ONNX
Runtime makes the file (`onnxruntime.transformers.float16`, which comes with it). Inputs and outputs keep their types,
so that all variants of a family still take and give the same tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proteus_cli import store
from proteus_cli.backends.base import Backend
from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.errors import ArtefactError, BackendUnavailable, EngineError, UsageError
from proteus_cli.input_files import CATALOG, read_text
from proteus_cli.profiling.measure import measure_accuracy
from proteus_cli.store import catalog_text

SUFFIX = "-fp16"
DIGITS = 4  # of an accuracy in the catalog


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted variant: accuracies as measured on the family's eval split, sizes of the files."""

    family: str
    variant: str
    onnx: str
    accuracy: float
    accuracy_before: float
    size_bytes: int
    size_before_bytes: int


def add_fp16(place: store.Workspace, name: str, backend: Backend) -> Converted:
    """Convert the variant ``name``, or ``family/name``, measure it, and add file and variant to the catalog.

    The catalog is written last, so it never names a file that is missing. Raises `UsageError`, `ArtefactError`,
    `EngineError`, and `BackendUnavailable` where the package `onnx` is missing.
    """
    content = read_text(place.catalog_path, CATALOG, hint="run `proteus init` to make a workspace")
    catalog = store.parse_catalog(content.encode(), place.catalog_path)
    family, variant = catalog.find(name)
    model, eval_path = place.model_of(family, variant, to="convert"), _eval(place, family)
    store.model_parts(model)  # raises where one can't be read
    onnx = _beside(str(variant.onnx))
    _require_new(place, family, variant.name + SUFFIX, onnx)
    converted = to_fp16(model)
    before, after = _accuracies(model, converted, eval_path, backend)
    added = Variant(variant.name + SUFFIX, round(after, DIGITS), onnx)
    text = catalog_text.with_variant(content, family.name, variant.name, added)
    catalog_text.require_says(text, catalog.with_variants(family, variant.name, [added]), place.catalog_path)
    store.write_in_order({place.model_path(onnx): converted, place.catalog_path: text.encode()})
    return Converted(family.name, added.name, onnx, after, before, len(converted), _size_bytes(model))


def to_fp16(model: Path) -> bytes:
    """The model of an ONNX file, computing in FP16. Raises `EngineError`, `UsageError`, `BackendUnavailable`."""
    onnx, convert = _converter()
    hint = "is it a complete ONNX file? `python -m onnx.checker` tells more"
    try:
        loaded = onnx.load(str(model))
    except Exception as error:  # of protobuf, of onnx, or of the system: they share no base class
        raise EngineError(f"Can't read `{model}`: {error}", hint=hint) from error
    if not _has_fp32(onnx, loaded.graph):
        raise UsageError(f"`{model}` holds no weights in FP32.", hint="name a variant in full precision")
    try:
        return bytes(convert(loaded, keep_io_types=True).SerializeToString())
    except Exception as error:
        raise EngineError(f"Can't convert `{model}` to FP16: {error}", hint=hint) from error


def _converter() -> tuple[Any, Callable[..., Any]]:
    try:
        import onnx  # noqa: PLC0415 - an extra
        from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - needs onnx
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"Converting models needs the package `{error.name}`, which is not installed.",
            hint="pip install 'proteus-serving[derive]'",
        ) from error
    return onnx, convert_float_to_float16


def _has_fp32(onnx: Any, graph: Any) -> bool:
    constants = (a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value")
    return any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in (*graph.initializer, *constants))


def _eval(place: store.Workspace, family: Family) -> Path:
    path = place.eval_path(family)
    if path is None:
        raise ArtefactError(
            f"Family `{family.name}` has no eval split to measure the accuracy on.",
            hint="set `eval` in engines/catalog.toml; docs/formats.md says what it holds",
        )
    return path


def _beside(onnx: str) -> str:
    """The new file's name: ``models/a/b.onnx`` → ``models/a/b-fp16.onnx``."""
    path = Path(onnx)
    return path.with_name(f"{path.stem}{SUFFIX}{path.suffix}").as_posix()


def _require_new(place: store.Workspace, family: Family, name: str, onnx: str) -> None:
    if any(variant.name == name for variant in family.variants):
        raise UsageError(
            f"Family `{family.name}` has a variant `{name}` already.",
            hint="to make it anew, take it out of engines/catalog.toml and remove its file first",
        )
    if place.model_path(onnx).exists():
        raise ArtefactError(
            f"`{place.model_path(onnx)}` is there already.", hint="remove it, or move it out of the way"
        )


def _accuracies(model: Path, converted: bytes, eval_path: Path, backend: Backend) -> tuple[float, float]:
    """Measured before and after. Raises `EngineError` where the new model can't be run, or has other tensors."""
    with TemporaryDirectory() as directory, backend.runner(model) as original:
        path = Path(directory) / model.name
        path.write_bytes(converted)
        with backend.runner(path) as runner:
            if runner.signature != original.signature:
                raise EngineError(
                    f"`{model}` takes or gives other tensors once it is converted.",
                    hint="queries of a family must fit each of its variants; convert it by hand",
                )
            return measure_accuracy(original, eval_path), measure_accuracy(runner, eval_path)


def _size_bytes(model: Path) -> int:
    """The file, and its external data."""
    return sum(path.stat().st_size for path in store.model_parts(model))
