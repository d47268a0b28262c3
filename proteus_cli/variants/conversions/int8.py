"""Converts a model to INT8 with the quantiser of ONNX Runtime.

Convolutions are quantised *statically*: the ranges of activations are measured on calibration rows (smallest and
largest value), and stand in the file, in the QDQ format. Computing them anew for each batch makes convolutions slower
than FP32 (onnxruntime #6732, #12854). Models with more matrix products than convolutions, such as transformers, are
quantised *dynamically*, which takes no rows; their convolutions stay in floating point.

Statically, what lies *between* convolutions is quantised with them, as else most of the time goes into conversions
there and back. Nodes that lead to no convolution stay in floating point: the features, their mean over the image, the
last layer and its scores. They take little time, and decide: scores of classes that are about as likely are the same in
8 bits. `tests/variants/conversions/test_int8.py` has such a model.

Weights are signed. Activations are unsigned on processors of the x86 family, whose instructions multiply unsigned by
signed bytes. With signed ones, ONNX Runtime 1.32 leaves most convolutions of the sample models in FP32. Where those
processors lack VNNI, they add pairs of products in 16 bits, which may saturate; there weights have 7 bits
(`reduce_range`; onnxruntime #14642). On other processors activations are signed, too.
"""

import logging
import platform
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proteus_cli.backends.base import NamedArrays
from proteus_cli.errors import EngineError, UsageError
from proteus_cli.store.models.onnx_files import read_graph
from proteus_cli.variants.conversions.calibration import in_batches

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_BETWEEN = {
    "Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad", "Relu",
    "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_PRODUCTS = {"MatMul", "Gemm", "Attention", "LSTM", "EmbedLayerNormalization"}
_QUANTISED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}
_X86 = {"x86_64", "AMD64", "i386", "i686"}
_VNNI = {"avx512_vnni", "avx_vnni"}
_CPUINFO = Path("/proc/cpuinfo")


def needs_rows(onnx: Any, model: Path) -> bool:
    """Whether a model is quantised statically, on calibration rows.

    Raises `UsageError` where it is quantised already, or has nothing to quantise; `ArtefactError` as `read_graph` does.
    """
    operators = Counter(node.op_type for node in read_graph(onnx, model).graph.node)
    if _QUANTISED & operators.keys():
        raise UsageError(f"`{model}` is quantised already.", hint="name a variant in full precision")
    convolutions, products = (sum(operators[each] for each in kind) for kind in (_CONVOLUTIONS, _PRODUCTS))
    if not convolutions and not products:
        raise UsageError(
            f"`{model}` has no convolutions and no matrix products, so there is nothing to quantise.",
            hint="leave out `--int8`",
        )
    return convolutions >= products


def to_int8(onnx: Any, model: Path, rows: NamedArrays | None) -> bytes:
    """The content of a file that computes in INT8; statically quantised if there are calibration ``rows``.

    Raises `EngineError` where the quantiser fails.
    """
    from onnxruntime import quantization  # noqa: PLC0415 - needs the package `onnx`
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    machine = platform.machine()
    reduced = reduces_range(machine, _flags())
    with TemporaryDirectory() as directory, _without_logs():
        prepared, made = Path(directory) / "prepared.onnx", Path(directory) / "int8.onnx"
        signed, unsigned = quantization.QuantType.QInt8, quantization.QuantType.QUInt8
        try:
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            if rows is None:
                quantization.quantize_dynamic(
                    prepared,
                    made,
                    op_types_to_quantize=sorted(_PRODUCTS | {"Gather"}),  # of embeddings
                    per_channel=True,
                    reduce_range=reduced,
                    weight_type=signed,
                )
            else:
                named = read_graph(onnx, prepared, with_weights=True)
                quantization.quantize_static(
                    named,
                    made,
                    _CalibrationRows(rows),
                    op_types_to_quantize=sorted(_CONVOLUTIONS | _BETWEEN),
                    nodes_to_exclude=_behind_convolutions(named.graph),
                    quant_format=quantization.QuantFormat.QDQ,
                    calibrate_method=quantization.CalibrationMethod.MinMax,
                    activation_type=unsigned if machine in _X86 else signed,
                    weight_type=signed,
                    per_channel=True,
                    reduce_range=reduced,
                )
        except Exception as error:  # of the quantiser, of protobuf, or of ONNX Runtime: they share no base class
            raise EngineError(
                f"Can't quantise `{model}`: {error}", hint="leave out `--int8`, or quantise it by hand and add the file"
            ) from error
        return made.read_bytes()


def _behind_convolutions(graph: Any) -> list[str]:
    """The nodes of a graph that lead to no convolution. All nodes are given new names, as names may be missing."""
    leading: set[str] = set()
    behind = []
    for place, node in reversed(list(enumerate(graph.node))):  # they are in topological order
        node.name = f"{node.op_type}_{place}"
        if node.op_type in _CONVOLUTIONS or leading.intersection(node.output):
            leading.update(node.input)
        else:
            behind.append(node.name)
    return behind


def reduces_range(machine: str, flags: Collection[str]) -> bool:
    """Whether weights must have 7 bits on a processor of that kind (`uname -m`) and with these features."""
    return machine in _X86 and not _VNNI & set(flags)


def _flags() -> set[str]:
    """The features of this machine's processor; empty where they are unknown."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}


class _CalibrationRows:
    """Calibration rows in batches, as the quantiser asks for them."""

    def __init__(self, rows: NamedArrays) -> None:
        self._batches = iter(in_batches(rows))

    def get_next(self) -> NamedArrays | None:
        return next(self._batches, None)


@contextmanager
def _without_logs() -> Iterator[None]:
    """The quantiser logs advice on each of its options; what fails is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
