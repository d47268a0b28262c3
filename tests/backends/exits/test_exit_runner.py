"""Multi-exit models: rows stop at the first exit that is enough, whatever batch they are in."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest
from exit_nets import CPU, WIDTH, exit_stages, inputs_of, loaded
from onnx import helper
from short_forms import parse_condition
from tiny import CLASSES, save_model, tensor

from proteus_cli.backends.base import NamedArrays, Runner
from proteus_cli.backends.exits.loading import WithExits
from proteus_cli.backends.exits.runner import CONFIDENCE_NOTE, EXIT_NOTE, NOTES, HostExitRunner
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.conditions import Metric
from proteus_cli.domain.stages.cascade import margin
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.store.models.exit_chains import ExitChain, chain_file

WITHIN_S = 10.0


def one_by_one(stages: tuple[Runner, ...], stop_when: str, inputs: NamedArrays) -> list[tuple[int, list[float]]]:
    """Exit and scores of each row, run alone: what a chain does, written down without batches."""
    found = []
    for row in range(len(inputs["x"])):
        given = {"x": inputs["x"][row : row + 1]}
        for place, stage in enumerate(stages, start=1):
            given = stage.infer(given)
            sure = parse_condition(stop_when).holds({Metric.CONFIDENCE: margin(given["scores"]), Metric.EXIT: place}, 1)
            if place == len(stages) or sure[0]:
                found.append((place, given["scores"][0].tolist()))
                break
            given = {name: values for name, values in given.items() if name != "scores"}
    return found


@pytest.mark.parametrize(
    "stop_when",
    ["confidence >= 1", "confidence >= 3 or exit >= 2", "exit >= 3", "exit >= 1", "confidence >= 2 and exit >= 2"],
)
def test_a_batch_is_answered_as_its_rows_one_by_one(tmp_path: Path, stop_when: str) -> None:
    stages = exit_stages(tmp_path)
    with loaded(stages, stop_when) as runner:
        inputs = inputs_of(50)
        expected = one_by_one(runner.stages, stop_when, inputs)
        outputs = runner.infer(inputs)
    assert outputs[EXIT_NOTE].tolist() == [place for place, _ in expected]
    np.testing.assert_allclose(outputs["scores"], [scores for _, scores in expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs[CONFIDENCE_NOTE], margin(outputs["scores"]), rtol=1e-4)


def test_rows_leave_at_several_exits_and_stages_get_only_the_others(tmp_path: Path) -> None:
    stages = exit_stages(tmp_path)
    with loaded(stages, "confidence >= 2") as runner:
        watched = HostExitRunner(
            [Watched(stage) for stage in runner.stages], parse_condition("confidence >= 2"), "margin"
        )
        exits = watched.infer(inputs_of(40))[EXIT_NOTE]
    counts = [int(np.sum(exits >= place)) for place in (1, 2, 3)]
    assert counts[0] > counts[1] > counts[2] > 0
    assert [stage.rows for stage in watched.stages if isinstance(stage, Watched)] == [[count] for count in counts]


class Watched:
    """A stage that remembers of how many rows its batches were."""

    def __init__(self, inner: Runner) -> None:
        self.signature, self.memory_bytes, self._inner = inner.signature, inner.memory_bytes, inner
        self.rows: list[int] = []

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        self.rows.append(len(next(iter(inputs.values()))))
        return self._inner.infer(inputs)


def test_without_a_confidence_rows_go_on() -> None:
    """The margin of NaN is NaN, and that is not enough for any threshold."""
    runner = HostExitRunner([Spoilt(), Spoilt(last=True)], parse_condition("confidence >= -1e9"), "margin")
    assert runner.infer({"x": np.zeros((2, 1), np.float32)})[EXIT_NOTE].tolist() == [1, 2]


class Spoilt:
    """A stage of two rows of features, of which the second has no scores that are numbers."""

    memory_bytes = 10

    def __init__(self, *, last: bool = False) -> None:
        from proteus_cli.backends.base import Signature, TensorSpec  # noqa: PLC0415 - of this double only

        features = TensorSpec("x", np.dtype(np.float32), (1,))
        scores = TensorSpec("scores", np.dtype(np.float32), (2,))
        self.signature = Signature((features,), (scores,) if last else (scores, features))

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        scores = np.array([[2, 1], [np.nan, 1]], np.float32)[-len(inputs["x"]) :]
        return {"scores": scores, "x": inputs["x"]}


def test_the_signature_is_the_familys_with_notes(tmp_path: Path) -> None:
    with loaded(exit_stages(tmp_path), "exit >= 2") as runner:
        assert [spec.name for spec in runner.signature.inputs] == ["x"]
        assert [spec.name for spec in runner.signature.outputs] == ["scores"]
        assert runner.signature.notes == NOTES
        assert runner.memory_bytes == sum(stage.memory_bytes for stage in runner.stages) > 0


def lonely(directory: Path, **given: int) -> Path:
    """A stage that gives the sum of its features as many times as said, by name."""
    nodes = [helper.make_node("MatMul", ["features1", f"w_{name}"], [name]) for name in given]
    weights = {f"w_{name}": np.ones((WIDTH, width), np.float32) for name, width in given.items()}
    outputs = [tensor(name, ["n", width]) for name, width in given.items()]
    inputs = [tensor("features1", ["n", WIDTH])]
    return save_model(directory / "lonely.onnx", nodes, inputs=inputs, outputs=outputs, weights=weights)


def test_stages_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    first = exit_stages(tmp_path)[0]
    for second, problem in (
        (lonely(tmp_path, other=CLASSES), r"Stage 1 gives no `other`, an output of the last stage, but `scores`"),
        (lonely(tmp_path / "b", scores=5), r"Stage 1 gives `scores` as float32 \[3\]; .* last stage is float32 \[5\]"),
        (first, "Stage 1 gives no `x`, what stage 2 takes"),
    ):
        with pytest.raises(EngineError, match=problem), loaded([first, second], "exit >= 2"):
            pass
    with (
        pytest.raises(EngineError, match="no stage has an output `sure`"),
        loaded(exit_stages(tmp_path), "exit >= 2", "output:sure"),
    ):
        pass


# --- chain files


@pytest.mark.parametrize(
    ("owner", "name"), [(VariantKey("f", "quick"), "`quick` of family `f`"), (None, r"`.*\.exits`")]
)
def test_an_error_of_stages_that_do_not_fit_names_the_model(
    tmp_path: Path, owner: VariantKey | None, name: str
) -> None:
    first = exit_stages(tmp_path)[0]
    packed = chain_file(ExitChain((first, first), parse_condition("exit >= 2"), "margin"), tmp_path)
    with (
        pytest.raises(EngineError, match=f"^{name}: Stage 1 gives no `x`, what stage 2 takes"),
        WithExits(OnnxRuntime(CPU)).runner(packed, owner),
    ):
        pass


def chain(directory: Path, stop_when: str = "confidence >= 1") -> ExitChain:
    return ExitChain(tuple(exit_stages(directory)), parse_condition(stop_when), "margin")


def test_chains_share_the_engines_of_their_stages(tmp_path: Path) -> None:
    fast, slow = (chain_file(chain(tmp_path, text), tmp_path / "made") for text in ("exit >= 1", "exit >= 3"))
    backend = Counting(OnnxRuntime(CPU))
    both = WithExits(backend)
    with both.runner(slow) as runner:
        with both.runner(fast) as other:
            assert isinstance(runner, HostExitRunner) and isinstance(other, HostExitRunner)  # noqa: PT018 - for the type checker
            assert runner.stages == other.stages
        assert (backend.loads, backend.open) == (3, 3)
        assert runner.infer(inputs_of(2))[EXIT_NOTE].tolist() == [3, 3]
    assert backend.open == 0
    with both.runner(fast):
        assert backend.loads == 6


def test_a_load_does_not_wait_for_one_of_the_same_stages_that_gives_way(tmp_path: Path) -> None:
    made = chain_file(chain(tmp_path, "exit >= 3"), tmp_path / "made")
    backend = Counting(OnnxRuntime(CPU))
    both = WithExits(backend)

    def load_and_leave() -> None:
        with both.runner(made) as runner:
            assert runner.infer(inputs_of(2))[EXIT_NOTE].tolist() == [3, 3]

    with ThreadPoolExecutor(1) as other:
        backend.slow = Slow()
        giving_way = other.submit(load_and_leave)
        assert backend.slow.has_begun.wait(WITHIN_S)
        slow, backend.slow = backend.slow, None
        with both.runner(made):
            assert backend.open == 3
            slow.may_end.set()
            giving_way.result(WITHIN_S)
            assert (backend.loads, backend.open) == (4, 3)
    assert backend.open == 0


class Slow:
    """A load that has begun, and waits until it may end."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = Event(), Event()


