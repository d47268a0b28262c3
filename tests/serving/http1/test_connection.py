"""HTTP/1.1 on real sockets: what is answered, in which order, and that nothing is left of any conversation."""

from itertools import pairwise

import pytest
from http_world import (
    BYE,
    SAID_BYE,
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
from hypothesis import given, settings
from hypothesis import strategies as st

from proteus_cli.serving.http1.states import READ_BYTES

LARGE = 3 * READ_BYTES + 17

# --- what is answered


@plain_and_tls
def test_a_large_body_is_followed_by_a_small_one(contexts: object) -> None:
    async def conversation(world: World) -> None:
        content = bytes(range(256)) * (LARGE // 256 + 1)
        large = content[:LARGE]
        got = answers(await world.talk(post(b"/a", large) + post(b"/b", b"small") + BYE))
        assert got == [(200, said(b"POST", b"/a", large)), (200, said(b"POST", b"/b", b"small")), SAID_BYE]

    run(conversation, contexts=contexts)


@plain_and_tls
def test_a_large_answer_arrives_whole(contexts: object) -> None:
    async def conversation(world: World) -> None:
        first, second = answers(await world.talk(b"GET /large HTTP/1.1\r\nhost: here\r\n\r\n" + BYE))
        assert (first, second) == ((200, bytes(2**20)), SAID_BYE)

    run(conversation, contexts=contexts)


def test_chunks_are_put_together_and_trailers_dropped() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(chunked(b"/later", [b"ab", b"c" * 5000, b"d"], b"x-late: yes\r\n"))
        await until(lambda: len(world.parrot.waiting) == 1)
        assert world.parrot.waiting[0].body == b"ab" + b"c" * 5000 + b"d"
        assert world.parrot.waiting[0].head.headers == {b"host": b"here", b"transfer-encoding": b"chunked"}
        world.parrot.release()
        await client.until_has(b"/later")
        client.close()

    run(conversation)


def test_a_client_that_expects_100_is_told_to_continue() -> None:
    async def conversation(world: World) -> None:
        client = await world.connect()
        await client.send(b"POST /a HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await client.some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert answers(await client.until_has(b"/a")) == [(200, said(b"POST", b"/a", b"hi"))]
        client.close()

    run(conversation)


def test_no_request_after_one_that_closes_is_handled() -> None:
    async def conversation(world: World) -> None:
        large = b"POST /a HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % LARGE + bytes(
            LARGE
        )
        for closing in (BYE, large, b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"):
            for pieces in ([closing + post(b"/b", b"x")], [closing, post(b"/b", b"x")]):
                before = world.parrot.handled
                assert len(answers(await world.talk(*pieces))) == 1
                assert world.parrot.handled == before + 1

    run(conversation)


def test_an_upgrade_is_not_granted_and_the_request_answered() -> None:
    """Its body is its body; llhttp would read it as that other protocol, and a proxy in front of us would not."""
    wish = b"connection: upgrade\r\nupgrade: h2c\r\n"
    hidden = post(b"/hidden", b"")
    for body in (b"", b"hello", hidden, bytes(LARGE)):
        assert talk(post(b"/a", body, wish) + post(b"/b", b"", wish) + BYE) == [
            (200, said(b"POST", b"/a", body)),
            (200, said(b"POST", b"/b")),
            SAID_BYE,
        ]
    in_chunks = chunked(b"/a", [hidden]).replace(b"\r\n\r\n", b"\r\n" + wish + b"\r\n", 1)
    assert talk(in_chunks + BYE) == [(200, said(b"POST", b"/a", hidden)), SAID_BYE]


# --- any split of the bytes gives the same answers

bodies = st.sampled_from([b"", b"x", b"hello", b"b" * 5000, b"c" * LARGE])
paths = st.sampled_from([b"/a", b"/b", b"/a?b=c"])
requests = st.one_of(
    st.builds(post, paths, bodies),
    st.builds(chunked, paths, st.lists(bodies, max_size=3), st.sampled_from([b"", b"x: y\r\n"])),
    st.builds(lambda path: b"GET %b HTTP/1.1\r\nhost: here\r\n\r\n" % path, paths),
    st.builds(lambda path, body: post(path, body, b"connection: upgrade\r\nupgrade: h2c\r\n"), paths, bodies),
    st.just(b"\r\nGET /a HTTP/1.1\r\nhost: here\r\n\r\n"),
)
ends = st.sampled_from(
    [BYE, b"nonsense\r\n\r\n", post(b"/a", b"x", b"content-length: 2\r\n"), b"GET /a HTTP/1.0\r\n\r\n", BYE + BYE]
)


@st.composite
def splits(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A conversation, and pieces of it; cuts are likely where heads end."""
    whole = b"".join(draw(st.lists(requests, max_size=5))) + draw(ends)
    near = [at + step for at in range(len(whole)) if whole[at : at + 4] == b"\r\n\r\n" for step in range(6)]
    cuts = draw(st.lists(st.one_of(st.integers(0, len(whole)), st.sampled_from(near)), max_size=8))
    edges = [0, *sorted({min(cut, len(whole)) for cut in cuts}), len(whole)]
    return whole, [whole[a:b] for a, b in pairwise(edges) if a < b]


@given(splits())
@settings(max_examples=150, deadline=None)
def test_any_split_of_the_bytes_gives_the_same_answers(split: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = split

    async def conversation(world: World) -> None:
        at_once = await world.talk(whole)
        assert await world.talk(*pieces) == at_once
        assert await world.talk(*pieces) == at_once  # now all heads are known
        assert at_once

    run(conversation)


# --- heads that are known


def test_a_head_in_two_pieces_is_not_taken_for_another_clients() -> None:
    """Whoever sends the beginning of a request must not be answered as if it were another's request."""
    first = b"POST /mine HTTP/1.1\r\nhost: here\r\nx-mine: yes\r\ncontent-length: 5\r\n\r\nhello"
    second = b"POST /yours HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\nhi"

    async def conversation(world: World) -> None:
        for cut in range(1, len(second)):
            await world.talk(first[:cut], first[cut:] + BYE)
            got = answers(await world.talk(second[:cut], second[cut:] + BYE))
            assert got == [(200, said(b"POST", b"/yours", b"hi")), SAID_BYE], cut

    run(conversation)


def test_empty_lines_are_no_request_even_after_a_request_followed_them() -> None:
    async def conversation(world: World) -> None:
        assert answers(await world.talk(b"\r\n\r\nGET /a HTTP/1.1\r\nhost: here\r\n\r\n" + BYE))[0] == (
            200,
            said(b"GET", b"/a"),
        )
        assert answers(await world.talk(b"\r\n\r\n", BYE)) == [SAID_BYE]

    run(conversation)


# --- what is refused, and closed

SMUGGLED = [
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    b"content-length: 5\r\ncontent-length: 6\r\n",
    b"content-length: 5, 5\r\n",
    b"content-length: +5\r\n",
    b"content-length: 0x5\r\n",
    b"content-length : 5\r\n",
    b"content-length: 99999999999999999999999\r\n",
    b"transfer-encoding: identity\r\ncontent-length: 5\r\n",
    b"transfer-encoding: chunked, identity\r\n",
    b"transfer-encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"host: here\r\n",
    b"transfer-encoding:\x0bchunked\r\n",
    b"transfer-encoding:\r\n chunked\r\n",
    b"x: y\r\n z\r\n",
    b"x: y\n",
    b"x: y\0z\r\n",
    b"no colon\r\n",
]


@pytest.mark.parametrize("headers", SMUGGLED)
def test_a_head_that_two_servers_may_read_differently_is_refused(headers: bytes) -> None:
    got = talk(b"POST /a HTTP/1.1\r\nhost: here\r\n" + headers + b"\r\n0\r\n\r\n" + post(b"/hidden", b""))
    assert [status for status, _ in got] in ([400], [501])


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization", b"content-encoding", b"Content-Length", b"content-type", b"Expect",
        b"Inference-Header-Content-Length", b"origin", b"Sec-Fetch-Site",
    ],
)  # fmt: skip
def test_a_header_that_is_single_must_not_be_repeated(name: bytes) -> None:
    """Also not with the same value; whoever guards this server may look at the first, and the server at the last."""
    lines = b"%b: 0\r\n%b: 0\r\n" % (name, name.lower())
    assert [status for status, _ in talk(b"POST /a HTTP/1.1\r\nhost: here\r\n" + lines + b"\r\n" + BYE)] == [400]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"", 400), (b"host: a b\r\n", 400), (b"host: a,b\r\n", 400), (b"host: a/b\r\n", 400),
        (b"host: a@b\r\n", 400), (b"host: \xffa\r\n", 400), (b"host: a?b\r\n", 400), (b"host: a#b\r\n", 400),
        (b"host:\r\n", 200), (b"host: a_b.example:8000\r\n", 200), (b"HOST: [::1]:8000\r\n", 200),
        (b"host: xn--p1ai\r\n", 200),
    ],
)  # fmt: skip
def test_http_1_1_needs_a_host_that_is_one(line: bytes, status: int) -> None:
    assert talk(b"GET /a HTTP/1.1\r\n%b\r\n" % line + BYE)[0][0] == status


