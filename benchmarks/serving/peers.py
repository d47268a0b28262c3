"""The servers that are compared: their packages, how each is started, and what it can be asked.

mosec and Triton are installed into environments of their own under build/peers. Proteus runs from a checkout of the
project, on a workspace that is profiled and planned in a `laboratory`.
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from benchmarks.frame import ROOT
from benchmarks.serving.load import LoadFailed, Target, first_objection
from benchmarks.serving.models import Samples, make_models, make_samples
from benchmarks.serving.processes import NotStarted, Process, running
from benchmarks.serving.programs.models import DELAY_S, MAX_BATCH, SCORES, SHAPES
from benchmarks.serving.wire import GRPC_INFER, OIP_BINARY, OIP_GRPC, OIP_JSON, PLAIN_JSON, RAW, Dialect

ENVIRONMENTS = ROOT / "build" / "peers"
INSTALLED_WITHIN_S, READY_WITHIN_S, PROTEUS_WITHIN_S = 600, 90.0, 300
SLO_S = 0.1
PROFILE_BUDGET = "20s"
ALL_QPS = 1_000_000  # more than can be served: the plan gives the family all of every device
_READY = re.compile(rb"^ready http://127\.0\.0\.1:(\d+)", re.MULTILINE)
_LIBPYTHON = str(sysconfig.get_config_var("LIBDIR"))  # the stub of Triton's backend links with it

Route = tuple[str, str]
"""(family, json or binary or grpc)"""


@dataclass(frozen=True, slots=True)
class Lab:
    """Shared by all servers: the directory of this run, models, a profiled workspace, samples by family.

    ``tree`` is the checkout of the project whose code runs.
    """

    directory: Path
    models: Path
    workspace: Path
    samples: Mapping[str, Samples]
    tree: Path = ROOT

    def proteus(self, *arguments: str) -> None:
        """Run a command of that tree. Raises `SystemExit` with its words where it fails."""
        command = (sys.executable, "-m", "proteus_cli", *arguments, "--workspace", str(self.workspace))
        variables = os.environ | {"PYTHONPATH": str(self.tree)}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROTEUS_WITHIN_S,
            cwd=self.workspace,
            env=variables,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"`proteus {' '.join(arguments)}` failed with {done.returncode}:\n{done.stderr}")


@contextmanager
def laboratory(tree: Path = ROOT, slo_s: float = SLO_S) -> Iterator[Lab]:
    """A directory with models, and a workspace that is profiled and planned; gone on the way out."""
    with TemporaryDirectory(prefix="pb") as name:
        workspace = Path(name) / "ws"
        models = workspace / "engines" / "models"
        models.mkdir(parents=True)
        make_models(models)
        os.environ["BENCH_MODELS"] = str(models)
        families = (
            f'[[family]]\nname = "{family}"\nslo = "{1000 * slo_s:g}ms"\n'
            f'[[family.variant]]\nname = "{family}-1"\nonnx = "models/{family}.onnx"\naccuracy = 0.9\n'
            for family in SHAPES
        )
        (workspace / "engines" / "catalog.toml").write_text("format = 1\n" + "".join(families), encoding="utf-8")
        (workspace / "proteus.toml").write_text(
            f"[devices]\ncpu = [[{min(os.sched_getaffinity(0))}]]\n", encoding="utf-8"
        )
        lab = Lab(Path(name), models, workspace, {family: make_samples(family) for family in SHAPES}, tree)
        profile_and_plan(lab)
        yield lab


def profile_and_plan(lab: Lab) -> None:
    """Profile what the workspace has no profile of, and make a plan for each family."""
    lab.proteus("profile", "--max-batch", str(MAX_BATCH), "--budget", PROFILE_BUDGET)
    for family in SHAPES:
        lab.proteus("plan", "--demand", f"{family}={ALL_QPS}qps", "-o", f"plans/{family}.json")


@dataclass(frozen=True, slots=True)
class Site:
    """The place of a server: its own ``directory``, the ``python`` of its environment, its route, free ports."""

    lab: Lab
    directory: Path
    python: Path
    families: tuple[str, ...]
    has_grpc: bool
    ports: tuple[int, int, int]


Command = tuple[Sequence[str | Path], Mapping[str, str]]
"""The command line, and variables beyond the usual ones."""


@dataclass(frozen=True, slots=True)
class Peer:
    """``speaks``: dialect and path (with ``{family}``) by kind. Proteus has no ``packages``, and announces its port."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Site], Command]
    speaks: Mapping[str, tuple[Dialect, str]]


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that listens."""

    peer: Peer
    process: Process
    http_port: int
    grpc_port: int
    lab: Lab
    directory: Path

    def target(self, route: Route) -> Target:
        """One of its routes, to put load on, once its answers are right. Raises `LoadFailed` or `NotStarted`."""
        family, kind = route
        dialect, path = self.peer.speaks[kind]
        port = self.grpc_port if dialect.over_http2 else self.http_port
        tree, samples = self.process.tree, self.lab.samples[family]
        target = Target(tree, port, family, dialect, path.format(family=family), samples, self.directory)
        stop_s, objection = time.monotonic() + READY_WITHIN_S, "no answer"
        while time.monotonic() < stop_s:
            self.process.require_alive()
            if not (objection := first_objection(target)):
                return target
            time.sleep(0.2)
        raise LoadFailed(f"{objection}; {self.process.log_end()}")


@contextmanager
def serving(peer: Peer, routes: Sequence[Route], lab: Lab) -> Iterator[Server]:
    """Start a peer with these routes and stop it on the way out. Raises `NotStarted`."""
    directory = Path(mkdtemp(prefix="s", dir=lab.directory))
    families = tuple(dict.fromkeys(family for family, _ in routes))
    python = environment(peer.name, peer.packages) if peer.packages else Path(sys.executable)
    site = Site(lab, directory, python, families, any(kind == "grpc" for _, kind in routes), _free_ports())
    command, more = peer.command(site)
    log = directory / "log"
    variables = dict(os.environ) | {
        "PYTHONPATH": str(lab.tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(directory),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "BENCH_MODELS": str(lab.models),
        "BENCH_ROUTES": ",".join(f"{family}:{kind}" for family, kind in routes),
        **more,
    }
    try:
        with running(command, variables, log=log, directory=lab.tree) as process:
            port = site.ports[0] if peer.packages else _announced_port(process, log)
            yield Server(peer, process, port, site.ports[1], lab, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _announced_port(process: Process, log: Path) -> int:
    stop_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < stop_s:
        process.require_alive()
        ready = _READY.search(log.read_bytes())
        if ready is not None:
            return int(ready[1])
        time.sleep(0.05)
    raise NotStarted(f"not ready within {READY_WITHIN_S:.0f} s; {process.log_end()}")


def _free_ports() -> tuple[int, int, int]:
    """For HTTP, gRPC and metrics."""
    with ExitStack() as stack:
        one, two, three = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3))
        return one.getsockname()[1], two.getsockname()[1], three.getsockname()[1]


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment that has these packages; made anew where it has others. Raises `NotStarted`."""
    directory = ENVIRONMENTS / name
    stamp, wanted = directory / "installed", hashlib.sha256(" ".join(packages).encode()).hexdigest()
    python = directory / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (
        (sys.executable, "-m", "venv", str(directory)),
        (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages),
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALLED_WITHIN_S, env=variables, check=False
        )
        if done.returncode:
            raise NotStarted(f"`{' '.join(command)}` failed: {' '.join(done.stderr[-500:].split())}")
    stamp.write_text(wanted, encoding="ascii")
    return python


