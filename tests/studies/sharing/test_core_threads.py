"""Neighbours that are hardware threads of the same physical core are told, and come first."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from tiny import Tiny

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.studies.sharing import drafting
from proteus_cli.studies.sharing.drafting import hardware_devices, shares_a_core


def on(*cores: int) -> Device:
    return Device("d", "cpu-1c", "cpu", "a processor", 2**30, cores)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (on(0), on(4), True),
        (on(0), on(1), False),
        (on(0, 1), on(2, 5), True),
        (on(2), on(3), True),
        (on(2), on(4), False),
        (on(9), on(8), False),
    ],
    ids=["listed", "another core", "one of two cores", "a range", "not in the range", "the system says nothing"],
)
def test_threads_of_one_physical_core_are_found(
    first: Device, second: Device, tmp_path: Path, *, expected: bool
) -> None:
    for core, siblings in enumerate(("0,4", "1,5", "2-3", "2-3", "0,4", "1,5")):
        place = tmp_path / f"cpu{core}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{siblings}\n")
    assert shares_a_core(first, second, tmp_path) is expected
    assert shares_a_core(second, first, tmp_path) is expected


def test_they_come_first_and_are_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tiny.place.profile("cpu0")
    here = [replace(profile.device, id=f"cpu{core}", cores=(core,)) for core in range(4)]
    monkeypatch.setattr(drafting, "discover", lambda _settings: here)
    monkeypatch.setattr(drafting, "shares_a_core", lambda one, other: {one.id, other.id} == {"cpu0", "cpu2"})
    sizes = {VariantKey("shapes", "shapes-s"): (1, 4)}
    found = hardware_devices(tiny.place, tiny.place.catalog(), profile, sizes)
    assert found.names == ("cpu0", "cpu2", "cpu1", "cpu3")
    assert found.neighbours == ("cpu2 (same physical core)", "cpu1", "cpu3")
