"""A request of one row and its answer, in each of the dialects that peers speak."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks.serving.programs.models import Floats

GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"
GRPC_PREFIX_BYTES = 5
LENGTH = "inference-header-content-length"
JSON = {"content-type": "application/json"}
BINARY = {"content-type": "application/octet-stream"}
GRPC = {"content-type": "application/grpc", "te": "trailers"}

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """``encode(family, row)`` gives headers and the body; over gRPC, that is a message with its prefix.

    ``decode(headers, body)`` gives the 10 scores of an answer. Raises `ValueError` or `KeyError` if it can't be read.
    """

    encode: Callable[[str, Floats], tuple[Headers, bytes]]
    decode: Callable[[Headers, bytes], Floats]
    over_http2: bool = False


def whole_request(path: str, headers: Headers, body: bytes) -> bytes:
    """An HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _numbers(row: Floats) -> list[msgspec.Raw]:
    """The shortest decimals that are these 32-bit floats, as a client would send them."""
    return [msgspec.Raw(str(value).encode()) for value in row.ravel()]


def _tensor(row: Floats) -> dict[str, object]:
    return {"name": "x", "shape": [1, *row.shape], "datatype": "FP32"}


def _oip_json(_family: str, row: Floats) -> tuple[Headers, bytes]:
    return JSON, msgspec.json.encode({"inputs": [_tensor(row) | {"data": _numbers(row)}]})


def _oip_binary(_family: str, row: Floats) -> tuple[Headers, bytes]:
    inputs = [_tensor(row) | {"parameters": {"binary_data_size": row.nbytes}}]
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    head = msgspec.json.encode({"inputs": inputs, "outputs": outputs})
    return BINARY | {LENGTH: str(len(head))}, head + row.tobytes()


def _grpc(family: str, row: Floats) -> tuple[Headers, bytes]:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, *row.shape])
    message = service_pb2.ModelInferRequest(model_name=family, inputs=[tensor], raw_input_contents=[row.tobytes()])
    content: bytes = message.SerializeToString()
    return GRPC, b"\0" + struct.pack(">I", len(content)) + content


def _from_grpc(_headers: Headers, body: bytes) -> Floats:
    answer = service_pb2.ModelInferResponse.FromString(body[GRPC_PREFIX_BYTES:])
    return np.frombuffer(answer.raw_output_contents[0], np.float32)


OIP_JSON = Dialect(_oip_json, lambda _, body: np.asarray(msgspec.json.decode(body)["outputs"][0]["data"], np.float32))
OIP_BINARY = Dialect(_oip_binary, lambda headers, body: np.frombuffer(body[int(headers[LENGTH]) :], np.float32))
OIP_GRPC = Dialect(_grpc, _from_grpc, over_http2=True)
PLAIN_JSON = Dialect(
    lambda _, row: (JSON, msgspec.json.encode({"x": _numbers(row)})),
    lambda _, body: np.asarray(msgspec.json.decode(body)["y"], np.float32),
)
RAW = Dialect(lambda _, row: (BINARY, row.tobytes()), lambda _, body: np.frombuffer(body, np.float32))
