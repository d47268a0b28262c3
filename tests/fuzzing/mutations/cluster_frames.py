"""Mutations of what servers and agents send each other: frames stay whole, so that what is behind is read, too."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec

_PREFIX = 8
_MAX_BYTES = 900_000
_TIMES = (1, 2, 10, 200, 2_000)
_VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 255, 2**15, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1, 0.0, -1.5, 1e308, float("inf"), float("nan"),
    "", "x", "x" * 5_000, "../../etc/passwd", "ab" * 32, "cpu0", b"", b"\xff", None, True, [], {}, [[]],
    {"": 0}, [0] * 500,
)  # fmt: skip
_LENGTHS = (0, 1, 7, 2**16, 2**16 + 1, 2**20, 2**20 + 1, 2**30, 2**30 + 1, 2**32 - 1)


class ClusterFrame(NamedTuple):
    message: bytes
    behind: bytes

    def encoded(self) -> bytes:
        lengths = len(self.message).to_bytes(4, "big") + len(self.behind).to_bytes(4, "big")
        return lengths + self.message + self.behind


class ClusterMutations:
    """Mutates one or a few frames; others come from ``samples``. The first byte of an input is no frame, and stays."""

    def __init__(self, samples: Sequence[bytes]) -> None:
        self._samples = [frame for sample in samples for frame in parsed(sample[1:])[0]]
        self._kinds: tuple[Callable[[list[ClusterFrame], int, Random], None], ...] = (
            self._value, self._value, self._value, self._bytes, self._behind, self._repeat, self._delete, self._move,
            self._insert,
        )  # fmt: skip

    def __call__(self, content: bytes, rng: Random) -> bytes:
        found, rest = parsed(content[1:])
        if found and rng.random() < 0.95:
            rng.choice(self._kinds)(found, rng.randrange(len(found)), rng)
        elif found:
            rest = rng.choice(_LENGTHS).to_bytes(4, "big") + rng.choice(_LENGTHS).to_bytes(4, "big") + rest
        return content[:1] + b"".join([*(frame.encoded() for frame in found), rest])

    def _value(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        """Another value anywhere in the message."""
        try:
            message = msgspec.msgpack.decode(found[at].message)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        changed = _changed(message, rng)
        try:
            found[at] = found[at]._replace(message=msgspec.msgpack.encode(changed))
        except (OverflowError, TypeError):  # no such number, or no such key
            return

    def _bytes(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        message, piece = found[at].message, rng.randbytes(rng.choice((1, 1, 4, 100)))
        first = rng.randint(0, len(message))
        last = first + rng.choice((0, 1, len(piece), len(message)))
        found[at] = found[at]._replace(message=message[:first] + rng.choice((b"", piece)) + message[last:])

    def _behind(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        behind = found[at].behind
        found[at] = found[at]._replace(
            behind=rng.choice((b"", behind[:-1], behind + b"x", bytes(rng.choice((1, 2**16, 2**16 + 1, 2**18)))))
        )

    def _repeat(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        size = len(found[at].encoded())
        found[at:at] = [found[at]] * min(rng.choice(_TIMES), _MAX_BYTES // size)

    def _delete(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        del found[at : at + rng.choice((1, 1, 3))]

    def _move(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        found.insert(rng.randint(0, len(found) - 1), found.pop(at))

    def _insert(self, found: list[ClusterFrame], at: int, rng: Random) -> None:
        found.insert(at, rng.choice(self._samples))


def _changed(value: Any, rng: Random) -> Any:
    """The value with one of those inside replaced, taken out, or doubled."""
    if isinstance(value, list) and value and rng.random() < 0.9:
        at, copy = rng.randrange(len(value)), list(value)
        match rng.randrange(10):
            case 0:
                del copy[at]
            case 1:
                copy.insert(at, copy[at])
            case _:
                copy[at] = _changed(copy[at], rng)
        return copy
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {**value, key: _changed(value[key], rng)}
    return rng.choice(_VALUES)


def parsed(content: bytes) -> tuple[list[ClusterFrame], bytes]:
    """The whole frames, and what is behind them."""
    found, at = list[ClusterFrame](), 0
    while len(content) - at >= _PREFIX:
        message = int.from_bytes(content[at : at + 4], "big")
        behind = int.from_bytes(content[at + 4 : at + _PREFIX], "big")
        end = at + _PREFIX + message + behind
        if end > len(content):
            break
        found.append(ClusterFrame(content[at + _PREFIX : at + _PREFIX + message], content[end - behind : end]))
        at = end
    return found, content[at:]
