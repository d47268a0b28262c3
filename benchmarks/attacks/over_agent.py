"""What attackers send an agent. Each function gives the pieces of one session."""

from collections.abc import Iterator, Sequence
from itertools import repeat

import msgspec

from benchmarks.attacks.bystander import Question
from benchmarks.attacks.target import MESSAGE_BYTES, MIB, MODELS_BYTES
from proteus_cli import __version__
from proteus_cli.serving.devices.remote.channel.frames import pieces_of
from proteus_cli.serving.devices.remote.channel.messages import PROTOCOL, Hello, Inquiry, ModelPiece, OfferModel, Ping

_DIGEST = "a" * 64
_PINGS = 3


def _frame(message: msgspec.Struct, behind: bytes = b"") -> bytes:
    return b"".join(pieces_of(msgspec.msgpack.encode(message), [behind]))


INQUIRY = Question(_frame(Inquiry(PROTOCOL, __version__)), answer=b"\0\0", ends_connection=True)
_HELLO = _frame(Hello(PROTOCOL, __version__, "attacker", 1))


def large_pings() -> Iterator[bytes]:
    yield _HELLO
    message = msgspec.msgpack.encode(Ping(0.0))
    for _ in range(_PINGS):
        yield len(message).to_bytes(4, "big") + MESSAGE_BYTES.to_bytes(4, "big") + message
        yield from repeat(bytes(MIB), MESSAGE_BYTES // MIB)


def too_large_model() -> Iterator[bytes]:
    return _offered([("model.onnx", MODELS_BYTES + 1)])


def nested_parts() -> Iterator[bytes]:
    return _offered([("model.onnx", 1), ("a", 1), ("a/b", 1)])


def _offered(parts: Sequence[tuple[str, int]]) -> Iterator[bytes]:
    """A byte of each part, too."""
    yield _HELLO + _frame(OfferModel(_DIGEST, parts))
    for place in range(len(parts)):
        yield _frame(ModelPiece(_DIGEST, place, 0), b"x")
