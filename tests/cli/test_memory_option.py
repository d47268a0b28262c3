"""The setting ``memory``: what variants may take of each device, and what of it is given by default."""

import pytest
from builders import make_profile

from proteus_cli.errors import UsageError
from proteus_cli.serving.workspace.memory import memory_limits
from proteus_cli.units import parse_sizes

GIB = 2**30
DEVICES = {name: make_profile(name, device_type=kind, memory_bytes=8 * GIB).device for name, kind in
           (("cpu0", "cpu"), ("cpu1", "cpu"), ("old0", "old"))}  # fmt: skip


def limits(text: str | None, free_bytes: int | None = None) -> list[int]:
    """In GiB, by device."""
    given = parse_sizes(text) if text is not None else None
    return [limit // GIB for limit in memory_limits(given, DEVICES, free_bytes).values()]


def test_a_size_is_for_each_device_and_a_type_or_an_id_for_its_own() -> None:
    assert limits("3GiB") == [3, 3, 3]
    assert limits("3GiB,old=2GiB") == [3, 3, 2]
    assert limits("cpu=2GiB,cpu1=1GiB") == [2, 1, 4]
    assert limits("0B") == [0, 0, 0]


def test_half_of_each_device_is_the_default_and_no_more_than_half_of_what_is_free() -> None:
    """12 GiB are free for three CPU devices, which makes 4 for each."""
    assert limits(None) == [4, 4, 4]
    assert limits(None, free_bytes=12 * GIB) == [2, 2, 2]
    assert limits("cpu0=8GiB", free_bytes=12 * GIB) == [8, 2, 2]


def test_a_device_that_is_not_there_and_more_memory_than_there_is_are_refused() -> None:
    with pytest.raises(UsageError, match="names `gpu0`") as caught:
        limits("gpu0=1GiB")
    assert caught.value.hint == "there are: cpu, old, cpu0, cpu1, old0"
    with pytest.raises(UsageError, match=r"9\.0 GiB of `cpu1`, which has 8\.0 GiB"):
        limits("cpu1=9GiB")


def test_where_the_memory_of_a_device_is_unknown_only_a_given_size_counts() -> None:
    unknown = {"v100-0": make_profile("v100-0", memory_bytes=0).device}
    assert memory_limits(None, unknown) == {"v100-0": 0}
    assert memory_limits(parse_sizes("2GiB"), unknown) == {"v100-0": 2 * GIB}