# --- how each is started


def proteus(*options: str) -> Callable[[Site], Command]:
    """With more options of `proteus serve`."""

    def command(site: Site) -> Command:
        place = ("--replan=off", "--port", "0", "--workspace", str(site.lab.workspace))
        grpc = ("--grpc-port", str(site.ports[1])) if site.has_grpc else ()
        return [site.python, "-m", "proteus_cli", "serve", site.families[0], *place, *grpc, *options], {}

    return command


def _mosec(site: Site) -> Command:
    listening = ("--address", "127.0.0.1", "--port", str(site.ports[0]))
    return [site.python, "-m", "benchmarks.serving.programs.mosec_server", *listening], {}


def _triton(site: Site) -> Command:
    """The server that PyTriton's wheel carries, with the stub of this Python beside its backend.

    The stub ignores ``PYTHONPATH``: it finds packages by the first ``python3`` of ``PATH``, and us where it starts.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = site.python.parents[1] / "lib" / f"python{python}" / "site-packages"
    server, repository, backends = packages / "pytriton" / "tritonserver", site.directory / "models", Path("backends")
    stub = server / "python_backend_stubs" / python
    python_backend = site.directory / backends / "python"
    python_backend.mkdir(parents=True)
    for file in [*(server / "backends" / "python").iterdir(), stub / "triton_python_backend_stub"]:
        (python_backend / file.name).symlink_to(file)
    for family in site.families:
        _triton_model(repository / family, family)
    named = zip(("http", "grpc", "metrics"), site.ports, strict=True)
    listening = [part for what, port in named for part in (f"--{what}-address=127.0.0.1", f"--{what}-port={port}")]
    where = (f"--model-repository={repository}", f"--backend-directory={site.directory / backends}")
    command: list[str | Path] = [server / "bin" / "tritonserver", *where, *listening]
    return command, {"LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{_LIBPYTHON}"}


def _triton_model(directory: Path, family: str) -> None:
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.py").symlink_to(ROOT / "benchmarks" / "serving" / "programs" / "triton_model.py")
    shape = ", ".join(str(size) for size in SHAPES[family])
    (directory / "config.pbtxt").write_text(
        f'name: "{family}"\n'
        'backend: "python"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{shape}] }}]\n'
        f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{SCORES}] }}]\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {round(1e6 * DELAY_S)} }}\n",
        encoding="utf-8",
    )


ONNXRUNTIME = f"onnxruntime=={version('onnxruntime')}"  # what proteus itself runs
_PLAIN = {"json": (PLAIN_JSON, "/{family}/json"), "binary": (RAW, "/{family}/binary")}
_OIP = {
    "json": (OIP_JSON, "/v2/models/{family}/infer"),
    "binary": (OIP_BINARY, "/v2/models/{family}/infer"),
    "grpc": (OIP_GRPC, GRPC_INFER),
}
PROTEUS = Peer("proteus", (), proteus(), _OIP)
RIVALS = (
    Peer("mosec", ("mosec==0.9.8", "msgspec==0.22.0", ONNXRUNTIME), _mosec, _PLAIN),
    Peer("triton", ("nvidia-pytriton==0.7.0", ONNXRUNTIME), _triton, _OIP),
)
