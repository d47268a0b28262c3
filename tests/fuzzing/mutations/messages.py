"""Mutations of the messages in gRPC calls: what is around them is written anew to fit."""

from random import Random

from fuzzing.in_process.http2_messages import data, parsed
from fuzzing.mutations.archives import gunzipped, gzipped
from fuzzing.mutations.frames import MAX_FRAMES
from fuzzing.mutations.protobuf import mutated_message

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import PREFACE

_PREFIX_BYTES = 5
_PREFIX_FRAC = 0.05  # mutations of a prefix
_REPEAT_FRAC = 0.1  # mutations that send a message many times
_TIMES = (2, 100, 5_000)
_MAX_BYTES = 900_000


def mutated_messages(content: bytes, rng: Random) -> bytes:
    """What a client sends, with a message of one of its calls mutated."""
    found, rest = parsed(content.removeprefix(PREFACE), MAX_FRAMES)
    streams = [frame.stream for frame in found if frame.kind == frames.DATA and frame.payload]
    if not streams:
        return content
    stream = rng.choice(streams)
    places = [at for at, frame in enumerate(found) if frame.kind == frames.DATA and frame.stream == stream]
    body = _mutated_body(b"".join(found[at].payload for at in places), rng)
    before, own = places[0], set(places)
    others = [frame.encoded() for at, frame in enumerate(found) if at not in own]
    ends = any(found[at].flags & frames.END_STREAM for at in places)
    sent = [*data(stream, body), *([frames.frame(frames.DATA, frames.END_STREAM, stream, b"")] if ends else [])]
    return b"".join([PREFACE, *others[:before], *sent, *others[before:], rest])


def _mutated_body(body: bytes, rng: Random) -> bytes:
    """The messages of a stream, one of them mutated, or several times there."""
    messages, at = list[tuple[int, bytes]](), 0
    while len(body) - at >= _PREFIX_BYTES:
        size = int.from_bytes(body[at + 1 : at + _PREFIX_BYTES], "big")
        messages.append((body[at], body[at + _PREFIX_BYTES : at + _PREFIX_BYTES + size]))
        at += _PREFIX_BYTES + size
    if not messages or rng.random() < _PREFIX_FRAC:
        place = rng.randint(0, len(body))
        return body[:place] + rng.randbytes(rng.choice((1, 5))) + body[place + 1 :]
    place = rng.randrange(len(messages))
    flag, message = messages[place]
    if rng.random() < _REPEAT_FRAC:
        messages[place:place] = [messages[place]] * min(
            rng.choice(_TIMES), _MAX_BYTES // (len(message) + _PREFIX_BYTES)
        )
    else:
        messages[place] = (
            flag,
            gzipped(mutated_message(gunzipped(message), rng)) if flag else mutated_message(message, rng),
        )
    return b"".join(bytes((flag,)) + len(message).to_bytes(4, "big") + message for flag, message in messages)
