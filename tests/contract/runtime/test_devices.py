"""Which GPUs there are, as the CUDA driver and NVML say it: the real `pynvml`, and our code, on doubles of both."""

import atexit
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from contract.runtime import toolchain
from forking.program import Program, Template

ROOT = Path(__file__).parents[3]
WITHIN_S = 60
NAME = "Fake CUDA device (host memory)"
WHOLE = "fake-cuda-device-host-memory"
SLICE = f"{WHOLE}-mig-1sm-0gb"


def uuid(card: int, slice_: int = 0) -> str:
    fill = "fa" * 16
    text = f"{card:02x}{fill[2:30]}{slice_:02x}"
    return f"{'MIG' if slice_ else 'GPU'}-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return toolchain.environment(nvml=True)


def devices(environment: dict[str, str], *arguments: str, **variables: str) -> str:
    """What `proteus devices` says in an environment with these variables."""
    return proteus(environment, "devices", *arguments, **variables)


def proteus(environment: dict[str, str], *arguments: str, **variables: str) -> str:
    where = environment | {"PYTHONPATH": f"{ROOT}:{environment['PYTHONPATH']}"}
    template = _template(*where.items())
    with Program(
        template, ["proteus_cli", *arguments], env=where | variables, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        said: str = process.communicate(timeout=WITHIN_S)[0]
    assert process.returncode == 0, said
    return said


@cache
def _template(*environment: tuple[str, str]) -> Template:
    """One for each environment of the libraries; it knows no driver, which only its children load."""
    made = Template(("proteus_cli.cli.main", "proteus_cli.backends.discovery"), dict(environment))
    atexit.register(made.close)
    return made


def gpus(environment: dict[str, str], **variables: str) -> list[dict[str, Any]]:
    found = json.loads(devices(environment, "--json", **variables))
    return [device for device in found if device["kind"] == "gpu"]


@pytest.mark.timeout(600)  # the first one compiles
def test_a_device_says_what_the_driver_and_nvml_say(environment: dict[str, str]) -> None:
    (device,) = gpus(environment, FAKE_NVML_REASONS=str(0x4 | 0x40))
    assert (device["id"], device["type"], device["name"], device["memory_bytes"]) == ("gpu0", WHOLE, NAME, 2**30)
    facts = device["gpu"]
    assert (facts["compute_capability"], facts["multiprocessors"], facts["uuid"]) == ("1.1", 2, uuid(0))
    assert facts["driver"]
    assert not facts["is_slice"]
    assert device["readings"] == {
        "power_w": 70.0, "power_limit_w": 150.0, "sm_mhz": 1590, "memory_mhz": 5001,
        "slowed_by": ["power cap", "hardware thermal slowdown"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "cards"),
    [
        ("2,0", [2, 0]),
        (f"{uuid(1)},2", [1, 2]),
        (uuid(2)[:7], [2]),
        ("", []),
        ("1,7,0", [1]),
        ("0,GPU-ffff,1", [0]),
        ("-1", []),
    ],
    ids=["by index", "by UUID", "by its beginning", "none", "up to an index that isn't", "up to a UUID", "minus one"],
)
def test_ordinals_and_readings_are_those_of_what_is_visible(
    visible: str, cards: list[int], environment: dict[str, str]
) -> None:
    """NVML numbers cards otherwise than CUDA does: they meet in the UUID."""
    found = gpus(environment, FAKE_CUDA_CARDS="3", CUDA_VISIBLE_DEVICES=visible)
    assert [device["id"] for device in found] == [f"gpu{place}" for place in range(len(cards))]
    assert [device["gpu"]["uuid"] for device in found] == [uuid(card) for card in cards]
    assert [device["readings"]["power_w"] for device in found] == [70.0 + 10 * card for card in cards]


def test_a_slice_is_a_device_of_its_own_type(environment: dict[str, str]) -> None:
    """The driver's name is that of the whole card here, so profiles and engines would mix."""
    cards = {"FAKE_CUDA_CARDS": "2", "FAKE_CUDA_MIG_CARD": "1"}
    (whole,) = gpus(environment, **cards)
    (cut,) = gpus(environment, **cards, CUDA_VISIBLE_DEVICES=uuid(1, 2))
    assert (whole["type"], cut["type"]) == (WHOLE, SLICE)
    assert (cut["gpu"]["uuid"], cut["gpu"]["is_slice"], cut["memory_bytes"]) == (uuid(1, 2), True, 2**29)
    assert cut["readings"] is None  # what the whole card draws is no power of its slice


@pytest.mark.parametrize(
    ("lacks", "unknown"), [("energy", set()), ("clocks", {"sm_mhz", "memory_mhz"}), ("power", {"power_w"})]
)
def test_values_that_nvml_lacks_are_unknown(lacks: str, unknown: set[str], environment: dict[str, str]) -> None:
    (device,) = gpus(environment, FAKE_NVML_LACKS=lacks)
    assert {name for name, value in device["readings"].items() if value is None} == unknown


def test_without_nvml_only_readings_are_missing() -> None:
    (device,) = gpus(toolchain.environment())
    assert (device["gpu"]["uuid"], device["readings"]) == (uuid(0), None)


def test_doctor_shows_a_gpu_and_says_why_there_is_none(environment: dict[str, str], tmp_path: Path) -> None:
    doctor = ("doctor", "--json", "-w", str(tmp_path))
    (seen,) = (each for each in json.loads(proteus(environment, *doctor)) if each["what"] == "gpu0")
    assert seen["found"].startswith(f"{NAME}, 1.0 GiB, compute 1.1, driver ")
    findings = json.loads(proteus(environment, *doctor, CUDA_VISIBLE_DEVICES="9"))
    (hidden,) = (each for each in findings if each["what"] == "gpu")
    assert (hidden["found"], hidden["hint"]) == (
        "the CUDA driver shows no device", "CUDA_VISIBLE_DEVICES is `9`; unset it to see all",
    )  # fmt: skip


def test_the_table_shows_devices_and_readings(environment: dict[str, str]) -> None:
    said = devices(environment, COLUMNS="200", FAKE_NVML_REASONS="4")
    for words in ("compute 1.1", "70 of 150 W", "1590 MHz", "held down by: power cap"):
        assert words in said


PROBE = """
import time
from builders import make_point
from proteus_cli.backends.discovery import gpu_devices
from proteus_cli.backends.nvml import nvml_device
from proteus_cli.profiling.cells import MIN_POWER_S, measuring_power

device, = gpu_devices()
meter = nvml_device(device.gpu.uuid, is_slice=False)
with measuring_power(meter) as draw:
    time.sleep(MIN_POWER_S * 1.2)
point = draw(make_point(4, 0.01))
print(point.power_w, point.energy_j)
"""


@pytest.mark.parametrize("counts_energy", [True, False])
def test_power_is_measured_with_the_real_binding(counts_energy: bool, environment: dict[str, str]) -> None:  # noqa: FBT001
    """80 W of the second card, which is gpu0 here: 0.2 J of each of 400 rows a second, where energy is counted."""
    variables = {"FAKE_CUDA_CARDS": "2", "CUDA_VISIBLE_DEVICES": "1"} | (
        {} if counts_energy else {"FAKE_NVML_LACKS": "energy"}
    )
    paths = f"{ROOT}:{ROOT / 'tests'}:{environment['PYTHONPATH']}"
    found = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment | {"PYTHONPATH": paths} | variables,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    power_w, energy_j = found.stdout.split()
    assert float(power_w) == pytest.approx(80.0, rel=0.05)
    assert energy_j == "None" or float(energy_j) == pytest.approx(0.2, rel=0.05)
    assert (energy_j != "None") is counts_energy
