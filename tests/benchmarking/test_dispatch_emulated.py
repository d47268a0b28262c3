"""The benchmark of dispatch over HTTP: its servers serve, and those that are to be slower than profiled are."""

from pathlib import Path

import pytest

from benchmarks import dispatch_emulated
from benchmarks.dispatch import ROW_S, world

SLOWER = 2.0


@pytest.mark.live
@pytest.mark.from_nothing
@pytest.mark.alone  # its latency target is 150 ms
def test_a_server_whose_devices_are_slower_answers_no_sooner_than_they_can(tmp_path: Path) -> None:
    each = world(2)
    place = dispatch_emulated._workspace(each, tmp_path / "ws")
    run = dispatch_emulated._run(each, place, [(0.3, 1.0)], seed=1, slower=SLOWER)
    assert run.report.latency_quantiles_s[0] >= SLOWER * ROW_S[0]
    assert run.goodput(0.0) == run.report.served == run.report.requests - sum(w.violations for w in run.report.seconds)
