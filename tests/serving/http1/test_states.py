"""The table of a connection's states: what ends, ends for good."""

import pytest

from proteus_cli.serving.http1.states import CLOSED, DISCARDS_INPUT, LOST, READING, TRANSITIONS, HttpState


@pytest.mark.parametrize("state", sorted(set(HttpState) - {CLOSED}))
def test_every_open_connection_can_be_lost(state: HttpState) -> None:
    assert TRANSITIONS[state][LOST] is CLOSED


@pytest.mark.parametrize("state", sorted(DISCARDS_INPUT))
def test_a_connection_that_discards_its_input_never_reads_a_request_again(state: HttpState) -> None:
    assert set(TRANSITIONS[state].values()) <= DISCARDS_INPUT


def test_a_closed_connection_stays_closed() -> None:
    assert TRANSITIONS[CLOSED] == {}
    assert not READING & DISCARDS_INPUT
