"""Requests over HTTP/1 as clients send them, and answers, checked strictly."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from proteus_cli.backends.base import NamedArrays, Signature
from proteus_cli.serving.oip.tensors import DATATYPE_OF

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]+\r\n((?:[a-z0-9-]+: [ -~]+\r\n)+)\r\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JSON = b"application/json"
_JSON_LENGTH = b"inference-header-content-length"


def post(family: str, body: bytes, headers: bytes = b"") -> bytes:
    """An inference request with this body; ``headers`` are whole lines."""
    lines = f"POST /v2/models/{family}/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    return b"%bcontent-length: %d\r\n%b\r\n%b" % (lines, len(body), headers, body)


def chunked(family: str, headers: bytes, *chunks: bytes) -> bytes:
    """An inference request whose body comes in chunks."""
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    line = f"POST /v2/models/{family}/infer HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n".encode()
    return b"%b%b\r\n%b0\r\n\r\n" % (line, headers, sent)


def tensors(signature: Signature, rows: int = 1) -> NamedArrays:
    """Values that fit, and are short in JSON: floats are eighths."""
    sampled = signature.sample(rows, np.random.default_rng(0))
    return {name: (values * 8).round() / 8 if values.dtype.kind == "f" else values for name, values in sampled.items()}


def described(name: str, values: "np.ndarray[Any, Any]") -> dict[str, Any]:
    """An input without its values."""
    return {"name": name, "shape": list(values.shape), "datatype": DATATYPE_OF[values.dtype]}


def statuses(writes: Sequence[bytes]) -> list[int]:
    """The status of each answer; the server writes an answer at once. Raises `AssertionError` for what is none."""
    return [_status(write) for write in writes if write != _CONTINUE]


def _status(write: bytes) -> int:
    found = _HEAD.match(write)
    assert found is not None, f"no answer: {write[:200]!r}"
    headers = dict(line.split(b": ", 1) for line in found[2].splitlines())
    body, size = write[found.end() :], int(headers[b"content-length"])
    assert len(body) in {size, 0}, f"{len(body)} bytes of body where the head says {size}"
    if body and headers[b"content-type"] == _JSON and b"content-encoding" not in headers:
        msgspec.json.decode(body[: int(headers.get(_JSON_LENGTH, size))])
    return int(found[1])