def test_http_1_0_needs_no_host_and_has_no_expectations() -> None:
    expecting = b"POST /a HTTP/1.0\r\n%b\r\ncontent-length: 2\r\n\r\nhi"
    for line in (b"expect: 100-continue", b"expect: tea", b"connection: keep-alive\r\nexpect: 100-continue"):
        assert talk(expecting % line) == [(200, said(b"POST", b"/a", b"hi"))]
    upgrading = b"POST /a HTTP/1.0\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nhi"
    assert talk(upgrading) == [(200, said(b"POST", b"/a", b"hi"))]


@pytest.mark.parametrize(
    "size", [b"0x1", b"-1", b"+1", b"1 ", b" 1", b"", b"f" * 17, b"1\n", b"g", b"1;a=b\nc", b"2", b"1_0"]
)
def test_a_chunk_that_two_servers_may_read_differently_is_refused(size: bytes) -> None:
    head = b"POST /a HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
    got = talk(head + size + b"\r\na\r\n0\r\n\r\n" + post(b"/hidden", b""))
    assert [status for status, _ in got] == [400]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /a HTTP/1.1\r\nhost: here\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /a HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nhost: here\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nconnection: keep-alive\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),
        (b"get / HTTP/1.1\r\nhost: here\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: here\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: here\r\nexpect: tea\r\n\r\n", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_input_that_is_not_http_1_is_refused_and_closed(sent: bytes, status: int) -> None:
    assert [found for found, _ in talk(sent)] == [status]
    assert [found for found, _ in talk(post(b"/a", b"x") + sent)] == [200, status]
