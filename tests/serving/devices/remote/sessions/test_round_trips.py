"""The round trip that counts: the shortest lately."""

from proteus_cli.serving.devices.remote.sessions.crossings import WINDOW_S, RoundTrips


def test_single_long_ones_do_not_count() -> None:
    trips = RoundTrips()
    assert trips.shortest_s == 0.0
    for number, took_s in enumerate((0.002, 0.3, 0.001, 0.5)):
        trips.add(took_s, 0.1 * number)
    assert trips.shortest_s == 0.001


def test_a_network_that_gets_slower_or_faster_is_noticed_within_two_windows() -> None:
    trips, now_s = RoundTrips(), 0.0
    for took_s in (0.001, 0.1, 0.02):
        for _ in range(30):
            now_s += WINDOW_S / 10
            trips.add(took_s, now_s)
        assert trips.shortest_s == took_s
    trips.add(0.001, now_s)
    assert trips.shortest_s == 0.001


def test_clocks_of_two_machines_that_run_differently_give_no_negative_times() -> None:
    trips = RoundTrips()
    trips.add(-1e-6, 5.0)
    assert trips.shortest_s == 0.0
