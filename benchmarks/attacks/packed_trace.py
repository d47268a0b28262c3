"""A small gzipped trace of many arrivals, which a command reads."""

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RLIMIT_CPU, prlimit

from benchmarks.attacks.target import MIB
from benchmarks.tables import Aim

NAME = "a gzipped trace of 200 million arrivals"
_ARRIVALS, _LINES = 200_000_000, 1_000_000
_GIVEN_UP_CPU_S, _CPU_S, _MEMORY_MIB = 20, 10.0, 1024.0


def read(root: Path) -> Iterator[Aim]:
    """What `proteus trace info` takes for it, whether it describes or refuses the trace."""
    path = root / "packed.csv.gz"
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(b"arrival_s,family\n")
        for _ in range(_ARRIVALS // _LINES):
            file.write(b"0,a\n" * _LINES)
    command = [sys.executable, "-m", "proteus_cli", "trace", "info", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    prlimit(process.pid, RLIMIT_CPU, (_GIVEN_UP_CPU_S, _GIVEN_UP_CPU_S))
    _, _, used = os.wait4(process.pid, 0)
    yield Aim(
        f"{NAME} ({path.stat().st_size / MIB:.1f} MiB): CPU", used.ru_utime + used.ru_stime, _CPU_S, "s", is_most=True
    )
    yield Aim(f"{NAME}: memory", used.ru_maxrss / 1024, _MEMORY_MIB, "MiB", is_most=True)
