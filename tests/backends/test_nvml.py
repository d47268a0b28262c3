"""Why there may be no readings of a GPU. What there is to read is tested on a double of NVML, in tests/contract."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proteus_cli.backends import nvml
from proteus_cli.backends.base import BuildContext
from proteus_cli.backends.nvml import nvml_device, readings_of
from proteus_cli.backends.tensorrt.backend import TensorRT
from proteus_cli.domain.device import Device, GpuFacts

FACTS = GpuFacts("7.5", 40, "550.54", uuid="GPU-00000000-0000-0000-0000-000000000000")
GPU = Device("gpu0", "tesla-t4", "gpu", "Tesla T4", 2**30, gpu=FACTS)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    nvml._library.cache_clear()
    yield
    nvml._library.cache_clear()


def test_without_the_binding_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_device(FACTS.uuid, is_slice=False) == "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    assert readings_of(GPU) is None


def test_without_the_library_it_says_so() -> None:
    """The real binding, on a machine without a driver, or with other GPUs."""
    found = nvml_device(FACTS.uuid, is_slice=False)
    assert isinstance(found, str)
    assert found.startswith(("NVML can't be used: ", f"NVML knows no {FACTS.uuid}: "))


def test_a_device_that_is_not_here_has_no_readings() -> None:
    assert readings_of(Device("v100", "v100", "gpu", "v100", 0)) is None


def test_a_line_says_once_that_power_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    said: list[str] = []
    backend = object.__new__(TensorRT)  # what makes one needs a GPU
    backend._device, backend._builds = GPU, BuildContext(Path(), say=said.append)
    assert backend.meter is None
    assert backend.meter is None
    (line,) = said
    assert line.startswith("gpu0: its power is not measured: nvidia-ml-py is not installed")
