"""The run half: real pycuda on a driver in host memory, and wrong adapters that must be found."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from contract import figures
from contract.figures import Part
from contract.run_half import toolchain
from contract.run_half.plants import PLANTS

ROOT = Path(__file__).parents[3]
SCENARIOS = (
    "answers", "inline", "threads", "overlap", "responsive", "timed", "shapes", "swap", "cancelled_load",
    "out_of_memory", "too_large", "unservable", "leftover_frames", "refusals", "launch_failure",
    "lost_context", "astray",
)  # fmt: skip
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return toolchain.environment()


def run(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    paths = [str(ROOT / "tests"), str(ROOT), environment["PYTHONPATH"]]
    command = [sys.executable, "-m", "contract.run_half.scenarios", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment | {"PYTHONPATH": ":".join(paths)}, text=True, timeout=TIMEOUT_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)  # the first one builds pycuda
def test_pycuda_is_the_real_one(environment: dict[str, str]) -> None:
    probe = "import pycuda.driver as d; d.init(); print(d.get_driver_version(), d.Device(0).name())"
    found = subprocess.run([sys.executable, "-c", probe], env=environment, text=True, capture_output=True, check=True)
    assert found.stdout.strip() == "12090 Fake CUDA device (host memory)"
    figures.note(Part.RUN, "runs", f"{toolchain.PYCUDA}, compiled here, on a driver in host memory")


def test_the_driver_says_what_decides_over_engines(environment: dict[str, str]) -> None:
    probe = (
        "from pathlib import Path; from proteus_cli.backends import discovery as d; d._KERNEL_MODULE = Path('none');"
        "device, = d.gpu_devices(); print(device.id, device.type, d.describe_gpu(device))"
    )
    found = subprocess.run([sys.executable, "-c", probe], env=environment, text=True, capture_output=True, check=True)
    gpu = "name='Fake CUDA device (host memory)', compute_capability='1.1', multiprocessors=1, driver='CUDA 12.9'"
    assert found.stdout.strip() == f"gpu0 fake-cuda-device-host-memory Gpu({gpu})"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(environment: dict[str, str], scenario: str) -> None:
    found = run(environment, scenario)
    assert found.returncode == 0, found.stdout
    assert "PyCUDA" not in found.stdout, found.stdout  # it warns of what it can't free
    ran = json.loads(found.stdout.splitlines()[-1])
    figures.tell(Part.RUN, "scenarios", scenario, of=len(SCENARIOS))
    figures.tell(Part.RUN, "slots run", scenario, each=ran["slots"])
    figures.tell(Part.RUN, "batches run", scenario, each=ran["batches"])
    for fault, times in ran["faults"].items():
        figures.tell(Part.RUN, f"faults injected: {fault}", scenario, each=times)


@pytest.mark.parametrize("name", PLANTS)
def test_a_wrong_adapter_is_caught(environment: dict[str, str], name: str) -> None:
    found = run(environment, PLANTS[name].scenario, name)
    assert found.returncode != 0, f"not caught: {found.stdout}"
    assert re.search(PLANTS[name].words, found.stdout), found.stdout
    figures.tell(Part.RUN, "wrong adapters caught", name, of=len(PLANTS))


def test_all_scenarios_are_run() -> None:
    source = (Path(__file__).parent / "scenarios.py").read_text(encoding="utf-8")
    assert tuple(re.findall(r"@scenario\nasync def (\w+)", source)) == SCENARIOS
