"""Which CPU devices have hardware threads of the same physical core: these share its units, and all of its caches."""

from collections.abc import Sequence
from pathlib import Path

from proteus_cli.domain.device import Device

_CPUS = Path("/sys/devices/system/cpu")


def shares_a_core(first: Device, second: Device, cpus: Path = _CPUS) -> bool:
    """Whether a core of one device is a hardware thread of a physical core of the other; not where nothing says so."""
    siblings = {sibling for core in first.cores for sibling in _siblings(core, cpus)}
    return not siblings.isdisjoint(second.cores)


def _siblings(core: int, cpus: Path) -> Sequence[int]:
    """The hardware threads of a core's physical core, as Linux lists them: ``0,4`` or ``0-1``."""
    path = cpus / f"cpu{core}" / "topology" / "thread_siblings_list"
    if not path.is_file():
        return (core,)
    ranges = (part.split("-") for part in path.read_text(encoding="ascii").strip().split(","))
    return [thread for first, *last in ranges for thread in range(int(first), int((last or [first])[0]) + 1)]
