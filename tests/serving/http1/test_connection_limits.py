"""Clients that ask for too much, take too long, or go: what they cost, and that nothing is left of them."""

import asyncio
from functools import partial
from itertools import count

import pytest
from http_world import (
    BYE,
    LIMITS,
    SAID_BYE,
    TIMEOUTS,
    WITHIN_S,
    Parrot,
    World,
    answers,
    chunked,
    plain_and_tls,
    post,
    run,
    said,
    talk,
    until,
)

from proteus_cli.serving.http1.states import READ_BYTES, READING, HttpLimits

# --- what is too large


@pytest.mark.parametrize("most", [10, 2**20])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(most: int) -> None:
    async def conversation(world: World) -> None:
        for send in (post, lambda target, body: chunked(target, [body[:9], body[9:]])):
            fits = answers(await world.talk(send(b"/a", b"x" * most) + BYE))
            assert fits == [(200, said(b"POST", b"/a", b"x" * most)), SAID_BYE]
            assert [status for status, _ in answers(await world.talk(send(b"/a", b"x" * (most + 1))))] == [413]

    run(conversation, limits=HttpLimits(body_bytes=most))


@plain_and_tls
def test_a_client_that_goes_on_sending_can_still_read_why_it_was_refused(contexts: object) -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: 99999999\r\n\r\n")
        for _ in range(50):
            await client.send(bytes(READ_BYTES))
        ((status, body),) = answers(await client.until_has(b"}"))
        assert (status, body) == (413, b'{"error":"the body is larger than 1048576 bytes"}')
        client.close()

    run(conversation, contexts=contexts)


