"""Bounds of docs/security.md under attack: others have answers, and memory grows by no more than is counted."""

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from resource import RLIMIT_CPU, prlimit

import msgspec
import pytest
from attack_bounds import ACCURACIES, LARGE, MAX_BODY_BYTES, MIB, MODELS_BYTES, PHOTOS, ROW, SMALL
from attack_http1 import get, one_row
from attacking import ATTACKS, LIVE, Attack, Bystander, Done, Question
from command_line import proteus
from live_agents import LiveAgent
from live_server import serving

from benchmarks.serving.models import make_models

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended, pytest.mark.from_nothing]

LASTS_S, SETTLES_S, GAP_S, TRIES = 2.0, 0.2, 0.5, 3
COUNTED_BYTES = 16 * MAX_BODY_BYTES  # that all connections share
UNCOUNTED_BYTES = MIB // 2  # of each connection, beside what is counted
BASE_BYTES = 96 * MIB  # of a server's first requests, whoever sends them, and to decode one at a time
DEVICES, KEPT = 96, "b" * 64
SERVE = ("--replan=off", "--grpc-port=0", "--emulate", "--set=plan-history=0", "--set=resume=false")
CATALOG = "format = 1\n" + "".join(
    f'[[family]]\nname = "{family}"\nslo = "{slo}"\n{more}'
    f'[[family.variant]]\nname = "{family}-1"\nonnx = "models/{model}.onnx"\naccuracy = 0.9\n'
    for family, model, slo, more in (
        (SMALL, SMALL, "100ms", ""),
        (LARGE, LARGE, "10s", ""),
        (PHOTOS, LARGE, "10s", "[family.input]\nsize = [224, 224]\n"),
    )
)


@dataclass(frozen=True)
class Target:
    """A server that is ready, or an agent, which has no port for gRPC."""

    pid: int
    port: int
    grpc_port: int
    log: Path

    def memory_bytes(self, of: str = "VmRSS") -> int:
        """Its memory now; ``VmHWM``: the most since ``clear_refs``."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{of}:"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspaces: ``served`` with models, and ``row``, a family of 24 variants without."""
    root = tmp_path_factory.mktemp("attacked")
    served, row = root / "served", root / "row"
    (models := served / "engines" / "models").mkdir(parents=True)
    make_models(models)
    (served / "engines" / "catalog.toml").write_text(CATALOG)
    (served / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n")
    _proteus(served, "profile", "--max-batch", "8", "--budget", "2s")
    demand = f"{SMALL}=10qps,{LARGE}=1qps,{PHOTOS}=1qps"
    _proteus(served, "plan", "--demand", demand, "--residency", "3", "-o", served / "plans" / "plan.json")
    row.mkdir()
    cells = (f"cpu,{ROW},{ROW}-{place},{each:g},1,5,0.1" for place, each in enumerate(ACCURACIES))
    head = "device_type,family,variant,accuracy,batch,latency_ms,load_s"
    (row / "profiles.csv").write_text("\n".join((head, *cells, "")))
    _proteus(row, "profile", "--from-csv", row / "profiles.csv", "--slo", "100ms")
    pins = (f"--rule=pin cpu-{device}:{ROW}-{device % len(ACCURACIES)}" for device in range(DEVICES))
    plans = row / "plans"
    _proteus(row, "plan", "--demand", f"{ROW}=100qps", "--fleet", f"cpu:{DEVICES}", *pins, "-o", plans / "crowded.json")
    _proteus(row, "plan", "--demand", f"{ROW}=100qps", "--fleet", "a=cpu:1", "-o", plans / "deceived.json")
    return root


def _proteus(place: Path, *arguments: str | Path) -> None:
    done = proteus(*arguments, "-w", place)
    assert done.code == 0, done


@contextmanager
def served(root: Path, attack: Attack, directory: Path) -> Iterator[Target]:
    if attack.target == "agent":
        kept = directory / "models" / KEPT
        kept.mkdir(parents=True)
        (kept / "model.onnx").write_bytes(bytes(MIB))
        agent = LiveAgent(directory, None, emulates=True, options=("--max-models-size", f"{MODELS_BYTES // MIB}MiB"))
        agent.start()
        try:
            yield Target(agent.pid, agent.port, 0, directory / "agent.log")
            assert len(list((directory / "models").glob(KEPT))) == 1, "models of others are kept"
        finally:
            agent.stop()
        return
    place, plan = ("row", "crowded") if attack.target == "crowded" else ("served", "plan")
    with serving(root / place, Path(plan), *SERVE, f"--set=max-body={MAX_BODY_BYTES // MIB}MiB") as live:
        yield Target(live.process.pid, live.port, live.grpc_port, live.log)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda attack: attack.name)
