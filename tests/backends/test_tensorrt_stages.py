"""Engines of multi-exit models: one for each stage, built where none is current, shared by variants with the same."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import numpy as np
import pytest
from builders import make_key
from exit_nets import exit_stages
from short_forms import parse_condition

from proteus_cli.backends.base import BuildContext, OnBuildProgress, Signature, TensorSpec
from proteus_cli.backends.tensorrt import backend as backend_module
from proteus_cli.backends.tensorrt.backend import TensorRT
from proteus_cli.backends.tensorrt.cache import stage_name
from proteus_cli.backends.tensorrt.chain import ChainPlans, LoadedChain, SharedStagePace
from proteus_cli.backends.tensorrt.records import BuildOptions, EngineKey, Gpu
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.errors import BuildCancelled, EngineError
from proteus_cli.store.digests import model_digest
from proteus_cli.store.models.exit_chains import ExitChain, chain_file

GPU = Device("gpu0", "tesla-t4", "gpu", "a GPU", memory_bytes=0, cores=())
QUICK, CAREFUL = VariantKey("f", "quick"), VariantKey("f", "careful")
STAGES = 3


class Workshop:
    """A backend whose builder notes what it builds; the plan of a stage is its ONNX file."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built, self.said, self.builds = directory / "built", list[str](), list[Path]()
        self.fails: dict[str, Exception] = {}
        self.tensorrt = "10.13.3.9"
        self.stages = exit_stages(directory, STAGES)
        self._directory = directory
        facts = SimpleNamespace(driver="570.86")
        monkeypatch.setattr(backend_module, "trt", SimpleNamespace(__name__="tensorrt"))
        monkeypatch.setattr(backend_module, "tensorrt_version", lambda: self.tensorrt)
        monkeypatch.setattr(backend_module, "describe_gpu", lambda _device: facts)
        monkeypatch.setattr(backend_module, "primary_context", lambda _ordinal: SimpleNamespace(current=None))
        monkeypatch.setattr(backend_module, "key_of", self._key_of)
        monkeypatch.setattr(backend_module, "build", self._build)
        self.backend = TensorRT(GPU, BuildContext(self.built, say=self.said.append))

    def chain(self, stop_when: str) -> Path:
        made = self._directory / "made"
        made.mkdir(exist_ok=True)
        return chain_file(ExitChain(tuple(self.stages), parse_condition(stop_when), "margin"), made)

    def _key_of(self, model: Path, _gpu: Gpu, options: BuildOptions) -> EngineKey:
        return EngineKey(model_digest(model), self.tensorrt, make_key().gpu, options)

    def _build(
        self, model: Path, _options: BuildOptions, _timings: Path, _progress: OnBuildProgress, *, on_device: object
    ) -> bytes:
        assert on_device is None
        if model.name in self.fails:
            raise self.fails[model.name]
        self.builds.append(model)
        return model.read_bytes()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def names(workshop: Workshop) -> list[str]:
    return [stage_name(place, model_digest(path)) for place, path in enumerate(workshop.stages, start=1)]


def test_each_stage_has_an_engine_that_is_kept(workshop: Workshop) -> None:
    plans = workshop.backend.plan(workshop.chain("confidence >= 1.0"), QUICK)
    assert isinstance(plans, ChainPlans)
    assert plans.stages == tuple(path.read_bytes() for path in workshop.stages)
    assert (str(plans.stop_when), plans.confidence) == ("confidence >= 1", "margin")
    assert plans.name == "`quick` of family `f`"
    folders = sorted(path.name for path in (workshop.built / GPU.type).iterdir() if path.is_dir())
    assert folders == sorted(f"f__{name}" for name in names(workshop))
    assert [line.split(" for ")[0] for line in workshop.said] == [f"building f/{name}" for name in names(workshop)]


def test_variants_with_the_same_stages_have_the_same_engines(workshop: Workshop) -> None:
    quick = workshop.backend.plan(workshop.chain("confidence >= 1.0"), QUICK)
    careful = workshop.backend.plan(workshop.chain("confidence >= 2.0"), CAREFUL)
    assert isinstance(quick, ChainPlans)
    assert isinstance(careful, ChainPlans)
    assert quick.key == careful.key
    assert len(workshop.builds) == STAGES


def test_what_was_built_before_counts_as_the_time_to_build(workshop: Workshop) -> None:
    chain = workshop.chain("confidence >= 1.0")
    took_s = workshop.backend.prepare(chain, QUICK)
    records = [json.loads(path.read_text()) for path in workshop.built.glob("*/*/1/model.json")]
    assert took_s == pytest.approx(sum(record["build_s"] for record in records))
    assert workshop.backend.prepare(chain, QUICK) == took_s
    assert len(workshop.builds) == STAGES


