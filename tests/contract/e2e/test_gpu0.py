"""profile → plan → serve → one inference → replay on `gpu0`, whose driver and whose TensorRT are doubles.

The processes are those that a user starts. pycuda and the builder are real. All that is written says that it comes from
doubles: no number of it is a measurement of a GPU.
"""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import hearing_interrupts, interrupted_process
from contract import figures
from contract.e2e.machine import DEVICE, ROOT, TYPE, Machine, planned
from contract.e2e.machine import machine as machine_with_doubles
from contract.figures import ContractPart
from contract.test_build import deep
from live_server import serving
from tiny import FAMILIES, INPUTS, SHAPES, TONES, Tiny, make_workspace

PATIENT = tuple(replace(family, slo="2s") for family in FAMILIES)
"""With an SLO that batches keep on a busy machine, too: which cells are measured depends on it."""
TWIN = ("tones", "tones-twin")
"""A variant whose file is that of another."""
VARIANTS = {(family.name, variant.name) for family in (SHAPES, TONES) for variant in family.variants} | {TWIN}
TONES_L = "models/tones/tones-l.onnx"
ARTEFACTS = {"engine", "profile", "plan", "answers", "status", "ready line", "metrics", "log", "report"}
GPU = {"FAKE_CUDA_COPY_US": "2000", "FAKE_CUDA_COMPUTE_US": "5000", "FAKE_NVML_REASONS": str(0x4)}
"""A batch takes 9 ms alone, and 5 ms where copies overlap computing: a second slot brings most of what there is.

A power cap holds the clocks down."""
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return machine_with_doubles(tmp_path_factory.mktemp("census"), GPU)


@pytest.fixture(scope="module")
def profiled(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, str]:
    """A workspace whose variants are profiled on `gpu0`, and what was said; on a busy machine the same as on any."""
    made = make_workspace(tmp_path_factory.mktemp("gpu"), PATIENT)
    with made.place.catalog_path.open("a", encoding="utf-8") as catalog:  # `tones` is its last family
        catalog.write(f'\n[[family.variant]]\nname = "{TWIN[1]}"\naccuracy = 0.95\nonnx = "{TONES_L}"\n')
    return made, machine.proteus(made, "profile", "--device", "gpu0", "--max-batch", "2", "--accept-noise")


def marked(*artefacts: str) -> None:
    """These say that they come of doubles."""
    figures.tell(ContractPart.WHOLE, "kinds of artefact marked as emulated", *artefacts, of=len(ARTEFACTS))
    assert set(artefacts) <= ARTEFACTS


def have_changed_driver(made: Tiny) -> None:
    """As if all engines had been built with another."""
    for path in made.place.built_dir.glob("*/*/1/model.json"):
        record = document(path)
        record["key"]["gpu"]["driver"] = "1.0"
        path.write_text(json.dumps(record), encoding="utf-8")


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.timeout(600)  # the first one builds pycuda
def test_profiling_builds_an_engine_of_every_variant(profiled: tuple[Tiny, str], machine: Machine) -> None:
    made, said = profiled
    machine.check_clean()
    profile = document(made.place.profile_path("gpu0"))
    assert profile["device"]["name"] == DEVICE
    assert profile["backend"]["name"] == "tensorrt-double"
    for variant in profile["variants"]:
        name = f"{variant['family']}__{variant['variant']}"
        record = document(made.place.built_dir / TYPE / name / "1" / "model.json")
        assert variant["build_s"] == record["build_s"] > 0
        assert record["key"]["tensorrt"].endswith("+double")
        assert f"building {variant['family']}/{variant['variant']} for {TYPE}: there is none yet" in said
        assert variant["points"]
        figures.tell(ContractPart.WHOLE, "engines built, loaded and run", name, of=len(VARIANTS))
    assert {(v["family"], v["variant"]) for v in profile["variants"]} == VARIANTS
    marked("engine", "profile")


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
        assert variant.power_w == pytest.approx(70.0, rel=0.05)  # what the double of the meter says
    assert copying_s > 2 * len(VARIANTS) * 0.002  # of 4 ms each: not of each, as a stall may hit any
    assert several_qps > 1.2 * alone_qps
    assert "the clocks of gpu0 were held down while it was measured (power cap)" in " ".join(said.split())
    assert f"gpu0 is served with {profile.slots} slots" in said


def test_a_plan_counts_the_throughput_of_all_slots(profiled: tuple[Tiny, str], machine: Machine) -> None:
    made, _ = profiled
    profile, plan = made.place.profile("gpu0"), made.root / "plans" / "most.json"
    machine.proteus(made, "plan", "--demand", "tones=10000qps", "--capacity", "mean", "-o", str(plan))
    (placed,) = document(plan)["placements"]
    measured = profile.of(placed["family"], placed["variant"])
    assert measured is not None
    (point,) = (each for each in profile.points_of(measured) if each.batch == placed["max_batch"])
    assert placed["capacity_qps"] == pytest.approx(point.qps)


def test_current_engines_are_neither_built_nor_measured_again(profiled: tuple[Tiny, str], machine: Machine) -> None:
    made, _ = profiled
    before = made.place.profile_path("gpu0").read_bytes()
    said = machine.proteus(made, "profile", "--device", "gpu0", "--max-batch", "1")
    assert "building" not in said
    assert made.place.profile_path("gpu0").read_bytes() == before


def test_engines_are_current(profiled: tuple[Tiny, str], machine: Machine) -> None:
    made, _ = profiled
    said = machine.proteus(made, "engines", "verify")
    assert f"{len(VARIANTS)} engines, none stale" in said


