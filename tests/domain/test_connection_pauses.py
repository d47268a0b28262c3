"""When a lost host is tried again."""

from proteus_cli.domain.cluster import STEADY_S, ConnectionPauses


def test_pauses_double_up_to_the_longest() -> None:
    pauses = ConnectionPauses()
    assert [pauses.next_s() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_only_a_steady_session_makes_them_short_again() -> None:
    pauses = ConnectionPauses()
    assert [pauses.next_s(STEADY_S / 2) for _ in range(3)] == [0.1, 0.2, 0.4]
    assert [pauses.next_s(STEADY_S), pauses.next_s()] == [0.1, 0.2]
