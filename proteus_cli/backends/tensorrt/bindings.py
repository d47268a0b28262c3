"""The Python modules of TensorRT and CUDA, imported when they are first used.

So the modules that use them can be imported where they are not installed, and ``trt.Builder`` reads as in NVIDIA's
documentation.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from proteus_cli.errors import BackendUnavailable

if TYPE_CHECKING:
    import pycuda.driver as cuda
    import tensorrt as trt

__all__ = ["LazyModule", "cuda", "tensorrt_version", "trt"]


class LazyModule:
    """A module that is imported on first use. Using it raises `BackendUnavailable` where that fails."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        module = sys.modules.get(self._name) or self._import()
        return getattr(module, attribute)

    def _import(self) -> Any:
        try:
            return importlib.import_module(self._name)
        except ImportError as error:
            raise BackendUnavailable(
                f"The Python module `{self._name}` can't be imported: {error}.",
                hint="pip install 'tensorrt>=10,<12' pycuda",
            ) from error


if not TYPE_CHECKING:
    cuda = LazyModule("pycuda.driver")
    trt = LazyModule("tensorrt")


def tensorrt_version() -> str:
    """The version of TensorRT, like ``10.13.3.9``. Raises `BackendUnavailable` where TensorRT is missing or too old."""
    version = str(trt.__version__)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise BackendUnavailable(
            f"TensorRT {version} can't build strongly typed networks; 10 or 11 can.",
            hint="pip install --upgrade 'tensorrt>=10,<12'",
        )
    return version
