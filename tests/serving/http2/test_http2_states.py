"""The tables of the states of connections and streams: what ends, ends for good; what is not in them, raises."""

import pytest
from http2_peer import START, Echo, Peer, data, in_loop

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.connection import Http2Connection
from proteus_cli.serving.http2.states import (
    CLOSED,
    CONNECTION_TRANSITIONS,
    HALF_CLOSED,
    OPEN,
    RESET,
    STREAM_TRANSITIONS,
    ConnectionEvent,
    ConnectionState,
    StreamState,
)


def state_of(connection: Http2Connection) -> ConnectionState:
    """By a call, as mypy takes an attribute for unchanged."""
    return connection.state


@pytest.mark.parametrize("state", sorted(set(ConnectionState) - {ConnectionState.CLOSED}))
def test_every_open_connection_can_be_lost(state: ConnectionState) -> None:
    assert CONNECTION_TRANSITIONS[state][ConnectionEvent.LOST] is ConnectionState.CLOSED


def test_a_connection_that_goes_away_never_opens_again() -> None:
    for state in set(ConnectionState) - {ConnectionState.OPEN}:
        assert ConnectionState.OPEN not in CONNECTION_TRANSITIONS[state].values()
    assert CONNECTION_TRANSITIONS[ConnectionState.CLOSED] == {}


@pytest.mark.parametrize("state", sorted(set(StreamState) - {CLOSED}))
def test_every_open_stream_can_be_reset(state: StreamState) -> None:
    assert STREAM_TRANSITIONS[state][RESET] is CLOSED


def test_a_closed_stream_stays_closed() -> None:
    assert STREAM_TRANSITIONS[CLOSED] == {}


def test_a_stream_goes_from_open_over_half_closed_to_closed() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + peer.request())
        (call,) = peer.application.calls
        assert call.stream.state is OPEN
        peer.feed(data(1, b"hello", ended=True))
        assert call.stream.state is HALF_CLOSED
        call.answer()
        assert call.stream.state is CLOSED

    in_loop(scene)


@pytest.mark.parametrize("ended", [False, True])
def test_a_reset_closes_a_stream(*, ended: bool) -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + peer.request(ended=ended), frames.rst_stream(1, frames.ErrorCode.CANCEL))
        (call,) = peer.application.calls
        assert call.stream.state is CLOSED

    in_loop(scene)


def test_a_response_to_a_stream_that_is_over_raises() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + peer.request(ended=True), frames.rst_stream(1, frames.ErrorCode.CANCEL))
        (call,) = peer.application.calls
        with pytest.raises(KeyError):
            call.stream.send(b"\x88", b"", b"\x88")
        with pytest.raises(KeyError):
            call.stream.half_close(b"")

    in_loop(scene)


def test_a_request_does_not_end_twice() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + peer.request(ended=True))
        (call,) = peer.application.calls
        with pytest.raises(KeyError):
            call.stream.half_close(b"")

    in_loop(scene)


def test_a_connection_that_drains_closes_with_its_last_stream() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + peer.request(ended=True))
        (call,), connection = peer.application.calls, peer.connection
        assert state_of(connection) is ConnectionState.OPEN
        connection.drain()
        assert state_of(connection) is ConnectionState.GOING_AWAY
        call.answer()  # the transport of these tests closes at once
        assert state_of(connection) is ConnectionState.CLOSED

    in_loop(scene)


def test_a_fault_closes_a_connection_and_its_streams_once_its_peer_has_closed_it() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + peer.request(), frames.frame(frames.PING, 0, 0, b"x"))
        (call,), connection = peer.application.calls, peer.connection
        assert state_of(connection) is ConnectionState.CLOSING
        assert call.stream.state is CLOSED
        peer.transport.close()
        assert state_of(connection) is ConnectionState.CLOSED
        with pytest.raises(KeyError):
            connection.connection_lost(None)

    in_loop(scene)
