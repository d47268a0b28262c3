"""Whether CUDA's Multi-Process Service is there, which lets processes share a GPU as one."""

import os
from collections.abc import Mapping
from pathlib import Path

USUAL_PIPE = Path("/tmp/nvidia-mps")  # noqa: S108 - where CUDA looks for it


def sees_mps(environment: Mapping[str, str] = os.environ, usual: Path = USUAL_PIPE) -> bool:
    """Whether the control pipe of its daemon is where programs of this environment look for it."""
    pipe = Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or usual)
    return (pipe / "control").exists()
