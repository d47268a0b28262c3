"""What telemetry costs: CPU time of its readings while a study samples, as a part of one core."""

import time

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.studies.telemetry import EVERY_S, reader

READINGS, FEW = 200, 20
MAX_PERCENT = 2.0


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """Read as the sampler does, as often as it does in some minutes, and count the CPU time of this thread."""
    read, count = reader(()), FEW if is_quick else READINGS
    read()
    before_s = time.thread_time()
    for _ in range(count):
        read()
    each_s = (time.thread_time() - before_s) / count
    return Found(
        [f"a reading takes {1e3 * each_s:.2f} ms of a core, every {EVERY_S:g} s"],
        [Aim("telemetry", 100 * each_s / EVERY_S, MAX_PERCENT, "% of a core", is_most=True)],
    )
