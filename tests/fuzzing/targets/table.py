"""All targets by name."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzzing.targets.target import Target

_CLASSES = {
    "json": "json_bodies.JsonBodies",
    "binary": "binary_bodies.BinaryBodies",
    "http1": "http1_connections.Http1Connections",
    "http2": "http2_frames.Http2Frames",
    "grpc": "grpc_calls.GrpcCalls",
    "images": "images.Images",
    "files": "files.Files",
    "cluster": "cluster_channels.Cluster",
}
TARGETS = tuple(_CLASSES)


def open_target(name: str) -> "Target":
    """Open a target. The project's code is imported only now, so that an engine can watch it."""
    module, _, kind = _CLASSES[name].partition(".")
    opened: Target = getattr(import_module(f"fuzzing.targets.{module}"), kind)()
    return opened
