"""The servers that are compared: what each is made of, how it is started, and what it can be asked."""

import os
import signal
import socket
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks.serving.programs.models import DELAY_S, MAX_BATCH, SCORES, SHAPES
from benchmarks.serving.venvs import ROOT
from benchmarks.serving.wire import GRPC_INFER, OIP_BINARY, OIP_GRPC, OIP_JSON, PLAIN_JSON, RAW, ROWS_JSON, Dialect

Route = tuple[str, str]
"""(family, json or binary or grpc)"""
Command = tuple[Sequence[str | Path], Mapping[str, str]]
"""What to run, and variables beyond the usual ones."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server is to run: its own ``directory``, the ``python`` of its environment, ports that are free.

    ``tree`` is the checkout of the project whose code runs.
    """

    directory: Path
    python: Path
    models: Path
    workspace: Path
    routes: tuple[Route, ...]
    instances: int
    ports: tuple[int, int, int]
    tree: Path = ROOT

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(family for family, _ in self.routes))

    @property
    def http_port(self) -> int:
        return self.ports[0]

    @property
    def grpc_port(self) -> int:
        return self.ports[1]

    @property
    def metrics_port(self) -> int:
        return self.ports[2]

    def environment(self) -> dict[str, str]:
        """What all servers get."""
        return dict(os.environ) | {
            "PYTHONPATH": str(self.tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.directory),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "BENCH_MODELS": str(self.models),
            "BENCH_ROUTES": ",".join(f"{family}:{kind}" for family, kind in self.routes),
            "BENCH_INSTANCES": str(self.instances),
            "BENCH_PORT": str(self.http_port),
            "BENCH_GRPC_PORT": str(self.grpc_port),
            "BENCH_METRICS_PORT": str(self.metrics_port),
            "BENCH_DIRECTORY": str(self.directory),
        }


@dataclass(frozen=True, slots=True)
class Peer:
    """``speaks``: dialect and path (with ``{family}``) by kind; ``lacks``: why it isn't asked the other kinds.

    ``warm_up_s`` of load come before each measurement. ``alone``: it serves one family at a time, on a port that it
    announces. ``stop``: the signal that ends it in order. ``remark``: what a reader of its figures should know.
    """

    name: str
    packages: tuple[str, ...]
    command: Callable[[Site], Command]
    speaks: Mapping[str, tuple[Dialect, str]]
    lacks: Mapping[str, str] = field(default_factory=dict)
    warm_up_s: float = 0.3
    alone: bool = False
    stop: signal.Signals = signal.SIGTERM
    remark: str = ""


def free_ports() -> tuple[int, int, int]:
    """Three ports that nobody listens on now."""
    with ExitStack() as stack:
        one, two, three = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3))
        return one.getsockname()[1], two.getsockname()[1], three.getsockname()[1]


# --- how each is started

_LIBPYTHON = str(sysconfig.get_config_var("LIBDIR"))  # the stub of Triton's backend links with it


def _proteus(site: Site) -> Command:
    plan = site.families[0] if len(site.families) == 1 else "all"
    place = ("--replan=off", "--port", "0", "--workspace", str(site.workspace))
    grpc = ("--grpc-port", str(site.grpc_port)) if any(kind == "grpc" for _, kind in site.routes) else ()
    return [site.python, "-m", "proteus_cli", "serve", plan, *place, *grpc], {}


def _program(name: str) -> Callable[[Site], Command]:
    return lambda site: ([site.python, "-m", f"benchmarks.serving.programs.{name}"], {})


def _mosec(site: Site) -> Command:
    command, _ = _program("mosec_server")(site)
    return [*command, "--address", "127.0.0.1", "--port", str(site.http_port)], {}


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
        _triton_model(repository / family, family, site.instances)
    ports = {"http": site.http_port, "grpc": site.grpc_port, "metrics": site.metrics_port}
    listening = [
        part for what, port in ports.items() for part in (f"--{what}-address=127.0.0.1", f"--{what}-port={port}")
    ]
    where = (f"--model-repository={repository}", f"--backend-directory={site.directory / backends}")
    command: list[str | Path] = [server / "bin" / "tritonserver", *where, *listening]
    return command, {"LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{_LIBPYTHON}"}


def _triton_model(directory: Path, family: str, instances: int) -> None:
    program = ROOT / "benchmarks" / "serving" / "programs" / "triton_model.py"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.py").symlink_to(program)
    shape = ", ".join(str(size) for size in SHAPES[family])
    (directory / "config.pbtxt").write_text(
        f'name: "{family}"\n'
        'backend: "python"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{shape}] }}]\n'
        f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{SCORES}] }}]\n'
        f"instance_group [{{ kind: KIND_CPU count: {instances} }}]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {round(1e6 * DELAY_S)} }}\n",
        encoding="utf-8",
    )


