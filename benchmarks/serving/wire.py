"""How a row is asked about and answered, in each of the dialects that peers speak."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks.serving.programs.models import SCORES, Floats

GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"
_GRPC_PREFIX_BYTES = 5
_JSON_LENGTH = b"inference-header-content-length:"


@dataclass(frozen=True, slots=True)
class Dialect:
    """``encode(family, path, row)`` gives a whole HTTP request, or a gRPC message with its prefix.

    ``decode(head, body)`` gives the 10 scores of an answer; raises `ValueError` or `KeyError` where it can't be read.
    """

    encode: Callable[[str, str, Floats], bytes]
    decode: Callable[[bytes, bytes], Floats]
    over_http2: bool = False


def _http(path: str, body: bytes, content_type: str, *more: str) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *more,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _numbers(row: Floats) -> list[msgspec.Raw]:
    """The shortest decimals that are these 32-bit floats, as a client would send them."""
    return [msgspec.Raw(str(value).encode()) for value in row.ravel()]


def _tensor(row: Floats) -> dict[str, object]:
    return {"name": "x", "shape": [1, *row.shape], "datatype": "FP32"}


def _oip_json(family: str, path: str, row: Floats) -> bytes:  # noqa: ARG001 - the path names the family
    body = msgspec.json.encode({"inputs": [_tensor(row) | {"data": _numbers(row)}]})
    return _http(path, body, "application/json")


def _from_oip_json(head: bytes, body: bytes) -> Floats:  # noqa: ARG001
    return np.asarray(msgspec.json.decode(body)["outputs"][0]["data"], np.float32)


def _oip_binary(family: str, path: str, row: Floats) -> bytes:  # noqa: ARG001
    header = msgspec.json.encode(
        {
            "inputs": [_tensor(row) | {"parameters": {"binary_data_size": row.nbytes}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    )
    length = f"Inference-Header-Content-Length: {len(header)}"
    return _http(path, header + row.tobytes(), "application/octet-stream", length)


def _from_oip_binary(head: bytes, body: bytes) -> Floats:
    _, _, rest = head.lower().partition(_JSON_LENGTH)
    return np.frombuffer(body[int(rest.split(b"\r\n")[0]) :], np.float32)


def _plain_json(family: str, path: str, row: Floats) -> bytes:  # noqa: ARG001
    return _http(path, msgspec.json.encode({"x": _numbers(row)}), "application/json")


def _rows_json(family: str, path: str, row: Floats) -> bytes:  # noqa: ARG001
    return _http(path, msgspec.json.encode({"x": [_numbers(row)]}), "application/json")


def _from_plain_json(head: bytes, body: bytes) -> Floats:  # noqa: ARG001
    return np.asarray(msgspec.json.decode(body)["y"], np.float32)


def _from_rows_json(head: bytes, body: bytes) -> Floats:  # noqa: ARG001
    return np.asarray(msgspec.json.decode(body)[0], np.float32)


def _raw(family: str, path: str, row: Floats) -> bytes:  # noqa: ARG001
    return _http(path, row.tobytes(), "application/octet-stream")


def _from_raw(head: bytes, body: bytes) -> Floats:  # noqa: ARG001
    return np.frombuffer(body, np.float32)


def _grpc(family: str, path: str, row: Floats) -> bytes:  # noqa: ARG001
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, *row.shape])
    message = service_pb2.ModelInferRequest(model_name=family, inputs=[tensor], raw_input_contents=[row.tobytes()])
    content: bytes = message.SerializeToString()
    return b"\0" + struct.pack(">I", len(content)) + content


def _from_grpc(head: bytes, body: bytes) -> Floats:  # noqa: ARG001
    answer = service_pb2.ModelInferResponse.FromString(body[_GRPC_PREFIX_BYTES:])
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return np.asarray(answer.outputs[0].contents.fp32_contents, np.float32)


OIP_JSON = Dialect(_oip_json, _from_oip_json)
OIP_BINARY = Dialect(_oip_binary, _from_oip_binary)
OIP_GRPC = Dialect(_grpc, _from_grpc, over_http2=True)
PLAIN_JSON = Dialect(_plain_json, _from_plain_json)
ROWS_JSON = Dialect(_rows_json, _from_rows_json)
RAW = Dialect(_raw, _from_raw)
TO_NULL = {
    "json": Dialect(_oip_json, _from_plain_json),
    "binary": Dialect(_oip_binary, _from_plain_json),
    "grpc": OIP_GRPC,
}
"""By kind, what is sent to the server that reads nothing, and what it answers."""


def objection(dialect: Dialect, head: bytes, body: bytes, expected: Floats) -> str:
    """What is wrong with an answer; nothing where its scores are those of ONNX Runtime, to a tolerance."""
    try:
        scores = dialect.decode(head, body)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return f"can't be read ({error!r}): {body[:200]!r}"
    if scores.shape != (SCORES,):
        return f"has {scores.shape} scores instead of {SCORES}"
    if not np.allclose(scores, expected, rtol=1e-3, atol=1e-3):
        return f"is wrong: {scores.round(3).tolist()} instead of {expected.round(3).tolist()}"
    return ""
