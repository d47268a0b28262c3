"""Whether two runs of `study peak` against a real server agree. The machine must be quiet, and stay so.

A workspace is made as users make it: the sample zoo, profiled on one core. One variant is served alone on that core by
`proteus serve`, and offered requests over HTTP by a generator on the others; twice, with other arrivals.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.domain.studies.peak import Peak, PeakRules
from proteus_cli.store import Workspace
from proteus_cli.studies.draft import JobTurn
from proteus_cli.studies.peak.drafts import device_draft
from proteus_cli.studies.peak.question import PeakQuestion

FAMILY, VARIANT, ALLOWED_FRAC = "digits", "digits-xl", 0.01
EACH_S, FEW_S = 180.0, 15.0
PROFILE, QUICK_PROFILE = "60s", "10s"
MAX_PERCENT = 5.0


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """Two peaks, and how far apart they are."""
    with tempfile.TemporaryDirectory() as directory:
        place = workspace(Path(directory) / "ws", QUICK_PROFILE if is_quick else PROFILE)
        found = [peak(place, seed, FEW_S if is_quick else EACH_S) for seed in (1, 2)]
    lines = [
        f"run {run}: {each.rate_qps:.1f} qps ({each.low_qps:.1f} to {each.high_qps or float('inf'):.1f}), "
        f"{each.requests:,} requests, generator late by {1e3 * each.lag_s:.1f} ms (p99)"
        for run, each in enumerate(found, start=1)
    ]
    first, second = (each.rate_qps for each in found)
    apart = 200 * abs(first - second) / (first + second) if first + second else 100.0
    return Found(lines, [Aim("two runs against a real server are apart by", apart, MAX_PERCENT, "%", is_most=True)])


def peak(place: Workspace, seed: int, allowed_s: float) -> Peak:
    """One run, as long as it may take."""
    question = PeakQuestion(PeakRules(ALLOWED_FRAC), "measured", seed=seed)
    (job,) = device_draft(place, FAMILY, [VARIANT], "cpu0", question).jobs
    found = job.measure(JobTurn(allowed_s, lambda _now, _done: None))
    assert isinstance(found, Peak)
    return found


def workspace(root: Path, budget: str) -> Workspace:
    """The sample zoo, profiled on the first core."""
    _proteus("init", str(root))
    (root / "proteus.toml").write_text(f"[devices]\ncpu = [[{usable_cores()[0]}]]\n")
    _proteus("profile", "-w", str(root), "--budget", budget, "--accept-noise")
    return Workspace(root)


def _proteus(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "proteus_cli", *arguments), check=True, stdout=subprocess.DEVNULL)
