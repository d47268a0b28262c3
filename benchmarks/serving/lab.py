"""What is made before anything is measured: models, samples, and a workspace for proteus, profiled and planned."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving.models import make_models, make_samples
from benchmarks.serving.programs.models import MAX_BATCH, SHAPES
from benchmarks.serving.server import Lab
from benchmarks.serving.venvs import ROOT

HOSTED = ("tiny", "cnn", "image")  # together, where all are
SLO_S = 0.1
PROFILE_BUDGET = "20s"
ALL_QPS = 1_000_000  # more than can be served: the plan gives the family all of every device
SHARED_QPS = 100
_WITHIN_S = 300


@contextmanager
def laboratory(instances: int, tree: Path = ROOT, slo_s: float = SLO_S) -> Iterator[Lab]:
    """A directory for one run of the benchmark, with all that its servers need; gone on the way out.

    ``tree`` is the checkout of the project that profiles, plans and serves; ``slo_s`` holds for all families.
    """
    with TemporaryDirectory(prefix="pb") as name:  # short: Ray keeps sockets in it
        directory = Path(name)
        workspace = directory / "ws"
        models = workspace / "engines" / "models"
        models.mkdir(parents=True)
        make_models(models)
        os.environ["BENCH_MODELS"] = str(models)
        samples = {family: make_samples(family) for family in SHAPES}
        _write_catalog(workspace, instances, slo_s)
        lab = Lab(directory, models, workspace, samples, instances, tree)
        profile_and_plan(lab)
        yield lab


def profile_and_plan(lab: Lab) -> None:
    """Profile what the workspace has no profile of, and make a plan for each family and one for all."""
    _proteus(lab, "profile", "--max-batch", str(MAX_BATCH), "--budget", PROFILE_BUDGET)
    for family in SHAPES:
        _proteus(lab, "plan", "--demand", f"{family}={ALL_QPS}qps", "-o", f"plans/{family}.json")
    shared = ",".join(f"{family}={SHARED_QPS}qps" for family in HOSTED)
    _proteus(lab, "plan", "--demand", shared, "--residency", str(len(HOSTED)), "-o", "plans/all.json")


def _write_catalog(workspace: Path, instances: int, slo_s: float) -> None:
    """A device of one core per instance, like the one thread that each instance of a peer runs its model with."""
    cores = [[core] for core in sorted(os.sched_getaffinity(0))[:instances]]
    (workspace / "proteus.toml").write_text(f"[devices]\ncpu = {cores}\n", encoding="utf-8")
    families = (
        f'[[family]]\nname = "{family}"\nslo = "{1000 * slo_s:g}ms"\n'
        f'[[family.variant]]\nname = "{family}-1"\nonnx = "models/{family}.onnx"\naccuracy = 0.9\n'
        for family in SHAPES
    )
    (workspace / "engines" / "catalog.toml").write_text("format = 1\n" + "".join(families), encoding="utf-8")


def _proteus(lab: Lab, *arguments: str) -> None:
    command = (sys.executable, "-m", "proteus_cli", *arguments, "--workspace", str(lab.workspace))
    variables = os.environ | {"PYTHONPATH": str(lab.tree)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_WITHIN_S, cwd=lab.workspace, env=variables, check=False
    )
    if done.returncode:
        raise SystemExit(f"`proteus {' '.join(arguments)}` failed with {done.returncode}:\n{done.stderr}")