def test_a_stale_engine_of_a_stage_is_built_again(workshop: Workshop) -> None:
    chain = workshop.chain("confidence >= 1.0")
    workshop.backend.prepare(chain, QUICK)
    (damaged,) = (workshop.built / GPU.type).glob("f__stage2-*/1/model.plan")
    damaged.write_bytes(b"other")
    plans = workshop.backend.plan(chain, QUICK)
    assert isinstance(plans, ChainPlans)
    assert plans.stages[1] == workshop.stages[1].read_bytes()
    assert len(workshop.builds) == STAGES + 1
    assert "the plan is not the one that was built" in workshop.said[-1]
    workshop.tensorrt = "11.4.0.106"
    workshop.backend.prepare(chain, QUICK)
    assert len(workshop.builds) == 2 * STAGES + 1
    assert "TensorRT 10.13.3.9 → 11.4.0.106" in workshop.said[-1]


def test_only_a_stage_that_was_changed_is_built(workshop: Workshop, tmp_path: Path) -> None:
    workshop.backend.prepare(workshop.chain("confidence >= 1.0"), QUICK)
    workshop.stages[1] = exit_stages(tmp_path / "other", STAGES, seed=1)[1]
    workshop.backend.prepare(workshop.chain("confidence >= 1.0"), QUICK)
    assert [path.name for path in workshop.builds] == ["1.onnx", "2.onnx", "3.onnx", "2.onnx"]


def test_a_build_that_is_cancelled_keeps_the_stages_before(workshop: Workshop) -> None:
    workshop.fails["2.onnx"] = BuildCancelled("cancelled")
    with pytest.raises(BuildCancelled):
        workshop.backend.prepare(workshop.chain("confidence >= 1.0"), QUICK)
    workshop.fails.clear()
    workshop.backend.prepare(workshop.chain("confidence >= 1.0"), QUICK)
    assert [path.name for path in workshop.builds] == ["1.onnx", "2.onnx", "3.onnx"]


def test_stages_of_no_variant_are_refused(workshop: Workshop) -> None:
    with pytest.raises(EngineError, match="belongs to no variant of the catalog"):
        workshop.backend.prepare(workshop.chain("confidence >= 1.0"))


@pytest.mark.parametrize(("slots", "pace"), [(1, StagePace), (2, SharedStagePace)])
def test_threads_that_wait_for_several_slots_share_a_pace(slots: int, pace: type[StagePace]) -> None:
    """One thread alone learns without a lock."""
    spec = TensorSpec("y", np.dtype(np.float32), (2,))
    layout = SimpleNamespace(signatures=[Signature((spec,), (spec,))] * 2)
    stages: Any = SimpleNamespace(layout=layout, slots=slots, close=lambda: None)
    context: Any = SimpleNamespace()
    plans = ChainPlans((), parse_condition("confidence >= 1.0"), "margin", "a model")
    assert type(LoadedChain(stages, plans, context)._pace) is pace


class HalfLearned(float):
    """Seconds of a stage. When they have been read, and not yet written, something else happens."""

    def __new__(cls, value: float, meanwhile: Callable[[], object]) -> Self:
        made = super().__new__(cls, value)
        made.meanwhile = meanwhile
        return made

    meanwhile: Callable[[], object]

    def __truediv__(self, other: float) -> "HalfLearned":
        return HalfLearned(float(self) / other, self.meanwhile)

    def __sub__(self, other: float) -> "HalfLearned":
        return HalfLearned(float(self) - other, self.meanwhile)

    def __gt__(self, other: float) -> bool:
        self.meanwhile()
        return float(self) > other


class WatchedLock:
    """A lock that tells when a thread waits for it."""

    def __init__(self, is_waited_for: Event) -> None:
        self._lock, self._is_waited_for = Lock(), is_waited_for

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._is_waited_for.set()
            self._lock.acquire()

    def __exit__(self, _type: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._lock.release()


@pytest.mark.parametrize(("shared", "learned"), [(True, 2), (False, 1)])
def test_of_threads_that_learn_at_once_each_is_learned_from_where_they_share_a_pace(
    *, shared: bool, learned: int
) -> None:
    """A stage of another thread ends while one is half learned. Without a lock, that one is lost."""
    pace, is_further = SharedStagePace() if shared else StagePace(), Event()
    if isinstance(pace, SharedStagePace):
        pace._lock = WatchedLock(is_further)  # type: ignore[assignment]
    pace.ran(1.0, 1.0)

    def ran() -> None:
        pace.ran(1.4, 1.0)
        is_further.set()

    other = Thread(target=ran)

    def meanwhile() -> None:
        other.start()
        assert is_further.wait(60)

    pace.ran(HalfLearned(1.4, meanwhile), 1.0)
    other.join()
    one_by_one = StagePace()
    for took_s in (1.0, *[1.4] * learned):
        one_by_one.ran(took_s, 1.0)
    assert pace.level == pytest.approx(one_by_one.level)
