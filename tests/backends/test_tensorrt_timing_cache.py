"""The file of timings: used where it fits, replaced where it doesn't, and shared by builds that run at once.

The fake keeps timings as TensorRT's objects do; the builder that runs on a CPU (`tests/contract`) keeps none.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from proteus_cli.backends.tensorrt.timing_cache import keep_timings, timing_path, use_timings

PREFIX = b"timings of t4\n"


class FakeCache:
    """Timings by layer; those of another device, or what isn't whole, can't be read."""

    def __init__(self, content: bytes) -> None:
        self.is_of_this_device = content.startswith(PREFIX) or not content
        self.layers = set(content.removeprefix(PREFIX).split())

    def combine(self, input_cache: "FakeCache", ignore_mismatch: bool) -> bool:  # noqa: FBT001 - as TensorRT has it
        assert not ignore_mismatch
        if input_cache.is_of_this_device:
            self.layers |= input_cache.layers
        return input_cache.is_of_this_device

    def serialize(self) -> bytes:
        return PREFIX + b" ".join(sorted(self.layers))


class FakeConfig:
    """What `IBuilderConfig` does with timings; ``time`` is what a build would do."""

    cache: FakeCache | None = None

    def create_timing_cache(self, serialized_timing_cache: bytes) -> FakeCache | None:
        is_readable = serialized_timing_cache.startswith(b"timings of ") or not serialized_timing_cache
        return FakeCache(serialized_timing_cache) if is_readable else None

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:  # noqa: FBT001 - as TensorRT has it
        assert not ignore_mismatch
        if cache.is_of_this_device:
            self.cache = cache
        return cache.is_of_this_device

    def get_timing_cache(self) -> FakeCache | None:
        return self.cache

    def time(self, *layers: bytes) -> set[bytes]:
        """The layers that had to be timed, as they weren't known."""
        assert self.cache is not None
        new = set(layers) - self.cache.layers
        self.cache.layers |= new
        return new


def opened(path: Path) -> Any:
    """The configuration of a build that begins."""
    config: Any = FakeConfig()
    use_timings(config, path)
    return config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t4" / "timing.cache"


def test_a_build_uses_the_timings_of_the_one_before(path: Path) -> None:
    first = opened(path)
    assert first.time(b"conv", b"relu") == {b"conv", b"relu"}
    keep_timings(first, path)
    assert opened(path).time(b"conv", b"gemm") == {b"gemm"}


@pytest.mark.parametrize(
    "content", [b"garbage", b"", b"timings of a100\nconv"], ids=["garbage", "empty", "another GPU"]
)
def test_a_file_that_tensorrt_refuses_counts_as_empty_and_is_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    config = opened(path)
    assert config.time(b"conv") == {b"conv"}
    keep_timings(config, path)
    assert path.read_bytes() == PREFIX + b"conv"


def test_builds_that_run_at_once_keep_the_timings_of_both(path: Path) -> None:
    one, other = opened(path), opened(path)
    one.time(b"conv")
    other.time(b"gemm")
    keep_timings(one, path)
    keep_timings(other, path)
    assert path.read_bytes() == PREFIX + b"conv gemm"


def test_a_file_with_nothing_new_is_left_as_it_is(path: Path) -> None:
    config = opened(path)
    config.time(b"conv")
    keep_timings(config, path)
    before = path.stat().st_ino
    keep_timings(opened(path), path)
    assert path.stat().st_ino == before


def test_each_version_of_tensorrt_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("10.13.3.9", "11.4.0.106"):
        fake = ModuleType("tensorrt")
        flags = SimpleNamespace(STRONGLY_TYPED=1)
        fake.__dict__.update(__version__=version, NetworkDefinitionCreationFlag=flags)
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        assert timing_path(tmp_path) == tmp_path / f"timing-{version}.cache"
