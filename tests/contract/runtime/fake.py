"""What the fake driver offers to tests, called past pycuda."""

import ctypes
from collections import Counter
from dataclasses import fields

from contract.runtime.census import CLEAN, Census

TOLERANCE = 1e-5  # of answers
LAUNCH_FAILED, ILLEGAL_ADDRESS, UNKNOWN = 719, 700, 999

_driver = ctypes.CDLL("libcuda.so.1")

injected: Counter[str] = Counter()
"""Faults that were injected and came out as they should."""


def census() -> Census:
    values = (ctypes.c_long * len(fields(Census)))()
    _driver.fake_census(values)
    return Census(*values)


def busy_s() -> tuple[float, float]:
    """How long the parts of the device were busy: each by itself, added up, and any of them."""
    each, any_of_them = ctypes.c_double(), ctypes.c_double()
    _driver.fake_busy(ctypes.byref(each), ctypes.byref(any_of_them))
    return each.value, any_of_them.value


def copied_bytes() -> tuple[int, int, int]:
    """What was copied until now: to the device, to the host, and within the device."""
    values = (ctypes.c_long * 3)()
    _driver.fake_copied(values)
    to_device, to_host, within = values
    return to_device, to_host, within


def is_back(before: Census) -> bool:
    """Whether all that was made since is gone."""
    return census() == before


def check_clean(_before: Census) -> None:
    """Nothing is left of what this process made, and it did nothing that should not be done."""
    left = census()
    assert left == CLEAN, f"left over or done wrong: {left}"


def slow_down(*, copies_s: float = 0.0, compute_s: float = 0.0) -> tuple[float, float]:
    """From now on each copy and each computation takes at least so long, one of a kind at a time."""
    _driver.fake_set_copy_delay_us(ctypes.c_long(round(copies_s * 1e6)))
    _driver.fake_set_compute_delay_us(ctypes.c_long(round(compute_s * 1e6)))
    return copies_s, compute_s


def fail_allocations_from(n: int) -> None:
    """From the n-th on, which is 1 for the next, there is no memory; 0 takes it back."""
    _driver.fake_fail_allocations_from(n)


def fail_launch(n: int, error: int) -> None:
    """The n-th from now loses the context when it would run."""
    _driver.fake_fail_launch(n, error)


def have_stack_fail() -> None:
    """Once the context is lost, to push and to pop it are errors, too, though it is popped."""
    _driver.fake_have_stack_fail()


def lose_context(error: int) -> None:
    _driver.fake_lose_context(error)
