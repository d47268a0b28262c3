"""The attacks: what each connection sends, how many there are, and what is the most that others may notice."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.attacks import over_agent, over_http1, over_http2
from benchmarks.attacks.bystander import LIVE, PROBE, Question
from benchmarks.attacks.target import DECODED_BYTES, MESSAGE_BYTES, VALUES, Target, agent, crowded, deceived, server

HELD_MS = 10.0  # by four connections that send as fast as they can; the bound of docs/security.md
CROWD_HELD_MS = 20.0  # by more, which add up
GAP_MS = 500.0  # of wall time, in which other programs of the machine run, too
FEW, SOME, CROWD = 4, 20, 1000
IDLE, IDLE_HELD_MS = 4200, 50.0  # more than a server takes; many that connect at once are accepted at once
LONG_HELD_MS = 100.0  # by a large request in JSON, or a compressed one, however many there are
TIERS_HELD_MS = 50.0  # once for each plan, when the tiers of all bounds are opened
FREED_HELD_MS = 200.0  # the memory of a large message
GIVEN_UP_S = 0.5  # after a request was sent, before it can be answered

Traffic = Callable[[], Iterator[bytes]]
"""What one connection sends, piece by piece; once there is no more, it stays open."""


@dataclass(frozen=True, slots=True)
class Attack:
    """``connections`` that send ``traffic`` as fast as the server reads it.

    With ``wave_s`` they act together: at each wave all that are open send their next piece, those that have none close,
    and those that were closed open again. ``is_closed``: the server must close them. ``more_bytes``: what the target
    may take for it, beside the memory that any attack may. A client beside it asks ``questions`` meanwhile.
    """

    name: str
    traffic: Traffic
    connections: int = FEW
    held_ms: float = HELD_MS
    is_grpc: bool = False
    wave_s: float = 0.0
    is_closed: bool = False
    more_bytes: int = 0
    gap_ms: float = GAP_MS
    target: Callable[[Path], AbstractContextManager[Target]] = server
    questions: tuple[Question, ...] = (LIVE,)


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
    yield Attack("HTTP/1, 4,200 idle connections", over_http1.idle, IDLE, IDLE_HELD_MS, wave_s=0.1, questions=(PROBE,))
    yield Attack("HTTP/1, connections that open and close", over_http1.nothing, CROWD, CROWD_HELD_MS, wave_s=0.5)
    yield Attack("HTTP/1, connections that ask together", over_http1.one_check, CROWD, CROWD_HELD_MS, wave_s=0.5)


def _json() -> Iterator[Attack]:
    large = partial(Attack, held_ms=LONG_HELD_MS)
    yield large(f"JSON, {VALUES:,} values", over_http1.many_values)
    yield large(f"JSON, {VALUES:,} values, gzipped", over_http1.many_values_gzipped)
    yield large("JSON, a long string among numbers, gzipped", over_http1.string_among_numbers)
    yield large("JSON, bodies of `[]` from many", over_http1.empty_lists, SOME)
    yield large(f"JSON, {VALUES:,} values from many", over_http1.many_values, SOME)
    yield large(f"JSON, {VALUES:,} values, given up", over_http1.many_values_once, SOME, wave_s=GIVEN_UP_S)


def _images() -> Iterator[Attack]:
    large = partial(Attack, traffic=over_http1.large_images, more_bytes=DECODED_BYTES)
    yield large("images, PNG of 32 million pixels in 0.1 MB")
    yield large("images, PNG of 32 million pixels from many", connections=SOME, held_ms=CROWD_HELD_MS)
    yield large(
        "images, PNG of 32 million pixels, and small ones beside them",
        connections=16,
        held_ms=CROWD_HELD_MS,
        questions=(LIVE, Question(over_http1.small_image())),
    )
    yield Attack("images, PNG of 1 × 32 million pixels", over_http1.narrow_images, connections=1)
    yield Attack("images, PNG of 1 × 32 million pixels from two", over_http1.narrow_images, connections=2)
    yield Attack("images, PNG that claim 10 billion pixels", over_http1.huge_images)
    yield Attack("images, JPEG of 4 MiB of filling bytes", over_http1.filled_images)


def _http2() -> Iterator[Attack]:
    yield Attack(
        "HTTP/2, 4,200 idle connections",
        over_http1.idle,
        IDLE,
        IDLE_HELD_MS,
        is_grpc=True,
        wave_s=0.1,
        questions=(PROBE,),
    )
    yield Attack("HTTP/2, DATA of one byte", over_http2.crumbs, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, streams that are reset", over_http2.resets, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, pings", over_http2.pings, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, settings", over_http2.settings, is_grpc=True, is_closed=True)
    yield Attack("HTTP/2, header tables", over_http2.header_tables, is_grpc=True)
    yield Attack("HTTP/2, header tables from many", over_http2.header_tables, SOME, CROWD_HELD_MS, is_grpc=True)
    yield Attack("HTTP/2, streams that are never read", over_http2.unread_streams, SOME, CROWD_HELD_MS, is_grpc=True)


def _grpc() -> Iterator[Attack]:
    yield Attack("gRPC, health checks in a row", over_http2.health_checks, is_grpc=True)
    yield Attack("gRPC, statistics in a row", over_http2.statistics, is_grpc=True)
    yield Attack("gRPC, malformed requests in a row", over_http2.malformed_requests, is_grpc=True)
    yield Attack("gRPC, empty messages in a stream", over_http2.empty_messages, is_grpc=True)
    yield Attack(f"gRPC, {VALUES:,} typed values", over_http2.typed_values, is_grpc=True)
    yield Attack(
        f"gRPC, {VALUES:,} typed values, gzipped", over_http2.typed_values_gzipped, held_ms=LONG_HELD_MS, is_grpc=True
    )
    yield Attack(f"gRPC, {VALUES:,} typed values from many", over_http2.typed_values, SOME, CROWD_HELD_MS, is_grpc=True)


def _fleet() -> Iterator[Attack]:
    """On 96 devices, with 24 variants; and with an agent that lies about the time of its batches."""
    infers = (LIVE, Question(over_http1.one_row()))
    yield Attack(
        "bounds in turn, 24 variants on 96 devices",
        over_http1.bounds,
        1,
        TIERS_HELD_MS,
        target=crowded,
        questions=infers,
    )
    told = (*infers, Question(over_http1.get(b"/v2/models/row/stats")))
    for told_s in ("1e300", "86400"):
        yield Attack(
            f"an agent that tells {told_s} s for a batch",
            over_http1.nothing,
            connections=1,
            target=partial(deceived, told_s=told_s),
            questions=told,
        )


def _agent() -> Iterator[Attack]:
    on_agent = partial(Attack, connections=1, target=agent, questions=(over_agent.INQUIRY,), more_bytes=MESSAGE_BYTES)
    yield on_agent("agent, pings of 1 GiB that are not read", over_agent.large_pings, held_ms=FREED_HELD_MS)
    yield on_agent("agent, a model that is refused for its size", over_agent.too_large_model)
    yield on_agent("agent, a model with parts `a` and `a/b`", over_agent.nested_parts)


ATTACKS = {attack.name: attack for kind in (_http1, _json, _images, _http2, _grpc, _fleet, _agent) for attack in kind()}
