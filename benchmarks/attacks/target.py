"""The server that is attacked: a workspace with three families, profiled and planned, and `proteus serve` on it.

Its devices are emulated: no batch takes processor time that the event loop needs.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attacks.watched import FILE, Longest
from benchmarks.serving.models import make_models
from benchmarks.serving.processes import NotStarted, Process, running
from benchmarks.serving.venvs import ROOT

SMALL, LARGE, PHOTOS = "tiny", "image", "photos"
SMALL_SHAPE, LARGE_ROWS, LARGE_SHAPE = (64,), 7, (3, 224, 224)
VALUES = LARGE_ROWS * 3 * 224 * 224
"""Of the largest request that is sent."""

MIB = 2**20
MAX_BODY_BYTES = 16 * MIB
COUNTED_BYTES = 16 * MAX_BODY_BYTES  # that all connections share
UNCOUNTED_BYTES = MIB // 2  # of each connection, beside what is counted
DECODED_BYTES = 2 * 400 * MIB  # what two threads take to decode images

_CATALOG = "format = 1\n" + "".join(
    f'[[family]]\nname = "{family}"\nslo = "{slo}"\n{more}'
    f'[[family.variant]]\nname = "{family}-1"\nonnx = "models/{model}.onnx"\naccuracy = 0.9\n'
    for family, model, slo, more in (
        (SMALL, SMALL, "100ms", ""),
        (LARGE, LARGE, "10s", ""),
        (PHOTOS, LARGE, "10s", "[family.input]\nsize = [224, 224]\n"),
    )
)
_READY = re.compile(rb"^ready http://127\.0\.0\.1:(\d+) grpc://127\.0\.0\.1:(\d+)", re.MULTILINE)
_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    process: Process
    longest: Longest
    http_port: int
    grpc_port: int
    log: Path

    @property
    def pid(self) -> int:
        return self.process.popen.pid

    def begin_peak(self) -> None:
        """Have ``VmHWM`` count from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def memory_bytes(self, of: str = "VmRSS") -> int:
        """What it has in memory now; ``VmHWM``: has had at most, since `begin_peak`."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{of}:"))


def make_workspace(root: Path) -> None:
    """Models, a short profile, and a plan for all families."""
    models = root / "engines" / "models"
    models.mkdir(parents=True)
    make_models(models)
    (root / "engines" / "catalog.toml").write_text(_CATALOG, encoding="utf-8")
    (root / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n", encoding="utf-8")
    _proteus(root, "profile", "--max-batch", "8", "--budget", "2s")
    demand = f"{SMALL}=10qps,{LARGE}=1qps,{PHOTOS}=1qps"
    _proteus(root, "plan", "--demand", demand, "--residency", "3", "-o", "plans/plan.json")


@contextmanager
def server(root: Path) -> Iterator[Server]:
    """A server of that workspace, for the length of the block. Raises `NotStarted`."""
    log = root / "server.log"
    command = [
        sys.executable, "-m", "benchmarks.attacks.watched", "serve", "plans/plan.json", "--replan=off", "--port", "0",
        "--grpc-port", "0", "--emulate", "--max-body", f"{MAX_BODY_BYTES // MIB}MiB", "--plan-history", "0",
        "--no-resume",
    ]  # fmt: skip
    longest = Longest(root / "longest")
    with running(command, _environment() | {FILE: str(longest.path)}, log=log, directory=root) as process:
        stop_s = time.monotonic() + _WITHIN_S
        while (ready := _READY.search(log.read_bytes())) is None:
            process.require_alive()
            if time.monotonic() > stop_s:
                raise NotStarted(process.log_end())
            time.sleep(0.02)
        yield Server(process, longest, int(ready[1]), int(ready[2]), log)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _proteus(root: Path, *arguments: str) -> None:
    command = (sys.executable, "-m", "proteus_cli", *arguments, "--workspace", str(root))
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=_environment(), check=False)
    if done.returncode:
        raise SystemExit(f"`proteus {' '.join(arguments)}` failed with {done.returncode}:\n{done.stderr}")
