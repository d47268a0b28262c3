"""A multi-exit model on `gpu0`, whose driver and whose TensorRT are doubles: profile → engines → plan → serve."""

import json
from pathlib import Path

import numpy as np
import pytest
from contract import figures
from contract.e2e.machine import TYPE, Machine
from contract.e2e.machine import machine as machine_with_doubles
from contract.figures import ContractPart
from exit_nets import CPU, exit_stages, exits_toml
from live_server import serving
from tiny import SHAPES, Tiny, TinyFamily, make_workspace

from proteus_cli.backends.exits.loading import WithExits
from proteus_cli.backends.exits.runner import CONFIDENCE_NOTE, EXIT_NOTE, ExitRunner
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.backends.tensorrt.cache import stage_name
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.profiling.exits import judged
from proteus_cli.store.digests import model_digest

STOP_WHEN = {"quick": "confidence >= 1", "careful": "confidence >= 2"}
FILES = [f"stages/stage.{place}.onnx" for place in (1, 2, 3)]
ROWS = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return machine_with_doubles(tmp_path_factory.mktemp("census"), {})


@pytest.fixture(scope="module")
def profiled(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, str]:
    """A family of two variants, which have their stages in common; and what was said while it was profiled."""
    root = tmp_path_factory.mktemp("exits")
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants[:1], eval=SHAPES.eval),))
    exit_stages(root / "engines" / "stages")
    family = f'format = 1\n[[family]]\nname = "shapes"\nslo = "5s"\neval = "{SHAPES.eval}"\n'
    variants = "\n".join(
        exits_toml(name, FILES, stop_when, accuracy=accuracy)
        for (name, stop_when), accuracy in zip(STOP_WHEN.items(), (0.4, 0.5), strict=True)
    )
    made.place.catalog_path.write_text(family + variants)
    options = ("--device", "gpu0", "--max-batch", "2", "--max-slots", "2", "--accept-noise")
    return made, machine.proteus(made, "profile", *options)


def engine_names(made: Tiny) -> list[str]:
    digests = [model_digest(made.root / "engines" / file) for file in FILES]
    return [stage_name(place, digest) for place, digest in enumerate(digests, start=1)]


@pytest.mark.timeout(600)  # the first one builds pycuda
def test_its_exits_are_profiled_as_on_a_cpu(profiled: tuple[Tiny, str], machine: Machine) -> None:
    made, said = profiled
    machine.check_clean()
    profile = made.place.profile("gpu0")
    for name in STOP_WHEN:
        measured = profile.of("shapes", name)
        assert measured is not None
        with WithExits(OnnxRuntime(CPU)).runner(made.place.loaded_paths()[measured.key]) as runner:
            assert isinstance(runner, ExitRunner)
            on_cpu = judged((), runner, made.root / "engines" / str(SHAPES.eval))
        found = [(each.share, each.accuracy, each.cut_accuracy) for each in measured.exits]
        assert found == [(each.share, each.accuracy, each.cut_accuracy) for each in on_cpu]
        assert all([point.batch for point in each.points] == [1, 2] for each in measured.exits)
        assert all(point.compute_s is not None for point in measured.points)
        assert measured.slot_bytes > 3 * 2**20  # execution contexts of three stages
        figures.tell(ContractPart.WHOLE, "multi-exit models profiled, planned and served", name, of=len(STOP_WHEN))
    assert "multi-exit" not in said


def test_its_stages_have_engines_that_its_variants_share(profiled: tuple[Tiny, str], machine: Machine) -> None:
    made, said = profiled
    built = sorted(path.name for path in (made.place.built_dir / TYPE).iterdir() if path.is_dir())
    assert built == sorted(f"shapes__{name}" for name in engine_names(made))
    for name in engine_names(made):
        assert said.count(f"building shapes/{name} for {TYPE}: there is none yet") == 1
    assert "3 engines, none stale" in machine.proteus(made, "engines", "verify")
    for name in STOP_WHEN:
        measured = made.place.profile("gpu0").of("shapes", name)
        assert measured is not None
        records = [json.loads(path.read_text()) for path in made.place.built_dir.glob("*/*/1/model.json")]
        assert measured.build_s == pytest.approx(sum(record["build_s"] for record in records))


def test_a_plan_for_it_is_served_stage_by_stage(
    profiled: tuple[Tiny, str], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the engines, one is stale: the server builds it anew."""
    made, _ = profiled
    plan = made.root / "plans" / "p.json"
    machine.proteus(made, "plan", "--demand", "shapes=5qps", "-o", str(plan))
    (placed,) = json.loads(plan.read_text())["placements"]
    assert (placed["device"], placed["variant"] in STOP_WHEN) == ("gpu0", True)
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    stale = engine_names(made)[1]
    (made.place.built_dir / TYPE / f"shapes__{stale}" / "1" / "model.plan").write_bytes(b"other")
    key = VariantKey("shapes", placed["variant"])
    with WithExits(OnnxRuntime(CPU)).runner(made.place.loaded_paths()[key]) as runner:
        expected = runner.infer({"x": ROWS})
    with serving(made.root, plan, "--replan=off") as server:
        for row, place, sure in zip(ROWS, expected[EXIT_NOTE], expected[CONFIDENCE_NOTE], strict=True):
            tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
            answer = server.infer("shapes", {"inputs": [tensor]}).document()
            assert answer["parameters"]["device"] == "gpu0"
            assert answer["parameters"]["exit"] == place
            assert answer["parameters"]["confidence"] == pytest.approx(float(sure), rel=1e-4)
        assert server.stop() == 0
        log = server.log.read_text(encoding="utf-8")
        assert f"building shapes/{stale} for {TYPE}: the plan is not the one that was built" in log
        assert "PyCUDA" not in log
    machine.check_clean()


def test_an_engine_of_a_stage_that_no_variant_has_is_removed(
    profiled: tuple[Tiny, str], machine: Machine, tmp_path: Path
) -> None:
    made, _ = profiled
    last = made.root / "engines" / FILES[2]
    before = last.read_bytes()
    try:
        last.write_bytes(exit_stages(tmp_path, seed=1)[2].read_bytes())
        assert "removed 1 engine" in machine.proteus(made, "engines", "prune")
    finally:
        last.write_bytes(before)
