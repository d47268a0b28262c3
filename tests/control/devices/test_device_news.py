"""Devices are told of one by one, but those of a host that share its fate once."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.devices.breaker import NEW, BreakerState
from proteus_cli.control.devices.device_news import DeviceHealth, DeviceNews, News

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED
SILENT = "nothing came from it for 500 ms"
B = [f"b/gpu{number}" for number in range(8)]
DEVICES = ["cpu0", "a/gpu0", "a/gpu1", *B]


class Watched:
    """All devices, which serve at first."""

    def __init__(self) -> None:
        self.health = dict.fromkeys(DEVICES, DeviceHealth(CLOSED))
        self.news = DeviceNews(DEVICES)

    def at(self, now_s: float, changes: Mapping[str, DeviceHealth]) -> list[tuple[str, str]]:
        """What is told at a time when these devices are otherwise than before."""
        self.health |= changes
        return [(each.text, each.reason) for each in self.news.look(self.health, now_s)]


def lost(*devices: str, reason: str = "its process has ended", host_loss: str = "") -> dict[str, DeviceHealth]:
    return dict.fromkeys(
        devices, DeviceHealth(OPEN, f"host b is lost: {host_loss}" if host_loss else reason, host_loss)
    )


def tried(*devices: str, host_loss: str = "") -> dict[str, DeviceHealth]:
    return dict.fromkeys(devices, DeviceHealth(HALF_OPEN, "", host_loss))


def serving(*devices: str) -> dict[str, DeviceHealth]:
    return dict.fromkeys(devices, DeviceHealth(CLOSED))


def test_a_lost_host_is_one_event_and_so_is_its_return() -> None:
    watched = Watched()
    assert watched.at(1.0, lost(*B, host_loss=SILENT)) == [("host b is lost: 8 devices", SILENT)]
    assert watched.at(2.0, {}) == []
    assert watched.at(3.0, tried(*B, host_loss=SILENT)) == []
    assert watched.at(3.5, lost(*B, host_loss=SILENT)) == []  # it is not there yet
    assert watched.at(12.0, tried(*B, host_loss=SILENT)) == []
    assert watched.at(13.0, serving(*B[:3])) == []  # the others are still tried out
    assert watched.at(14.5, serving(*B)) == [("host b is back: 8 devices", "it was away for 13.5 s")]
    assert watched.at(20.0, lost(B[0])) == [("b/gpu0: lost", "its process has ended")]


def test_a_host_that_is_seen_when_its_devices_are_tried_out_already_was_lost() -> None:
    watched = Watched()
    assert watched.at(1.0, tried(*B, host_loss=SILENT)) == [("host b is lost: 8 devices", SILENT)]
    assert watched.at(2.0, serving(*B)) == [("host b is back: 8 devices", "it was away for 1.0 s")]
    assert watched.at(3.0, lost("a/gpu0")) == [("a/gpu0: lost", "its process has ended")]
    assert watched.at(4.0, lost("a/gpu1", reason="it hangs")) == [("a/gpu1: lost", "it hangs")]
    assert watched.at(5.0, tried("a/gpu0", "a/gpu1")) == [("a/gpu0: on probation", ""), ("a/gpu1: on probation", "")]


def test_devices_that_are_lost_singly_are_single_events() -> None:
    watched = Watched()
    assert watched.at(1.0, lost("cpu0", B[0], B[1])) == [
        ("cpu0: lost", "its process has ended"),
        ("b/gpu0: lost", "its process has ended"),
        ("b/gpu1: lost", "its process has ended"),
    ]
    assert watched.at(2.0, tried(B[0])) == [("b/gpu0: on probation", "")]
    assert watched.at(3.0, serving(B[0])) == [("b/gpu0: serves again", "")]


def test_all_devices_of_a_host_lost_at_once_for_one_reason_are_the_host() -> None:
    """As emulated hosts are lost, which have no agent. Not where the reasons differ, or where a device goes on."""
    assert Watched().at(1.0, lost("a/gpu0", "a/gpu1")) == [("host a is lost: 2 devices", "its process has ended")]
    assert Watched().at(1.0, lost("a/gpu0") | lost("a/gpu1", reason="it hangs")) == [
        ("a/gpu0: lost", "its process has ended"),
        ("a/gpu1: lost", "it hangs"),
    ]
    watched = Watched()
    assert watched.at(1.0, lost("a/gpu0")) == [("a/gpu0: lost", "its process has ended")]
    assert watched.at(2.0, lost("a/gpu1")) == [("a/gpu1: lost", "its process has ended")]


def test_a_device_that_was_lost_before_its_host_stays_an_event_of_its_own() -> None:
    watched = Watched()
    watched.at(1.0, lost(B[0]))
    assert watched.at(2.0, lost(*B[1:], host_loss=SILENT)) == [("host b is lost: 7 devices", SILENT)]
    assert watched.at(3.0, serving(*B[1:])) == [("host b is back: 7 devices", "it was away for 1.0 s")]
    assert watched.at(4.0, serving(B[0])) == [("b/gpu0: serves again", "")]


def test_devices_that_come_later_than_their_host_are_told_together() -> None:
    watched = Watched()
    watched.at(1.0, lost(*B, host_loss=SILENT))
    assert watched.at(2.0, serving(*B[:5])) == [("host b is back: 5 of 8 devices", "it was away for 1.0 s")]
    assert watched.at(3.0, tried(B[5])) == []
    assert watched.at(3.5, lost(B[5], reason="it has no memory")) == []
    assert watched.at(4.0, serving(B[5])) == [("host b: 1 more device serves", "")]
    assert watched.at(5.0, serving(*B)) == [("host b: 2 more devices serve", "")]
    assert watched.at(6.0, lost(B[7])) == [("b/gpu7: lost", "its process has ended")]


def test_a_host_that_is_lost_again_is_told_again_once_it_was_back() -> None:
    watched = Watched()
    watched.at(1.0, lost(*B, host_loss=SILENT))
    watched.at(2.0, serving(*B[:5]))
    assert watched.at(3.0, lost(*B[:5], host_loss="it ended")) == [("host b is lost: 5 devices", "it ended")]
    assert watched.at(4.0, serving(*B)) == [("host b is back: 8 devices", "it was away for 1.0 s")]


def test_a_host_of_one_device_and_a_device_that_nobody_knew() -> None:
    news = DeviceNews(["c/cpu0"])
    told = news.look({"c/cpu0": DeviceHealth(OPEN, "", SILENT), "d/cpu0": DeviceHealth(OPEN, "it hangs")}, 1.0)
    assert told == [News("host c is lost: 1 device", SILENT), News("d/cpu0: joins")]


def joining(*devices: str, breaker: BreakerState = OPEN, reason: str = NEW) -> dict[str, DeviceHealth]:
    return dict.fromkeys(devices, DeviceHealth(breaker, reason, is_new=True))


def test_a_host_that_joins_is_one_event_and_another_when_it_has() -> None:
    watched, new = Watched(), [f"n/gpu{number}" for number in range(4)]
    assert watched.at(1.0, joining(*new)) == [("host n joins: 4 devices", "")]
    assert watched.at(2.0, joining(*new, breaker=HALF_OPEN)) == []
    assert watched.at(3.0, joining(*new, breaker=CLOSED)) == [("host n has joined: 4 devices", "")]
    assert watched.at(4.0, lost(*new, host_loss=SILENT)) == [("host n is lost: 4 devices", SILENT)]


def test_a_host_that_cannot_join_is_told_of_once_and_joins_later() -> None:
    watched, new = Watched(), ["n/gpu0", "n/gpu1"]
    watched.at(1.0, joining(*new))
    watched.at(2.0, joining(*new, breaker=HALF_OPEN))
    assert watched.at(3.0, joining(*new, reason="no memory")) == [("host n cannot join: 2 devices", "no memory")]
    assert watched.at(4.0, joining(*new, breaker=HALF_OPEN)) == []
    assert watched.at(5.0, joining(*new, reason="no memory")) == []
    assert watched.at(9.0, joining(*new, breaker=CLOSED)) == [("host n has joined: 2 devices", "")]


def test_a_device_that_joins_a_host_that_is_there_is_told_of_alone() -> None:
    watched = Watched()
    assert watched.at(1.0, joining("a/gpu2")) == [("a/gpu2: joins", "")]
    assert watched.at(2.0, joining("a/gpu2", reason="no memory", breaker=HALF_OPEN)) == [
        ("a/gpu2: on probation", "no memory")
    ]
    assert watched.at(3.0, joining("a/gpu2", reason="no memory")) == [("a/gpu2: cannot join", "no memory")]
    assert watched.at(4.0, joining("a/gpu2", reason="", breaker=CLOSED)) == [("a/gpu2: has joined", "")]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(DEVICES), st.tuples(st.sampled_from(BreakerState), st.booleans())), max_size=12
    )
)
def test_whatever_happens_each_loss_of_a_host_that_is_told_has_a_return_that_is_told(
    looks: list[dict[str, tuple[BreakerState, bool]]],
) -> None:
    """And none is known to be lost any more once all devices serve."""
    watched, told = Watched(), list[str]()
    for second, changes in enumerate([*looks, dict.fromkeys(DEVICES, (CLOSED, False))]):
        health = {
            device: DeviceHealth(breaker, "why", SILENT if is_of_host and device != "cpu0" else "")
            for device, (breaker, is_of_host) in changes.items()
        }
        told += [text for text, _ in watched.at(float(second), health)]
    alone = [text for text in told if text.startswith("cpu0: ")]
    assert not alone or alone[-1].endswith("serves again")
    for host in "ab":
        losses = [text for text in told if text.startswith(f"host {host} is lost")]
        returns = [text for text in told if text.startswith(f"host {host} is back")]
        assert len(losses) == len(returns)
    assert watched.news._absences == {}


@pytest.mark.parametrize("number", [1, 100])
def test_hosts_without_number_are_as_many_events_as_hosts(number: int) -> None:
    devices = [f"h{host}/gpu{gpu}" for host in range(number) for gpu in range(8)]
    news = DeviceNews(devices)
    assert len(news.look(dict.fromkeys(devices, DeviceHealth(OPEN, "", SILENT)), 1.0)) == number