def test_a_plan_for_it_is_served_and_replayed(
    profiled: tuple[Tiny, str], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = profiled
    plan, trace, report = made.root / "plans" / "p.json", made.root / "t.csv", made.root / "r.json"
    machine.proteus(made, "plan", "--demand", "shapes=20qps,tones=20qps", "-o", str(plan))
    assert {placement["device"] for placement in document(plan)["placements"]} == {"gpu0"}
    assert TYPE in plan.read_text(encoding="utf-8")
    trace.write_text("arrival_s,family\n" + "".join(f"{n / 40},{('shapes', 'tones')[n % 2]}\n" for n in range(40)))
    for name, value in machine.environment.items():
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
        assert server.said.split()[-1] == "emulated"
        assert "proteus_emulated 1.0" in server.get("/metrics").body.decode().splitlines()
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
        assert not [
            name for name in ("pycuda", "tensorrt") if name in mapped
        ]  # only the process of the GPU has a context
        url = f"http://127.0.0.1:{server.port}"
        machine.proteus(made, "replay", str(trace), "--url", url, "-o", str(report), "--json")
        assert server.stop() == 0
        log = server.log.read_text(encoding="utf-8")
        assert "driver 1.0 → " in log
        assert "PyCUDA" not in log
        assert "WARNING proteus.server: devices are emulated (tensorrt-double)" in log
    machine.check_clean()
    found = document(report)
    assert found["mode"] == "emulated"
    assert (found["requests"], found["failed"]) == (40, 0)
    assert found["served"] > 0
    marked("plan", "answers", "status", "ready line", "metrics", "log", "report")


# --- the benchmark


TRTEXEC = """\
#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
echo '[I] Throughput: 100 qps'
"""


def test_the_benchmark_runs_on_doubles_and_says_that_they_are(
    profiled: tuple[Tiny, str], machine: Machine, tmp_path: Path
) -> None:
    """Beside a `trtexec` that always says the same."""
    made, _ = profiled
    tool = tmp_path / "trtexec"
    tool.write_text(TRTEXEC, encoding="utf-8")
    tool.chmod(0o755)
    options = ["--variant=tones/tones-l", "--batch=4", "--slots=1,2", "--rounds=2", "--seconds=0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options, f"--workspace={made.root}"], cwd=ROOT,
        env={**machine.environment, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COLUMNS": "120"},
        text=True, timeout=WITHIN_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{DEVICE}, tensorrt" in done.stdout
    assert "EMULATED" in done.stdout
    assert len(re.findall(r"^ +[12] .* 400 ", done.stdout, re.MULTILINE)) == 2, done.stdout
    plan = made.place.built_dir / TYPE / "tones__tones-l" / "1" / "model.plan"
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    asked = [f"--loadEngine={plan} --shapes=x:4x{INPUTS} --infStreams={n} --duration=0.1 --warmUp=500" for n in (1, 2)]
    assert calls == asked * 2
    machine.check_clean()


# --- told to stop while an engine is built


def left_of_builds(made: Tiny) -> list[str]:
    return [path.name for path in made.place.built_dir.rglob("*") if path.is_file()]


def test_ctrl_c_while_profiling_builds_ends_the_build_and_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    """The bar of the build stands below that of the sweep, and moves."""
    made, _ = planned(tmp_path / "ws", TONES, "tones-s", deep(tmp_path, layers=300))
    before = made.place.profile_path("gpu0").read_bytes()
    ended = interrupted_process(
        machine.command(made, "profile", "--device", "gpu0", "--max-batch", "8"),
        once=r"profiling gpu0 .*\n.*building tones/tones-s \D*[1-9]\d*%",
        env=machine.environment,
    )
    assert ended.code == 130
    assert "building tones/tones-s was cancelled and left nothing; earlier measurements are kept" in " ".join(
        ended.stderr.split()
    )
    assert ended.stderr.rstrip().endswith("interrupted")
    assert "Traceback" not in ended.stderr
    assert left_of_builds(made) == [".lock"]
    assert made.place.profile_path("gpu0").read_bytes() == before
    machine.check_clean()


@pytest.mark.parametrize(("number", "variant"), [(signal.SIGTERM, "tones-s"), (signal.SIGINT, "tones-l")])
def test_a_server_that_is_told_to_stop_while_it_builds_ends_the_build(
    machine: Machine, tmp_path: Path, number: int, variant: str
) -> None:
    """The first variant of a family is built before there is a fleet, others as the plan is deployed."""
    made, plan = planned(tmp_path / "ws", TONES, variant, deep(tmp_path, layers=300))
    said = ""
    with subprocess.Popen(
        hearing_interrupts(machine.command(made, "serve", plan, "--port", "0", "--replan", "off")),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=machine.environment,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            while f"building tones/{variant}" not in said:
                said += process.stderr.readline()
                assert process.poll() is None, said + process.stderr.read()
            process.send_signal(number)
            ready, rest = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
    said += rest
    assert (process.returncode, ready) == (0, "")
    assert said.rstrip().endswith("stopped before it was ready")
    assert not [path for path in made.place.built_dir.glob(f"*/tones__{variant}/**/*") if path.is_file()]
    machine.check_clean()


def test_a_lost_context_takes_one_process_along_and_a_fresh_one_opens_the_gpu_again(
    machine: Machine, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "contract.e2e.losing", str(tmp_path)],
        env=machine.environment, text=True, timeout=WITHIN_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "PyCUDA" not in done.stdout, done.stdout