def test_others_are_answered_during_an_attack_and_memory_is_bounded(root: Path, attack: Attack, tmp_path: Path) -> None:
    """A gap that the server makes is there each time; one that other programs of the machine make is not."""
    gaps_s = list[float]()
    with served(root, attack, tmp_path) as target:
        while not gaps_s or (gaps_s[-1] > GAP_S and len(gaps_s) < TRIES):
            gaps_s.append(_attacked(target, attack))
        assert "Traceback" not in target.log.read_text()
    assert min(gaps_s) <= GAP_S


def _attacked(target: Target, attack: Attack) -> float:
    """The longest gap of the client beside it; memory and closed connections are as they must be."""
    beside = Bystander(target.pid, target.port, attack.questions)
    beside.ask_for(SETTLES_S)
    Path(f"/proc/{target.pid}/clear_refs").write_text("5", encoding="ascii")
    before_bytes, beside.gap_s = target.memory_bytes(), 0.0
    port = str(target.grpc_port if attack.is_grpc else target.port)
    command = [sys.executable, "-m", "attacking", attack.name, port, str(LASTS_S)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as attacker:
        assert attacker.stdout is not None
        while attacker.poll() is None:
            beside.ask_for(SETTLES_S)
        done = msgspec.json.decode(attacker.stdout.read(), type=Done)
    more_bytes = target.memory_bytes("VmHWM") - before_bytes
    assert more_bytes <= BASE_BYTES + COUNTED_BYTES + attack.connections * UNCOUNTED_BYTES + attack.more_bytes
    assert not attack.is_closed or done.closed == done.opened
    return beside.gap_s


LIAR = """
import sys
from proteus_cli.cli.main import run
from proteus_cli.serving.devices.process import device_server, messages

assert device_server  # has its types
told_s, ran = float(sys.argv.pop(1)), messages.RanEvent
messages.RanEvent = lambda number, *rest: ran(number, told_s, told_s, told_s, 0.0, *rest[-2:])
sys.argv[0] = "proteus"
run()
"""


@pytest.mark.parametrize("told_s", ["1e300", "86400"])
def test_an_agent_that_lies_about_the_time_of_its_batches_is_found_out(root: Path, told_s: str, tmp_path: Path) -> None:
    """Inferences and statistics are answered all the time."""
    command = [sys.executable, "-c", LIAR, told_s, "agent", "--emulate", "--listen", "127.0.0.1:0"]
    with subprocess.Popen([*command, "--state", str(tmp_path)], stdout=subprocess.PIPE, text=True) as liar:
        try:
            assert liar.stdout is not None
            hosts = tmp_path / "hosts.toml"
            hosts.write_text(f'[hosts.a]\naddress = "{liar.stdout.readline().split()[1]}"\n')
            with serving(root / "row", Path("deceived"), "--cluster", str(hosts), *SERVE) as live:
                questions = (LIVE, Question(one_row()), Question(get(b"/v2/models/row/stats")))
                beside = Bystander(live.process.pid, live.port, questions)
                beside.ask_for(LASTS_S)
                assert beside.gap_s <= GAP_S
                assert "Traceback" not in live.log.read_text()
        finally:
            liar.kill()


def test_a_small_gzipped_trace_of_200_million_arrivals_is_described_or_refused_soon(tmp_path: Path) -> None:
    """With 10 s of CPU, and 1 GiB of memory."""
    path, lines = tmp_path / "packed.csv.gz", b"0,a\n" * 1_000_000
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(b"arrival_s,family\n")
        for _ in range(200):
            file.write(lines)
    command = [sys.executable, "-m", "proteus_cli", "trace", "info", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    prlimit(process.pid, RLIMIT_CPU, (20, 20))
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    assert used.ru_utime + used.ru_stime <= 10.0
    assert used.ru_maxrss <= MIB
