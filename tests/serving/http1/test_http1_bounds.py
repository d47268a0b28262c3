"""What an HTTP/1 client may cost before the others are looked at, and what its connection may hold in memory."""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest
from held import held_bytes
from http_world import Parrot, answers, chunked, post, said

from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.http1.request_parser import KnownHeads
from proteus_cli.serving.http1.states import BODY_READ_BYTES, READ_BYTES, SLICE_BYTES, HttpLimits
from proteus_cli.serving.transport.connections import WORK_AT_ONCE, WORK_IN_CROWD, WORK_PER_TURN, Connections, Turns

LIMITS = HttpLimits(body_bytes=2**20)
MEMORY = 2**22
GET = b"GET /a HTTP/1.1\r\nhost: here\r\n\r\n"
LATER = b"GET /later HTTP/1.1\r\nhost: here\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_closed = self.is_reading_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Talk:
    """A connection in memory, whose turns are taken by the test."""

    def __init__(self, parrot: Parrot | None = None, max_body_bytes: int = MEMORY, limits: HttpLimits = LIMITS) -> None:
        self.parrot = parrot or Parrot()
        self.connections = Connections(max_connections=1, max_body_bytes=max_body_bytes)
        self.turns = deque[Callable[[], None]]()
        self.connections.turns = Turns(self.turns.append)
        self.connection = HttpConnection(self.parrot, self.connections, KnownHeads(), limits)
        self.wire = Wire()
        self.connection.connection_made(self.wire)
        self.read_bytes = 0

    def read(self, content: bytes) -> None:
        """The server reads this, as long as it reads."""
        at = 0
        while at < len(content) and not self.wire.is_reading_paused:
            buffer = self.connection.get_buffer(-1)
            size = min(len(buffer), len(content) - at)
            buffer[:size] = content[at : at + size]
            self.connection.buffer_updated(size)
            at += size
        self.read_bytes += at

    def take_turn(self) -> None:
        self.turns.popleft()()

    def take_turns(self) -> None:
        while self.turns:
            self.take_turn()

    def held(self) -> int:
        return held_bytes(self.connection, self.connections, self.parrot, self.wire, self.turns, LIMITS)


def in_loop(scene: Callable[[], None]) -> None:
    async def play() -> None:
        scene()

    asyncio.run(play())


# --- work


def test_no_turn_has_more_requests_than_a_turn_has_units() -> None:
    def scene() -> None:
        talk, handled = Talk(), list[int]()
        requests = b"".join(b"GET /%d HTTP/1.1\r\nhost: here\r\n\r\n" % number for number in range(1500))
        talk.read(requests)
        assert talk.read_bytes == len(requests) <= READ_BYTES
        while talk.turns:
            handled.append(talk.parrot.handled - sum(handled))
            assert talk.wire.is_reading_paused
            talk.take_turn()
        assert max(handled) <= WORK_PER_TURN // 2
        assert not talk.wire.is_reading_paused
        assert [body for _, body in answers(bytes(talk.wire.sent))] == [
            said(b"GET", b"/%d" % number) for number in range(1500)
        ]

    in_loop(scene)


def test_no_turn_reads_more_of_a_large_body_than_it_has_units_for() -> None:
    def scene() -> None:
        size = 12 * BODY_READ_BYTES
        talk, sent = Talk(max_body_bytes=2 * size, limits=HttpLimits(body_bytes=size)), b"x" * size
        talk.read(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % size)
        turns = at = 0
        while at < size:
            before = talk.read_bytes
            talk.read(sent[at:])
            assert talk.read_bytes - before <= WORK_PER_TURN * 16 * 1024 + BODY_READ_BYTES
            at += talk.read_bytes - before
            turns += 1
            talk.take_turns()
        assert turns > 1
        assert talk.parrot.handled == 1

    in_loop(scene)


def test_in_a_crowd_a_connection_has_a_few_requests_and_then_waits() -> None:
    def scene() -> None:
        talk = Talk()
        talk.connections.loop_turn.spend(WORK_AT_ONCE)
        talk.read(GET * 20)
        assert 1 <= talk.parrot.handled <= WORK_IN_CROWD // 2
        assert talk.wire.is_reading_paused
        talk.take_turns()
        assert talk.parrot.handled == 20

    in_loop(scene)


