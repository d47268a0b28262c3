"""What a real driver offers to tests in place of `fake`: it makes no errors, and of what is alive it tells only memory.

Allocators keep some of what they are given back, so memory counts as freed where all but little of it is.
"""

from dataclasses import replace

from contract.runtime.census import CLEAN, Census

from proteus_cli.backends.tensorrt.cuda import primary_context

TOLERANCE = 1e-2
"""Of answers: TensorRT and cuBLAS may compute in TF32, which has ten bits of mantissa."""

KEPT_BYTES = 64 * 2**20


def slow_down(*, copies_s: float = 0.0, compute_s: float = 0.0) -> tuple[float, float]:
    """The device takes as long as it takes: what copies and computations last at least is nothing."""
    return 0.0, 0.0


def census() -> Census:
    context = primary_context(0)
    with context.current():
        free_bytes, total_bytes = context.memory_bytes()
    return replace(CLEAN, device_bytes=total_bytes - free_bytes)


def is_back(before: Census) -> bool:
    return census().device_bytes <= before.device_bytes + KEPT_BYTES


def check_clean(before: Census) -> None:
    """What was made since is gone."""
    now = census()
    assert is_back(before), f"left over: {(now.device_bytes - before.device_bytes) / 2**20:.0f} MiB"