def _pytriton(site: Site) -> Command:
    command, _ = _program("pytriton_server")(site)
    return command, {"LD_LIBRARY_PATH": _LIBPYTHON}


def _mlserver(site: Site) -> Command:
    server = {
        "host": "127.0.0.1",
        "http_port": site.http_port,
        "grpc_port": site.grpc_port,
        "metrics_port": site.metrics_port,
        "parallel_workers": site.instances,
        "metrics_dir": str(site.directory),
    }
    (site.directory / "settings.json").write_bytes(msgspec.json.encode(server))
    for family in site.families:
        model = {
            "name": family,
            "implementation": "benchmarks.serving.programs.mlserver_runtime.Classifier",
            "max_batch_size": MAX_BATCH,
            "max_batch_time": DELAY_S,
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *SHAPES[family]]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, SCORES]}],
        }
        (site.directory / family).mkdir()
        (site.directory / family / "model-settings.json").write_bytes(msgspec.json.encode(model))
    return (site.python.with_name("mlserver"), "start", site.directory), {}


def _bentoml(site: Site) -> Command:
    service = "benchmarks.serving.programs.bentoml_service:Classifiers"
    listening = ("--host", "127.0.0.1", "--port", str(site.http_port))
    variables = {"BENTOML_HOME": str(site.directory), "BENTOML_DO_NOT_TRACK": "True"}
    command = (site.python.with_name("bentoml"), "serve", service, *listening, "--working-dir", str(ROOT))
    return command, variables


def _ray(site: Site) -> Command:
    command, _ = _program("ray_server")(site)
    return command, {"RAY_USAGE_STATS_ENABLED": "0"}


# --- the table

ONNXRUNTIME = f"onnxruntime=={version('onnxruntime')}"  # what proteus itself runs
_OIP = {"json": (OIP_JSON, "/v2/models/{family}/infer"), "binary": (OIP_BINARY, "/v2/models/{family}/infer")}
_OIP_GRPC = {"grpc": (OIP_GRPC, GRPC_INFER)}
_NO_GRPC = {"grpc": "gRPC is compared among servers of the Open Inference Protocol"}
_PLAIN = {"json": (PLAIN_JSON, "/{family}/json"), "binary": (RAW, "/{family}/binary")}
_TRITON = ("nvidia-pytriton==0.7.0", ONNXRUNTIME)

PEERS = (
    Peer("mosec", ("mosec==0.9.8", "msgspec==0.22.0", ONNXRUNTIME), _mosec, _PLAIN, _NO_GRPC),
    Peer(
        "triton",
        _TRITON,
        _triton,
        _OIP | _OIP_GRPC,
        remark="the server of the `nvidia-pytriton` wheel, started as it is, with its python backend",
    ),
    Peer("pytriton", _TRITON, _pytriton, _OIP | _OIP_GRPC, stop=signal.SIGINT),
    Peer(
        "mlserver",
        ("mlserver==1.7.1", "uvloop==0.21.0", ONNXRUNTIME),
        _mlserver,
        {"json": _OIP["json"]} | _OIP_GRPC,
        {"binary": "its REST has no binary tensors"},
    ),
    Peer(
        "litserve",
        ("litserve==0.2.19", ONNXRUNTIME),
        _program("litserve_server"),
        {"json": (PLAIN_JSON, "/{family}")},
        _NO_GRPC | {"binary": "it reads JSON and forms, no raw body"},
    ),
    Peer(
        "bentoml",
        ("bentoml==1.4.40", ONNXRUNTIME),
        _bentoml,
        {"json": (ROWS_JSON, "/{family}")},
        _NO_GRPC | {"binary": "its batches take JSON or pickles, no raw body"},
        remark="it chooses adaptively how long a batch waits",
    ),
    Peer(
        "ray",
        ("ray[serve]==2.60.0", ONNXRUNTIME),
        _ray,
        {"json": (PLAIN_JSON, "/{family}"), "binary": (RAW, "/{family}")},
        _NO_GRPC,
        warm_up_s=1.0,  # it is slow at first
    ),
    Peer(
        "fastapi",
        ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", ONNXRUNTIME),
        _program("fastapi_server"),
        _PLAIN,
        _NO_GRPC,
        remark="no batching",
    ),
    Peer(
        "proteus",
        (),
        _proteus,
        _OIP | _OIP_GRPC,
        alone=True,
        remark="`proteus serve PLAN --replan=off`; a plan for each family, so that no capacity is reserved for others",
    ),
)
