"""Built engines on the disk: taken as they are while they are current, else built anew; whole or not at all."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from builders import make_key

from proteus_cli import store
from proteus_cli.backends.base import OnBuildProgress, WatchBuild, unwatched
from proteus_cli.backends.tensorrt.cache import CachedEngine, EngineRequest, files_of, find_or_build, why_stale
from proteus_cli.backends.tensorrt.file_lock import file_lock
from proteus_cli.backends.tensorrt.records import EngineKey
from proteus_cli.errors import ArtefactError, BuildCancelled, EngineError, UsageError

KEY = make_key()
OTHER_DIGEST = "f" * 64
WITHIN_S = 30.0


@dataclass
class Builder:
    """Makes plans that differ each time, and counts them."""

    built: Path
    said: list[str] = field(default_factory=list)
    plans: int = 0

    def __call__(self, _progress: OnBuildProgress) -> bytes:
        self.plans += 1
        return b"plan %d" % self.plans

    def find_or_build(
        self,
        key: EngineKey = KEY,
        build: Callable[[OnBuildProgress], bytes] | None = None,
        *,
        variant: str = "a-s",
        watch: WatchBuild = unwatched,
    ) -> CachedEngine:
        wanted = EngineRequest("tesla-t4", "a", variant, key)
        return find_or_build(self.built, wanted, build or self, self.said.append, watch)

    def builds(self, key: EngineKey = KEY, *, variant: str = "a-s") -> bool:
        """Whether `find_or_build` builds an engine."""
        before = self.plans
        self.find_or_build(key, variant=variant)
        return self.plans > before


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "built")


def test_an_engine_lies_where_triton_looks_for_it(builder: Builder) -> None:
    found = builder.find_or_build()
    assert found.plan == builder.built / "tesla-t4" / "a__a-s" / "1" / "model.plan"
    assert found.plan.read_bytes() == b"plan 1"
    assert {path.name for path in found.plan.parent.iterdir()} == {"model.plan", "model.json"}


def test_the_record_says_what_was_built_from_what(builder: Builder) -> None:
    found = builder.find_or_build()
    record = files_of(builder.built, "tesla-t4", "a", "a-s").read_record()
    assert record == found.record
    assert (record.device_type, record.family, record.variant, record.key) == ("tesla-t4", "a", "a-s", KEY)
    assert (record.plan_digest, record.plan_bytes) == (store.digest(found.plan), 6)
    assert record.build_s >= 0


def test_a_current_engine_is_not_built_again(builder: Builder) -> None:
    assert [builder.builds() for _ in range(3)] == [True, False, False]
    assert builder.plans == 1
    assert builder.said == ["building a/a-s for tesla-t4: there is none yet"]


def test_variants_have_engines_of_their_own(builder: Builder) -> None:
    builder.find_or_build(variant="a-s")
    builder.find_or_build(variant="a-l")
    assert not builder.builds(variant="a-s")
    assert builder.plans == 2


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (make_key(OTHER_DIGEST), "another model"),
        (make_key(tensorrt="11.4.0.106"), "TensorRT 10.13.3.9 → 11.4.0.106"),
        (make_key(OTHER_DIGEST, max_batch=64), "another model, largest batch 32 → 64"),
    ],
    ids=str,
)
def test_an_engine_is_built_again_with_a_line_that_says_what_changed(
    builder: Builder, now: EngineKey, reason: str
) -> None:
    builder.find_or_build()
    found = builder.find_or_build(now)
    assert found.plan.read_bytes() == b"plan 2"
    assert builder.said[1:] == [f"building a/a-s for tesla-t4: {reason}"]
    assert not builder.builds(now)


def damage_plan(built: Path) -> None:
    files_of(built, "tesla-t4", "a", "a-s").plan.write_bytes(b"plan X")


def remove_plan(built: Path) -> None:
    files_of(built, "tesla-t4", "a", "a-s").plan.unlink()


def remove_record(built: Path) -> None:
    files_of(built, "tesla-t4", "a", "a-s").record.unlink()


def truncate_record(built: Path) -> None:
    record = files_of(built, "tesla-t4", "a", "a-s").record
    record.write_bytes(record.read_bytes()[:-20])


def empty_record(built: Path) -> None:
    files_of(built, "tesla-t4", "a", "a-s").record.write_bytes(b"")


def change_variant(built: Path) -> None:
    files = files_of(built, "tesla-t4", "a", "a-s")
    store.write_json(files.record, msgspec.structs.replace(files.read_record(), family="a__a", variant="s"))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage_plan, "the plan is not the one that was built"),
        (remove_plan, "the plan is missing"),
        (remove_record, "its record is missing"),
        (truncate_record, "its record can't be read"),
        (empty_record, "its record can't be read"),
        (change_variant, "what is there is a__a/s for tesla-t4"),
    ],
)
def test_a_damaged_engine_is_built_again(builder: Builder, harm: Callable[[Path], None], reason: str) -> None:
    builder.find_or_build()
    harm(builder.built)
    assert builder.builds()
    assert builder.said[1:] == [f"building a/a-s for tesla-t4: {reason}"]
    assert not builder.builds()


def test_a_build_that_fails_leaves_nothing(builder: Builder) -> None:
    def fail(_progress: OnBuildProgress) -> bytes:
        raise EngineError("no")

    with pytest.raises(EngineError):
        builder.find_or_build(build=fail)
    assert [path for path in builder.built.rglob("*") if path.is_file() and path.name != ".lock"] == []


@pytest.mark.parametrize("error", [EngineError("no"), KeyboardInterrupt()], ids=["failed", "Ctrl-C"])
def test_a_build_that_fails_leaves_the_old_engine(builder: Builder, error: BaseException) -> None:
    def fail(_progress: OnBuildProgress) -> bytes:
        raise error

    before = builder.find_or_build()
    with pytest.raises(type(error)):
        builder.find_or_build(make_key(OTHER_DIGEST), fail)
    assert before.plan.read_bytes() == b"plan 1"
    assert not builder.builds()


def test_an_engine_that_cannot_be_written_leaves_the_old_one(builder: Builder) -> None:
    found = builder.find_or_build()
    files = files_of(builder.built, "tesla-t4", "a", "a-s")
    files.plan.unlink()
    files.plan.mkdir()
    with pytest.raises(ArtefactError, match="Can't write"):
        builder.find_or_build()
    assert files.read_record() == found.record
    assert {path.name for path in files.version.iterdir()} == {"model.plan", "model.json"}


def test_a_plan_without_its_new_record_is_stale(builder: Builder) -> None:
    """As after a crash between the two: the record that is left tells of the plan before."""
    found = builder.find_or_build()
    found.plan.write_bytes(b"plan 2")
    files = files_of(builder.built, "tesla-t4", "a", "a-s")
    assert why_stale(files, EngineRequest("tesla-t4", "a", "a-s", KEY)) == ("the plan is not the one that was built",)


def test_a_process_that_waited_for_the_same_build_takes_its_engine(builder: Builder) -> None:
    """Two that want one engine: the second finds it current when its turn has come."""
    is_building, is_waiting, may_end = (threading.Event() for _ in range(3))

    def slow(_progress: OnBuildProgress) -> bytes:
        is_building.set()
        assert may_end.wait(WITHIN_S)
        return b"plan"

    @contextmanager
    def watch(_name: str) -> Iterator[OnBuildProgress]:
        def follow(_now: str, _done_frac: float) -> bool:
            is_waiting.set()
            return True

        yield follow

    found: list[CachedEngine] = []
    second = Builder(builder.built)
    first_thread = threading.Thread(target=lambda: found.append(builder.find_or_build(build=slow)))
    second_thread = threading.Thread(target=lambda: found.append(second.find_or_build(watch=watch)))
    first_thread.start()
    assert is_building.wait(WITHIN_S)
    second_thread.start()
    assert is_waiting.wait(WITHIN_S)
    may_end.set()
    first_thread.join()
    second_thread.join()
    assert len(found) == 2
    assert second.plans == 0


def test_waiting_for_another_build_is_reported_and_can_be_cancelled(builder: Builder) -> None:
    told: list[str] = []

    @contextmanager
    def watch(name: str) -> Iterator[OnBuildProgress]:
        def follow(now: str, _done_frac: float) -> bool:
            told.append(f"{name}: {now}")
            return len(told) < 3

        yield follow

    with file_lock(builder.built / "tesla-t4" / ".lock"), pytest.raises(BuildCancelled, match="was cancelled"):
        find_or_build(builder.built, EngineRequest("tesla-t4", "a", "a-s", KEY), builder, builder.said.append, watch)
    assert told == ["a/a-s: waiting for another process that builds"] * 3
    assert (builder.plans, builder.said) == (0, [])


@pytest.mark.parametrize("device_type", ["", "..", ".hidden", "a/b", "tesla t4"])
def test_a_device_type_that_would_leave_the_directory_is_refused(builder: Builder, device_type: str) -> None:
    with pytest.raises(UsageError, match="can't name a directory"):
        find_or_build(builder.built, EngineRequest(device_type, "a", "a-s", KEY), builder, builder.said.append)
    assert not builder.built.exists()


def test_a_missing_engine_in_a_read_only_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "built").write_text("in the way")
    with pytest.raises(ArtefactError, match="Can't make the lock"):
        Builder(tmp_path / "built").find_or_build()
