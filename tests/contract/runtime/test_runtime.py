"""The runtime part: real pycuda on a driver in host memory, and wrong adapters that must be found."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from contract import figures
from contract.figures import ContractPart
from contract.runtime import toolchain
from contract.runtime.arithmetic import Network
from contract.runtime.forked import Forked, forking
from contract.runtime.running import ROOT, check_passed, run, scenarios
from contract.runtime.wrong_adapters import WRONG_ADAPTERS
from tiny import INPUTS, mlp

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device

FAKE, REAL, HOST = "fake", "real", "host"

SCENARIOS = scenarios(FAKE)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return toolchain.environment()


@pytest.fixture(scope="module")
def forked(environment: dict[str, str]) -> Iterator[Forked]:
    with forking(environment) as made:
        yield made


@pytest.mark.timeout(600)  # the first one builds pycuda
def test_pycuda_is_the_real_one(environment: dict[str, str]) -> None:
    probe = "import pycuda.driver as d; d.init(); print(d.get_driver_version(), d.Device(0).name())"
    found = subprocess.run([sys.executable, "-c", probe], env=environment, text=True, capture_output=True, check=True)
    assert found.stdout.strip() == "12090 Fake CUDA device (host memory)"
    figures.note(ContractPart.RUN, "runs", f"{toolchain.PYCUDA}, compiled here, on a driver in host memory")


def test_the_driver_describes_the_gpu_that_engines_are_built_for(environment: dict[str, str]) -> None:
    probe = (
        "from pathlib import Path; from proteus_cli.backends import discovery as d; d._KERNEL_MODULE = Path('none');"
        "device, = d.gpu_devices(); print(device.id, device.type, d.describe_gpu(device))"
    )
    found = subprocess.run([sys.executable, "-c", probe], env=environment, text=True, capture_output=True, check=True)
    gpu = "name='Fake CUDA device (host memory)', compute_capability='1.1', multiprocessors=2, driver='CUDA 12.9'"
    assert found.stdout.strip() == f"gpu0 fake-cuda-device-host-memory Gpu({gpu})"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(forked: Forked, scenario: str) -> None:
    made = check_passed(forked.run(scenario))
    figures.tell(ContractPart.RUN, "scenarios", scenario, of=len(SCENARIOS))
    figures.tell(ContractPart.RUN, "slots run", scenario, each=made["slots"])
    figures.tell(ContractPart.RUN, "batches run", scenario, each=made["batches"])
    for fault, times in made["faults"].items():
        figures.tell(ContractPart.RUN, f"faults injected: {fault}", scenario, each=times)


@pytest.mark.parametrize("name", WRONG_ADAPTERS)
def test_a_wrong_adapter_is_caught(forked: Forked, name: str) -> None:
    found = forked.run(WRONG_ADAPTERS[name].scenario, name)
    assert "can't be made" not in found.stdout, found.stdout
    assert found.returncode != 0, f"not caught: {found.stdout}"
    assert re.search(WRONG_ADAPTERS[name].words, found.stdout), found.stdout
    figures.tell(ContractPart.RUN, "wrong adapters caught", name, of=len(WRONG_ADAPTERS))


@pytest.mark.parametrize("scenario", ["answers", "swap", "exits", "leaving"])
def test_scenarios_for_a_real_gpu_run_on_the_fake_driver(environment: dict[str, str], scenario: str) -> None:
    """With memory as the one thing that a real driver counts, and without its delays."""
    assert scenario in scenarios(REAL)
    found = run(environment | {"CONTRACT_DEVICE": REAL, "CONTRACT_COMPUTE": HOST}, scenario)
    assert check_passed(found)["batches"] > (0 if scenario == "leaving" else 100)


def test_the_tests_for_a_gpu_do_not_take_the_fake_driver_for_one(environment: dict[str, str]) -> None:
    probe = [sys.executable, "-c", "from gpu.here import find; print(find())"]
    paths = {"PYTHONPATH": f"{ROOT / 'tests'}:{environment['PYTHONPATH']}"}
    found = subprocess.run(probe, env=environment | paths, text=True, capture_output=True, check=True)
    assert found.stdout.strip() == "the driver here is the fake one, and that is what `make contract` is for"


def test_the_network_for_cupy_computes_the_same(tmp_path: Path) -> None:
    """CuPy offers numpy's names."""
    model, x = mlp(tmp_path / "m.onnx"), np.random.default_rng(0).random((5, INPUTS), dtype=np.float32)
    with OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))).runner(model) as runner:
        wanted = runner.infer({"x": x})["scores"]
    np.testing.assert_allclose(Network(model.read_bytes(), np).compute({"x": x})["scores"], wanted, rtol=1e-5)
