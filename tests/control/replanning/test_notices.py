"""Why a plan is asked for: what happened to devices and engines, by host where that says it."""

import pytest

from proteus_cli.control.replanning.notices import DeviceChanged, Notices

B = [f"b/gpu{number}" for number in range(8)]
DEVICES = ["cpu0", "cpu1", "c/cpu0", *B]
LOST, BACK = DeviceChanged.LOST, DeviceChanged.BACK


@pytest.mark.parametrize(
    ("noted", "lost", "text"),
    [
        ([(LOST, "cpu0"), (LOST, "cpu1")], {"cpu0", "cpu1"}, "cpu0 was lost; cpu1 was lost"),
        ([(LOST, "cpu0"), (BACK, "cpu0"), (LOST, "cpu0")], {"cpu0"}, "cpu0 was lost; cpu0 is back"),
        ([("l is broken on cpu0", "")], set(), "l is broken on cpu0"),
        ([(LOST, "c/cpu0")], {"c/cpu0"}, "c/cpu0 was lost"),
        ([(LOST, each) for each in B], set(B), "host b was lost (8 devices)"),
        ([(BACK, each) for each in B], set(), "host b is back (8 devices)"),
        ([(LOST, each) for each in B[1:]], set(B), "host b was lost (7 devices)"),  # one was lost before
        ([(LOST, each) for each in B[:2]], set(B[:2]), "2 of 8 devices of host b were lost"),
        ([(BACK, each) for each in B[:2]], set(B[2:]), "2 of 8 devices of host b are back"),
        ([(DeviceChanged.JOINED, each) for each in B], set(), "host b has joined (8 devices)"),
        ([(DeviceChanged.JOINED, each) for each in B[:2]], set(B[2:]), "2 of 8 devices of host b have joined"),
        ([(LOST, B[0])], {B[0]}, "b/gpu0 was lost"),
        (
            [(LOST, "cpu0"), *((LOST, each) for each in B), ("l is broken on cpu1", ""), (LOST, "c/cpu0")],
            {"cpu0", "c/cpu0", *B},
            "cpu0 was lost; host b was lost (8 devices); l is broken on cpu1; c/cpu0 was lost",
        ),
    ],
)
def test_the_reason_names_hosts_of_which_all_devices_changed(
    noted: list[tuple[DeviceChanged | str, str]], lost: set[str], text: str
) -> None:
    notices = Notices()
    for what, device in noted:
        notices.add(what, device)
    assert notices
    assert notices.text(DEVICES, lost) == text
    notices.clear()
    assert not notices
