"""What there is to run on: asked in a process of its own, as what opens the driver stays in a process."""

import ctypes
import importlib.util
from dataclasses import dataclass

FAKE = "Fake CUDA device"


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this machine, and what computes on it."""

    name: str
    driver: str
    compute: str

    def __str__(self) -> str:
        return f"{self.name}, driver {self.driver}, computing with {self.compute}"


def find() -> Gpu | str:
    """The GPU, or why nothing can be run on one here."""
    from proteus_cli.backends.discovery import describe_gpu, gpu_devices  # noqa: PLC0415 - asked when it is needed

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is here (libcuda.so.1)"
    found = gpu_devices()
    if not found:
        return "the NVIDIA driver here has no device"
    if found[0].name.startswith(FAKE):
        return "the driver here is the fake one, and that is what `make contract` is for"
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: pip install pycuda"
    compute = next((name for name in ("tensorrt", "cupy") if importlib.util.find_spec(name) is not None), None)
    if compute is None:
        return "neither TensorRT nor CuPy is installed to compute with"
    return Gpu(found[0].name, describe_gpu(found[0]).driver, compute)
