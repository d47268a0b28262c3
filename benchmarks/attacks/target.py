"""What is attacked: `proteus serve` on a workspace with three families, profiled and planned; on 96 devices; or with an
agent that lies; and an agent.

All devices are emulated: no batch takes processor time that the event loop needs.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attacks.watched import FILE, Longest
from benchmarks.serving.models import make_models
from benchmarks.serving.processes import NotStarted, Process, running
from benchmarks.serving.venvs import ROOT

SMALL, LARGE, PHOTOS, ROW = "tiny", "image", "photos", "row"
SMALL_SHAPE, LARGE_ROWS, LARGE_SHAPE = (64,), 3, (3, 224, 224)
VALUES = LARGE_ROWS * 3 * 224 * 224
"""Of the largest request that is sent."""

MIB = 2**20
MAX_BODY_BYTES = 16 * MIB
COUNTED_BYTES = 16 * MAX_BODY_BYTES  # that all connections share
UNCOUNTED_BYTES = MIB // 2  # of each connection, beside what is counted
DECODED_BYTES = 400 * MIB  # what it takes to decode a large image
MESSAGE_BYTES = 2**30  # the largest between a server and an agent
MODELS_BYTES = 2 * MIB  # what an agent may keep of models
ACCURACIES = tuple(0.5 + number / 50 for number in range(24))
"""Of the variants of the family `ROW`."""

_DEVICES = 96
_KEPT = "b" * 64

_CATALOG = "format = 1\n" + "".join(
    f'[[family]]\nname = "{family}"\nslo = "{slo}"\n{more}'
    f'[[family.variant]]\nname = "{family}-1"\nonnx = "models/{model}.onnx"\naccuracy = 0.9\n'
    for family, model, slo, more in (
        (SMALL, SMALL, "100ms", ""),
        (LARGE, LARGE, "10s", ""),
        (PHOTOS, LARGE, "10s", "[family.input]\nsize = [224, 224]\n"),
    )
)
_READY = re.compile(rb"^ready (?:http://)?127\.0\.0\.1:(\d+)(?: grpc://127\.0\.0\.1:(\d+))?", re.MULTILINE)
_SERVE = ("--replan=off", "--port", "0", "--grpc-port", "0", "--emulate", "--set=plan-history=0", "--set=resume=false")
_AGENT = ("agent", "--emulate", "--listen", "127.0.0.1:0")
_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is ready, or an agent, at its ``http_port``."""

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

    def models_kept(self) -> int | None:
        """How many there are of the models that were at the agent before; None for a server."""
        models = self.log.parent / "agent" / "models"
        return len(list(models.glob(_KEPT))) if models.exists() else None


def make_workspaces(root: Path) -> None:
    """``root/served``: models, a short profile, and a plan for all families; ``root/row``: a family without models."""
    served, row = root / "served", root / "row"
    models = served / "engines" / "models"
    models.mkdir(parents=True)
    make_models(models)
    (served / "engines" / "catalog.toml").write_text(_CATALOG, encoding="utf-8")
    (served / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n", encoding="utf-8")
    _proteus(served, "profile", "--max-batch", "8", "--budget", "2s")
    demand = f"{SMALL}=10qps,{LARGE}=1qps,{PHOTOS}=1qps"
    _proteus(served, "plan", "--demand", demand, "--residency", "3", "-o", "plans/plan.json")
    row.mkdir()
    cells = (f"cpu,{ROW},{ROW}-{place},{each:g},1,5,0.1" for place, each in enumerate(ACCURACIES))
    head = "device_type,family,variant,accuracy,batch,latency_ms,load_s"
    (row / "profiles.csv").write_text("\n".join((head, *cells, "")), encoding="utf-8")
    _proteus(row, "profile", "--from-csv", "profiles.csv", "--slo", "100ms")
    pins = (f"--pin=cpu-{device}:{ROW}-{device % len(ACCURACIES)}" for device in range(_DEVICES))
    _proteus(row, "plan", "--demand", f"{ROW}=100qps", "--fleet", f"cpu:{_DEVICES}", *pins, "-o", "plans/crowded.json")
    _proteus(row, "plan", "--demand", f"{ROW}=100qps", "--fleet", "a=cpu:1", "-o", "plans/deceived.json")


def server(root: Path) -> AbstractContextManager[Target]:
    """A server of all families but `ROW`. Raises `NotStarted`, like the others."""
    return _ready(root / "served", "serve", "plans/plan.json", *_SERVE, f"--set=max-body={MAX_BODY_BYTES // MIB}MiB")


def crowded(root: Path) -> AbstractContextManager[Target]:
    """A server of `ROW` on many devices."""
    return _ready(root / "row", "serve", "plans/crowded.json", *_SERVE)


@contextmanager
def deceived(root: Path, told_s: str) -> Iterator[Target]:
    """A server of `ROW` on an agent that tells this time of each batch."""
    directory = Path(tempfile.mkdtemp(dir=root))
    with _ready(directory, *_AGENT, program=("benchmarks.attacks.liar", told_s)) as liar:
        hosts = directory / "hosts.toml"
        hosts.write_text(f'[hosts.a]\naddress = "127.0.0.1:{liar.http_port}"\n', encoding="utf-8")
        with _ready(root / "row", "serve", "plans/deceived.json", "--cluster", str(hosts), *_SERVE) as target:
            yield target


@contextmanager
def agent(root: Path) -> Iterator[Target]:
    """An agent that has the model of a server that is gone."""
    directory = Path(tempfile.mkdtemp(dir=root))
    kept = directory / "agent" / "models" / _KEPT
    kept.mkdir(parents=True)
    (kept / "model.onnx").write_bytes(bytes(MIB))
    with _ready(directory, *_AGENT, "--max-models-size", f"{MODELS_BYTES // MIB}MiB") as target:
        yield target


@contextmanager
def _ready(
    directory: Path, *arguments: str, program: Sequence[str] = ("benchmarks.attacks.watched",)
) -> Iterator[Target]:
    log, longest = directory / f"{arguments[0]}.log", Longest(directory / "longest")
    command = [sys.executable, "-m", *program, *arguments]
    with running(command, _environment() | {FILE: str(longest.path)}, log=log, directory=directory) as process:
        stop_s = time.monotonic() + _WITHIN_S
        while (ready := _READY.search(log.read_bytes())) is None:
            process.require_alive()
            if time.monotonic() > stop_s:
                raise NotStarted(process.log_end())
            time.sleep(0.02)
        yield Target(process, longest, int(ready[1]), int(ready[2] or 0), log)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _proteus(root: Path, *arguments: str) -> None:
    command = (sys.executable, "-m", "proteus_cli", *arguments, "--workspace", str(root))
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=_environment(), check=False)
    if done.returncode:
        raise SystemExit(f"`proteus {' '.join(arguments)}` failed with {done.returncode}:\n{done.stderr}")
