"""profile → plan → serve → one inference → replay on `gpu0`, whose driver and whose TensorRT are doubles.

The processes are those that a user starts. pycuda and the builder are real. All that is written says that it comes from
doubles: no number of it is a measurement of a GPU.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import figures
from contract.downloads import target
from contract.run_half import toolchain
from contract.test_build import RELEASE
from live_server import serving
from tiny import INPUTS, SHAPES, TONES, Tiny, make_workspace

ROOT = Path(__file__).parents[3]
TYPE = "fake-cuda-device-host-memory"
TWIN = ("tones", "tones-twin")
"""A variant whose file is that of another."""
VARIANTS = {(family.name, variant.name) for family in (SHAPES, TONES) for variant in family.variants} | {TWIN}
TONES_L = "models/tones/tones-l.onnx"
TIMEOUT_S = 100.0


DEVICE_TIMES = {"FAKE_CUDA_COPY_US": "2000", "FAKE_CUDA_COMPUTE_US": "5000"}
"""A batch takes 9 ms alone, and 5 ms where copies overlap computing: a second slot brings most of what there is."""


@pytest.fixture(scope="module")
def doubles() -> dict[str, str]:
    """The environment of a machine with the fake GPU, which takes its time."""
    rtx = target("rtx", f"tensorrt-rtx-cu12-bindings=={RELEASE}", f"tensorrt-rtx-cu12-libs=={RELEASE}")
    environment = toolchain.environment(nvml=True) | DEVICE_TIMES | {"FAKE_NVML_REASONS": str(0x4)}
    paths = [Path(__file__).parent / "double", rtx, ROOT / "tests", ROOT]
    return environment | {"PYTHONPATH": os.pathsep.join([*map(str, paths), environment["PYTHONPATH"]])}


@pytest.fixture(scope="module")
def profiled(doubles: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tiny, str]]:
    """A workspace whose variants are profiled on `gpu0`, and what was said."""
    made = make_workspace(tmp_path_factory.mktemp("gpu"))
    with made.place.catalog_path.open("a", encoding="utf-8") as catalog:  # `tones` is its last family
        catalog.write(f'\n[[family.variant]]\nname = "{TWIN[1]}"\naccuracy = 0.95\nonnx = "{TONES_L}"\n')
    yield made, proteus(doubles, made, "profile", "--device", "gpu0", "--budget", "5s", "--max-batch", "2")
    figures.tell("profile → plan → serve → replay", "on gpu0 of the fake driver, all of it marked as emulated")


def proteus(environment: dict[str, str], made: Tiny, *arguments: str) -> str:
    """Run a command in the workspace; what it said on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "proteus_cli", *arguments, "-w", str(made.root)],
        env=environment, text=True, timeout=TIMEOUT_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "PyCUDA" not in done.stdout, done.stdout  # it warns of what it can't free
    return done.stdout


def have_changed_driver(made: Tiny) -> None:
    """As if all engines had been built with another."""
    for path in made.place.built_dir.glob("*/*/1/model.json"):
        record = document(path)
        record["key"]["gpu"]["driver"] = "1.0"
        path.write_text(json.dumps(record), encoding="utf-8")


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.timeout(600)  # the first one builds pycuda
def test_profiling_builds_an_engine_of_every_variant(profiled: tuple[Tiny, str]) -> None:
    made, said = profiled
    profile = document(made.place.profile_path("gpu0"))
    assert profile["device"]["name"] == "Fake CUDA device (host memory)"
    assert profile["backend"]["name"] == "tensorrt-double"
    for variant in profile["variants"]:
        name = f"{variant['family']}__{variant['variant']}"
        record = document(made.place.built_dir / TYPE / name / "1" / "model.json")
        assert variant["build_s"] == record["build_s"] > 0
        assert record["key"]["tensorrt"].endswith("+double")
        assert f"building {variant['family']}/{variant['variant']} for {TYPE}: there is none yet" in said
        assert variant["points"]
    assert {(v["family"], v["variant"]) for v in profile["variants"]} == VARIANTS


