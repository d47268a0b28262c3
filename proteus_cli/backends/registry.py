"""The backend for a device, imported only when it is asked for."""

from pathlib import Path

from proteus_cli.backends.base import Backend
from proteus_cli.backends.build_context import BuildContext
from proteus_cli.domain.device import Device

NO_ENGINES = BuildContext(Path("engines/built"))


def open_backend(device: Device, engines: BuildContext = NO_ENGINES) -> Backend:
    """The backend that runs models on a device; a GPU needs ``engines``.

    Raises `BackendUnavailable` where what it is made of is not installed, `DeviceUnavailable` where a GPU is not here.
    """
    if device.kind == "gpu":
        from proteus_cli.backends.tensorrt.backend import TensorRT  # noqa: PLC0415 - an extra

        return TensorRT(device, engines)
    from proteus_cli.backends.onnxruntime import OnnxRuntime  # noqa: PLC0415 - heavy, so only when needed

    return OnnxRuntime(device)
