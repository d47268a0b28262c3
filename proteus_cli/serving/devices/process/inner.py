"""What a process of its own can run: told to it as it starts, opened there."""

from collections.abc import Mapping

import msgspec

from proteus_cli.backends.base import Signature
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile


class OnCpu(msgspec.Struct, frozen=True, tag=True):
    """ONNX Runtime on the cores of a device."""

    device: Device


class OnGpu(msgspec.Struct, frozen=True, tag=True):
    """TensorRT on a GPU, with so many batches on it at once as it has ``slots``. Engines are kept in ``built``."""

    device: Device
    built: str
    slots: int


class Emulated(msgspec.Struct, frozen=True, tag=True):
    """The device of a profile; ``signatures`` by family."""

    profile: Profile
    signatures: Mapping[str, Signature]

    @property
    def device(self) -> Device:
        return self.profile.device


DeviceSpec = OnCpu | OnGpu | Emulated
