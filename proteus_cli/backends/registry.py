"""Which backend runs the models of a device. A backend is imported only when it is opened."""

from pathlib import Path

from proteus_cli.backends.base import Backend, BuildContext
from proteus_cli.backends.exits.loading import WithExits
from proteus_cli.domain.device import Device

_BUILDS = BuildContext(Path("engines/built"))


def open_backend(device: Device, builds: BuildContext = _BUILDS) -> Backend:
    """The backend for a device. ``builds`` is for backends that build engines, such as TensorRT.

    Raises `BackendUnavailable` where its runtime is not installed, `DeviceUnavailable` where the GPU is missing.
    """
    if device.kind == "gpu":
        from proteus_cli.backends.tensorrt.backend import TensorRT  # noqa: PLC0415 - an extra

        return TensorRT(device, builds)
    from proteus_cli.backends.onnxruntime import OnnxRuntime  # noqa: PLC0415 - heavy, so only when needed

    return WithExits(OnnxRuntime(device))
