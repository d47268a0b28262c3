"""Recipes for new variants of a model: each converts its file, and has a name for the variant."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from proteus_cli.backends.base import NamedArrays
from proteus_cli.errors import EngineError, UsageError
from proteus_cli.store.models.onnx_files import constants, onnx_package, read_graph
from proteus_cli.variants.conversions.calibration import behind_preparation
from proteus_cli.variants.conversions.input_size import with_input_size
from proteus_cli.variants.conversions.int8 import needs_rows, to_int8

LARGEST_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Wanted:
    """The variants to make: INT8, FP16, and square images of other sizes inside the model."""

    int8: bool = False
    fp16: bool = False
    sizes: tuple[int, ...] = ()


class Recipe(NamedTuple):
    """``suffix`` is put behind the name of the variant; ``how`` says in words what is done."""

    suffix: str
    how: str
    convert: Callable[[], bytes]


def recipes(model: Path, loaded: Path, wanted: Wanted, rows: NamedArrays | None) -> Iterator[Recipe]:
    """The recipes that are wanted of an ONNX file; ``rows`` are what ``loaded`` takes, which runs the model.

    Raises `UsageError` where a recipe doesn't suit the model, or needs rows; `ArtefactError` where it can't be read,
    and `BackendUnavailable` without the package `onnx`. Converting raises the same errors, and `EngineError`.
    """
    onnx = onnx_package(f"derive variants from `{model}`")

    def own_rows() -> NamedArrays | None:
        return rows if rows is None or loaded == model else behind_preparation(onnx, model, loaded, rows)

    if wanted.int8:
        static = needs_rows(onnx, model)
        if static and rows is None:
            raise UsageError(
                f"`{model}` has convolutions, so INT8 needs rows to calibrate on.",
                hint="`--calibration rows.npz` names rows like those of the eval split, but others",
            )
        kind = "static: activations by calibration rows" if static else "dynamic: activations by batch"
        yield Recipe("int8", f"INT8, {kind}", lambda: to_int8(onnx, model, own_rows() if static else None))
    if wanted.fp16:
        yield Recipe("fp16", "FP16", lambda: to_fp16(onnx, model))
    for size in wanted.sizes:
        yield Recipe(str(size), f"images of {size} × {size}", lambda size=size: with_input_size(onnx, model, size))  # type: ignore[misc]


def parse_sizes(text: str) -> tuple[int, ...]:
    """``"160,192"`` → (160, 192): sizes of images. Raises `UsageError`."""
    words = [word.strip() for word in text.split(",")]
    sizes = [int(word) for word in words if word.isdecimal() and len(word) <= len(str(LARGEST_SIZE))]
    if len(set(sizes)) < len(words) or not all(0 < size <= LARGEST_SIZE for size in sizes):
        raise UsageError(
            f"`{text}` is not a list of image sizes.",
            hint=f"write `--sizes 160,192`: each size once, from 1 to {LARGEST_SIZE}",
        )
    return tuple(sizes)


def to_fp16(onnx: Any, model: Path) -> bytes:
    """The content of a file that computes in FP16, by the converter of ONNX Runtime.

    Networks of TensorRT 11 are always strongly typed: an engine has the precision of its ONNX file. Inputs and outputs
    keep their types, so that all variants of a family take and give the same tensors.

    Raises `ArtefactError` where the model can't be read, `UsageError` where it has no weights in FP32, `EngineError`
    where the converter fails.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - needs the package `onnx`

    loaded = read_graph(onnx, model, with_weights=True)
    if all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in constants(loaded.graph).values()):
        raise UsageError(f"`{model}` holds no weights in FP32.", hint="name a variant in full precision")
    try:
        return bytes(convert_float_to_float16(loaded, keep_io_types=True).SerializeToString())
    except Exception as error:  # of the converter or of protobuf: they share no base class
        raise EngineError(
            f"Can't convert `{model}` to FP16: {error}",
            hint="leave out `--fp16`, or convert it by hand and add the file",
        ) from error
