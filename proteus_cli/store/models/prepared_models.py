"""Models with what their family adds: in front, so that all variants take one tensor; behind, how sure they are.

A prepared model is an ONNX file like any other: it is measured, digested and run as a whole, by every backend. Its
nodes come from the package `onnx`, which is needed to make the file, not to run it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proteus_cli.domain.catalog import ImageInput, Layout
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import MODEL, read_bytes
from proteus_cli.store.digests import digest_of, model_digest, model_parts, single_file_digest
from proteus_cli.store.files import write_bytes
from proteus_cli.store.models.discriminators import put_behind
from proteus_cli.store.models.onnx_files import (
    content_of,
    inputs_of,
    onnx_package,
    read_graph,
    rename_tensor,
    tensor_names,
)
from proteus_cli.units import format_size

_RECIPE = 1
"""Goes up whenever other nodes are made from the same description."""

_PREFIX = "prepared/"  # of the names of what is put in front; with underscores where a model has such names
_NAME = re.compile(r"[0-9a-f]{32}\.(onnx|exits)")
_IMAGE_AXES = 4
_OLDEST_OPSET, _OLDEST_RESIZE, _ROI_IS_OPTIONAL = 7, 11, 13
_TO = {("NHWC", "NCHW"): (0, 3, 1, 2), ("NCHW", "NHWC"): (0, 2, 3, 1)}
_HINT = "docs/models.md says what models `[family.input]` fits"


@dataclass(frozen=True, slots=True)
class Preparation:
    """The additions of a family to its models: an ``image`` input, and a ``discriminator`` for the confidence."""

    image: ImageInput | None = None
    discriminator: Path | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to add."""
        return self.image is not None or self.discriminator is not None

    @property
    def key(self) -> tuple[object, ...]:
        """The key of its content. Raises `ArtefactError` without the file of the discriminator."""
        return (self.image,) if self.discriminator is None else (self.image, model_digest(self.discriminator))


NO_PREPARATION = Preparation()


def prepared(model: Path, preparation: Preparation, *directories: Path) -> Path:
    """The file of a prepared model: in one of ``directories``, or else made in the last of them.

    Raises `ArtefactError` where that can't be added to the model, `BackendUnavailable` without the package `onnx`.
    """
    name = prepared_name(model, preparation)
    found = _found(name, directories)
    if found is None:
        found = directories[-1] / name
        write_bytes(found, _made(model, preparation))
    return found


def prepared_digest(model: Path, preparation: Preparation, *directories: Path) -> str:
    """The digest of the file that is `prepared`, which is not written. Raises as `prepared` does."""
    found = _found(prepared_name(model, preparation), directories)
    return model_digest(found) if found is not None else single_file_digest(_made(model, preparation))


def prepared_content(model: Path, preparation: Preparation, *directories: Path) -> bytes:
    """The content of the file that is `prepared`, which is not written. Raises as `prepared` does."""
    found = _found(prepared_name(model, preparation), directories)
    return read_bytes(found, MODEL, hint=_HINT) if found is not None else _made(model, preparation)


def prepared_name(model: Path, preparation: Preparation) -> str:
    """The name of the file, by the content of what it is made of. Raises `ArtefactError` where a file is missing."""
    return digest_of((_RECIPE, model_digest(model), *preparation.key))[:32] + ".onnx"


def prepared_files(directory: Path) -> list[Path]:
    """The files in a directory that have the name of a prepared one, or of a chain file."""
    return sorted(path for path in directory.glob("*") if _NAME.fullmatch(path.name))


def _found(name: str, directories: Sequence[Path]) -> Path | None:
    return next((path for directory in directories if (path := directory / name).is_file()), None)


def _made(model: Path, preparation: Preparation) -> bytes:
    image, discriminator = preparation.image, preparation.discriminator
    to = f"let `{model}` take its family's input" if image is not None else f"put `{discriminator}` behind `{model}`"
    onnx = onnx_package(to)
    size_bytes = sum(part.stat().st_size for part in model_parts(model))
    if size_bytes >= MODEL.max_bytes:
        raise ArtefactError(
            f"`{model}` has {format_size(size_bytes)}; less than {format_size(MODEL.max_bytes)} can be prepared.",
            hint="docs/models.md says for what models are prepared",
        )
    loaded = read_graph(onnx, model, with_weights=True)
    if discriminator is not None:
        put_behind(onnx, model, loaded, discriminator)
    if image is not None:
        _InputNodes(onnx, model, loaded, image).put_in_front()
    return content_of(loaded, model)


def own_input(graph: Any) -> str:
    """The name of the tensor that a model itself takes, within the graph of its prepared file."""
    names: Iterator[str] = (name for node in graph.node for name in node.output)
    return next(name for name in names if name.startswith(_PREFIX) and name.removeprefix(_PREFIX).strip("_") == "input")


@dataclass(frozen=True, slots=True)
class _Target:
    """The input of the model itself: the number of its type in ONNX, and the size of its images (height, width)."""

    type: int
    layout: Layout
    size: tuple[int, int]


