"""Frames and gRPC calls as clients send them, and what the server sends, checked strictly."""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fuzzing.in_process.http1_messages import described, tensors
from fuzzing.in_process.server import SIGNATURES
from hpack import Decoder, Encoder

from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.grpc.messages import ModelInferRequest
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import FRAME_HEADER, PREFACE

SERVICE = "/inference.GRPCInferenceService/"
INFER, STREAM_INFER = f"{SERVICE}ModelInfer", f"{SERVICE}ModelStreamInfer"
START = PREFACE + frames.settings({})
_FIELDS = {
    ":method": "POST", ":scheme": "http", ":authority": "localhost", "te": "trailers",
    "content-type": "application/grpc",
}  # fmt: skip
_ANY_STREAM = 2**32 - 1  # with the reserved bit


class Frame(NamedTuple):
    """A frame of any kind, also of one that is too short."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def encoded(self) -> bytes:
        return frames.frame(self.kind, self.flags, self.stream & _ANY_STREAM, self.payload)


def parsed(content: bytes, most: int = sys.maxsize) -> tuple[list[Frame], bytes]:
    """The first frames in what one side sends, and the bytes behind them: further frames, or a part of one."""
    found, at = list[Frame](), 0
    while len(content) - at >= FRAME_HEADER.size and len(found) < most:
        upper, lower, kind, flags, stream = FRAME_HEADER.unpack_from(content, at)
        end = at + FRAME_HEADER.size + (upper << 8 | lower)
        if end > len(content):
            break
        found.append(Frame(kind, flags, stream, content[at + FRAME_HEADER.size : end]))
        at = end
    return found, content[at:]


def check_well_formed(writes: Sequence[bytes]) -> None:
    """Raise where what the server sent is not whole frames, or where a frame follows the end of its stream."""
    sent, rest = parsed(b"".join(writes))
    assert not rest, f"a frame is cut off: {rest[:50]!r}"
    decoder, over = Decoder(), set[int]()
    for frame in sent:
        if frame.kind in {frames.DATA, frames.HEADERS}:
            assert frame.stream not in over, f"a frame after the end of stream {frame.stream}"
        if frame.kind == frames.HEADERS:
            decoder.decode(frame.payload, raw=True)
        if frame.kind == frames.RST_STREAM or (frame.kind in {frames.DATA, frames.HEADERS} and frame.flags & 1):
            over.add(frame.stream)


class Calls:
    """Writes calls of gRPC, each on a stream of its own."""

    def __init__(self) -> None:
        self._encoder, self._stream = Encoder(), -1

    def call(
        self,
        path: str,
        *messages: bytes,
        ended: bool = True,
        metadata: Mapping[str, str] | None = None,
        is_packed: bool = False,
    ) -> bytes:
        """HEADERS, DATA for each message, and an empty frame at the end; ``is_packed``: messages are compressed."""
        self._stream += 2
        fields = {**_FIELDS, ":path": path, **(metadata or {})}
        ordered = sorted(fields.items(), key=lambda field: not field[0].startswith(":"))
        sent = [frames.frame(frames.HEADERS, frames.END_HEADERS, self._stream, self._encoder.encode(ordered))]
        for message in messages:
            sent += data(self._stream, bytes((is_packed,)) + framed(message)[1:])
        return b"".join([*sent, frames.frame(frames.DATA, frames.END_STREAM, self._stream, b"") if ended else b""])


def data(stream: int, content: bytes) -> list[bytes]:
    """Content in frames of the size that every server takes."""
    return [
        frames.frame(frames.DATA, 0, stream, content[at : at + frames.DEFAULT_FRAME])
        for at in range(0, len(content), frames.DEFAULT_FRAME)
    ]


def infer_message(family: str, rows: int = 1, *, is_raw: bool = True, **parameters: int) -> bytes:
    """A `ModelInferRequest` for values that fit; numbers of FP16 exist only as bytes."""
    request = ModelInferRequest(model_name=family, id="a")
    for name, values in tensors(SIGNATURES[family], rows).items():
        described_as = described(name, values)
        tensor = request.inputs.add(name=name, shape=described_as["shape"], datatype=described_as["datatype"])
        if is_raw:
            request.raw_input_contents.append(values.tobytes())
        else:
            getattr(tensor.contents, _CONTENTS[described_as["datatype"]]).extend(values.ravel().tolist())
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return bytes(request.SerializeToString())


_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents"}
