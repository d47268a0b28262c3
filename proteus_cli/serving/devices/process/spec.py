"""The device that a process of its own opens: the server sends one of these in its first message."""

from collections.abc import Mapping

import msgspec

from proteus_cli.backends.base import Signature
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile


class CpuSpec(msgspec.Struct, frozen=True, tag=True):
    """ONNX Runtime on the cores of a device."""

    device: Device


class GpuSpec(msgspec.Struct, frozen=True, tag=True):
    """TensorRT on a GPU that runs up to ``slots`` batches at once; engines are kept in the directory ``built``."""

    device: Device
    built: str
    slots: int


class EmulatedSpec(msgspec.Struct, frozen=True, tag=True):
    """The emulated device of a profile; ``signatures`` by family."""

    profile: Profile
    signatures: Mapping[str, Signature]

    @property
    def device(self) -> Device:
        return self.profile.device


DeviceSpec = CpuSpec | GpuSpec | EmulatedSpec