class _InputNodes:
    """Nodes before the one input of a model: cast, resize, transpose, scale. ``loaded`` is changed in its place."""

    def __init__(self, onnx: Any, model: Path, loaded: Any, image: ImageInput) -> None:
        self._onnx, self._model, self._graph, self._image = onnx, model, loaded.graph, image
        inputs = inputs_of(self._graph)
        if len(inputs) != 1:
            raise _unfit(model, f"it has {len(inputs)} inputs; there must be one")
        self._input = inputs[0]
        self._target = self._target_of(self._input)
        self._opset = max((each.version for each in loaded.opset_import if each.domain in {"", "ai.onnx"}), default=0)
        names = set(tensor_names(self._graph))
        if image.name in names - {self._input.name}:
            raise _unfit(model, f"it has a tensor `{image.name}` within; give the family's input another `name`")
        self._prefix = _PREFIX
        while any(name.startswith(self._prefix) for name in names):
            self._prefix += "_"
        self._nodes: list[Any] = []

    def put_in_front(self) -> None:
        """Raises `ArtefactError` where the model is too old for a node that is needed."""
        self._require_opset(_OLDEST_OPSET)
        image, target, kinds = self._image, self._target, self._onnx.TensorProto
        is_resized = target.size != image.size
        current, layout = image.name, image.layout
        is_whole = target.type == kinds.UINT8
        if is_resized or not is_whole:
            current = self._add("Cast", current, to=kinds.FLOAT)
        if is_resized:
            current, layout = self._resized(self._transposed(current, layout, "NCHW")), "NCHW"
        current = self._transposed(current, layout, target.layout)
        if not is_whole:
            current = self._scaled(current)
            if target.type != kinds.FLOAT:
                current = self._add("Cast", current, to=target.type)
        elif is_resized:
            current = self._add("Cast", self._add("Round", current), to=target.type)
        own = f"{self._prefix}input"
        self._nodes.append(self._onnx.helper.make_node("Identity", [current], [own]))
        rename_tensor(self._graph, self._input.name, own)
        self._describe_input()
        nodes = [*self._nodes, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _target_of(self, value: Any) -> _Target:
        kinds, tensor, channels = self._onnx.TensorProto, value.type.tensor_type, self._image.channels
        sizes = [size.dim_value for size in tensor.shape.dim]  # 0: dynamic
        where = f"its input `{value.name}`"
        if len(sizes) != _IMAGE_AXES or channels not in {sizes[1], sizes[3]}:
            raise _unfit(
                self._model,
                f"{where} has shape {sizes} (0: dynamic); it takes no images of {channels} channels, NCHW or NHWC",
            )
        layout: Layout = "NCHW" if sizes[1] == channels else "NHWC"
        size = sizes[2:] if layout == "NCHW" else sizes[1:3]
        if tensor.elem_type not in {kinds.FLOAT, kinds.FLOAT16, kinds.UINT8}:
            raise _unfit(self._model, f"{where} is of none of the types FP32, FP16 and UINT8")
        if tensor.elem_type == kinds.UINT8 and self._image.changes_values:
            raise _unfit(self._model, f"{where} is UINT8, so `scale`, `mean` and `std` must be left out")
        own = (size[0] or self._image.size[0], size[1] or self._image.size[1])
        return _Target(tensor.elem_type, layout, own)

    def _describe_input(self) -> None:
        tensor = self._input.type.tensor_type
        tensor.elem_type = self._onnx.TensorProto.UINT8
        for axis, size in zip(tensor.shape.dim[1:], self._image.shape, strict=True):
            axis.Clear()
            axis.dim_value = size
        self._input.name = self._image.name

    # --- nodes

    def _add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; returns the name of that."""
        output = f"{self._prefix}{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _constant(self, *values: float, shape: tuple[int, ...]) -> str:
        array = np.array(values, np.float32).reshape(shape)
        return self._add("Constant", value=self._onnx.numpy_helper.from_array(array))

    def _transposed(self, tensor: str, layout: Layout, to: Layout) -> str:
        return tensor if layout == to else self._add("Transpose", tensor, perm=_TO[layout, to])

    def _resized(self, tensor: str) -> str:
        self._require_opset(_OLDEST_RESIZE)
        factors = [_factor(*pair) for pair in zip(self._image.size, self._target.size, strict=True)]
        roi = "" if self._opset >= _ROI_IS_OPTIONAL else self._constant(shape=(0,))
        scales = self._constant(1, 1, *factors, shape=(4,))
        return self._add("Resize", tensor, roi, scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def _scaled(self, tensor: str) -> str:
        """(pixel × scale - mean) / std, as one product and one sum."""
        image = self._image
        if not image.changes_values:
            return tensor
        std, mean = image.std or (1.0,) * image.channels, image.mean or (0.0,) * image.channels
        shape = (image.channels, 1, 1) if self._target.layout == "NCHW" else (image.channels,)
        factors = self._constant(*(image.scale / each for each in std), shape=shape)
        terms = self._constant(*(-m / s for m, s in zip(mean, std, strict=True)), shape=shape)
        return self._add("Add", self._add("Mul", tensor, factors), terms)

    def _require_opset(self, oldest: int) -> None:
        if self._opset < oldest:
            raise _unfit(self._model, f"it is of opset {self._opset}; {oldest} or later is needed")


def _factor(size: int, to: int) -> float:
    """The factor from one size to another one, in single precision and rounded down, as Resize does."""
    factor = np.float32(to / size)
    while int(np.float32(size) * factor) < to:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


def _unfit(model: Path, problem: str) -> ArtefactError:
    return ArtefactError(f"`{model}` can't take its family's input: {problem}.", hint=_HINT)
