"""Each request is answered once and in order, whatever comes before, between and behind, and whatever has to wait."""

from collections.abc import Sequence
from random import Random

import pytest
from http_world import BYE, answers, chunked, post, said
from hypothesis import given
from hypothesis import strategies as st
from test_http1_bounds import GET, LATER, Talk, in_loop

from proteus_cli.serving.http1.exchange import Head
from proteus_cli.serving.http1.request_parser import KnownHeads
from proteus_cli.serving.http1.states import READ_BYTES

GET_HEAD = Head(b"GET", b"/", {}, lambda _exchange: None)
LARGE_BODY = b"x" * 6000
SENT = {
    GET: said(b"GET", b"/a"),
    LATER: said(b"GET", b"/later"),
    post(b"/later", LARGE_BODY): said(b"POST", b"/later", LARGE_BODY),
    chunked(b"/later", [b"y"] * 20): said(b"POST", b"/later", b"y" * 20),
}
LAST = {b"": [], BYE: [(200, said(b"GET", b"/bye"))], BYE + GET: [(200, said(b"GET", b"/bye"))], b"none\r\n\r\n": [400]}


@given(
    st.lists(st.tuples(st.sampled_from([*SENT]), st.integers(1, 30)), max_size=4),
    st.sampled_from([*LAST]),
    st.integers(0, 2**32),
)
def test_each_request_is_answered_in_order(runs: Sequence[tuple[bytes, int]], last: bytes, seed: int) -> None:
    requests = [request for request, times in runs for _ in range(times)]

    def scene() -> None:
        talk = Talk(max_body_bytes=2**24)
        converse(talk, b"".join(requests) + last, Random(seed))
        found = answers(bytes(talk.wire.sent))
        assert found[: len(requests)] == [(200, SENT[request]) for request in requests]
        behind = [status if body.startswith(b"{") else (status, body) for status, body in found[len(requests) :]]
        assert behind == LAST[last]
        assert talk.connections.body_bytes == 0

    in_loop(scene)


def converse(talk: Talk, sent: bytes, rng: Random) -> None:
    """Send all of it. The client reads now and then; what waits is answered, and turns are taken, in any order."""
    at, is_paused = 0, False

    def read() -> None:
        nonlocal at
        size = rng.choice((1, 100, READ_BYTES))
        before = talk.read_bytes
        talk.read(sent[at : at + size])
        at += talk.read_bytes - before

    while True:
        can_read = at < len(sent) and not talk.wire.is_reading_paused
        steps = [read] * can_read + [talk.take_turn] * bool(talk.turns)
        if talk.parrot.waiting:
            steps.append(lambda: talk.parrot.release(rng.randrange(len(talk.parrot.waiting))))
        if is_paused and (not steps or rng.random() < 0.5):
            is_paused = False
            talk.connection.resume_writing()
        elif not steps:
            return
        elif not is_paused and rng.random() < 0.2:
            is_paused = True
            talk.connection.pause_writing()
        else:
            rng.choice(steps)()


def test_the_cache_of_heads_is_bounded() -> None:
    known = KnownHeads()
    heads = [b"GET /%d HTTP/1.1" % number for number in range(1500)]
    for head in heads:
        known.remember(head, GET_HEAD, 5)
    assert sum(known.get(head) is not None for head in heads) <= 1024
    assert known.get(heads[-1]) == (GET_HEAD, 5)


@pytest.mark.parametrize(
    "head", [b"GET /%b HTTP/1.1" % (b"x" * 2048), b"\r\nGET / HTTP/1.1"], ids=["long", "behind an empty line"]
)
def test_heads_that_are_long_or_behind_empty_lines_are_not_remembered(head: bytes) -> None:
    known = KnownHeads()
    known.remember(head, GET_HEAD, 0)
    assert known.get(head) is None
