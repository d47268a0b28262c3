"""The backend for a device, imported only when it is asked for."""

from proteus_cli.backends.base import Backend
from proteus_cli.domain.device import Device
from proteus_cli.errors import BackendUnavailable


def open_backend(device: Device) -> Backend:
    """The backend that runs models on a device. Raises `BackendUnavailable`."""
    if device.kind == "gpu":
        raise BackendUnavailable(
            f"`{device.id}` ({device.name}) is a GPU, and this version has no backend for GPUs.",
            hint="use the CPU devices; `proteus devices` lists them",
        )
    from proteus_cli.backends.onnxruntime import OnnxRuntime  # noqa: PLC0415 - heavy, so only when needed

    return OnnxRuntime(device)
