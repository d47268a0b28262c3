"""Whether `study peak --url` finds the peak of servers of other makes, which speak the same protocol.

Each serves one net of `benchmarks.serving`, one server after the other, in an environment that is made once as there.
The load generator shares the cores with them, and JSON costs it as much: these are no rates to compare servers by.
"""

from benchmarks.serving.lab import laboratory
from benchmarks.serving.peers import PEERS
from benchmarks.serving.server import serving
from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.studies.frame import JobTurn
from proteus_cli.studies.peak.carriers import PeakQuestion, Server
from proteus_cli.studies.peak.drafts import url_draft
from proteus_cli.studies.results import Peak, PeakRules

NAMES = ("triton", "mlserver", "proteus")
FAMILY, SLO_S, ALLOWED_FRAC = "cnn", 0.2, 0.01
EACH_S, FEW_S = 45.0, 15.0


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """A peak of each."""
    by_name = {peer.name: peer for peer in PEERS}
    lines, found = list[str](), 0
    with laboratory(1, slo_s=SLO_S) as lab:
        for name in NAMES:
            route = FAMILY, "json"
            with serving(by_name[name], [route], lab) as server:
                server.require_right(route)
                peak = _peak(f"http://127.0.0.1:{server.http_port}", FEW_S if is_quick else EACH_S)
            lines.append(
                f"{name}: {peak.rate_qps:.0f} qps ({peak.low_qps:.0f} to {peak.high_qps or float('inf'):.0f}), "
                f"{peak.requests:,} requests, generator late by {1e3 * peak.lag_s:.1f} ms (p99)"
            )
            found += peak.high_qps is not None
    return Found(lines, [Aim("servers whose peak was found, with both bounds", found, len(NAMES), "", is_most=False)])


def _peak(url: str, allowed_s: float) -> Peak:
    draft = url_draft(Server(url, slo_s=SLO_S), FAMILY, PeakQuestion(PeakRules(ALLOWED_FRAC)))
    (job,) = draft.jobs
    found = job.measure(JobTurn(allowed_s, lambda _now, _done: None))
    assert isinstance(found, Peak)
    return found