def test_profiling_measures_slots_computing_and_power(profiled: tuple[Tiny, str]) -> None:
    """Ratios of times that are the double's, so nothing of it says anything of a GPU."""
    made, said = profiled
    profile = made.place.profile("gpu0")
    assert 2 <= profile.slots <= 4
    alone_qps = several_qps = copying_s = 0.0
    for variant in profile.variants:
        assert {point.batch for point in variant.points} == {1, 2}
        for point, several in zip(variant.points, profile.points_of(variant), strict=True):
            assert point.compute_s is not None
            assert point.compute_s >= 0.005
            copying_s += point.mean_s - point.compute_s
            assert several.slots == profile.slots
            alone_qps, several_qps = alone_qps + point.qps, several_qps + several.qps
        assert variant.slot_bytes > 2**20  # what an execution context of the double takes, and buffers
        assert variant.power_w is None  # cells were too short for a meter
    assert copying_s > 2 * len(VARIANTS) * 0.002  # of 4 ms each: not of each, as a stall may hit any
    assert several_qps > 1.2 * alone_qps
    assert "its clocks were held down while measuring (power cap)" in " ".join(said.split())
    assert f"gpu0 is served with {profile.slots} slots:" in said


def test_a_plan_counts_what_goes_through_all_slots(profiled: tuple[Tiny, str], doubles: dict[str, str]) -> None:
    made, _ = profiled
    profile, plan = made.place.profile("gpu0"), made.root / "plans" / "most.json"
    proteus(doubles, made, "plan", "--demand", "tones=10000qps", "--capacity", "mean", "-o", str(plan))
    (placed,) = document(plan)["placements"]
    measured = profile.of(placed["family"], placed["variant"])
    assert measured is not None
    (point,) = (each for each in profile.points_of(measured) if each.batch == placed["max_batch"])
    assert placed["capacity_qps"] == pytest.approx(point.qps)


def test_what_is_current_is_neither_built_nor_measured_again(
    profiled: tuple[Tiny, str], doubles: dict[str, str]
) -> None:
    made, _ = profiled
    before = made.place.profile_path("gpu0").read_bytes()
    said = proteus(doubles, made, "profile", "--device", "gpu0", "--max-batch", "1")
    assert "building" not in said
    assert made.place.profile_path("gpu0").read_bytes() == before


def test_engines_are_current(profiled: tuple[Tiny, str], doubles: dict[str, str]) -> None:
    made, _ = profiled
    said = proteus(doubles, made, "engines", "verify")
    assert f"{len(VARIANTS)} engines, none of them stale" in said


def test_a_plan_for_it_is_served_and_replayed(
    profiled: tuple[Tiny, str], doubles: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = profiled
    plan, trace, report = made.root / "plans" / "p.json", made.root / "t.csv", made.root / "r.json"
    proteus(doubles, made, "plan", "--demand", "shapes=20qps,tones=20qps", "-o", str(plan))
    assert {placement["device"] for placement in document(plan)["placements"]} == {"gpu0"}
    assert TYPE in plan.read_text(encoding="utf-8")
    trace.write_text("arrival_s,family\n" + "".join(f"{n / 40},{('shapes', 'tones')[n % 2]}\n" for n in range(40)))
    for name, value in doubles.items():
        monkeypatch.setenv(name, value)
    have_changed_driver(made)
    hosted = {placement["family"] for placement in document(plan)["placements"]}
    with serving(made.root, plan) as server:
        for family in sorted(hosted):
            x = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": [0.5] * INPUTS}
            answer = server.infer(family, {"inputs": [x]}).document()
            assert answer["parameters"]["device"] == "gpu0"
            assert answer["parameters"]["emulated"] is True
            assert answer["outputs"][0]["shape"] == [1, 3]
        assert server.status()["emulated"] is True
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
        assert not [
            name for name in ("pycuda", "tensorrt") if name in mapped
        ]  # only the process of the GPU has a context
        url = f"http://127.0.0.1:{server.port}"
        proteus(doubles, made, "replay", str(trace), "--url", url, "-o", str(report), "--json")
        assert server.stop() == 0
        assert "driver 1.0 → " in server.log.read_text(encoding="utf-8")
        assert "PyCUDA" not in server.log.read_text(encoding="utf-8")
    found = document(report)
    assert found["mode"] == "emulated"
    assert (found["requests"], found["failed"]) == (40, 0)
    assert found["served"] > 0


def test_a_lost_context_takes_one_process_along_and_a_fresh_one_opens_the_gpu_again(
    doubles: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "contract.e2e.losing", str(tmp_path)],
        env=doubles, text=True, timeout=TIMEOUT_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "PyCUDA" not in done.stdout, done.stdout