class Counting:
    """A backend that counts the engines that it loads, and has ``open`` of them. A load may be ``slow``."""

    def __init__(self, inner: OnnxRuntime) -> None:
        self._inner, self.loads, self.open = inner, 0, 0
        self.slow: Slow | None = None
        self.versions, self.max_slots, self.meter, self.prepare = inner.versions, 1, None, inner.prepare

    @contextmanager
    def runner(self, model: Path, owner: object = None) -> Iterator[Runner]:
        if self.slow is not None:
            self.slow.has_begun.set()
            assert self.slow.may_end.wait(WITHIN_S)
        with self._inner.runner(model) as runner:
            self.loads, self.open = self.loads + 1, self.open + 1
            yield runner
        self.open -= 1


def test_a_stage_that_cannot_be_loaded_leaves_none_behind(tmp_path: Path) -> None:
    stages = exit_stages(tmp_path)
    stages[2].write_bytes(b"no model")
    packed = chain_file(ExitChain(tuple(stages), parse_condition("exit >= 3"), "margin"), tmp_path / "made")
    backend = Counting(OnnxRuntime(CPU))
    with pytest.raises(EngineError, match="can't load"), WithExits(backend).runner(packed):
        pass
    assert backend.open == 0


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04" + bytes(100), msgspec.json.encode({})])
def test_what_is_no_chain_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.exits"
    broken.write_bytes(content)
    with pytest.raises((EngineError, ArtefactError)), WithExits(OnnxRuntime(CPU)).runner(broken):
        pass
