"""TensorRT's timing cache: how fast layers ran, kept from build to build, so that the next is several times faster.

There is one file for each device type and version of TensorRT; it is valid for no other.
"""

from pathlib import Path

from proteus_cli import store
from proteus_cli.backends.tensorrt.bindings import tensorrt_version, trt
from proteus_cli.backends.tensorrt.file_lock import file_lock
from proteus_cli.input_files import WEIGHTS, read_bytes


def timing_path(directory: Path) -> Path:
    """The file for the TensorRT that is installed. Raises `BackendUnavailable`."""
    return directory / f"timing-{tensorrt_version()}.cache"


def use_timings(config: "trt.IBuilderConfig", path: Path) -> None:
    """Build with the cache in a file. One that TensorRT refuses counts as empty; `keep_timings` replaces it."""
    if not _use(config, _read(path)):
        _use(config, b"")


def keep_timings(config: "trt.IBuilderConfig", path: Path) -> None:
    """Merge the cache of a build into a file, which another build may have changed. Raises `ArtefactError`."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with file_lock(path.with_name(f".{path.name}.lock")):
        before = _read(path)
        known = config.create_timing_cache(before)
        if known is not None:
            cache.combine(known, ignore_mismatch=False)
        now = bytes(memoryview(cache.serialize()))
        if now != before:
            store.write_bytes(path, now)


def _use(config: "trt.IBuilderConfig", content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))


def _read(path: Path) -> bytes:
    return read_bytes(path, WEIGHTS, hint="delete it: it is made anew") if path.exists() else b""
