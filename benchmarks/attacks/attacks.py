"""The attacks: what each connection sends, how many there are, and what is the most that others may notice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.attacks import over_http1, over_http2
from benchmarks.attacks.target import DECODED_BYTES, VALUES

HELD_MS = 10.0  # by four connections that send as fast as they can; the bound of docs/security.md
CROWD_HELD_MS = 20.0  # by more, which add up
FEW, SOME, CROWD = 4, 20, 1000
BEYOND = 4200  # more than `--max-connections`
GIVEN_UP_S = 0.5  # after a request was sent, before it can be answered

Traffic = Callable[[], Iterator[bytes]]
"""What one connection sends, piece by piece; once there is no more, it stays open."""


@dataclass(frozen=True, slots=True)
class Attack:
    """``connections`` that send ``traffic`` as fast as the server reads it.

    With ``wave_s`` they act together: at each wave all that are open send their next piece, those that have none close,
    and those that were closed open again. ``is_closed``: the server must close them. ``decoding_bytes``: what threads
    may take for it, beside the memory that any attack may.
    """

    name: str
    traffic: Traffic
    connections: int = FEW
    held_ms: float = HELD_MS
    is_grpc: bool = False
    wave_s: float = 0.0
    is_closed: bool = False
    decoding_bytes: int = 0


def _http1() -> Iterator[Attack]:
    yield Attack("no attack", over_http1.nothing, connections=1)
    yield Attack("HTTP/1, health checks in a row", over_http1.health_checks)
    yield Attack("HTTP/1, the metrics in a row", over_http1.metrics)
    yield Attack("HTTP/1, the status in a row", over_http1.status)
    yield Attack("HTTP/1, unknown paths in a row", over_http1.unknown_paths)
    yield Attack("HTTP/1, heads of 120 lines in a row", over_http1.long_heads)
    yield Attack("HTTP/1, malformed requests in a row", over_http1.malformed_requests)
    yield Attack("HTTP/1, requests of ever new outlines in a row", over_http1.new_outlines)
    yield Attack("HTTP/1, chunks of one byte", over_http1.crumbs)
    yield Attack("HTTP/1, heads of 30 KB that wait", over_http1.large_heads, SOME * FEW, CROWD_HELD_MS)
    yield Attack("HTTP/1, idle connections beyond the limit", over_http1.nothing, BEYOND, CROWD_HELD_MS)
    yield Attack("HTTP/1, connections that open and close", over_http1.nothing, CROWD, CROWD_HELD_MS, wave_s=0.5)
    yield Attack("HTTP/1, connections that ask together", over_http1.one_check, CROWD, CROWD_HELD_MS, wave_s=0.5)


def _json() -> Iterator[Attack]:
    yield Attack(f"JSON, {VALUES:,} values", over_http1.many_values)
    yield Attack(f"JSON, {VALUES:,} values, gzipped", over_http1.many_values_gzipped)
    yield Attack("JSON, a long string among numbers, gzipped", over_http1.string_among_numbers)
    yield Attack("JSON, bodies of `[]` from many", over_http1.empty_lists, SOME, CROWD_HELD_MS)
    yield Attack(f"JSON, {VALUES:,} values from many", over_http1.many_values, SOME, CROWD_HELD_MS)
    yield Attack(
        f"JSON, {VALUES:,} values, given up", over_http1.many_values_once, SOME, CROWD_HELD_MS, wave_s=GIVEN_UP_S
    )


def _images() -> Iterator[Attack]:
    large = partial(Attack, traffic=over_http1.large_images, decoding_bytes=DECODED_BYTES)
    yield large("images, PNG of 32 million pixels in 0.1 MB")
    yield large("images, PNG of 32 million pixels from many", connections=SOME, held_ms=CROWD_HELD_MS)
    yield Attack("images, PNG that claim 10 billion pixels", over_http1.huge_images)
    yield Attack("images, JPEG of 4 MiB of filling bytes", over_http1.filled_images)


def _http2() -> Iterator[Attack]:
    yield Attack("HTTP/2, DATA of one byte", over_http2.crumbs, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, streams that are reset", over_http2.resets, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, pings", over_http2.pings, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, settings", over_http2.settings, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, header tables", over_http2.header_tables, is_grpc=True)
    yield Attack("HTTP/2, header tables from many", over_http2.header_tables, SOME, CROWD_HELD_MS, is_grpc=True)
    yield Attack("HTTP/2, streams that are never read", over_http2.unread_streams, SOME, CROWD_HELD_MS, is_grpc=True)


def _grpc() -> Iterator[Attack]:
    yield Attack("gRPC, idle connections beyond the limit", over_http1.nothing, BEYOND, CROWD_HELD_MS, is_grpc=True)
    yield Attack("gRPC, health checks in a row", over_http2.health_checks, is_grpc=True)
    yield Attack("gRPC, statistics in a row", over_http2.statistics, is_grpc=True)
    yield Attack("gRPC, malformed requests in a row", over_http2.malformed_requests, is_grpc=True)
    yield Attack("gRPC, empty messages in a stream", over_http2.empty_messages, is_grpc=True)
    yield Attack(f"gRPC, {VALUES:,} typed values", over_http2.typed_values, is_grpc=True)
    yield Attack(f"gRPC, {VALUES:,} typed values, gzipped", over_http2.typed_values_gzipped, is_grpc=True)
    yield Attack(f"gRPC, {VALUES:,} typed values from many", over_http2.typed_values, SOME, CROWD_HELD_MS, is_grpc=True)


ATTACKS = {attack.name: attack for kind in (_http1, _json, _images, _http2, _grpc) for attack in kind()}
