"""Files out of the file cache, so that they are read from the disk again."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from proteus_cli.domain.device import Device

CAN_EVICT = hasattr(os, "posix_fadvise")

_PACKAGES = {"cpu": ("onnxruntime",), "gpu": ("tensorrt", "tensorrt_libs", "tensorrt_bindings", "pycuda")}
"""What the backend of a kind of device consists of; what is not installed is left out."""


def evict(files: Iterable[Path]) -> None:
    """Ask the system to forget the content of files. Pages that are not on the disk yet, or mapped, may stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def backend_files(device: Device) -> list[Path]:
    """The files of the backend of a device, found without importing it."""
    found = []
    for name in _PACKAGES[device.kind]:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            found += [path for path in Path(place).rglob("*") if path.is_file()]
    return found
