"""Whether two runs of `study peak` against a real server agree. The machine must be quiet, and stay so.

A workspace is made as users make it: the sample zoo, profiled on one core. One variant is served alone on that core by
`proteus serve`, and offered requests over HTTP by a generator on the others; twice, with other arrivals. The same
server with an emulated device, which takes what was profiled, tells whether what is apart is due to the core.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.store import Workspace
from proteus_cli.studies.frame import JobTurn
from proteus_cli.studies.peak.carriers import PeakQuestion
from proteus_cli.studies.peak.drafts import device_draft
from proteus_cli.studies.results import Peak, PeakRules
from proteus_cli.studies.study import CellMode

FAMILY, VARIANT, ALLOWED_FRAC = "digits", "digits-xl", 0.01
EACH_S, FEW_S = 180.0, 15.0
PROFILE, QUICK_PROFILE = "60s", "10s"
MAX_PERCENT = 5.0
MODES: tuple[CellMode, ...] = ("measured", "emulated")
SEEDS = (1, 2)


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """Two peaks on the core and two on an emulated one, and how far apart they are."""
    lines, aims = list[str](), list[Aim]()
    with tempfile.TemporaryDirectory() as directory:
        place = workspace(Path(directory) / "ws", QUICK_PROFILE if is_quick else PROFILE)
        for mode in MODES:
            found = [peak(place, mode, seed, FEW_S if is_quick else EACH_S) for seed in SEEDS]
            lines += [_line(mode, run, each) for run, each in enumerate(found, start=1)]
            aims.append(_apart(mode, *(each.rate_qps for each in found)))
    return Found(lines, aims)


def peak(place: Workspace, mode: CellMode, seed: int, allowed_s: float) -> Peak:
    """One run, as long as it may take."""
    question = PeakQuestion(PeakRules(ALLOWED_FRAC), mode, seed=seed)
    (job,) = device_draft(place, FAMILY, [VARIANT], "cpu0", question).jobs
    found = job.measure(JobTurn(allowed_s, lambda _now, _done: None))
    assert isinstance(found, Peak)
    return found


def _line(mode: CellMode, run: int, found: Peak) -> str:
    return (
        f"{mode}, run {run}: {found.rate_qps:.1f} qps ({found.low_qps:.1f} to {found.high_qps or float('inf'):.1f}), "
        f"{found.requests:,} requests, generator late by {1e3 * found.lag_s:.1f} ms (p99)"
    )


def _apart(mode: CellMode, first_qps: float, second_qps: float) -> Aim:
    total_qps = first_qps + second_qps
    apart = 200 * abs(first_qps - second_qps) / total_qps if total_qps else 100.0
    return Aim(f"two runs against a real server, {mode}, are apart by", apart, MAX_PERCENT, "%", is_most=True)


def workspace(root: Path, budget: str) -> Workspace:
    """The sample zoo, profiled on the first core."""
    _proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    _proteus("profile", "-w", str(root), "--budget", budget, "--accept-noise")
    return Workspace(root)


def _proteus(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "proteus_cli", *arguments), check=True, stdout=subprocess.DEVNULL)
