"""Starts of one variant on one device, cold and warm in turn."""

import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import EngineError
from proteus_cli.studies.frame import JobTurn
from proteus_cli.studies.results import ProcessStart, Starts, Startup
from proteus_cli.studies.startup.child import StartSpec

CAN_EVICT = hasattr(os, "posix_fadvise")

_PACKAGES = {"cpu": ("onnxruntime",), "gpu": ("tensorrt", "tensorrt_libs", "tensorrt_bindings", "pycuda")}
"""What the backend of a kind of device consists of; what is not installed is left out."""


def evict(files: Iterable[Path]) -> None:
    """Ask the system to forget the content of files. Pages that are not on the disk yet, or mapped, may stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def backend_files(device: Device) -> list[Path]:
    """The files of the backend of a device, found without importing it."""
    found = []
    for name in _PACKAGES[device.kind]:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            found += [path for path in Path(place).rglob("*") if path.is_file()]
    return found


TIMEOUT_S = 300.0
FEWEST = 3
"""The least number of starts of each condition, whatever the budget."""

MEDIAN_CONFIDENCE = 0.95

_CHILD = "proteus_cli.studies.startup.child"


@dataclass(frozen=True, slots=True)
class Subject:
    """A variant on a device: its model as it is loaded, where engines are built, and the files that are evicted."""

    key: VariantKey
    device: Device
    backend: str
    model: Path
    built: Path
    files: Sequence[Path]


def start_once(subject: Subject) -> ProcessStart:
    """One fresh process. Raises `EngineError` where it fails."""
    spec = StartSpec(time.monotonic(), subject.device, str(subject.model), *subject.key, built=str(subject.built))
    command = [sys.executable, "-m", _CHILD, msgspec.json.encode(spec).decode()]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False, process_group=0
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"`{subject.key.variant}` gave no answer within {TIMEOUT_S:.0f} s of its start.",
            hint=f"`proteus doctor` checks {subject.device.id} and its software",
        ) from None
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineError(
            f"`{subject.key.variant}` does not start: {why[-1] if why else 'it said nothing'}",
            hint=f"`proteus doctor` checks {subject.device.id} and its software",
        )
    return msgspec.json.decode(done.stdout, type=ProcessStart)


def startup(
    subject: Subject,
    runs: int,
    turn: JobTurn,
    *,
    once: Callable[[Subject], ProcessStart] = start_once,
    evicting: Callable[[Sequence[Path]], None] | None = evict if CAN_EVICT else None,
    now_s: Callable[[], float] = time.monotonic,
) -> Startup:
    """``runs`` starts of each condition; fewer if the time is over, but at least `FEWEST`. Raises `EngineError`."""
    ends_s = now_s() + turn.allowed_s
    once(subject)  # it builds the engine and compiles modules, which later starts do not
    cold: list[ProcessStart] = []
    warm: list[ProcessStart] = []
    while len(warm) < runs and (len(warm) < FEWEST or now_s() < ends_s):
        if evicting is not None:
            evicting(subject.files)
            cold.append(once(subject))
        warm.append(once(subject))
        turn.advance(f"start {len(warm)} of {runs}", len(warm) / runs)
    key, found = subject.key, starts_of(cold) if cold else None
    return Startup(key.family, key.variant, subject.device.id, subject.backend, starts_of(warm), found)


def starts_of(starts: Sequence[ProcessStart]) -> Starts:
    """Summarise starts, at least one."""
    times = sorted(start.answered_s for start in starts)
    low, high = median_ranks(len(times))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return Starts(len(times), middle, times[low], times[high], times[-1], tuple(starts))


def median_ranks(count: int) -> tuple[int, int]:
    """The places of two sorted values, of ``count``, between which the true median lies with 95 % confidence.

    The number of values below the median is binomial (H. A. David, H. N. Nagaraja, Order Statistics, 2003, 7.1). With
    too few values these are the first and the last.
    """
    outside, rank = 0.0, 0
    while rank < (count - 1) // 2:
        outside += math.comb(count, rank) / 2**count
        if 2 * outside > 1 - MEDIAN_CONFIDENCE:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return rank, count - 1 - rank