@pytest.mark.parametrize(
    ("before", "endless"),
    [
        (b"GET /", b"a" * 1000),
        (b"GET / HTTP/1.1\r\nhost: here\r\nx: ", b"a" * 1000),
        (b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n1;x=", b"a" * 1000),
        (b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 100),
    ],
    ids=["target", "one header", "chunk extension", "many trailers"],
)
def test_heads_chunk_extensions_and_trailers_are_bounded(before: bytes, endless: bytes) -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        listening = asyncio.create_task(client.rest())
        await client.send(before)
        for times in count():
            if listening.done():
                break
            await client.send(endless)
            await until(
                partial(lambda sent: world.made[-1].read_bytes >= sent or listening.done(), sent=times * len(endless))
            )
            assert times * len(endless) < LIMITS.header_bytes + 2 * READ_BYTES + len(endless)
        assert [status for status, _ in answers(await listening)] == [431]
        client.close()

    run(conversation)


def test_the_number_of_headers_is_bounded() -> None:
    for headers, status in ((127, 200), (128, 431)):  # and a Host
        lines = b"".join(b"x%d: y\r\n" % number for number in range(headers))
        assert talk(b"GET /a HTTP/1.1\r\nhost: here\r\n" + lines + b"\r\n" + BYE)[0][0] == status


def test_large_bodies_past_the_memory_for_them_are_refused() -> None:
    async def conversation(world: World) -> None:
        first, second = await world.connect(), await world.connect()
        await first.send(post(b"/later", bytes(800_000)))
        await until(lambda: len(world.parrot.waiting) == 1)
        await second.send(post(b"/a", bytes(800_000)))
        content = await second.rest()
        assert [status for status, _ in answers(content)] == [503]
        assert b"retry-after: 1\r\n" in content
        world.parrot.release()
        await first.until_has(b"/later")
        assert [status for status, _ in answers(await world.talk(post(b"/a", bytes(800_000)) + BYE))] == [200, 200]
        first.close()
        second.close()

    run(conversation, max_body_bytes=2**20)


@pytest.mark.parametrize("known", [False, True])
def test_bodies_of_a_few_kilobytes_are_counted_too(*, known: bool) -> None:
    async def conversation(world: World) -> None:
        if known:
            client = await world.connect()
            await client.send(post(b"/later", bytes(8000)))
            await until(lambda: bool(world.parrot.waiting))
            world.parrot.release()
            client.close()
            await world.is_empty()
        clients = [await world.connect() for _ in range(3)]
        for client in clients:
            await client.send(post(b"/later", bytes(8000)))
        await until(lambda: world.parrot.handled >= 2)
        listening = [asyncio.create_task(client.rest()) for client in clients]
        done, others = await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        (refused,) = [task.result() for task in done]
        assert [status for status, _ in answers(refused)] == [503]
        for client in clients:
            client.reset()

    run(conversation, max_body_bytes=20_000)


# --- too much at once


def test_requests_are_handled_one_after_the_other_and_no_more_is_read_meanwhile() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(b"".join(post(b"/later/%d" % number, b"") for number in range(1000)))
        await until(lambda: bool(world.parrot.waiting))
        read_bytes = world.made[-1].read_bytes
        sending = asyncio.create_task(client.send(bytes(2**24)))  # more than the system takes for us
        await asyncio.sleep(0)
        assert answers(await world.talk(BYE)) == [SAID_BYE]  # what was sent before would have been read by now
        assert world.made[0].read_bytes == len(BYE)
        assert not sending.done()
        sending.cancel()
        assert read_bytes <= 2 * READ_BYTES
        for number in range(1000):
            await until(lambda: bool(world.parrot.waiting))
            assert [each.head.target for each in world.parrot.waiting] == [b"/later/%d" % number]
            world.parrot.release()
        content = await client.until_has(b"HTTP/1.1", 1000)
        assert [status for status, _ in answers(content)][:1000] == [200] * 1000
        client.close()

    run(conversation)


def test_a_client_that_reads_no_responses_is_read_no_more_and_then_closed() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n" * 30)
        await until(lambda: world.parrot.handled > 0)
        assert 0.0 < await world.given_up_late_s() <= 1.0
        assert world.parrot.handled < 10  # answers of 1 MiB; what the system buffers is read by nobody
        client.close()

    run(conversation)


# --- too slow


@pytest.mark.parametrize(
    "sent",
    [
        b"G",
        b"GET / HTTP/1.1\r\nhost: here\r\nx: y",
        b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 900000\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 900000\r\n\r\n" + bytes(1000),
        b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
)
@plain_and_tls
def test_a_request_that_is_never_complete_is_refused(sent: bytes, contexts: object) -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(sent)
        await until(lambda: world.made[-1].read_bytes == len(sent))
        world.later(TIMEOUTS.request_s)
        assert world.made[-1].state in READING
        world.later(0.1)  # however much was announced
        assert [status for status, _ in answers(await client.until_has(b"}"))] == [408]
        assert world.connections.body_bytes == 0
        client.close()

    run(conversation, contexts=contexts)


def test_a_large_body_may_take_longer_as_long_as_it_keeps_coming() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        content = bytes(800_000)
        head = post(b"/a", content)[: -len(content)]
        await client.send(head)
        for at in range(0, len(content), 100_000):
            world.later(5.0)  # in all 40 s
            sent = at + 100_000
            await client.send(content[at:sent])
            await until(lambda: world.made[-1].read_bytes == len(head) + sent)  # noqa: B023 - it is awaited
        assert answers(await client.until_has(b"/a")) == [(200, said(b"POST", b"/a", content))]
        client.close()

    run(conversation)


@plain_and_tls
def test_a_connection_that_nobody_uses_is_closed(contexts: object) -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await until(lambda: len(world.connections) == 1)
        world.later(TIMEOUTS.keep_alive_s + 1.0)
        assert await client.rest() == b""
        client.close()
        await world.is_empty()
        client = await world.connect()
        await until(lambda: len(world.connections) == 1)
        for _ in range(2):
            world.later(TIMEOUTS.keep_alive_s)
            await client.send(post(b"/a", b""))
            assert [status for status, _ in answers(await client.until_has(b"/a"))] == [200]
        world.later(TIMEOUTS.keep_alive_s + 1.0)
        assert await client.rest() == b""
        client.close()

    run(conversation, contexts=contexts)


def test_a_request_that_waits_for_its_answer_is_not_idle() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(post(b"/later", b""))
        await until(lambda: bool(world.parrot.waiting))
        world.later(10 * TIMEOUTS.keep_alive_s)
        world.parrot.release()
        assert [status for status, _ in answers(await client.until_has(b"/later"))] == [200]
        client.close()

    run(conversation)


# --- clients that go


@pytest.mark.parametrize("leave", ["close", "reset", "say_no_more"])
@pytest.mark.parametrize(
    ("sent", "waiting"),
    [
        (b"", 0),
        (post(b"/later", bytes(READ_BYTES * 2)), 1),
        (post(b"/later", bytes(READ_BYTES * 2))[:-1], 0),
        (post(b"/later", b"") + post(b"/a", bytes(5000)), 1),
        (chunked(b"/later", [bytes(70_000)])[:-1], 0),
    ],
    ids=["nothing", "waits", "half of a large one", "another behind it", "half of chunks"],
)
def test_a_request_whose_client_goes_is_abandoned_once(leave: str, sent: bytes, waiting: int) -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(sent)
        await until(lambda: world.made[-1].read_bytes == len(sent))
        assert len(world.parrot.waiting) == waiting
        getattr(client, leave)()
        if sent.count(b"POST") > 1:  # where more was read, it is seen once that is handled
            world.parrot.release()
        await until(lambda: len(world.connections) == 0)
        assert world.parrot.abandoned_targets == [b"/later"] * (waiting if sent.count(b"POST") == 1 else 0)
        assert world.connections.body_bytes == 0
        client.close()

    run(conversation)


# --- how many there may be


@plain_and_tls
def test_connections_past_the_limit_are_refused_and_the_others_served(contexts: object) -> None:
    async def conversation(world: World) -> None:
        here = [await world.connect() for _ in range(3)]
        await until(lambda: len(world.connections) == 3)
        for _ in range(5):
            refused = await world.connect()
            await refused.send(post(b"/a", b""))
            content = await refused.until_has(b"}")
            assert [status for status, _ in answers(content)] == [503]
            assert b"retry-after: 1\r\n" in content
            refused.close()
        for client in here:
            await client.send(post(b"/a", b""))
            await client.until_has(b"/a")
        here.pop().close()
        await until(lambda: len(world.connections) == 2)
        assert answers(await world.talk(BYE)) == [SAID_BYE]
        for client in here:
            client.close()

    run(conversation, most=3, contexts=contexts)


def test_a_connection_past_the_limit_may_ask_whether_the_server_lives() -> None:
    limits = HttpLimits(body_bytes=2**20, open_paths=frozenset({b"/health"}))

    async def conversation(world: World) -> None:
        here = await world.connect()
        await until(lambda: len(world.connections) == 1)
        await here.send(post(b"/a", b""))  # its head is known from now on
        await here.until_has(b"/a")
        client, silent = await world.connect(), await world.connect()
        await client.send(post(b"/health", b"") + post(b"/health?x=1", b""))
        await client.until_has(b"x=1")
        await client.send(post(b"/a", b""))
        content = await client.rest()
        assert [status for status, _ in answers(content)] == [503]
        assert b"connection: close\r\n" in content
        client.close()
        await until(lambda: world.connections.refused_count == 2)
        world.connections.check_timeouts(world.connections.now_s + TIMEOUTS.keep_alive_s + 1)
        assert await silent.rest() == b""
        silent.close()
        here.close()

    run(conversation, limits, most=1)


# --- who may ask


def test_a_request_that_is_not_admitted_is_refused_before_its_body_is_read() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: 900000\r\nexpect: 100-continue\r\n\r\n")
        content = await client.rest()
        assert [status for status, _ in answers(content)] == [401]
        assert b"www-authenticate: Bearer\r\n" in content
        assert world.parrot.handled == 0
        client.close()
        admitted = post(b"/a", b"x", b"authorization: yes\r\n")
        for pieces in ([admitted + BYE], [admitted, BYE], [admitted, BYE]):
            assert [status for status, _ in answers(await world.talk(*pieces))] == [200, 401]

    run(conversation, parrot=Parrot(may_read=lambda _, headers: headers.get(b"authorization") == b"yes"))


# --- the end


@plain_and_tls
def test_a_draining_server_answers_requests_in_flight_and_closes_idle_connections(contexts: object) -> None:
    async def conversation(world: World) -> None:
        idle, asking, late = [await world.connect() for _ in range(3)]
        await asking.send(post(b"/later", b"") * 2)
        await until(lambda: len(world.parrot.waiting) == 1 and len(world.connections) == 3)
        world.connections.begin_drain()
        await late.send(post(b"/a", b""))  # on its way while the server begins to close
        content = await late.until_has(b"/a")
        assert b"connection: close\r\n" in content
        closing = asyncio.create_task(world.connections.close(3600.0))
        assert await idle.rest() == b""
        idle.close()
        late.close()
        world.parrot.release()
        await until(lambda: bool(world.parrot.waiting))
        world.parrot.release()
        content = await asking.until_has(b"/later", 2)
        assert content.count(b"connection: close") == 1
        asking.close()
        await asyncio.wait_for(closing, WITHIN_S)

    run(conversation, contexts=contexts)
