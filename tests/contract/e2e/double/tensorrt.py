"""Stands for `tensorrt` where no GPU is: TensorRT-RTX builds, and ONNX Runtime runs in the order of the fake driver.

What RTX builds can't run without a GPU. So each build is made, must succeed, and is then left for the ONNX file.
"""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

from contract.runtime.double_tensorrt import DataType, Runtime, TensorIOMode, nptype
from contract.runtime.plans import make_plan


def _load_libraries() -> None:
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    assert found is not None
    assert found.submodule_search_locations
    for library in sorted(Path(found.submodule_search_locations[0]).glob("*.so*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_load_libraries()
import tensorrt_rtx_bindings as rtx  # noqa: E402 - its libraries come first

__all__ = ["DataType", "Runtime", "TensorIOMode", "nptype"]
__name__ = "tensorrt-double"  # the backend is named after it
__version__ = f"{rtx.__version__}+double"

ErrorCode = rtx.ErrorCode
HardwareCompatibilityLevel = rtx.HardwareCompatibilityLevel
ILogger = rtx.ILogger
IProgressMonitor = rtx.IProgressMonitor
MemoryPoolType = rtx.MemoryPoolType
NetworkDefinitionCreationFlag = rtx.NetworkDefinitionCreationFlag

_parsed: list[Path] = []


class OnnxParser(rtx.OnnxParser):  # type: ignore[misc]  # a base without stubs
    def parse_from_file(self, model: str) -> bool:
        _parsed.append(Path(model))
        return bool(super().parse_from_file(model))


class Builder(rtx.Builder):  # type: ignore[misc]  # a base without stubs
    def create_optimization_profile(self) -> Any:
        self._profile = super().create_optimization_profile()
        return self._profile

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        """One build at a time, as the cache has it."""
        if super().build_serialized_network(network, config) is None:
            return None
        (max_rows, *_) = self._profile.get_shape(network.get_input(0).name)[2]
        return make_plan(_parsed[-1], max_rows)
