"""Target `http2`: all that a client sends on one connection of HTTP/2, frame by frame, in any pieces.

The client waits for its answers, unless the last byte, behind all frames, is CAN: then it leaves at once.
"""

from collections.abc import Callable, Iterable, Mapping
from random import Random

from fuzzing.in_process.http2_messages import INFER, START, STREAM_INFER, Calls, check_well_formed, infer_message
from fuzzing.in_process.pieces import pieces
from fuzzing.in_process.server import MAX_ROWS, Client, Server
from fuzzing.mutations.frames import FrameMutations
from fuzzing.targets.target import WireTarget

from proteus_cli.serving.http2 import frames

_GONE = b"\x18"
_GONE_FRAC = 0.05  # of mutations
_OPEN_STREAMS = 250
_EXTENSION = 0x10  # a kind of frame that HTTP/2 has not


class GrpcTarget(WireTarget):
    """A target whose inputs are what a client sends over HTTP/2."""

    async def converse(self, server: Server, content: bytes) -> None:
        client = Client(server, "grpc")
        for piece in pieces(content):
            await client.send(piece)
        if not content.endswith(_GONE):
            await server.settle()
        client.close()
        await server.settle()
        check_well_formed(client.writes)


class Http2Frames(GrpcTarget):
    def __init__(self) -> None:
        super().__init__()
        self._mutations = FrameMutations([*self.seeds().values()])

    def seeds(self) -> Mapping[str, bytes]:
        return {
            "calls": conversation(lambda calls: [calls.call(INFER, _SMALL) for _ in range(20)]),
            "stream": conversation(lambda calls: [calls.call(STREAM_INFER, *[_SMALL] * 20)]),
            "large": conversation(lambda calls: [calls.call(INFER, infer_message("large", MAX_ROWS))]),
            # Streams that wait for their messages, and settings for all of them
            "open": conversation(
                lambda calls: [
                    *(calls.call(INFER, ended=False) for _ in range(_OPEN_STREAMS)),
                    frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20}),
                ]
            ),
            "kinds": conversation(
                lambda calls: [
                    frames.frame(frames.PING, 0, 0, b"8 bytes!"),
                    frames.settings({frames.INITIAL_WINDOW_SIZE: 10, frames.MAX_FRAME_SIZE: 20_000}),
                    calls.call(INFER, _SMALL),
                    frames.settings({frames.INITIAL_WINDOW_SIZE: 100_000, frames.HEADER_TABLE_SIZE: 0}),
                    frames.window_update(0, 2**20),
                    calls.call("/grpc.health.v1.Health/Check", b"", ended=False),
                    frames.window_update(3, 1_000),
                    frames.frame(frames.PRIORITY, 0, 3, bytes(5)),
                    frames.frame(_EXTENSION, 0, 0, b"x"),
                    frames.rst_stream(3, frames.ErrorCode.CANCEL),
                    frames.frame(frames.SETTINGS, frames.ACK, 0, b""),
                ]
            ),
            "end": conversation(lambda _: []) + frames.goaway(0, frames.ErrorCode.NO_ERROR, "bye"),
        }

    def mutate(self, content: bytes, rng: Random) -> bytes:
        return content + _GONE if rng.random() < _GONE_FRAC else self._mutations(content, rng)


_SMALL = infer_message("small")


def conversation(speak: Callable[[Calls], Iterable[bytes]]) -> bytes:
    """What a client sends: the start, what it speaks, and last a call that is answered."""
    calls = Calls()
    return b"".join([START, *speak(calls), calls.call(INFER, _SMALL)])