def test_requests_that_come_one_by_one_wait_for_no_turn() -> None:
    """However many connections ask so, they need not wait for each other."""

    def scene() -> None:
        talk = Talk()
        for number in range(10 * WORK_PER_TURN):
            talk.read(GET)
            assert talk.parrot.handled == number + 1
            assert not talk.wire.is_reading_paused

    in_loop(scene)


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "chunks of a byte": (b"POST /a HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "small heads": (b"", b"GET /a HTTP/1.1\r\nhost: here\r\n" + b"a:\r\n" * 60 + b"\r\n"),
    "large heads": (b"", b"GET /a HTTP/1.1\r\nhost: here\r\n" + b"a: %b\r\n" % (b"x" * 300) * 100 + b"\r\n"),
}


@pytest.mark.parametrize(("start", "endless"), ENDLESS.values(), ids=ENDLESS)
def test_a_turn_has_a_bounded_number_of_chunks_and_headers(start: bytes, endless: bytes) -> None:
    """However the client fills its reads."""

    def scene() -> None:
        talk = Talk()
        talk.read(start)
        talk.connection.turn.left = WORK_PER_TURN
        parsed: list[int] = []
        parse = talk.connection._parser._parse_slice

        def counting(data: memoryview) -> None:
            parsed.append(len(data))
            parse(data)

        talk.connection._parser._parse_slice = counting  # type: ignore[method-assign]
        talk.read(endless * (4 * READ_BYTES // len(endless)))
        pieces = sum(parsed) / len(endless) * (60 if b"a:" in endless else 1)
        assert pieces <= 100 * WORK_PER_TURN
        assert talk.wire.is_reading_paused
        while talk.turns:
            parsed.clear()
            talk.take_turn()
            assert sum(parsed) <= 32 * SLICE_BYTES

    in_loop(scene)


def test_what_comes_after_the_last_request_is_discarded_in_turns() -> None:
    def scene() -> None:
        talk = Talk()
        talk.read(b"nonsense\r\n\r\n")
        assert [status for status, _ in answers(bytes(talk.wire.sent))] == [400]
        for _ in range(3):
            before = talk.read_bytes
            talk.read(bytes(8 * READ_BYTES))
            assert talk.read_bytes - before == READ_BYTES
            assert talk.wire.is_reading_paused
            talk.take_turns()
            assert not talk.wire.is_reading_paused

    in_loop(scene)


# --- memory


def head(size: int, target: bytes = b"/later", headers: int = 100) -> bytes:
    lines = b"".join(b"x%d: %b\r\n" % (number, b"y" * (size // headers)) for number in range(headers))
    return b"GET %b HTTP/1.1\r\nhost: here\r\n%b\r\n" % (target, lines)


def test_a_head_for_which_there_is_no_memory_is_refused() -> None:
    def scene() -> None:
        talk = Talk(max_body_bytes=30_000)
        talk.read(head(28_000))
        talk.take_turns()
        assert [status for status, _ in answers(bytes(talk.wire.sent))] == [503]
        assert b"retry-after: 1\r\n" in talk.wire.sent
        assert talk.connections.body_bytes == 0

    in_loop(scene)


HEADERS = b"".join(b"%x:\r\n" % number for number in range(127))
GREEDY: dict[str, bytes] = {
    "many small requests": post(b"/later", b"") * 3000,
    "many headers": (b"POST /later HTTP/1.1\r\nhost: here\r\n" + HEADERS + b"\r\n") * 100,
    "bodies that don't count": post(b"/later", bytes(4096)) * 100,
    "a head and no end": head(30_000)[:-2],
    "chunks": chunked(b"/later", [b"x"] * 4096) * 10,
}


@pytest.mark.parametrize("sent", GREEDY.values(), ids=GREEDY)
def test_a_connection_holds_a_bounded_number_of_bytes_that_do_not_count(sent: bytes) -> None:
    """Most of them in parsed heads, which `RestHandler` does not keep."""

    def scene() -> None:
        talk = Talk()
        for at in range(0, len(sent), READ_BYTES):
            talk.read(sent[at : at + READ_BYTES])
            assert talk.held() - talk.connections.body_bytes < 512 * 1024
            talk.take_turns()
            if talk.wire.is_reading_paused:
                break
        assert talk.held() - talk.connections.body_bytes < 512 * 1024

    in_loop(scene)
