"""ONNX file → TensorRT network. Errors name the node of the file that TensorRT refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proteus_cli.backends.base import require_batched
from proteus_cli.backends.tensorrt.bindings import trt
from proteus_cli.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BATCH = -1  # how TensorRT writes an axis that is dynamic

_BROKEN = "is it a complete ONNX file, with its external data beside it? `python -m onnx.checker` tells more"
_INVALID = "is the model valid? `python -m onnx.checker` tells more"
_UNSUPPORTED = (
    "export the model with other operators or another opset; which operators TensorRT takes stands in "
    "docs/operators.md of github.com/onnx/onnx-tensorrt"
)

_HEADING = r"^Invalid Node - |In function \w+:$|^$"
_NOISE = (
    r"^\[\d+\] ",  # a code
    r"^\[[^\]]*::[^\]]*\] ?",  # [file.cpp::function::line]
    r"^\w+\.cpp:\d+: ",
    r"^.*Assertion failed: .*?\): ",
    r'^.* && "|"$',  # condition && "message"
    r"^\w+::\w+: Error Code \d+: ",
    r"\.? In \w+ at [^\s:]+:\d+",
)


def parse(parser: trt.OnnxParser, network: trt.INetworkDefinition, model: Path, errors: Sequence[str]) -> None:
    """Read an ONNX file into ``network``; ``errors`` are the messages of the logger.

    Raises `EngineError` where TensorRT refuses the file, or where queries could not be batched.
    """
    if not parser.parse_from_file(str(model)):
        raise _refused(parser, model, errors)
    if network.num_outputs == 0:  # TensorRT takes anything for an empty model
        raise EngineError(f"`{model}` holds no model.", hint=_BROKEN)
    tensors = [(network.get_input(index), True) for index in range(network.num_inputs)]
    tensors += [(network.get_output(index), False) for index in range(network.num_outputs)]
    for tensor, is_input in tensors:
        shape = tuple(int(size) for size in tensor.shape)
        require_batched(f"`{tensor.name}` of `{model}`", shape, is_input=is_input)


def _refused(parser: trt.OnnxParser, model: Path, errors: Sequence[str]) -> EngineError:
    error = parser.get_error(0) if parser.num_errors else None  # the others follow from it
    if error is None or not error.node_operator():
        return EngineError(f"TensorRT can't read `{model}`: {reason(errors)}.", hint=_BROKEN)
    name, operator, what = str(error.node_name()), str(error.node_operator()), tidy(str(error.desc()))
    node = f"node `{name}`" if name else f"node {error.node()}"
    why = "it has no such operator" if what == "false" else what
    is_unsupported = error.code() == trt.ErrorCode.UNSUPPORTED_NODE or "Plugin not found" in what
    return EngineError(
        f"TensorRT can't take {node} ({operator}) of `{model}`: {why}.",
        hint=_UNSUPPORTED if is_unsupported else _INVALID,
    )


def reason(errors: Sequence[str]) -> str:
    """The first of TensorRT's messages; the others follow from it."""
    return tidy(errors[0]) if errors else "it gives no reason"


def tidy(message: str) -> str:
    """A message on one line, without its assertions, paths of C++ sources and full stop."""
    said = [line for line in message.splitlines() if not re.search(_HEADING, line)]
    text = said[0] if said else " ".join(message.split())
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    return text.strip().rstrip(".? ")
