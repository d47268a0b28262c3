"""NVIDIA's `trtexec`: how it is called, and what it says.

Its throughput counts batches: runs of the engine over all streams, by the wall-clock time that they took in all
(NVIDIA's documentation, "Command-Line Programs"). Inputs and outputs are copied for each, as here.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PLACES = ("/opt/tensorrt/bin", "/usr/src/tensorrt/bin")
"""Where NVIDIA's containers and packages put it."""

WARM_UP_S = 0.5

_THROUGHPUT = re.compile(r"Throughput: ([0-9.e+]+) qps")
_VERSION = re.compile(r"TensorRT [Vv]ersion: ([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Said:
    """Batches per second, and the version of TensorRT where it was told."""

    batches_per_s: float
    version: str | None


def find() -> Path | None:
    found = shutil.which("trtexec") or next((p for d in PLACES if (p := shutil.which("trtexec", path=d))), None)
    return Path(found) if found else None


def command(
    trtexec: Path, plan: Path, inputs: Sequence[tuple[str, Sequence[int]]], *, streams: int, for_s: float
) -> list[str]:
    """``inputs`` are names and shapes, the batch included."""
    shapes = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in inputs)
    return [
        str(trtexec),
        f"--loadEngine={plan}",
        f"--shapes={shapes}",
        f"--infStreams={streams}",
        f"--duration={for_s:g}",
        f"--warmUp={round(WARM_UP_S * 1e3)}",
    ]


def run(call: Sequence[str]) -> Said:
    """Raises `RuntimeError` with the end of what it said, where it failed or told no throughput."""
    done = subprocess.run(call, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"trtexec failed ({done.returncode}): {_end_of(done.stdout)}")
    return parse(done.stdout)


def parse(said: str) -> Said:
    """What `trtexec` prints at the end. Raises `RuntimeError` where that isn't one throughput."""
    found = _THROUGHPUT.findall(said)
    if len(found) != 1 or float(found[0]) <= 0:
        raise RuntimeError(f"trtexec tells {len(found)} throughputs: {_end_of(said)}")
    version = _VERSION.search(said)
    return Said(float(found[0]), version[1] if version else None)


def _end_of(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-5:])
